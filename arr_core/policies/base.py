"""A policy: a base model with an adapter, and the hooks that a model family implements.

``Policy`` holds what all families share: encoding once, noise, velocity with guidance, decoding, the adapter's switch. A
new family is one file that implements the abstract methods with the functions of its diffusers pipeline, and a line in
``loading.FAMILIES``.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from PIL import Image

from ..common.collectives import pad_to_max_rank
from ..common.errors import ArrError
from ..common.progress import ReportProgress, no_progress
from ..config.schema import Adapter as AdapterSettings
from ..config.schema import Policy as PolicySettings
from ..data import Example
from .cache import Conditioning, EncodingCache, content_key
from .sharding import shard

if TYPE_CHECKING:
    from .loading import PipelineSource

NEGATIVE = "negative_"  # before the names of the negative prompt's tensors
Item = TypeVar("Item")
Inputs = dict[str, torch.Tensor]
Grid = tuple[int, int]  # rows and columns of an image's tokens, each of which is 2 x 2 latents


class PolicyError(ArrError, ValueError):
    """A base that cannot be used: one line that says what was expected, what it got and what to do."""


@dataclass(frozen=True)
class Batch:
    """Conditionings of one image size, stacked: the transformer's inputs for the prompts and the negative prompt."""

    positive: Inputs
    negative: Inputs | None
    size: tuple[int, int]  # height and width in pixels


def static_sigmas(steps: int, shift: float) -> torch.Tensor:
    """Noise levels [steps + 1] in float64: evenly spaced from 1 to 0, then shifted."""
    return shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)


def shifted(t: torch.Tensor, shift: float) -> torch.Tensor:
    """Noise levels moved towards high noise: shift t / (1 + (shift - 1) t), in a form that is exact at 0 and at 1."""
    return shift * t / (shift * t + (1 - t))


