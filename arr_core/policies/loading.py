"""Where a base comes from, which family it is, and where its weights go."""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import inspect
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..common import collectives
from ..common.files import read_text
from ..common.paths import resource
from ..common.progress import hide_loading_bars
from ..config.schema import Policy as PolicySettings
from .base import Policy, PolicyError
from .flux import FluxPolicy
from .qwen_image_edit import QwenImageEditPolicy
from .sharding import sharding_fault

FAMILIES: dict[str, type[Policy]] = {"flux": FluxPolicy, "qwen-image-edit": QwenImageEditPolicy}


class PipelineSource:
    """A base on disk or on the Hugging Face hub: which pipeline it is, and pipelines with parts left out."""

    def __init__(self, settings: PolicySettings):
        self.settings = settings
        self.embedded = resource(settings.base)
        self.base = str(self.embedded or settings.base)
        self.device = _device(settings.device)
        self.dtype = getattr(torch, settings.dtype)
        self.sharded = settings.sharded and collectives.world_size() > 1
        if self.sharded and (fault := sharding_fault()):
            raise PolicyError(f"policy.sharded: {fault}")
        if settings.quantization and importlib.util.find_spec("bitsandbytes") is None:
            raise PolicyError(
                f"policy.quantization: {settings.quantization} needs the package bitsandbytes; install it with "
                "pip install bitsandbytes, or leave the field null"
            )
        index = read_index(settings.base, settings.revision)
        self.class_name = index["_class_name"]
        self.family = FAMILIES[settings.family]
        if self.class_name not in self.family.pipelines:
            raise PolicyError(
                f"policy.base: expected a {settings.family} pipeline ({', '.join(self.family.pipelines)}), "
                f"got {settings.base}, a {self.class_name}"
            )
        folder = Path(self.base)
        if folder.is_dir():
            _check_whole(folder, index)
            _check_transformers(folder)
            self.identity = f"{folder.resolve()}@{_files_hash(folder)}"
        else:
            self.identity = f"{self.base}@{settings.revision or 'main'}"

    def load(self, without: tuple[str, ...] = ()) -> Any:
        """The pipeline on the device, in the dtype, with the named parts None."""
        import diffusers

        if self.embedded:
            hide_loading_bars("diffusers", "transformers")
        pipeline_class = getattr(diffusers, self.class_name)
        dtype = "dtype" if _takes_dtype(pipeline_class) else "torch_dtype"
        pipeline = pipeline_class.from_pretrained(
            self.base,
            revision=self.settings.revision,
            **{dtype: self.dtype},
            **self._in_four_bits(without),
            **dict.fromkeys(without, None),
        )
        pipeline.set_progress_bar_config(disable=True)
        if not self.sharded:
            return pipeline.to(self.device)
        for name, part in pipeline.components.items():
            # The transformer is too large for one device; it is moved when it is sharded.
            if isinstance(part, torch.nn.Module) and name != "transformer":
                part.to(self.device)
        return pipeline

    def _in_four_bits(self, without: tuple[str, ...]) -> dict:
        """Arguments that load the large parts in NF4 (QLoRA, arXiv 2305.14314) where the settings ask for it."""
        parts = [name for name in self.family.large_parts if name not in without]
        if self.settings.quantization is None or not parts:
            return {}
        from diffusers.quantizers.pipe_quant_config import PipelineQuantizationConfig

        return {
            "quantization_config": PipelineQuantizationConfig(
                quant_backend="bitsandbytes_4bit",
                components_to_quantize=parts,
                quant_kwargs={
                    "load_in_4bit": True,
                    "bnb_4bit_quant_type": "nf4",
                    "bnb_4bit_compute_dtype": self.dtype,
                },
            )
        }

    def free(self) -> None:
        """Give memory back after a pipeline was dropped."""
        gc.collect()
        torch.cuda.empty_cache()


