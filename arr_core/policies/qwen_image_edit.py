"""Qwen-Image-Edit, and Qwen-Image-Edit-2509 through its Plus pipeline, as a policy."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import pad

from ..common.images import open_image
from ..data import Example
from .base import Inputs, Policy, fit_to_area


@contextlib.contextmanager
def image_token_types(text_encoder):
    """A context in which the text encoder is told which of its input tokens are of an image.

    transformers 5 places image tokens in three dimensions only when ``mm_token_type_ids`` is given, and diffusers
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
    pipeline: Any, instructions: Sequence[str], images: Sequence[Image.Image]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [N, T, D] and mask [N, T] of instructions with their source images, which are resized already."""
    with image_token_types(pipeline.text_encoder):
        if not is_plus(pipeline):
            return pipeline._get_qwen_prompt_embeds(list(instructions), list(images))
        parts = [
            pipeline._get_qwen_prompt_embeds([text], [image])
            for text, image in zip(instructions, images, strict=True)
        ]
    longest = max(mask.shape[1] for _, mask in parts)
    embeds = [pad(embed, (0, 0, 0, longest - embed.shape[1])) for embed, _ in parts]
    masks = [pad(mask, (0, longest - mask.shape[1])) for _, mask in parts]
    return torch.cat(embeds), torch.cat(masks)


def is_plus(pipeline: Any) -> bool:
    """Whether the pipeline is the one of Qwen-Image-Edit-2509 and later."""
    return "Plus" in type(pipeline).__name__


class QwenImageEditPolicy(Policy):
    """The editing policy. The tensors are the instruction's embeddings [T, D] and the packed latents of the source."""

    family = "qwen-image-edit"
    encoder_parts = ("text_encoder", "tokenizer", "processor")

    def image_size(self, pipeline: Any, example: Example) -> tuple[int, int]:
        area = self.settings.height * self.settings.width
        width, height = fit_to_area(_source(example).size, area, 2 * pipeline.vae_scale_factor)
        return height, width

    def source_picture(self, example: Example) -> Image.Image:
        image = _source(example)
        height, width = self.image_size(self.pipeline, example)
        if image.size == (width, height):
            return image
        return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)

    def encode_prompt(
        self, pipeline: Any, prompt: str, example: Example
    ) -> dict[str, torch.Tensor]:
        image = _source(example)
        height, width = self.image_size(pipeline, example)
        if self.settings.condition_area or is_plus(pipeline):
            area = self.settings.condition_area or 384 * 384
            width, height = fit_to_area(image.size, area, 32)
        condition = pipeline.image_processor.resize(image, height, width)
        embeds, _ = encode_edits(pipeline, [prompt], [condition])
        return {"prompt_embeds": embeds[0]}

    def encode_source(self, pipeline: Any, example: Example) -> dict[str, torch.Tensor]:
        height, width = self.image_size(pipeline, example)
        source = pipeline.image_processor.resize(_source(example), height, width)
        pixels = pipeline.image_processor.preprocess(source, height, width).unsqueeze(2)
        pixels = pixels.to(self.device, pipeline.vae.dtype)
        latents = pipeline._encode_vae_image(pixels, generator=None)
        packed = pipeline._pack_latents(latents, 1, latents.shape[1], *latents.shape[-2:])
        return {"source_latents": packed[0].to(self.dtype)}

    def collate(self, items: Sequence[Mapping[str, torch.Tensor]]) -> Inputs:
        texts = [item["prompt_embeds"] for item in items]
        longest = max(len(text) for text in texts)
        mask = torch.stack([torch.arange(longest) < len(text) for text in texts])
        return {
            "encoder_hidden_states": torch.stack(
                [pad(text, (0, 0, 0, longest - len(text))) for text in texts]
            ),
            "encoder_hidden_states_mask": None if mask.all() else mask.long(),
            "source": torch.stack([item["source_latents"] for item in items]),
        }

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, inputs: Inputs, height: int, width: int
    ) -> torch.Tensor:
        factor = 2 * self.pipeline.vae_scale_factor
        grid = (1, height // factor, width // factor)
        inputs = dict(inputs)
        source = inputs.pop("source")
        assert source is not None
        return self.transformer(
            hidden_states=torch.cat([latents, source.to(latents.dtype)], dim=1),
            timestep=timestep,
            img_shapes=[[grid, grid]] * len(latents),
            return_dict=False,
            **inputs,
        )[0][:, : latents.shape[1]]

    def guide(self, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        """True classifier-free guidance, rescaled to the norm of the conditional prediction."""
        guided = negative + self.settings.true_cfg_scale * (positive - negative)
        return guided * (positive.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))

    def noise_shape(self, height: int, width: int) -> tuple[int, ...]:
        factor = 2 * self.pipeline.vae_scale_factor
        channels = self.transformer.config.in_channels // 4
        return 1, channels, 2 * (height // factor), 2 * (width // factor)

    def decode_latents(self, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        pipeline, vae = self.pipeline, self.pipeline.vae
        latents = pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor)
        latents = latents.to(vae.dtype)
        mean, std = (
            latents.new_tensor(values).view(1, -1, 1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        return vae.decode(latents * std + mean, return_dict=False)[0][:, :, 0]

    def unreachable(self, name: str) -> bool:
        """The last block's text stream ends there: its query, its output and its MLP shape no image."""
        last = f"transformer_blocks.{len(self.transformer.transformer_blocks) - 1}."
        return last in name and any(
            part in name for part in ("attn.to_add_out", "attn.add_q_proj", "txt_mlp")
        )


def _source(example: Example) -> Image.Image:
    """The image that an edit starts from."""
    assert example.source is not None, "an edit has a source"
    return open_image(example.source)
