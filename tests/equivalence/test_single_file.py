"""A transformer from each file that ComfyUI's users own, at full width, against the bfloat16 one that it was made of."""

from __future__ import annotations

import functools
import itertools
import json
import sys
from collections.abc import Callable, Iterator

import comfy_kitchen.tensor as kitchen
import diffusers
import gguf
import pytest
import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file

from arr_core.policies import load_transformer
from arr_core.policies.base import PolicyError

Tensors = dict[str, torch.Tensor]
TRANSFORMERS = {
    "flux": ("FluxTransformer2DModel", {"num_single_layers": 1, "guidance_embeds": True}),
    "qwen-image-edit": ("QwenImageTransformer2DModel", {}),
}


SMALL = {"num_attention_heads": 2, "joint_attention_dim": 256}


@functools.cache
def original(family: str, small: bool) -> Tensors:
    """A transformer with one block of each kind and random weights in bfloat16."""
    name, blocks = TRANSFORMERS[family]
    with init_empty_weights():
        model = getattr(diffusers, name)(num_layers=1, **blocks, **(SMALL if small else {}))
    generator = torch.Generator().manual_seed(0)
    return {
        name: (torch.randn(p.shape, generator=generator) * 0.02).bfloat16()
        for name, p in model.named_parameters()
    }


def native(family: str, small: bool) -> Tensors:
    """The weights as ComfyUI's files name and fuse them."""
    tensors = original(family, small)
    return flux_names(tensors) if family == "flux" else tensors


def flux_names(tensors: Tensors) -> Tensors:
    """The tensors of diffusers' FLUX in Black Forest Labs' layout, written out by hand."""

    def linear(theirs: str, *ours: str) -> Iterator[tuple[str, torch.Tensor]]:
        for leaf in ("weight", "bias"):
            yield f"{theirs}.{leaf}", torch.cat([tensors[f"{name}.{leaf}"] for name in ours])

    double, single = "transformer_blocks.0.", "single_transformer_blocks.0."
    shift_last = {
        f"norm_out.linear.{leaf}": torch.cat(tensors[f"norm_out.linear.{leaf}"].chunk(2)[::-1])
        for leaf in ("weight", "bias")
    }
    made: Tensors = {}
    for theirs, ours in {
        "double_blocks.0.img_mod.lin": [double + "norm1.linear"],
        "double_blocks.0.txt_mod.lin": [double + "norm1_context.linear"],
        "double_blocks.0.img_attn.qkv": [double + f"attn.to_{part}" for part in "qkv"],
        "double_blocks.0.txt_attn.qkv": [double + f"attn.add_{part}_proj" for part in "qkv"],
        "double_blocks.0.img_attn.proj": [double + "attn.to_out.0"],
        "double_blocks.0.txt_attn.proj": [double + "attn.to_add_out"],
        "double_blocks.0.img_mlp.0": [double + "ff.net.0.proj"],
        "double_blocks.0.img_mlp.2": [double + "ff.net.2"],
        "double_blocks.0.txt_mlp.0": [double + "ff_context.net.0.proj"],
        "double_blocks.0.txt_mlp.2": [double + "ff_context.net.2"],
        "single_blocks.0.linear1": [
            *(single + f"attn.to_{part}" for part in "qkv"),
            single + "proj_mlp",
        ],
        "single_blocks.0.linear2": [single + "proj_out"],
        "single_blocks.0.modulation.lin": [single + "norm.linear"],
        "img_in": ["x_embedder"],
        "txt_in": ["context_embedder"],
        "time_in.in_layer": ["time_text_embed.timestep_embedder.linear_1"],
        "time_in.out_layer": ["time_text_embed.timestep_embedder.linear_2"],
        "vector_in.in_layer": ["time_text_embed.text_embedder.linear_1"],
        "vector_in.out_layer": ["time_text_embed.text_embedder.linear_2"],
        "guidance_in.in_layer": ["time_text_embed.guidance_embedder.linear_1"],
        "guidance_in.out_layer": ["time_text_embed.guidance_embedder.linear_2"],
        "final_layer.linear": ["proj_out"],
    }.items():
        made.update(linear(theirs, *ours))
    for leaf in ("weight", "bias"):
        made[f"final_layer.adaLN_modulation.1.{leaf}"] = shift_last[f"norm_out.linear.{leaf}"]
    for theirs, ours in (
        ("double_blocks.0.img_attn.norm.query_norm", double + "attn.norm_q"),
        ("double_blocks.0.img_attn.norm.key_norm", double + "attn.norm_k"),
        ("double_blocks.0.txt_attn.norm.query_norm", double + "attn.norm_added_q"),
        ("double_blocks.0.txt_attn.norm.key_norm", double + "attn.norm_added_k"),
        ("single_blocks.0.norm.query_norm", single + "attn.norm_q"),
        ("single_blocks.0.norm.key_norm", single + "attn.norm_k"),
    ):
        made[f"{theirs}.scale"] = tensors[f"{ours}.weight"]
    return made


