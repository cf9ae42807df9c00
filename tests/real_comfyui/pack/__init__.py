"""Nodes for the tests alone: tiny models of ComfyUI's own classes, and what an adapter changes in one."""

import dataclasses
import json
import os
import pathlib

import comfy.ldm.flux.model
import comfy.lora
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import folder_paths
import safetensors.torch
import torch
from comfy_api.latest import ComfyExtension, io

ROOT = pathlib.Path(__file__).resolve().parents[3]
SIZES = json.loads((ROOT / "arr_core/miniature/flux/transformer/config.json").read_text())
WIDTH = SIZES["num_attention_heads"] * SIZES["attention_head_dim"]
# The embedded FLUX's sizes in ComfyUI's words.
FLUX = {
    "image_model": "flux",
    "in_channels": SIZES["in_channels"] // 4,
    "out_channels": SIZES["in_channels"] // 4,
    "vec_in_dim": SIZES["pooled_projection_dim"],
    "context_in_dim": SIZES["joint_attention_dim"],
    "hidden_size": WIDTH,
    "mlp_ratio": 4.0,
    "num_heads": SIZES["num_attention_heads"],
    "depth": SIZES["num_layers"],
    "depth_single_blocks": SIZES["num_single_layers"],
    "axes_dim": SIZES["axes_dims_rope"],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
# A Qwen-Image as wide.
QWEN = {
    "image_model": "qwen_image",
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": SIZES["attention_head_dim"],
    "num_attention_heads": SIZES["num_attention_heads"],
    "joint_attention_dim": 8,
    "axes_dims_rope": tuple(SIZES["axes_dims_rope"]),
}


class TinyModel(io.ComfyNode):
    """A model of ComfyUI's class with a handful of weights."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestTinyModel",
            category="tests",
            outputs=[io.Model.Output()],
            inputs=[io.Combo.Input("family", options=["flux", "qwen", "other"])],
        )

    @classmethod
    def execute(cls, family):
        if family == "other":
            model = torch.nn.Module()
        else:
            known = {field.name for field in dataclasses.fields(comfy.ldm.flux.model.FluxParams)}
            # An older ComfyUI knows fewer.
            flux = {name: FLUX[name] for name in FLUX if name in known | {"image_model"}}
            if family == "flux":
                settings = comfy.supported_models.Flux(flux)
            else:
                settings = comfy.supported_models.QwenImage(QWEN)
            settings.set_inference_dtype(torch.float32, None)
            model = settings.get_model({}, "", "cpu")
            torch.manual_seed(0)
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
        device = torch.device("cpu")
        return io.NodeOutput(
            comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)
        )


class SaveChange(io.ComfyNode):
    """A file with what the patches of a model change in each of its weights."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestSaveChange",
            category="tests",
            is_output_node=True,
            outputs=[],
            inputs=[io.Model.Input("model"), io.String.Input("name")],
        )

    @classmethod
    def execute(cls, model, name):
        changes = {}
        for key, patches in model.patches.items():
            weight = comfy.utils.get_attr(model.model, key).detach().clone().float()
            changed = comfy.lora.calculate_weight(patches, weight.clone(), key)
            changes[key] = (changed - weight).contiguous()
        safetensors.torch.save_file(
            changes, os.path.join(folder_paths.get_output_directory(), name)
        )
        return io.NodeOutput()


class ShowText(io.ComfyNode):
    """A text, a number or a truth value in the history."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestShow",
            category="tests",
            is_output_node=True,
            outputs=[],
            inputs=[io.AnyType.Input("value")],
        )

    @classmethod
    def execute(cls, value):
        return io.NodeOutput(
            ui={"text": [value if isinstance(value, (str, int, float, bool)) else repr(value)]}
        )


class Extension(ComfyExtension):
    async def get_node_list(self):
        return [TinyModel, SaveChange, ShowText]


async def comfy_entrypoint():
    return Extension()
