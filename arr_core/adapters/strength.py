"""How strongly an adapter acts on each module: ``scale`` in ``W + scale * B @ A``, and where a file records it.

PEFT's rule: scale = alpha / r, or alpha / sqrt(r) with ``use_rslora``; ``rank_pattern`` and ``alpha_pattern`` give
other values to the modules whose path they match. An ``<module>.alpha`` tensor always means alpha / r.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import AdapterError

# A LoRA saved with one of these acts on the base model as it is; any other initialisation rewrites the base weights.
_INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal")
_REFUSED = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "fan_in_fan_out",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "velora_config",
    "kasa_config",
    "monteclora_config",
)


@dataclass(frozen=True)
class LoraRecord:
    """What an ``adapter_config.json``, or the same in a file's header, says about rank, strength and base model."""

    r: int
    alpha: float
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    base: str | None = None

    def rank_of(self, module: str) -> int:
        return self.rank_pattern.get(_pattern(self.rank_pattern, module), self.r)

    def alpha_of(self, module: str) -> float:
        return self.alpha_pattern.get(_pattern(self.alpha_pattern, module), self.alpha)


@dataclass(frozen=True)
class Evidence:
    """All that a file and its user say about strength; ``where`` is the file's name for messages."""

    where: str
    baked: bool = False
    record: LoraRecord | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    explicit: float | None = None

    def __post_init__(self) -> None:
        if self.explicit is not None and (self.baked or self.record or self.alphas):
            raise AdapterError(
                f"{self.where}: expected no alpha from outside, found alpha {self.explicit:g} given for "
                "a file that records its strength; leave alpha out"
            )
        if self.baked and (self.record or self.alphas):
            raise AdapterError(
                f"{self.where}: expected a universal file alone, found another record of its strength "
                "beside it; remove the adapter_config.json or the alpha tensors"
            )
        for alpha in (self.explicit, *self.alphas.values()):
            if alpha is not None and not _usable(alpha):
                raise AdapterError(
                    f"{self.where}: expected a finite alpha other than 0, found {alpha}; correct it"
                )

    def strength(self, module: str, rank: int) -> tuple[float, float]:
        """The alpha and the scale of one module whose lora_A has ``rank`` rows."""
        if self.baked:
            return float(rank), 1.0
        if self.record is not None:
            return self._recorded(self.record, module, rank)
        alpha = self.alphas.get(module, self.explicit)
        if alpha is None and self.alphas:
            raise AdapterError(
                f"{self.where}: expected an alpha for every module, found none for {module}; "
                "give the PEFT folder, or complete the file"
            )
        if alpha is None:
            raise AdapterError(
                f"{self.where}: expected adapter_config.json, alpha tensors or metadata, found none; "
                "its strength is unknown: give the PEFT folder, or the alpha of its training "
                "(--alpha N)"
            )
        return float(alpha), scale_of(alpha, rank)

    def _recorded(self, record: LoraRecord, module: str, rank: int) -> tuple[float, float]:
        if record.rank_of(module) != rank:
            raise AdapterError(
                f"{self.where}: expected rank {record.rank_of(module)} for {module} as configured, "
                f"found rank {rank}; pair the file with its own adapter_config.json"
            )
        alpha = record.alpha_of(module)
        scale = scale_of(alpha, rank, record.use_rslora)
        if module in self.alphas and not math.isclose(
            scale_of(self.alphas[module], rank), scale, rel_tol=1e-3
        ):
            raise AdapterError(
                f"{self.where}: expected scale {scale:g} for {module} as configured, found alpha "
                f"{self.alphas[module]:g}; remove the alpha tensors or correct the configuration"
            )
        return float(alpha), scale


def scale_of(alpha: float, rank: int, use_rslora: bool = False) -> float:
    """The factor of ``B @ A``."""
    return alpha / math.sqrt(rank) if use_rslora else alpha / rank


def read_record(config: Any, where: str) -> LoraRecord:
    """The record in a PEFT configuration; raises AdapterError for one that asks for more than a plain LoRA."""
    if not isinstance(config, dict):
        raise AdapterError(
            f"{where}: expected a JSON object, found {type(config).__name__}; save the adapter again"
        )
    _refuse_more_than_lora(config, where)
    patterns = {name: config.get(name) or {} for name in ("rank_pattern", "alpha_pattern")}
    for name, pattern in patterns.items():
        if not isinstance(pattern, dict) or not all(_usable(value) for value in pattern.values()):
            raise AdapterError(
                f"{where}: expected {name} to map names to numbers, found {pattern!a:.200}; correct it"
            )
    rank, alpha, base = (
        config.get("r"),
        config.get("lora_alpha"),
        config.get("base_model_name_or_path"),
    )
    for value in (rank, *patterns["rank_pattern"].values()):
        if not isinstance(value, int) or not _usable(value) or value < 1:
            raise AdapterError(
                f"{where}: expected ranks of 1 or more, found {value!a:.100}; correct r or rank_pattern"
            )
    if not _usable(alpha):
        raise AdapterError(
            f"{where}: expected a finite lora_alpha other than 0, found {alpha!a:.100}; correct it"
        )
    return LoraRecord(
        rank,
        alpha,
        **patterns,
        use_rslora=config.get("use_rslora") is True,
        base=base if isinstance(base, str) and base else None,
    )


def _refuse_more_than_lora(config: dict[str, Any], where: str) -> None:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise AdapterError(
            f"{where}: expected peft_type LORA, found {kind!a:.100}; train a LoRA instead"
        )
    if config.get("bias", "none") not in ("none", None):
        raise AdapterError(
            f"{where}: expected bias 'none', found {config['bias']!a:.100}; retrain without bias"
        )
    for name in _REFUSED:
        if config.get(name):
            raise AdapterError(
                f"{where}: expected a plain LoRA, found {name}={config[name]!a:.100}; "
                f"retrain without {name}"
            )
    start = config.get("init_lora_weights")
    if start not in _INITIALISATIONS:
        raise AdapterError(
            f"{where}: expected a LoRA for the unchanged base model, found init_lora_weights="
            f"{start!a:.100}, which rewrites base weights; convert it with PEFT's "
            "path_initial_model_for_weight_conversion"
        )


def _usable(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value != 0
    )


def _pattern(patterns: Mapping[str, Any], module: str) -> str:
    """The key of ``patterns`` that PEFT takes for ``module``."""
    if not patterns:
        return module
    from peft.utils.other import get_pattern_key

    try:
        return get_pattern_key(patterns.keys(), module)
    except re.error as error:
        raise AdapterError(
            "expected regular expressions in rank_pattern and alpha_pattern, found "
            f"{error.pattern!a:.100} ({error.msg}); correct it"
        ) from error
