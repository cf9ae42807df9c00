"""How strongly an adapter acts on each module: ``scale`` in ``W + scale * B @ A``, and where a file records it.

PEFT's rule: scale = alpha / r, or alpha / sqrt(r) with ``use_rslora``; ``rank_pattern`` and ``alpha_pattern`` give
other values to the modules whose path they match. An ``<module>.alpha`` tensor always means alpha / r.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ..common.errors import describe_validation_error
from .file import AdapterError

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

# A pattern comes with the file, and one that repeats a group may take longer than the universe to match nothing.
_REPEATS, _NESTED = re.compile(r"(?<!\\)[*+{]"), re.compile(r"\)[*+{]|\(\?P?[=(]")


def _not_zero(alpha: float) -> float:
    if alpha == 0:
        raise ValueError("expected a number other than 0")
    return alpha


Alpha = Annotated[float, AfterValidator(_not_zero)]
Rank = Annotated[int, Field(ge=1)]


class LoraRecord(BaseModel):
    """What an ``adapter_config.json``, or the same in a file's header, says about rank, strength and base model."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    r: Rank
    lora_alpha: Alpha
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Alpha] | None = None
    use_rslora: bool | None = False
    base_model_name_or_path: str | None = None
    peft_type: Literal["LORA"] = "LORA"
    bias: Literal["none"] | None = "none"
    init_lora_weights: bool | str | None = True

    def rank_of(self, module: str) -> int:
        return _by_pattern(self.rank_pattern, module, self.r)

    def alpha_of(self, module: str) -> float:
        return _by_pattern(self.alpha_pattern, module, self.lora_alpha)


@dataclass(frozen=True)
class ScaleResolver:
    """Finds each module's scale from all that a file and its user say."""

    baked: bool
    record: LoraRecord | None
    alphas: Mapping[str, float]
    explicit: float | None

    def __post_init__(self) -> None:
        if self.explicit is not None and (self.baked or self.record or self.alphas):
            raise AdapterError(
                f"expected no alpha from outside, got alpha {self.explicit:g} given for "
                "a file that records its strength; leave alpha out"
            )
        if self.baked and (self.record or self.alphas):
            raise AdapterError(
                "expected a universal file alone, got another record of its strength "
                "beside it; remove the adapter_config.json or the alpha tensors"
            )
        for alpha in (*self.alphas.values(), 1.0 if self.explicit is None else self.explicit):
            if not alpha or not math.isfinite(alpha):
                raise AdapterError(f"expected a finite alpha other than 0, got {alpha}; correct it")

    def resolve(self, module: str, rank: int) -> tuple[float, float]:
        """The alpha and the scale of one module whose lora_A has ``rank`` rows."""
        if self.baked:
            return float(rank), 1.0
        if self.record is not None:
            return self._recorded(self.record, module, rank)
        alpha = self.alphas.get(module, self.explicit)
        if alpha is None and self.alphas:
            raise AdapterError(
                f"expected an alpha for every module, got none for {module}; "
                "give the PEFT folder, or complete the file"
            )
        if alpha is None:
            raise AdapterError(
                "expected adapter_config.json, alpha tensors or metadata, got none; "
                "its strength is unknown: give the PEFT folder, or the alpha of its training "
                "(--alpha N)"
            )
        return float(alpha), scale_of(alpha, rank)

    def _recorded(self, record: LoraRecord, module: str, rank: int) -> tuple[float, float]:
        if record.rank_of(module) != rank:
            raise AdapterError(
                f"expected rank {record.rank_of(module)} for {module} as configured, "
                f"got rank {rank}; pair the file with its own adapter_config.json"
            )
        alpha = record.alpha_of(module)
        scale = scale_of(alpha, rank, record.use_rslora)
        said = self.alphas.get(module)
        if said is not None and not math.isclose(scale_of(said, rank), scale, rel_tol=1e-3):
            raise AdapterError(
                f"expected scale {scale:g} for {module} as configured, got alpha "
                f"{said:g}; remove the alpha tensors or correct the configuration"
            )
        return alpha, scale


def scale_of(alpha: float, rank: int, use_rslora: bool | None = False) -> float:
    """The factor of ``B @ A``."""
    return alpha / math.sqrt(rank) if use_rslora else alpha / rank


def read_record(config: Any) -> LoraRecord:
    """The record in a PEFT configuration; raises AdapterError for one that asks for more than a plain LoRA."""
    if not isinstance(config, dict):
        raise AdapterError(
            f"expected a JSON object, got {type(config).__name__}; save the adapter again"
        )
    for name in _REFUSED:
        if config.get(name):
            raise AdapterError(
                f"expected a plain LoRA, got {name}={config[name]!a:.100}; retrain without {name}"
            )
    try:
        record = LoraRecord.model_validate(config)
    except ValidationError as error:
        raise AdapterError(
            f"{describe_validation_error(error)}; correct the configuration, or train a plain LoRA"
        ) from None
    if record.init_lora_weights not in _INITIALISATIONS:
        raise AdapterError(
            f"expected a LoRA for the unchanged base model, got init_lora_weights="
            f"{record.init_lora_weights!a:.100}, which rewrites base weights; convert it with PEFT's "
            "path_initial_model_for_weight_conversion"
        )
    return record


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value that PEFT takes for ``module``: that of the pattern that matches, else ``default``."""
    if not patterns:
        return default
    from peft.utils.other import get_pattern_key

    for pattern in patterns:
        if len(pattern) > 1000 or len(_REPEATS.findall(pattern)) > 3 or _NESTED.search(pattern):
            raise AdapterError(
                "expected short patterns without nested repeats in rank_pattern and alpha_pattern, got "
                f"{pattern!a:.100}; correct it"
            )
    try:
        return patterns.get(get_pattern_key(list(patterns), module), default)
    except OverflowError:
        raise AdapterError(
            "expected repeats of a usual number in rank_pattern and alpha_pattern, got one too large; correct it"
        ) from None
    except re.error as error:
        raise AdapterError(
            "expected regular expressions in rank_pattern and alpha_pattern, got "
            f"{error.pattern!a:.100} ({error.msg}); correct it"
        ) from error
