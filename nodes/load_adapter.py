"""ARRLoadAdapter: an adapter on a MODEL at full strength, with a count of what it found there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import folders
from .live import Live
from .schema import LoraModel, RunSocket, advanced, explained, schema

if TYPE_CHECKING:
    from ..arr_core.adapters import Adapter

FAMILIES = {"Flux": "flux", "QwenImage": "qwen-image-edit"}  # ComfyUI's model classes


class ARRLoadAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ARRLoadAdapter",
            "Load Adapter (full strength)",
            is_output_node=True,
            description="Applies a LoRA adapter to a FLUX or Qwen-Image model at the strength it was trained with. PEFT "
            "folders and files load as they are; nothing matched, or a wrong base, is an error.",
            search_aliases=["lora", "peft", "adapter", "arr", "rpo", "load lora"],
            inputs=[
                io.Model.Input("model", tooltip="A FLUX.1 or Qwen-Image(-Edit) model."),
                io.Combo.Input(
                    "adapter",
                    options=[folders.NONE, *folders.adapter_names()],
                    tooltip=(
                        "A LoRA file of the loras folders (of a PEFT folder, its adapter_model.safetensors, with "
                        "adapter_config.json beside it), or 'run: NAME' for the result of a training."
                    ),
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip=("1 is the strength that the adapter was trained with, 0 is the base."),
                ),
                io.Float.Input(
                    "alpha",
                    default=0.0,
                    min=0.0,
                    max=4096.0,
                    step=1.0,
                    **advanced(),
                    tooltip=(
                        "0 takes the strength from the file. Only a file that does not record it needs the lora_alpha of "
                        "its training."
                    ),
                ),
                RunSocket.Input(
                    "run",
                    optional=True,
                    tooltip=("A training to take the adapter from; 'adapter' is ignored then."),
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the adapter."),
                LoraModel.Output(
                    display_name="lora",
                    tooltip=(
                        "The adapter as a LoRA at full strength, for SaveLoRA or Load LoRA Model."
                    ),
                ),
                io.String.Output(
                    display_name="info",
                    tooltip="Family, rank, alpha, scale and how many modules matched.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, adapter: str) -> bool | str:
        """Files come and go, and a connected run needs none: what is named is looked for when the node runs."""
        return True

    @classmethod
    def fingerprint_inputs(cls, adapter: str | None, run=None, **_) -> object:
        """Changes with the file, so that an adapter that was trained further is loaded again."""
        return folders.adapter_stamp(adapter)

    @classmethod
    def execute(
        cls, model, adapter: str, strength: float, alpha: float = 0.0, run=None
    ) -> io.NodeOutput:
        live = Live(cls.hidden.unique_id)
        with explained(live):
            from ..arr_core.adapters import load_adapter

            if run is None and adapter == folders.NONE:
                raise ValueError(
                    "adapter: expected a LoRA file or a connected run; put a file into ComfyUI's loras folder and "
                    "press R"
                )
            path = run.folder / "adapter" if run is not None else folders.adapter_path(adapter)
            loaded = load_adapter(path, alpha or None)
            matched = matches(loaded, model)
        import comfy.sd

        tensors = lora_model(loaded)
        patched = comfy.sd.load_lora_for_models(model, None, tensors, strength, 0)[0]
        text = describe(loaded, matched, strength)
        live.say(text)
        return io.NodeOutput(patched, tensors, text, ui={"text": [text]})


def lora_model(adapter: Adapter) -> dict:
    """A LORA_MODEL at full strength. Alpha equals the rank, so that a file which SaveLoRA makes of it says what it is."""
    import torch

    tensors = adapter.to_universal()
    alpha = torch.tensor(float(adapter.rank))
    return {
        **tensors,
        **{f"transformer.{module}.alpha": alpha.clone() for module in adapter.modules},
    }


def matches(adapter: Adapter, model) -> list[str]:
    """The adapter's modules that the model has, with the right shape. Raises AdapterError when none fits."""
    import comfy.lora
    import comfy.utils

    from ..arr_core.adapters import AdapterError

    kind = type(model.model).__name__
    family = FAMILIES.get(kind)
    if family is None or adapter.family not in (family, "unknown"):
        raise AdapterError(
            f"expected a model of the adapter's family, {adapter.family} (trained on "
            f"{adapter.base or 'a base that it does not record'}), found a model of the class {kind}; "
            f"load {'FLUX.1' if adapter.family == 'flux' else 'Qwen-Image-Edit'}"
        )
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    matched = [module for module in adapter.modules if f"transformer.{module}" in keys]
    if not matched:
        raise AdapterError(
            f"expected modules of {kind}, found none of the adapter's {len(adapter.modules)} there; "
            f"load the base it was trained on ({adapter.base or 'not recorded'})"
        )
    for module in matched:
        target = keys[f"transformer.{module}"]
        name, part = (target, None) if isinstance(target, str) else target[:2]
        weight = comfy.utils.get_attr(model.model, name)
        if not (
            weight.is_floating_point() and weight.ndim == 2
        ):  # packed by a quantizer: its shape says nothing
            continue
        wanted = list(weight.shape)
        if part is not None:
            wanted[part[0]] = part[2]
        pair = adapter.modules[module]
        found = [pair.B.shape[0], pair.A.shape[1]]
        if wanted != found:
            raise AdapterError(
                f"expected a change of shape {wanted} for {module}, found {found}; load the base it was "
                f"trained on ({adapter.base or 'not recorded'})"
            )
    return matched


def describe(adapter: Adapter, matched: list[str], strength: float) -> str:
    """What was loaded, as lines to read."""
    from ..arr_core.adapters import base_warning

    pairs = adapter.modules.values()
    lines = [
        f"family: {adapter.family}",
        f"base: {adapter.base or 'not recorded'}",
        f"rank: {_values(pair.rank for pair in pairs)}",
        f"alpha: {_values(pair.alpha for pair in pairs)}",
        f"effective scale: {_values(pair.scale * strength for pair in pairs)}",
        f"modules matched: {len(matched)} of {len(adapter.modules)}",
    ]
    missing = [module for module in adapter.modules if module not in set(matched)]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        lines.append(
            f"warning: this model has no {', '.join(missing[:3])}{more}; is it the base it was trained on?"
        )
    if warning := base_warning(adapter.family, adapter.base):
        lines.append(f"warning: {warning}")
    return "\n".join(lines)


def _values(values) -> str:
    return ", ".join(f"{value:g}" for value in dict.fromkeys(values))
