"""An adapter in memory: LoRA pairs with their true strength, and the two forms in which it is written.

The *universal* form acts at full strength at strength 1.0 in diffusers and in ComfyUI, for both model families: names
start with ``transformer.``, ``scale`` is multiplied into ``lora_B``, there is no alpha and there is a single rank.
Both programs take a pair without alpha as ``B @ A``; diffusers up to 0.36 does so only where all ranks are equal
(``get_peft_kwargs`` takes one alpha for all), so shorter pairs are filled up with zeros.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..common.files import write_json
from .family import Family, base_id, detect_family
from .file import CONFIG_NAME, WEIGHTS_NAME, AdapterError, Source, read_source, write_tensors
from .keys import parse_keys
from .scale import ScaleResolver, read_record

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
UNIVERSAL = {"arr_adapter": "universal", "arr_scale": "baked"}


class LoraPair(NamedTuple):
    """One module's change of weight: ``scale * B @ A``, with A [rank, in] and B [out, rank] as stored."""

    A: torch.Tensor
    B: torch.Tensor
    alpha: float
    scale: float

    @property
    def rank(self) -> int:
        return self.A.shape[0]


@dataclass(frozen=True)
class Adapter:
    """A LoRA of a diffusers transformer: module path -> pair, the base it was trained on, and the layout it came in."""

    modules: Mapping[str, LoraPair]
    base: str | None = None
    use_rslora: bool = False
    layout: str = "peft"

    @cached_property
    def family(self) -> Family:
        """``flux``, ``qwen-image-edit`` or ``unknown``."""
        return detect_family(
            {module: pair.A.shape[1] for module, pair in self.modules.items()}, self.base
        )

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the universal form in float32: the same for every layout and dtype that holds the same numbers."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.to_universal().items()):
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def rank(self) -> int:
        """The largest rank."""
        return max(pair.rank for pair in self.modules.values())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The pairs as stored, under ``<module>.lora_A.weight`` and ``<module>.lora_B.weight``."""
        return {
            f"{module}.lora_{side}.weight": getattr(pair, side)
            for module, pair in self.modules.items()
            for side in "AB"
        }

    def to_universal(self) -> dict[str, torch.Tensor]:
        """The universal form: ``transformer.<module>.lora_A.weight`` and ``lora_B.weight``, the scale within lora_B.

        lora_B is multiplied in float32. It returns to its stored dtype where that changes no bit, as for every scale
        that is a power of two, and stays float32 elsewhere.
        """
        tensors = {}
        for module, pair in self.modules.items():
            missing = self.rank - pair.rank
            tensors[f"transformer.{module}.lora_A.weight"] = torch.nn.functional.pad(
                pair.A, (0, 0, 0, missing)
            )
            tensors[f"transformer.{module}.lora_B.weight"] = torch.nn.functional.pad(
                _bake(module, pair), (0, missing)
            )
        return tensors

    def peft_config(self) -> dict[str, Any]:
        """The fields of PEFT's LoraConfig that describe this adapter, ready for JSON."""
        rank, ranks = _common({module: pair.rank for module, pair in self.modules.items()})
        alpha, alphas = _common(
            {module: _integer(pair.alpha) for module, pair in self.modules.items()}
        )
        return {
            "peft_type": "LORA",
            "base_model_name_or_path": self.base,
            "r": rank,
            "lora_alpha": alpha,
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "use_rslora": self.use_rslora,
            "target_modules": _targets(self.modules),
            "bias": "none",
            "lora_dropout": 0.0,
            "init_lora_weights": True,
            "inference_mode": True,
        }

    def save(self, path: str | Path) -> Path:
        """The PEFT folder ``path``, written: adapter_config.json and adapter_model.safetensors."""
        folder = Path(path)
        tensors = {f"base_model.model.{name}": tensor for name, tensor in self.state_dict().items()}
        write_tensors(tensors, folder / WEIGHTS_NAME, {})
        write_json(folder / CONFIG_NAME, self.peft_config(), sort_keys=True)
        return folder

    def save_universal(self, file: str | Path) -> Path:
        """The single file ``file``, written: the universal form, with family, base, rank and hash in its header."""
        header = {
            **UNIVERSAL,
            "arr_family": self.family,
            "arr_base": self.base or "",
            "arr_rank": str(self.rank),
            "arr_content_hash": self.content_hash,
        }
        write_tensors(self.to_universal(), Path(file), header)
        return Path(file)


