"""A diffusers transformer from the one file that ComfyUI's users own, with nothing fetched from a hub.

The family, the depth and the widths are read from the names and shapes in the file. FLUX files name their layers as
Black Forest Labs does, with fused projections (github.com/black-forest-labs/flux), Qwen-Image's as diffusers does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .weight_files import open_weights

Shapes = Mapping[str, tuple[int, ...]]

# The layers of a FLUX file and of diffusers. {0} and {1} are the groups, in diffusers' words; several names are the
# projections that one layer fuses, in order.
_DOUBLE, _SINGLE = r"double_blocks\.(\d+)\.", r"single_blocks\.(\d+)\."
_BLOCK = "transformer_blocks.{0}."
_FLUX_LAYERS = {
    _DOUBLE + r"(img|txt)_mod\.lin": [_BLOCK + "norm1{1}.linear"],
    _DOUBLE + r"img_attn\.qkv": [_BLOCK + f"attn.to_{part}" for part in "qkv"],
    _DOUBLE + r"txt_attn\.qkv": [_BLOCK + f"attn.add_{part}_proj" for part in "qkv"],
    _DOUBLE + r"img_attn\.proj": [_BLOCK + "attn.to_out.0"],
    _DOUBLE + r"txt_attn\.proj": [_BLOCK + "attn.to_add_out"],
    _DOUBLE + r"img_attn\.norm\.(query|key)_norm": [_BLOCK + "attn.norm_{1}"],
    _DOUBLE + r"txt_attn\.norm\.(query|key)_norm": [_BLOCK + "attn.norm_added_{1}"],
    _DOUBLE + r"(img|txt)_mlp\.0": [_BLOCK + "ff{1}.net.0.proj"],
    _DOUBLE + r"(img|txt)_mlp\.2": [_BLOCK + "ff{1}.net.2"],
    _SINGLE + r"linear1": [
        f"single_{_BLOCK}{part}" for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    ],
    _SINGLE + r"linear2": ["single_" + _BLOCK + "proj_out"],
    _SINGLE + r"modulation\.lin": ["single_" + _BLOCK + "norm.linear"],
    _SINGLE + r"norm\.(query|key)_norm": ["single_" + _BLOCK + "attn.norm_{1}"],
    r"img_in": ["x_embedder"],
    r"txt_in": ["context_embedder"],
    r"(time|vector|guidance)_in\.(in|out)_layer": ["time_text_embed.{0}_embedder.linear_{1}"],
    r"final_layer\.adaLN_modulation\.1": ["norm_out.linear"],
    r"final_layer\.linear": ["proj_out"],
}
_WORDS = {
    "img": "",
    "txt": "_context",
    "query": "q",
    "key": "k",
    "time": "timestep",
    "vector": "text",
    "in": "1",
    "out": "2",
}
_SHIFT_FIRST = "final_layer.adaLN_modulation.1"  # diffusers keeps the scale first


def load_transformer(
    path: str | Path, family: str | None = None, dtype: torch.dtype = torch.bfloat16
) -> Any:
    """The transformer in a file, in ``dtype`` on the CPU, frozen. Host memory: the model and one tensor.

    Args:
        path: .safetensors (bf16, fp16, fp32, fp8, scaled fp8, int8, nvfp4, mxfp8) or .gguf, of ComfyUI or of diffusers.
        family: ``flux`` or ``qwen-image-edit``; the file must be of it. None takes what the file holds.

    Raises PolicyError, in one line, for a file that is damaged, of another model or in an unknown format.
    """
    import diffusers
    from accelerate import init_empty_weights

    with open_weights(path) as file:
        found = _family(file.shapes)
        if found is None or family not in (None, found):
            some = ", ".join(sorted(file.shapes)[:3]) or "nothing"
            raise file.fault(
                f"expected the transformer of {family or 'flux or qwen-image-edit'}, got "
                f"{found or f'a file with {some}'}"
            )
        layers = _FLUX_LAYERS if found == "flux" else {}
        targets = {name: _targets(name, layers) for name in file.shapes}
        shapes = {names[0]: file.shapes[name] for name, names in targets.items()}
        try:
            class_name, config = _FAMILIES[found](shapes)
        except KeyError as error:
            raise file.fault(
                f"expected a whole {found} transformer; {error.args[0]} is missing"
            ) from None
        with init_empty_weights():
            transformer = getattr(diffusers, class_name)(**config)
        waiting = {name: tuple(p.shape) for name, p in transformer.named_parameters()}
        unknown = sorted(name for name, names in targets.items() if not waiting.keys() >= {*names})
        missing = sorted(waiting.keys() - {name for names in targets.values() for name in names})
        if unknown or missing:
            what = f"{missing[0]} is missing" if missing else f"{unknown[0]} is not of it"
            raise file.fault(f"expected a whole {found} transformer; {what}")
        for name, names in targets.items():
            rows = [waiting[target][0] for target in names]
            shape = (sum(rows), *waiting[names[0]][1:])
            if file.shapes[name][1:] != shape[1:] or file.shapes[name][0] < shape[0]:
                raise file.fault(f"{name}: expected shape {[*shape]}, got {[*file.shapes[name]]}")
            tensor = file.read(name, shape)
            if name.startswith(_SHIFT_FIRST):
                tensor = tensor.roll(shape[0] // 2, 0)
            for target, part in zip(names, tensor.split(rows), strict=True):
                _set(transformer, target, part.to(dtype, copy=True))
    return transformer.eval()


def _set(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    module, _, leaf = name.rpartition(".")
    parameter = torch.nn.Parameter(tensor, requires_grad=False)
    model.get_submodule(module).register_parameter(leaf, parameter)


def _family(names: Shapes) -> str | None:
    """The family of a file's transformer, by layers that only it has."""
    if "double_blocks.0.img_mod.lin.weight" in names or "x_embedder.weight" in names:
        return "flux"
    return "qwen-image-edit" if "transformer_blocks.0.img_mod.1.weight" in names else None


