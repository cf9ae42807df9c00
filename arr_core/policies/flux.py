"""FLUX.1-dev as a policy: text to image, guidance embedded in the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..data import Example
from .base import Grid, Inputs, Policy


class FluxPolicy(Policy):
    """The text-to-image policy. A prompt's tensors are the T5 sequence [T, D] and the pooled CLIP vector [P]."""

    pipelines = ("FluxPipeline",)
    encoder_parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    large_parts = ("transformer", "text_encoder_2")

    def encode_prompt(
        self, pipeline: Any, prompt: str, example: Example
    ) -> dict[str, torch.Tensor]:
        embeds, pooled, _ = pipeline.encode_prompt(
            prompt,
            None,
            device=self.device,
            max_sequence_length=self.settings.max_sequence_length,
        )
        return {"prompt_embeds": embeds[0], "pooled_prompt_embeds": pooled[0]}

    def collate(self, items: Sequence[Mapping[str, torch.Tensor]]) -> Inputs:
        return {
            "encoder_hidden_states": torch.stack([item["prompt_embeds"] for item in items]),
            "pooled_projections": torch.stack([item["pooled_prompt_embeds"] for item in items]),
        }

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, inputs: Inputs, grid: Grid
    ) -> torch.Tensor:
        image_ids = self.pipeline._prepare_latent_image_ids(1, *grid, latents.device, latents.dtype)
        text = inputs["encoder_hidden_states"]
        guidance = None
        if self.transformer.config.guidance_embeds:
            guidance = torch.full(
                (len(latents),), self.settings.guidance_scale, device=latents.device
            )
        return self.transformer(
            hidden_states=latents,
            timestep=timestep,
            guidance=guidance,
            img_ids=image_ids,
            txt_ids=torch.zeros(text.shape[1], 3, device=latents.device, dtype=text.dtype),
            return_dict=False,
            **inputs,
        )[0]

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self.pipeline.vae
        latents = latents / vae.config.scaling_factor + vae.config.shift_factor
        return vae.decode(latents.to(vae.dtype), return_dict=False)[0]
