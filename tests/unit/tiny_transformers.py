"""Tiny random transformers of both families, inputs for them, and random adapters made by PEFT itself."""

from __future__ import annotations

import copy

import torch
from diffusers import FluxTransformer2DModel, QwenImageTransformer2DModel
from peft import LoraConfig, PeftModel, get_peft_model

from arr_core.config.presets import ATTENTION, FEED_FORWARD

TARGETS = {
    "flux": [*ATTENTION, *FEED_FORWARD],
    "qwen-image-edit": [*ATTENTION, "img_mlp.net.2", "txt_mlp.net.2"],
}
BASES = {"flux": "black-forest-labs/FLUX.1-dev", "qwen-image-edit": "Qwen/Qwen-Image-Edit"}


def tiny_transformer(family: str) -> torch.nn.Module:
    """A transformer of width 32 with two blocks (FLUX: one double, one single), the same weights at every call."""
    width = {
        "in_channels": 16,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "axes_dims_rope": (4, 6, 6),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family == "flux":
            flux = {"num_layers": 1, "num_single_layers": 1, "pooled_projection_dim": 32}
            return FluxTransformer2DModel(**width, **flux, guidance_embeds=True).eval()
        return QwenImageTransformer2DModel(**width, out_channels=4, num_layers=2).eval()


@torch.no_grad()
def output(transformer: torch.nn.Module) -> torch.Tensor:
    """What a transformer of either family, wrapped by PEFT or not, says to one fixed input of 2 x 2 tokens."""
    if isinstance(transformer, PeftModel):
        transformer = transformer.get_base_model()
    generator = torch.Generator().manual_seed(1)
    common = {
        "hidden_states": torch.randn(1, 4, 16, generator=generator),
        "encoder_hidden_states": torch.randn(1, 3, 32, generator=generator),
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
