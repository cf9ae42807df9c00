"""Qwen-Image-Edit, and Qwen-Image-Edit-2509 through its Plus pipeline, as a policy."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from ..common.images import open_image
from ..data import Example
from .base import Grid, Inputs, Policy, fit_to_area


@contextlib.contextmanager
def image_token_types(text_encoder: torch.nn.Module) -> Iterator[None]:
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


class QwenImageEditPolicy(Policy):
    """The editing policy. The tensors are the instruction's embeddings [T, D] and the packed latents of the source."""

    pipelines = ("QwenImageEditPipeline", "QwenImageEditPlusPipeline")
    encoder_parts = ("text_encoder", "tokenizer", "processor")
    large_parts = ("transformer", "text_encoder")

    def image_size(self, pipeline: Any, example: Example) -> tuple[int, int]:
        area = self.settings.height * self.settings.width
        width, height = fit_to_area(_source(example).size, area, 2 * pipeline.vae_scale_factor)
        return height, width

    def source_picture(self, example: Example) -> Image.Image:
        return self._resized_source(self.pipeline, example)

    def _resized_source(self, pipeline: Any, example: Example) -> Image.Image:
        return pipeline.image_processor.resize(
            _source(example), *self.image_size(pipeline, example)
        )

    def encode_prompt(
        self, pipeline: Any, prompt: str, example: Example
    ) -> dict[str, torch.Tensor]:
        area = self.settings.condition_area
        if area is None and "Plus" in self.source.class_name:
            area = 384 * 384
        if area is None:
            condition = self._resized_source(pipeline, example)
        else:
            source = _source(example)
            width, height = fit_to_area(source.size, area, 32)
            condition = pipeline.image_processor.resize(source, height, width)
        with image_token_types(pipeline.text_encoder):
            embeds, _ = pipeline._get_qwen_prompt_embeds([prompt], [condition])
        return {"prompt_embeds": embeds[0]}

    def encode_source(self, pipeline: Any, example: Example) -> dict[str, torch.Tensor]:
        source = self._resized_source(pipeline, example)
        pixels = pipeline.image_processor.preprocess(source).unsqueeze(2)
        pixels = pixels.to(self.device, pipeline.vae.dtype)
        latents = pipeline._encode_vae_image(pixels, generator=None)
        packed = pipeline._pack_latents(latents, 1, latents.shape[1], *latents.shape[-2:])
        return {"source_latents": packed[0].to(self.dtype)}

    def collate(self, items: Sequence[Mapping[str, torch.Tensor]]) -> Inputs:
        texts = [item["prompt_embeds"] for item in items]
        inputs = {
            "encoder_hidden_states": pad_sequence(texts, batch_first=True),
            "source": torch.stack([item["source_latents"] for item in items]),
        }
        tokens = [torch.ones(len(text), dtype=torch.long) for text in texts]
        mask = pad_sequence(tokens, batch_first=True)
        if not mask.all():
            inputs["encoder_hidden_states_mask"] = mask
        return inputs

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, inputs: Inputs, grid: Grid
    ) -> torch.Tensor:
        inputs = dict(inputs)
        source = inputs.pop("source")
        return self.transformer(
            hidden_states=torch.cat([latents, source.to(latents.dtype)], dim=1),
            timestep=timestep,
            img_shapes=[[(1, *grid)] * 2] * len(latents),
            return_dict=False,
            **inputs,
        )[0][:, : latents.shape[1]]

    def guide(self, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        """True classifier-free guidance, rescaled to the norm of the conditional prediction."""
        guided = super().guide(positive, negative)
        return guided * (positive.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self.pipeline.vae
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
