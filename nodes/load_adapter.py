"""ARRLoadAdapter: an adapter on a MODEL at full strength, with a count of what it found there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import comfy.lora
import comfy.sd
import comfy.utils
import torch
from comfy_api.latest import io

from . import folders
from .live import Live
from .schema import ADVANCED, LoraModel, Node, RunSocket, choice, number, schema

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ..arr_core.adapters import Adapter
    from .run import Run

FAMILIES = {"Flux": "flux", "QwenImage": "qwen-image-edit"}  # ComfyUI's model classes


class ARRLoadAdapter(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ARRLoadAdapter",
            [
                io.Model.Input("model"),
                choice("adapter", [folders.NONE, *folders.adapter_names()]),
                number("strength", 1.0, -10.0, 10.0, step=0.05),
                number("alpha", 0.0, 0.0, 4096.0, step=1.0, **ADVANCED),
                RunSocket.Input("run", optional=True),
            ],
            {"model": io.Model, "lora": LoraModel, "info": io.String},
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        adapter,
        strength,
        alpha=0.0,
        run: Run | None = None,
    ) -> io.NodeOutput:
        with Live(cls) as live:
            from ..arr_core.adapters import load_adapter

            if run is None and adapter == folders.NONE:
                raise ValueError(
                    "adapter: expected a LoRA file or a connected run; put a file into ComfyUI's loras folder and "
                    "press R"
                )
            path = run.folder / "adapter" if run else folders.adapter_path(adapter)
            loaded = load_adapter(path, alpha or None)
            text = describe(loaded, matches(loaded, model), strength)
            tensors = lora_model(loaded)
            patched, _ = comfy.sd.load_lora_for_models(model, None, tensors, strength, 0)
            live.show_text(text)
        return io.NodeOutput(patched, tensors, text, ui={"text": [text]})


def lora_model(adapter: Adapter) -> dict[str, torch.Tensor]:
    """A LORA_MODEL at full strength. Alpha equals the rank, so that a file which SaveLoRA makes of it says what it is."""
    tensors = adapter.to_universal()
    for module in adapter.modules:
        tensors[f"transformer.{module}.alpha"] = torch.tensor(float(adapter.rank))
    return tensors


def matches(adapter: Adapter, model: ModelPatcher) -> set[str]:
    """The adapter's modules that the model has, with the right shape. Raises AdapterError when none fits."""
    from ..arr_core.adapters import AdapterError

    kind = type(model.model).__name__
    family = FAMILIES.get(kind)
    base = adapter.base or "not recorded"
    if family is None or adapter.family not in (family, "unknown"):
        raise AdapterError(
            f"expected a model of the adapter's family, {adapter.family} (base: {base}), got a model of the class "
            f"{kind}; load {'FLUX.1' if adapter.family == 'flux' else 'Qwen-Image-Edit'}"
        )
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    matched = set()
    for module, pair in adapter.modules.items():
        target = keys.get(f"transformer.{module}")
        if target is None:
            continue
        matched.add(module)
        name, part = (target, None) if isinstance(target, str) else target[:2]
        weight = comfy.utils.get_attr(model.model, name)
        if not weight.is_floating_point() or weight.ndim != 2:
            continue  # packed by a quantizer: its shape says nothing
        expected = list(weight.shape)
        if part is not None:
            dimension, _, length = part
            expected[dimension] = length
        got = [pair.B.shape[0], pair.A.shape[1]]
        if expected != got:
            raise AdapterError(
                f"expected a change of shape {expected} for {module}, got {got}; load the base it was trained on ({base})"
            )
    if not matched:
        raise AdapterError(
            f"expected modules of {kind}, got {len(adapter.modules)} modules that it does not have; "
            f"load the base it was trained on ({base})"
        )
    return matched


def describe(adapter: Adapter, matched: set[str], strength: float) -> str:
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
    missing = [module for module in adapter.modules if module not in matched]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        lines.append(
            f"warning: this model has no {', '.join(missing[:3])}{more}; is it the base it was trained on?"
        )
    if warning := base_warning(adapter.family, adapter.base):
        lines.append(f"warning: {warning}")
    return "\n".join(lines)


def _values(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in dict.fromkeys(values))
