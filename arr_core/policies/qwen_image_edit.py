"""Qwen-Image-Edit, and Qwen-Image-Edit-2509 through its Plus pipeline, as a policy."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence

import torch
from PIL import Image

from ..data import open_image
from .base import Conditioning, DiffusersPolicy, fit_to_area


@contextlib.contextmanager
def image_token_types(text_encoder):
    """A context in which the text encoder is told which of its input tokens are picture.

    transformers 5 places picture tokens in three dimensions only when ``mm_token_type_ids`` is given, and diffusers
    0.42 does not give it: without this, an edit prompt silently gets one-dimensional positions.
    """
    if "mm_token_type_ids" not in inspect.signature(text_encoder.forward).parameters:
        yield
        return

    def add(module, args, kwargs):
        if kwargs.get("image_grid_thw") is not None:
            kwargs.setdefault(
                "mm_token_type_ids", (kwargs["input_ids"] == module.config.image_token_id).int()
            )
        return args, kwargs

    hook = text_encoder.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def encode_edits(
    pipeline, instructions: Sequence[str], images: Sequence[Image.Image]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [N, T, D] and mask [N, T] of instructions with their (already resized) source pictures."""
    with image_token_types(pipeline.text_encoder):
        if not is_plus(pipeline):
            return pipeline._get_qwen_prompt_embeds(list(instructions), list(images))
        parts = [
            pipeline._get_qwen_prompt_embeds([text], [image])
            for text, image in zip(instructions, images, strict=True)
        ]
    longest = max(mask.shape[1] for _, mask in parts)
    return tuple(
        torch.cat(
            [
                torch.nn.functional.pad(part[i], (0, 0) * (1 - i) + (0, longest - part[i].shape[1]))
                for part in parts
            ]
        )
        for i in (0, 1)
    )


def is_plus(pipeline) -> bool:
    """Whether the pipeline is the one of Qwen-Image-Edit-2509 and later."""
    return "Plus" in type(pipeline).__name__


class QwenImageEditPolicy(DiffusersPolicy):
    """The editing policy. A conditioning holds the instruction's embeddings and the packed latents of the source."""

    family = "qwen-image-edit"
    encoder_parts = ("text_encoder", "tokenizer", "processor")

    def source_picture(self, example) -> Image.Image:
        image = open_image(example.source)
        size = self._fitted(image.size, self.pipeline)
        return (
            image
            if image.size == size
            else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        )

    def _fitted(self, size: tuple[int, int], pipeline) -> tuple[int, int]:
        """Width and height of the edit of a picture."""
        return fit_to_area(
            size, self.settings.height * self.settings.width, 2 * pipeline.vae_scale_factor
        )

    def _encode(self, pipeline, example) -> Conditioning:
        image = open_image(example.source)
        width, height = self._fitted(image.size, pipeline)
        source = pipeline.image_processor.resize(image, height, width)
        condition = source
        if self.settings.condition_area or is_plus(pipeline):
            wide, high = fit_to_area(image.size, self.settings.condition_area or 384 * 384, 32)
            condition = pipeline.image_processor.resize(image, high, wide)
        tensors = {}
        prompts = {"": example.prompt}
        if self.settings.true_cfg_scale > 1:
            prompts["negative_"] = self.settings.negative_prompt
        for prefix, prompt in prompts.items():
            embeds, _ = encode_edits(pipeline, [prompt], [condition])
            tensors[f"{prefix}prompt_embeds"] = embeds[0]
        pixels = pipeline.image_processor.preprocess(source, height, width).unsqueeze(2)
        pixels = pixels.to(self.device, pipeline.vae.dtype)
        latents = pipeline._encode_vae_image(pixels, generator=None)
        tensors["source_latents"] = pipeline._pack_latents(
            latents, 1, latents.shape[1], *latents.shape[-2:]
        )[0].to(tensors["prompt_embeds"].dtype)
        return Conditioning(tensors, height, width)

    def _collate(
        self, items: Sequence[dict[str, torch.Tensor]], prefix: str
    ) -> dict[str, torch.Tensor]:
        texts = [item[f"{prefix}prompt_embeds"] for item in items]
        longest = max(text.shape[0] for text in texts)
        mask = torch.stack([torch.arange(longest) < text.shape[0] for text in texts])
        return {
            "encoder_hidden_states": torch.stack(
                [
                    torch.nn.functional.pad(text, (0, 0, 0, longest - text.shape[0]))
                    for text in texts
                ]
            ),
            "encoder_hidden_states_mask": None if mask.all() else mask.long(),
            "source": torch.stack([item["source_latents"] for item in items]),
        }

    def _predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, inputs: dict, height: int, width: int
    ):
        grid = (1, *(side // self.pipeline.vae_scale_factor // 2 for side in (height, width)))
        inputs = dict(inputs)
        source = inputs.pop("source")
        return self.transformer(
            hidden_states=torch.cat([latents, source.to(latents.dtype)], dim=1),
            timestep=timestep,
            img_shapes=[[grid, grid]] * len(latents),
            return_dict=False,
            **inputs,
        )[0][:, : latents.shape[1]]

    def _guide(self, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        """True classifier-free guidance, brought back to the norm of the conditional prediction."""
        guided = negative + self.settings.true_cfg_scale * (positive - negative)
        return guided * (positive.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))

    def _noise_shape(self, height: int, width: int) -> tuple[int, ...]:
        factor = self.pipeline.vae_scale_factor
        return (
            1,
            self.transformer.config.in_channels // 4,
            2 * (height // (factor * 2)),
            2 * (width // (factor * 2)),
        )

    def _unpack(self, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        pipeline = self.pipeline
        latents = pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor).to(
            pipeline.vae.dtype
        )
        mean, std = (
            torch.tensor(values, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1, 1)
            for values in (pipeline.vae.config.latents_mean, pipeline.vae.config.latents_std)
        )
        return latents * std + mean

    def _images(self, latents: torch.Tensor) -> torch.Tensor:
        return self.pipeline.vae.decode(latents, return_dict=False)[0][:, :, 0]

    def unreachable(self, name: str) -> bool:
        """The last block's text stream ends there: its query, its output and its MLP shape no picture."""
        last = f"transformer_blocks.{len(self.transformer.transformer_blocks) - 1}."
        return last in name and any(
            part in name for part in ("attn.to_add_out", "attn.add_q_proj", "txt_mlp")
        )
