"""An adapter and a diffusers transformer: put the adapter in, and take it out again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .adapter import Adapter, LoraPair
from .family import base_id, family_of_transformer
from .file import AdapterError
from .scale import scale_of

if TYPE_CHECKING:
    import torch


def inject(
    adapter: Adapter,
    transformer: Any,
    adapter_name: str = "default",
    dtype: torch.dtype | None = None,
) -> None:
    """Add the adapter to a diffusers transformer through PEFT and make it active.

    Training can go on from it: its parameters require gradients. They take the dtype of the layer they belong to, or
    ``dtype``. Raises AdapterError, before anything is changed, unless every pair finds its module.
    """
    from peft import LoraConfig, set_peft_model_state_dict

    _check_fits(adapter, transformer)
    if adapter_name in getattr(transformer, "peft_config", {}):
        raise AdapterError(
            f"expected a new adapter name, got {adapter_name!r} in use; delete that adapter first "
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
            f"expected every weight to find its place, got {(unset or outcome.unexpected_keys)[0]} "
            "without one; update peft and diffusers"
        )


def extract(transformer: Any, adapter_name: str = "default", base: str | None = None) -> Adapter:
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


def _check_fits(adapter: Adapter, transformer: Any) -> None:
    """Raises AdapterError unless every pair has its linear layer in the transformer, of the same shape."""
    advice = f"load the base model it was trained on ({adapter.base or 'not recorded'})"
    kind, family = type(transformer).__name__, family_of_transformer(transformer)
    if "unknown" not in (family, adapter.family) and family != adapter.family:
        raise AdapterError(
            f"expected an adapter of {family} for {kind}, got one of {adapter.family}; {advice}"
        )
    layers = dict(transformer.named_modules())
    missing = [
        module for module in adapter.modules if not hasattr(layers.get(module), "in_features")
    ]
    if missing:
        total = len(adapter.modules)
        raise AdapterError(
            f"expected all {total} modules of the adapter in {kind}, got {total - len(missing)}; missing are "
            f"{', '.join(missing[:3])}{', ...' * (len(missing) > 3)}: {advice}"
        )
    for module, pair in adapter.modules.items():
        layer = layers[module]
        wanted, got = [layer.out_features, layer.in_features], [pair.B.shape[0], pair.A.shape[1]]
        if wanted != got:
            raise AdapterError(
                f"expected a change of shape {wanted} for {module}, got {got}; {advice}"
            )
