"""The seam between the trainer and a model family: encode, noise, velocity, decode, and the adapter's switch.

``Policy`` is what the trainer knows. ``DiffusersPolicy`` is what two families share; each says only how its own
transformer is fed. Encoding, packing and decoding are the pipelines' own functions.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image

from .cache import EncodingCache, content_key
from .sharding import shard

Watch = Callable[[int, int], object]


@dataclass(frozen=True)
class Conditioning:
    """What the transformer is told about one example: tensors without a batch dimension, and the size in pixels."""

    tensors: dict[str, torch.Tensor]
    height: int
    width: int


@dataclass(frozen=True)
class Batch:
    """Conditionings of one size, stacked: the transformer's keyword inputs, and those of the negative prompt."""

    positive: dict[str, torch.Tensor | None]
    negative: dict[str, torch.Tensor | None] | None
    height: int
    width: int


class Policy(Protocol):
    """A model family that can be trained. Latents are packed [B, L, C]; sigma is 1 at noise and 0 at the picture."""

    family: str
    transformer: torch.nn.Module
    sharded: bool  # whether every call of the transformer must be one of all processes

    def encode(self, examples: Sequence, watch: Watch = ...) -> list[str]:
        """Keys of the examples' conditionings, each encoded once and cached on disk; encoders leave memory. ``watch`` hears
        how many of how many are done."""

    def source_picture(self, example) -> Image.Image | None:
        """The picture that an edit starts from, at the size of what is made of it; None for what is made from text."""

    def batch(self, keys: Sequence[str]) -> Batch:
        """The conditionings behind ``keys``, stacked; raises ValueError where their sizes differ."""

    def size(self, key: str) -> tuple[int, int]:
        """Height and width in pixels of the picture that a key makes."""

    def sigmas(self, steps: int, shift: float) -> torch.Tensor:
        """The noise levels [steps + 1] from 1 to 0, with static shift."""

    def initial_noise(self, batch: Batch, seeds: Sequence[int]) -> torch.Tensor:
        """Packed noise [B, L, C], one seed a picture: the same seed gives the same noise in any batch."""

    def velocity(
        self, latents: torch.Tensor, sigma: torch.Tensor | float, batch: Batch
    ) -> torch.Tensor:
        """The predicted velocity (noise - picture) [B, L, C]."""

    def decode(self, latents: torch.Tensor, batch: Batch) -> list[Image.Image]:
        """Pictures of packed latents, without VAE tiling (a judge sees the seams)."""

    def reference(self) -> contextlib.AbstractContextManager:
        """A context in which the adapter is off."""

    def unreachable(self, name: str) -> bool:
        """Whether a parameter can have no gradient, because what it computes never reaches the picture."""


def static_sigmas(steps: int, shift: float) -> torch.Tensor:
    """Noise levels [steps + 1] in float64: evenly spaced from 1 to 0, then t -> shift t / (1 + (shift - 1) t)."""
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return shift * t / (1 + (shift - 1) * t)


def fit_to_area(size: tuple[int, int], area: int, multiple: int) -> tuple[int, int]:
    """Width and height of about ``area`` pixels that keep the aspect ratio of ``size``, in multiples."""
    ratio = size[0] / size[1]
    width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
    return tuple(max(multiple, round(side / multiple) * multiple) for side in (width, height))