def load_adapter(path: str | Path, alpha: float | None = None) -> Adapter:
    """The adapter at ``path``: a PEFT folder, a folder that holds one, or a single file in a layout of ``keys.py``.

    ``alpha`` is for a file that does not record its strength, and only for it. Raises AdapterError.
    """
    source = read_source(Path(path))
    try:
        return _adapter(source, alpha)
    except AdapterError as error:
        raise AdapterError(f"{source.path}: {error}") from error


def _adapter(source: Source, explicit: float | None) -> Adapter:
    keys, tensors = parse_keys(source.tensors), source.tensors
    for key, tensor in tensors.items():
        _check(key, tensor)
    record = None if source.config is None else read_record(source.config)
    baked = source.header.get("arr_scale") == UNIVERSAL["arr_scale"]
    alphas = {
        module: tensors[parts["alpha"]].item()
        for module, parts in keys.modules.items()
        if "alpha" in parts
    }
    resolver = ScaleResolver(baked, record, alphas, explicit)
    modules = {
        module: _pair(module, tensors[parts["A"]], tensors[parts["B"]], resolver)
        for module, parts in sorted(keys.modules.items())
    }
    layout = "universal" if baked else keys.layout + "+header" * source.config_in_header
    base = record.base_model_name_or_path if record else source.header.get("arr_base")
    return Adapter(modules, base_id(base), bool(record and record.use_rslora), layout)


def _check(key: str, tensor: torch.Tensor) -> None:
    """Raises AdapterError for a tensor whose shape, dtype or values are not usable."""
    is_alpha = key.endswith(".alpha")
    if tensor.numel() != 1 if is_alpha else tensor.ndim != 2 or tensor.numel() == 0:
        raise AdapterError(
            f"expected {'one number' if is_alpha else 'a matrix'} in {key}, got shape "
            f"{list(tensor.shape)}; only linear layers are supported"
        )
    if not is_alpha and tensor.dtype not in DTYPES:
        raise AdapterError(
            f"expected float32, float16 or bfloat16 in {key}, got {tensor.dtype}; "
            "save the adapter in one of these"
        )
    if not torch.isfinite(tensor).all():
        raise AdapterError(
            f"expected finite numbers, got NaN or infinity in {key}; "
            "the training diverged or the file is damaged: use an earlier checkpoint"
        )


def _pair(module: str, a: torch.Tensor, b: torch.Tensor, resolver: ScaleResolver) -> LoraPair:
    if a.shape[0] != b.shape[1]:
        raise AdapterError(
            f"expected one rank in {module}, got lora_A {list(a.shape)} and lora_B "
            f"{list(b.shape)}; the file is damaged: save or download it again"
        )
    return LoraPair(a, b, *resolver.resolve(module, a.shape[0]))


def _bake(module: str, pair: LoraPair) -> torch.Tensor:
    exact = pair.B.float() * pair.scale
    if not torch.isfinite(exact).all():
        raise AdapterError(
            f"expected numbers within float32, got an overflow in {module} at scale {pair.scale:g}; "
            "check its alpha"
        )
    stored = exact.to(pair.B.dtype)
    return stored if torch.equal(stored.float(), exact) else exact


def _common(values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The most frequent value, and a PEFT pattern for each module that has another."""
    common = Counter(values.values()).most_common(1)[0][0]
    return common, {
        f"^{re.escape(module)}": value for module, value in values.items() if value != common
    }


def _targets(modules: Mapping[str, LoraPair]) -> list[str] | str:
    """PEFT's target_modules for exactly these. A list matches by suffix: a top-level name needs the anchored form."""
    paths = sorted(modules)
    in_blocks = all("_blocks." in path for path in paths)
    return paths if in_blocks else "|".join(map(re.escape, paths))


def _integer(alpha: float) -> float:
    return int(alpha) if alpha.is_integer() else alpha