class Policy(ABC):
    """A model family that can be trained. Latents are packed [B, L, C]; sigma is 1 at noise and 0 at the image."""

    pipelines: ClassVar[tuple[str, ...]]  # the diffusers pipelines of the family
    encoder_parts: ClassVar[tuple[str, ...]]  # parts of a pipeline that only encoding needs
    large_parts: ClassVar[tuple[str, ...]]  # parts that nf4 makes smaller

    def __init__(self, settings: PolicySettings, source: PipelineSource, cache_folder: Path):
        self.settings, self.source = settings, source
        self.device, self.dtype, self.sharded = source.device, source.dtype, source.sharded
        self.cache = EncodingCache(cache_folder)
        self._pipeline: Any = None

    # ------------------------------------------------------------------ what a family implements

    @abstractmethod
    def encode_prompt(
        self, pipeline: Any, prompt: str, example: Example
    ) -> dict[str, torch.Tensor]:
        """The tensors of a prompt by name, without a batch dimension. ``pipeline`` lacks the transformer."""

    @abstractmethod
    def collate(self, items: Sequence[Mapping[str, torch.Tensor]]) -> Inputs:
        """The tensors of several examples, stacked to the inputs [B, ...] of ``predict``."""

    @abstractmethod
    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, inputs: Inputs, grid: Grid
    ) -> torch.Tensor:
        """The transformer's velocity [B, L, C] for latents [B, L, C] at timesteps [B] in [0, 1]."""

    @abstractmethod
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] of unpacked latents, without VAE tiling (a judge sees the seams)."""

    def guide(self, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        """The velocity [B, L, C] of true classifier-free guidance."""
        return negative + self.settings.true_cfg_scale * (positive - negative)

    def encode_source(self, pipeline: Any, example: Example) -> dict[str, torch.Tensor]:
        """The tensors of the image that an edit starts from; none for text to image."""
        return {}

    def image_size(self, pipeline: Any, example: Example) -> tuple[int, int]:
        """Height and width in pixels of the image that is made of an example."""
        return self.settings.height, self.settings.width

    def source_picture(self, example: Example) -> Image.Image | None:
        """The image that an edit starts from, at the size of the result; None for text to image."""
        return None

    def unreachable(self, name: str) -> bool:
        """Whether a parameter has no gradient because what it computes never reaches the image."""
        return False

    # ------------------------------------------------------------------ encoding

    @property
    def pipeline(self) -> Any:
        """The pipeline without its text encoders, on the device; loaded at first use."""
        if self._pipeline is None:
            self._pipeline = self.source.load(without=self.encoder_parts)
            self._pipeline.transformer.requires_grad_(False)
            self._pipeline.vae.requires_grad_(False)
        return self._pipeline

    @property
    def transformer(self) -> Any:
        return self.pipeline.transformer

    def encode(
        self, examples: Sequence[Example], report_progress: ReportProgress = no_progress
    ) -> list[str]:
        """Keys of the examples' conditionings. Each is encoded once and cached on disk; then the encoders are freed."""
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
                    report_progress("encoding", done, len(missing))
            del pipeline
            self.source.free()
        return keys

    def _encode(self, pipeline: Any, example: Example) -> Conditioning:
        tensors = self.encode_prompt(pipeline, example.prompt, example)
        if self.settings.true_cfg_scale > 1:
            negative = self.encode_prompt(pipeline, self.settings.negative_prompt, example)
            tensors |= {NEGATIVE + name: tensor for name, tensor in negative.items()}
        tensors |= self.encode_source(pipeline, example)
        return Conditioning(tensors, self.image_size(pipeline, example))

    # ------------------------------------------------------------------ sampling

    def size(self, key: str) -> tuple[int, int]:
        """Height and width in pixels of the image that a key makes."""
        return self.cache.get(key).size

    def batch(self, keys: Sequence[str]) -> Batch:
        """The conditionings behind ``keys``, stacked. Raises ValueError where their sizes differ."""
        items = [self.cache.get(key) for key in keys]
        sizes = {item.size for item in items}
        if len(sizes) != 1:
            raise ValueError(f"expected a batch of images of one size, got {sorted(sizes)}")
        tensors, negative = [item.tensors for item in items], None
        if self.settings.true_cfg_scale > 1:
            negative = self._inputs(
                [
                    {name: item.get(NEGATIVE + name, tensor) for name, tensor in item.items()}
                    for item in tensors
                ]
            )
        return Batch(self._inputs(tensors), negative, sizes.pop())

    def _inputs(self, items: Sequence[Mapping[str, torch.Tensor]]) -> Inputs:
        return {
            name: tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)
            for name, tensor in self.collate(items).items()
        }

    def _grid(self, batch: Batch) -> Grid:
        height, width = batch.size
        side = 2 * self.pipeline.vae_scale_factor
        return height // side, width // side

    def initial_noise(self, batch: Batch, seeds: Sequence[int]) -> torch.Tensor:
        """Packed noise [B, L, C], one seed an image: the same seed gives the same noise in any batch."""
        rows, columns = self._grid(batch)
        shape = self.transformer.config.in_channels // 4, 2 * rows, 2 * columns
        noise = torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )
        packed = self.pipeline._pack_latents(noise, len(seeds), *shape)
        return packed.to(self.device, self.dtype)

    def velocity(
        self, latents: torch.Tensor, sigma: torch.Tensor | float, batch: Batch
    ) -> torch.Tensor:
        """The predicted velocity (noise - x0) [B, L, C] at one sigma, or at sigmas [B]."""
        # Dropout is for training alone: images depend on their seeds.
        self.transformer.train(torch.is_grad_enabled())
        sigmas = torch.as_tensor(sigma, dtype=torch.float32, device=latents.device)
        timestep = sigmas.expand(len(latents)) * 1000
        timestep = timestep.to(latents.dtype) / 1000  # the pipelines' own rounding
        grid = self._grid(batch)
        positive = self.predict(latents, timestep, batch.positive, grid)
        if batch.negative is None:
            return positive
        return self.guide(positive, self.predict(latents, timestep, batch.negative, grid))

    def in_step(self, items: Sequence[Item], dummy: Callable[[], object]) -> Iterable[Item]:
        """The items, the work on each of which calls the transformer. Of a sharded base ``dummy``, the same work without
        effect, is called for as long as another process still has items."""
        return pad_to_max_rank(items, dummy) if self.sharded else items

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, batch: Batch) -> list[Image.Image]:
        """Images of packed latents."""
        pipeline = self.pipeline
        unpacked = pipeline._unpack_latents(latents, *batch.size, pipeline.vae_scale_factor)
        pixels = self.decode_latents(unpacked)
        return pipeline.image_processor.postprocess(pixels, output_type="pil")

    # ------------------------------------------------------------------ the adapter

    def add_adapter(self, settings: AdapterSettings) -> dict[str, torch.nn.Parameter]:
        """The new adapter's float32 parameters by PEFT name; ``lora_B`` is zero, so the policy is still the base."""
        from peft import LoraConfig

        names = [f".{name}" for name, _ in self.transformer.named_modules()]
        unknown = [
            target
            for target in settings.targets
            if not any(name.endswith(f".{target}") for name in names)
        ]
        if unknown:
            raise PolicyError(
                f"adapter.targets: expected modules of the transformer, got none called {', '.join(unknown)}"
            )
        self.transformer.add_adapter(
            LoraConfig(
                r=settings.rank,
                lora_alpha=settings.alpha,  # pyright: ignore[reportArgumentType] (a float works)
                lora_dropout=settings.dropout,
                target_modules=settings.targets,
            )
        )
        return self.adapter_parameters()

    def adapter_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trainable parameters of the adapter that is in place, by name, turned to float32 (the base may be
        bfloat16). Prepares the transformer for training: gradient checkpointing, sharding."""
        if self.settings.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
        parameters = {name: p for name, p in self.transformer.named_parameters() if "lora_" in name}
        for parameter in parameters.values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        if self.sharded:
            shard(self.transformer, parameters.values(), self.device)
        return parameters

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """A context in which the adapter is off."""
        self.transformer.disable_adapters()
        try:
            yield
        finally:
            self.transformer.enable_adapters()


def fit_to_area(size: tuple[int, int], area: int, multiple: int) -> tuple[int, int]:
    """Width and height of about ``area`` pixels that keep the aspect ratio of ``size``, in multiples."""
    ratio = size[0] / size[1]
    width, height = (
        max(multiple, round(math.sqrt(part) / multiple) * multiple)
        for part in (area * ratio, area / ratio)
    )
    return width, height