class DiffusersPolicy:
    """What FLUX and Qwen-Image-Edit share. Built by ``loading.load_policy``."""

    family: str
    encoder_parts: tuple[str, ...]

    def __init__(self, settings, source, cache_folder: Path):
        """``settings``: the configuration's policy section; ``source`` gives pipelines (``loading.PipelineSource``)."""
        self.settings, self.source = settings, source
        self.device, self.dtype, self.sharded = source.device, source.dtype, source.sharded
        self.cache = EncodingCache(cache_folder)
        self._pipeline = None
        self._dropouts: list[torch.nn.Dropout] = []

    # ------------------------------------------------------------------ loading

    @property
    def pipeline(self):
        """The pipeline without its text encoders, on the device; loaded at first use."""
        if self._pipeline is None:
            self._pipeline = self.source.load(without=self.encoder_parts)
            self._pipeline.transformer.requires_grad_(False)
            self._pipeline.vae.requires_grad_(False)
        return self._pipeline

    @property
    def transformer(self) -> torch.nn.Module:
        return self.pipeline.transformer

    def encode(self, examples: Sequence, watch: Watch = lambda done, total: None) -> list[str]:
        keys = [content_key(self.source.identity, self.settings, example) for example in examples]
        missing = {
            key: example
            for key, example in zip(keys, examples, strict=True)
            if key not in self.cache
        }
        if missing:
            pipeline = self.source.load(without=("transformer",))
            with torch.no_grad():
                for done, (key, example) in enumerate(missing.items(), 1):
                    self.cache.put(key, self._encode(pipeline, example))
                    watch(done, len(missing))
            del pipeline
            self.source.free()
        return keys

    def source_picture(self, example) -> Image.Image | None:
        return None

    # ------------------------------------------------------------------ sampling

    def size(self, key: str) -> tuple[int, int]:
        conditioning = self.cache.get(key)
        return conditioning.height, conditioning.width

    def batch(self, keys: Sequence[str]) -> Batch:
        items = [self.cache.get(key) for key in keys]
        sizes = {(item.height, item.width) for item in items}
        if len(sizes) != 1:
            raise ValueError(f"one batch holds pictures of one size; came {sorted(sizes)}")
        tensors = [item.tensors for item in items]
        negative = (
            self._move(self._collate(tensors, "negative_"))
            if self.settings.true_cfg_scale > 1
            else None
        )
        return Batch(self._move(self._collate(tensors, "")), negative, *sizes.pop())

    def _move(self, inputs: dict) -> dict:
        return {
            name: tensor
            if tensor is None
            else tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }

    def sigmas(self, steps: int, shift: float) -> torch.Tensor:
        return static_sigmas(steps, shift)

    def initial_noise(self, batch: Batch, seeds: Sequence[int]) -> torch.Tensor:
        shape = self._noise_shape(batch.height, batch.width)
        noise = torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )
        packed = self.pipeline._pack_latents(noise, len(seeds), shape[-3], *shape[-2:])
        return packed.to(self.device, self.dtype)

    def velocity(
        self, latents: torch.Tensor, sigma: torch.Tensor | float, batch: Batch
    ) -> torch.Tensor:
        for dropout in self._dropouts:
            dropout.train(torch.is_grad_enabled())  # pictures depend on their seeds alone
        levels = torch.as_tensor(sigma, dtype=torch.float32, device=latents.device).expand(
            len(latents)
        )
        timestep = (levels * 1000).to(latents.dtype) / 1000  # the pipelines' own rounding
        positive = self._predict(latents, timestep, batch.positive, batch.height, batch.width)
        if batch.negative is None:
            return positive
        return self._guide(
            positive, self._predict(latents, timestep, batch.negative, batch.height, batch.width)
        )

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, batch: Batch) -> list[Image.Image]:
        pixels = self._images(self._unpack(latents, batch.height, batch.width))
        return self.pipeline.image_processor.postprocess(pixels, output_type="pil")

    # ------------------------------------------------------------------ the adapter

    def add_adapter(self, settings) -> dict[str, torch.nn.Parameter]:
        """The new adapter's float32 parameters by PEFT name; ``lora_B`` is zero, so the policy is still the base."""
        from peft import LoraConfig

        from .loading import PolicyError

        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=list(settings.targets),
            init_lora_weights=True,
        )
        names = [name for name, _ in self.transformer.named_modules()]
        if unknown := [
            target
            for target in settings.targets
            if not any(name == target or name.endswith(f".{target}") for name in names)
        ]:
            raise PolicyError(
                f"adapter.targets: expected modules of the transformer, found none called "
                f"{', '.join(unknown)}"
            )
        self.transformer.add_adapter(config)
        return self.adapter_parameters()

    def adapter_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trainable parameters of the adapter that is in place, by name, each turned to float32 (the base may be
        bfloat16). From here on activations are kept or computed again, as the settings say."""
        if self.settings.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
        parameters = {name: p for name, p in self.transformer.named_parameters() if "lora_" in name}
        for parameter in parameters.values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        if self.sharded:
            shard(self.transformer, parameters.values(), self.device)
        self._dropouts = [
            module
            for name, module in self.transformer.named_modules()
            if "lora_dropout" in name and isinstance(module, torch.nn.Dropout)
        ]
        return parameters

    def unreachable(self, name: str) -> bool:
        """Whether a parameter can have no gradient, because what it computes never reaches the picture."""
        return False

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        self.transformer.disable_adapters()
        try:
            yield
        finally:
            self.transformer.enable_adapters()