def _targets(name: str, layers: Mapping[str, list[str]]) -> list[str]:
    """The names in diffusers of a weight in the file; of several, its rows are split."""
    layer, _, leaf = name.rpartition(".")
    for pattern, names in layers.items():
        if match := re.fullmatch(pattern, layer):
            words = [_WORDS.get(group, group) for group in match.groups()]
            leaf = "weight" if leaf == "scale" else leaf  # of a norm
            return [f"{target.format(*words)}.{leaf}" for target in names]
    return [name]


def _flux_config(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    config = _common_config(shapes, "x_embedder", "context_embedder")
    return "FluxTransformer2DModel", {
        **config,
        "num_single_layers": _blocks(shapes, "single_transformer_blocks."),
        "out_channels": shapes["proj_out.weight"][0],
        "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
        "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in shapes,
    }


def _qwen_config(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    config = _common_config(shapes, "img_in", "txt_in")
    out_channels = shapes["proj_out.weight"][0] // 4  # patches of 2 x 2
    return "QwenImageTransformer2DModel", {**config, "out_channels": out_channels}


_FAMILIES = {"flux": _flux_config, "qwen-image-edit": _qwen_config}


def _common_config(shapes: Shapes, image: str, text: str) -> dict[str, Any]:
    width, head = shapes[f"{image}.bias"][0], shapes["transformer_blocks.0.attn.norm_q.weight"][0]
    # No file holds the rotary axes: published for heads of 128, the embedded world's for heads of 32.
    axis = 4 * math.floor(head * 7 / 64)
    return {
        "num_layers": _blocks(shapes, "transformer_blocks."),
        "in_channels": shapes[f"{image}.weight"][1],
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes[f"{text}.weight"][1],
        "axes_dims_rope": (head - 2 * axis, axis, axis),
    }


def _blocks(names: Shapes, prefix: str) -> int:
    return len({name.split(".")[1] for name in names if name.startswith(prefix)})
