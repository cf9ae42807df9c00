"""FLUX.1-dev as a policy: text to image, guidance embedded in the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .base import Conditioning, DiffusersPolicy


class FluxPolicy(DiffusersPolicy):
    """The text-to-image policy. A conditioning holds the T5 sequence [T, D] and the pooled CLIP vector [P]."""

    family = "flux"
    encoder_parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")

    def _encode(self, pipeline, example) -> Conditioning:
        tensors = {}
        prompts = {"": example.prompt}
        if self.settings.true_cfg_scale > 1:
            prompts["negative_"] = self.settings.negative_prompt
        for prefix, prompt in prompts.items():
            embeds, pooled, _ = pipeline.encode_prompt(
                prompt,
                None,
                device=self.device,
                max_sequence_length=self.settings.max_sequence_length,
            )
            tensors[f"{prefix}prompt_embeds"], tensors[f"{prefix}pooled_prompt_embeds"] = (
                embeds[0],
                pooled[0],
            )
        return Conditioning(tensors, self.settings.height, self.settings.width)

    def _collate(
        self, items: Sequence[dict[str, torch.Tensor]], prefix: str
    ) -> dict[str, torch.Tensor]:
        return {
            "encoder_hidden_states": torch.stack(
                [item[f"{prefix}prompt_embeds"] for item in items]
            ),
            "pooled_projections": torch.stack(
                [item[f"{prefix}pooled_prompt_embeds"] for item in items]
            ),
        }

    def _predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, inputs: dict, height: int, width: int
    ):
        factor = self.pipeline.vae_scale_factor * 2
        image_ids = self.pipeline._prepare_latent_image_ids(
            1, height // factor, width // factor, latents.device, latents.dtype
        )
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

    def _guide(self, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        return negative + self.settings.true_cfg_scale * (positive - negative)

    def _noise_shape(self, height: int, width: int) -> tuple[int, ...]:
        factor = self.pipeline.vae_scale_factor * 2
        return (
            self.transformer.config.in_channels // 4,
            2 * (height // factor),
            2 * (width // factor),
        )

    def _unpack(self, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        latents = self.pipeline._unpack_latents(
            latents, height, width, self.pipeline.vae_scale_factor
        )
        config = self.pipeline.vae.config
        return (latents / config.scaling_factor + config.shift_factor).to(self.pipeline.vae.dtype)

    def _images(self, latents: torch.Tensor) -> torch.Tensor:
        return self.pipeline.vae.decode(latents, return_dict=False)[0]
