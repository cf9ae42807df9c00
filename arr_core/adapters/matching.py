"""An adapter and a diffusers transformer: put the adapter in, and take it out again."""

from __future__ import annotations

from typing import Any

from .adapter import Adapter, LoraPair
from .family import base_id, family_of_transformer
from .file import AdapterError
from .scale import scale_of


def inject(adapter: Adapter, transformer: Any) -> None:
    """Add the adapter to a diffusers transformer through PEFT and make it active.

    Training can go on from it: its parameters are float32, whatever the base is, and require gradients. Raises
    AdapterError, before anything is changed, unless the transformer has no adapter and every pair finds its module.
    """
    from peft import LoraConfig, set_peft_model_state_dict

    _check_fits(adapter, transformer)
    if getattr(transformer, "peft_config", None):
        raise AdapterError(
            "expected a transformer without an adapter, got one with it; delete that first (delete_adapters)"
        )
    transformer.add_adapter(LoraConfig(**{**adapter.peft_config(), "inference_mode": False}))
    for name, parameter in transformer.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    outcome = set_peft_model_state_dict(transformer, adapter.state_dict())
    lost = [name for name in outcome.missing_keys if ".lora_" in name] + outcome.unexpected_keys
    if lost:
        raise AdapterError(
            f"expected every weight to find its place, got {lost[0]} without one; update peft and diffusers"
        )


def extract(transformer: Any, base: str | None = None) -> Adapter:
    """The LoRA that a diffusers transformer carries, copied to the CPU: what a trainer saves."""
    from peft import get_peft_model_state_dict

    use_rslora = transformer.peft_config["default"].use_rslora
    tensors = get_peft_model_state_dict(transformer, save_embedding_layers=False)
    modules = {}
    for module in sorted({name.rsplit(".lora_", 1)[0] for name in tensors}):
        a, b = (tensors[f"{module}.lora_{side}.weight"].detach().cpu().clone() for side in "AB")
        alpha = float(transformer.get_submodule(module).lora_alpha["default"])
        modules[module] = LoraPair(a, b, alpha, scale_of(alpha, a.shape[0], use_rslora))
    return Adapter(modules, base_id(base), use_rslora)


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