# ---- files, written by the libraries that ComfyUI writes and reads them with


def beside(name: str, **tensors: torch.Tensor) -> Tensors:
    layer = name.removesuffix(".weight")
    return {f"{layer}.{suffix}": tensor for suffix, tensor in tensors.items()}


def named(**description) -> torch.Tensor:
    return torch.tensor([*json.dumps(description).encode()], dtype=torch.uint8)


def scaled_fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weight.abs().max().float() / torch.finfo(torch.float8_e4m3fn).max
    return (weight.float() / scale).to(torch.float8_e4m3fn), scale


def new_fp8(name: str, weight: torch.Tensor) -> Tensors:
    stored, scale = scaled_fp8(weight)
    return {
        name: stored,
        **beside(name, weight_scale=scale, comfy_quant=named(format="float8_e4m3fn")),
    }


def old_fp8(name: str, weight: torch.Tensor) -> Tensors:
    stored, scale = scaled_fp8(weight)
    return {name: stored, **beside(name, scale_weight=scale, scale_input=torch.ones(()))}


def by_kitchen(layout: str, format: str, **parameters) -> Callable[[str, torch.Tensor], Tensors]:
    def write(name: str, weight: torch.Tensor) -> Tensors:
        quantised = kitchen.QuantizedTensor.from_float(weight, layout, **parameters)
        note = {key: value for key, value in parameters.items() if key.startswith("convrot")}
        return {
            **quantised.state_dict(name),
            **beside(name, comfy_quant=named(format=format, **note)),
        }

    return write


INT8 = ("TensorWiseINT8Layout", "int8_tensorwise")
# What a matrix becomes, what else stands in the file, and the rounding of the format in the norm of a matrix.
FORMATS: dict[str, tuple[Callable[[str, torch.Tensor], Tensors], Tensors, float]] = {
    "bf16": (lambda name, weight: {name: weight}, {}, 0.0),
    "fp16": (lambda name, weight: {name: weight.half()}, {}, 1e-7),
    "raw fp8": (lambda name, weight: {name: weight.to(torch.float8_e4m3fn)}, {}, 0.04),
    "fp8 scaled": (new_fp8, {}, 0.03),
    "fp8 scaled, old": (old_fp8, {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}, 0.03),
    "int8": (by_kitchen(*INT8), {}, 0.014),
    "int8 a row": (by_kitchen(*INT8, per_channel=True), {}, 0.012),
    "int8 rotated": (
        by_kitchen(*INT8, per_channel=True, convrot=True, convrot_groupsize=256),
        {},
        0.012,
    ),
    "nvfp4": (by_kitchen("TensorCoreNVFP4Layout", "nvfp4"), {}, 0.1),
    "mxfp8": (by_kitchen("TensorCoreMXFP8Layout", "mxfp8"), {}, 0.03),
}


def is_quantised(name: str, tensor: torch.Tensor) -> bool:
    return "blocks." in name and tensor.ndim == 2


def relative_errors(path, family: str, small: bool) -> dict[str, float]:
    """How far each weight that is read lies from the original, relative to it."""
    read, expected = load_transformer(path, family).state_dict(), original(family, small)
    assert read.keys() == expected.keys()
    assert {tensor.dtype for tensor in read.values()} == {torch.bfloat16}
    return {
        name: ((read[name] - tensor).float().norm() / tensor.float().norm()).item()
        for name, tensor in expected.items()
    }


@pytest.mark.parametrize("family", TRANSFORMERS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
def test_every_format_is_the_original_within_its_rounding(family, format, prefix, tmp_path):
    write, tensors, rounding = FORMATS[format]
    tensors = dict(tensors)
    for name, tensor in native(family, small=True).items():
        tensors.update(write(name, tensor) if is_quantised(name, tensor) else {name: tensor})
    path = tmp_path / "model.safetensors"
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, path)
    errors = relative_errors(path, family, small=True)
    assert max(errors.values()) <= rounding
    changed = {name for name, error in errors.items() if error}
    matrices = {n for n, tensor in original(family, small=True).items() if is_quantised(n, tensor)}
    assert changed == (matrices if rounding else set())


@pytest.mark.slow
@pytest.mark.parametrize("family", TRANSFORMERS)
def test_a_file_of_full_width_may_mix_the_formats(family, tmp_path):
    formats = itertools.cycle(write for write, before, _ in FORMATS.values() if not before)
    tensors = {}
    for name, tensor in native(family, small=False).items():
        write = next(formats) if is_quantised(name, tensor) else FORMATS["bf16"][0]
        tensors.update(write(name, tensor))
    save_file(tensors, tmp_path / "model.safetensors")
    errors = relative_errors(tmp_path / "model.safetensors", family, small=False)
    assert {round(error, 2) for error in errors.values()} == {0.0, 0.01, 0.03, 0.09}