def read_index(base: str, revision: str | None) -> dict[str, Any]:
    """The content of a base's model_index.json, fetched alone: nothing large is loaded to refuse a wrong base."""
    embedded = resource(base)
    folder = embedded or Path(base)
    if folder.is_dir():
        path = folder / "model_index.json"
        if not path.is_file():
            raise PolicyError(
                f"policy.base: expected a diffusers folder with model_index.json, got {folder}"
            )
    elif embedded:
        raise PolicyError(
            f"policy.base: {folder} is missing; install the project from a whole checkout"
        )
    elif (
        folder.is_absolute()
        or base.startswith(".")
        or base.count("/") != 1
        or any(folder.parent.glob("*/config.yaml"))  # a folder of runs: a mistyped one
    ):
        raise PolicyError(
            f"policy.base: expected a diffusers folder or a Hugging Face id like "
            f"black-forest-labs/FLUX.1-dev, got {base!r}, which is no folder"
        )
    else:
        from huggingface_hub import hf_hub_download

        try:
            path = hf_hub_download(base, "model_index.json", revision=revision)
        except (OSError, ValueError) as error:  # what the hub's own errors are
            raise PolicyError(
                f"policy.base: {base} cannot be fetched from the Hugging Face hub; check the "
                f"id, accept its licence and set HF_TOKEN, or name a local folder "
                f"({type(error).__name__})"
            ) from error
    try:
        index = json.loads(read_text(path, "JSON", PolicyError, 2**20))
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"{path}: expected JSON; {error}") from error
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise PolicyError(f"{path}: expected a diffusers index with _class_name")
    return index


def _check_whole(folder: Path, index: dict[str, Any]) -> None:
    """Raises PolicyError for a folder that lacks a part which its index names."""
    parts = {
        name for name, value in index.items() if isinstance(value, list) and value and value[0]
    }
    missing = sorted(
        name for name in parts | {"transformer", "vae"} if not (folder / name).is_dir()
    )
    if missing:
        raise PolicyError(
            f"policy.base: expected a whole diffusers pipeline in {folder}, got one without {', '.join(missing)}; "
            "download or save it again"
        )


def _check_transformers(folder: Path) -> None:
    """Raises PolicyError for a folder saved by a newer major version of transformers than the installed one.

    What transformers 5 saved, 4 loads without a word and with random weights.
    """
    installed = version("transformers")
    for config in folder.glob("text_encoder*/config.json"):
        saved = json.loads(config.read_text(encoding="utf-8")).get("transformers_version")
        if saved and int(installed.split(".")[0]) < int(saved.split(".")[0]):
            raise PolicyError(
                f"policy.base: {folder} needs transformers {saved.split('.')[0]} or newer, got {installed}; run "
                "it from an environment of its own, which ComfyUI's nodes find by ARR_PYTHON"
            )


def _files_hash(folder: Path) -> str:
    """What tells a folder from a changed one: the names, sizes and times of its files."""
    files = sorted(
        (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    )
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16]


def _takes_dtype(pipeline_class) -> bool:
    """Whether the pipelines of this diffusers take ``dtype``. Before 0.40 they ignore it and load in float32."""
    return '"dtype"' in inspect.getsource(pipeline_class.from_pretrained)


def _device(name: str) -> torch.device:
    kind, _, number = name.partition(":")
    if kind in ("cuda", "mps", "xpu"):
        there = torch.get_device_module(kind)
        if not there.is_available() or int(number or 0) >= there.device_count():
            raise PolicyError(
                f"policy.device: expected a device of this machine, got {name}; auto takes the best one"
            )
    if name != "auto":
        return torch.device(name)
    import accelerate

    return torch.device(accelerate.PartialState().device or "cpu")


def load_policy(settings: PolicySettings, cache_folder: Path) -> Policy:
    """The policy that the configuration's policy section asks for. Loads no weights yet. Raises PolicyError."""
    source = PipelineSource(settings)
    return source.family(settings, source, cache_folder)
