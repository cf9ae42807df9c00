"""Tiny random transformers of both families, inputs for them, and random adapters made by PEFT itself."""

from __future__ import annotations

import copy
import inspect

import torch
from diffusers import FluxTransformer2DModel, QwenImageTransformer2DModel
from peft import LoraConfig, PeftModel, get_peft_model

ATTENTION = [
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
]
TARGETS = {
    "flux": [*ATTENTION, "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"],
    "qwen-image-edit": [*ATTENTION, "img_mlp.net.2", "txt_mlp.net.2"],
}
BASES = {"flux": "black-forest-labs/FLUX.1-dev", "qwen-image-edit": "Qwen/Qwen-Image-Edit"}


def tiny_flux() -> FluxTransformer2DModel:
    """A FLUX transformer of width 32: one double block and one single block."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    ).eval()


def tiny_qwen() -> QwenImageTransformer2DModel:
    """A Qwen-Image transformer of width 32: two blocks."""
    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
    ).eval()


def tiny_transformer(family: str) -> torch.nn.Module:
    """The tiny transformer of ``family``, the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tiny_flux() if family == "flux" else tiny_qwen()


@torch.no_grad()
def output(transformer: torch.nn.Module) -> torch.Tensor:
    """What a transformer of either family, wrapped by PEFT or not, says to one fixed input of 2 x 2 tokens."""
    if isinstance(transformer, PeftModel):
        transformer = transformer.get_base_model()
    generator = torch.Generator().manual_seed(1)
    tokens, text = (
        torch.randn(1, 4, 16, generator=generator),
        torch.randn(1, 3, 32, generator=generator),
    )
    common = {
        "hidden_states": tokens,
        "encoder_hidden_states": text,
        "timestep": torch.tensor([0.5]),
        "return_dict": False,
    }
    if getattr(transformer.config, "pooled_projection_dim", None):
        pooled = torch.randn(1, 32, generator=generator)
        return transformer(
            pooled_projections=pooled,
            guidance=torch.tensor([3.5]),
            img_ids=torch.zeros(4, 3),
            txt_ids=torch.zeros(3, 3),
            **common,
        )[0]
    if (
        "txt_seq_lens" in inspect.signature(transformer.forward).parameters
    ):  # diffusers 0.36 asks for it
        common["txt_seq_lens"] = [3]
    mask = torch.ones(1, 3, dtype=torch.bool)
    return transformer(encoder_hidden_states_mask=mask, img_shapes=[[(1, 2, 2)]], **common)[0]


def random_adapter(transformer: torch.nn.Module, targets: list[str] | str, **config) -> PeftModel:
    """A copy of the transformer with a PEFT adapter on ``targets``, both of its factors random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        settings = {"r": 4, "lora_alpha": 8, "target_modules": targets, **config}
        model = get_peft_model(copy.deepcopy(transformer), LoraConfig(**settings)).eval()
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    return model
