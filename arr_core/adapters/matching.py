"""An adapter and a diffusers transformer: count what fits, put the adapter in, take it out again."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

from .adapter import Adapter, LoraPair
from .errors import AdapterError
from .family import base_id, family_of_transformer
from .strength import scale_of

if TYPE_CHECKING:
    import torch


class MatchReport(NamedTuple):
    """The adapter's modules that the transformer has, and those it lacks."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]


def match(adapter: Adapter, transformer: torch.nn.Module) -> MatchReport:
    """Which of the adapter's modules the transformer has; warns when some are missing.

    Raises AdapterError when none is there, when a shape differs, and when the transformer is of the other family.
    """
    report = _compare(adapter, transformer)
    if report.missing:
        warnings.warn(_missing_text(report, transformer), stacklevel=2)
    return report


def inject(
    adapter: Adapter,
    transformer: torch.nn.Module,
    adapter_name: str = "default",
    dtype: torch.dtype | None = None,
) -> MatchReport:
    """The match, complete, after the adapter has been added to a diffusers transformer through PEFT and made active.

    Training can go on from it: its parameters require gradients. They take the dtype of the layer they belong to, or
    ``dtype``. Raises AdapterError, before anything is changed, unless every pair finds its module.
    """
    from peft import LoraConfig, set_peft_model_state_dict

    report = _compare(adapter, transformer)
    if report.missing:
        raise AdapterError(_missing_text(report, transformer))
    if adapter_name in getattr(transformer, "peft_config", {}):
        raise AdapterError(
            f"expected a new adapter name, found {adapter_name!r} in use; delete that adapter first "
            "(delete_adapters), or choose another name"
        )
    transformer.add_adapter(
        LoraConfig(**{**adapter.peft_config(), "inference_mode": False}), adapter_name=adapter_name
    )
    if dtype is not None:
        for name, parameter in transformer.named_parameters():
            if ".lora_" in name and f".{adapter_name}." in name:
                parameter.data = parameter.data.to(dtype)
    outcome = set_peft_model_state_dict(transformer, adapter.state_dict(), adapter_name)
    unset = [
        name for name in outcome.missing_keys if ".lora_" in name and f".{adapter_name}." in name
    ]
    if unset or outcome.unexpected_keys:
        raise AdapterError(
            f"expected every weight to find its place, found {(unset or outcome.unexpected_keys)[0]} "
            "without one; update peft and diffusers"
        )
    return report


def extract(
    transformer: torch.nn.Module, adapter_name: str = "default", base: str | None = None
) -> Adapter:
    """The LoRA that a diffusers transformer carries, copied to the CPU: what a trainer saves."""
    from peft import get_peft_model_state_dict

    config = transformer.peft_config[adapter_name]
    tensors = get_peft_model_state_dict(
        transformer, adapter_name=adapter_name, save_embedding_layers=False
    )
    modules = {}
    for module in sorted({name.rsplit(".lora_", 1)[0] for name in tensors}):
        a, b = (tensors[f"{module}.lora_{side}.weight"].detach().cpu().clone() for side in "AB")
        alpha = transformer.get_submodule(module).lora_alpha[adapter_name]
        modules[module] = LoraPair(
            a, b, a.shape[0], float(alpha), scale_of(alpha, a.shape[0], config.use_rslora)
        )
    return Adapter(modules, base_id(base), config.use_rslora)


def _compare(adapter: Adapter, transformer: torch.nn.Module) -> MatchReport:
    family = family_of_transformer(transformer)
    if "unknown" not in (family, adapter.family) and family != adapter.family:
        raise AdapterError(
            f"expected an adapter of {family} for {type(transformer).__name__}, found one of "
            f"{adapter.family}; load the base model it was trained on"
        )
    layers = dict(transformer.named_modules())
    report = MatchReport(
        tuple(module for module in adapter.modules if hasattr(layers.get(module), "in_features")),
        tuple(
            module for module in adapter.modules if not hasattr(layers.get(module), "in_features")
        ),
    )
    for module in report.matched:
        pair, layer = adapter.modules[module], layers[module]
        wanted, found = [layer.out_features, layer.in_features], [pair.B.shape[0], pair.A.shape[1]]
        if wanted != found:
            raise AdapterError(
                f"expected a change of shape {wanted} for {module}, found {found}; "
                f"load the base model it was trained on ({adapter.base or 'not recorded'})"
            )
    if not report.matched:
        raise AdapterError(_missing_text(report, transformer))
    return report


def _missing_text(report: MatchReport, transformer: torch.nn.Module) -> str:
    total = len(report.matched) + len(report.missing)
    return (
        f"expected all {total} modules of the adapter in {type(transformer).__name__}, found "
        f"{len(report.matched)}; missing are {', '.join(report.missing[:3])}{', ...' * (len(report.missing) > 3)}: "
        "load the base model it was trained on"
    )