@pytest.mark.parametrize("family", TRANSFORMERS)
@pytest.mark.parametrize(("format", "rounding"), [("F16", 1e-4), ("Q8_0", 0.01), ("Q4_0", 0.12)])
def test_a_gguf_is_the_original_within_its_rounding(family, format, rounding, tmp_path):
    path, kind = tmp_path / "model.gguf", gguf.GGMLQuantizationType[format]
    writer = gguf.GGUFWriter(path, "flux")
    for name, tensor in native(family, small=True).items():
        how = kind if is_quantised(name, tensor) else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(tensor.float().numpy(), how), raw_dtype=how)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file):
        step()
    writer.write_tensors_to_file()
    writer.close()
    errors = relative_errors(path, family, small=True)
    assert rounding / 10 < max(errors.values()) <= rounding or format == "F16"
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path, "expected a whole GGUF file")


# ---- refusals


def refused(path, reason: str, **options) -> None:
    with pytest.raises(PolicyError, match=reason) as caught:
        load_transformer(path, **options)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


QKV = "double_blocks.0.img_attn.qkv.weight"
ONE = torch.ones(())
FAULTS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "incomplete": (
        lambda tensors: tensors.pop("img_in.bias"),
        "expected a whole flux transformer; x_embedder.bias is missing",
    ),
    "half a block": (
        lambda tensors: tensors.pop(QKV),
        r"transformer_blocks\.0\.attn\.to_k\.weight is missing",
    ),
    "another model's layer": (
        lambda tensors: tensors.update({"distilled_guidance_layer.norms.0.scale": ONE}),
        r"distilled_guidance_layer\.norms\.0\.scale is not of it",
    ),
    "another width": (
        lambda tensors: tensors.update({QKV: torch.ones(768, 255)}),
        r"qkv\.weight: expected shape \[768, 256\], got \[768, 255\]",
    ),
    "an unknown format": (
        lambda tensors: tensors.update(beside(QKV, comfy_quant=named(format="svdquant_w4a4"))),
        "expected fp8, int8, nvfp4 or mxfp8, got the format 'svdquant_w4a4'",
    ),
    "a description that is no object": (
        lambda tensors: tensors.update(beside(QKV, comfy_quant=named()[:1])),
        r"qkv\.comfy_quant: expected a JSON object",
    ),
    "no name of its format": (
        lambda tensors: tensors.update({QKV: tensors[QKV].to(torch.uint8)}),
        r"expected shape|got torch\.uint8 without its name",
    ),
    "integers without a scale": (
        lambda tensors: tensors.update(
            {QKV: torch.ones(768, 256, dtype=torch.int8)}
            | beside(QKV, comfy_quant=named(format="int8_tensorwise"))
        ),
        "expected a scale beside 8-bit integers, got none",
    ),
    "a scale that is missing": (
        lambda tensors: tensors.update(beside(QKV, comfy_quant=named(format="mxfp8"))),
        r"expected double_blocks\.0\.img_attn\.qkv\.weight_scale, got none",
    ),
    "the inputs' smoothing": (
        lambda tensors: tensors.update(beside(QKV, pre_quant_scale=torch.ones(256))),
        r"pre_quant_scale is not of it",
    ),
    "not a transformer": (
        lambda tensors: tensors.clear() or tensors.update({"first_stage_model.x": ONE}),
        "expected the transformer of flux or qwen-image-edit, got a file with first_stage_model.x",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_not_a_whole_known_transformer_is_refused_in_one_line(fault, tmp_path):
    change, reason = FAULTS[fault]
    tensors = dict(native("flux", small=True))
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    refused(tmp_path / "model.safetensors", reason)


def test_a_file_that_is_damaged_or_of_another_kind_is_refused_in_one_line(tmp_path, monkeypatch):
    refused(tmp_path / "absent.safetensors", "expected a .safetensors or .gguf file")
    path = tmp_path / "model.safetensors"
    save_file(native("qwen-image-edit", small=True), path)
    refused(path, "expected the transformer of flux, got qwen-image-edit", family="flux")
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "expected a whole safetensors file")


def test_a_format_whose_package_is_missing_names_it(tmp_path, monkeypatch):
    write = FORMATS["nvfp4"][0]
    tensors = native("flux", small=True)
    save_file(tensors | write(QKV, tensors[QKV]), tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "comfy_kitchen.tensor", None)
    refused(tmp_path / "model.safetensors", "needs the package comfy-kitchen: pip install")
