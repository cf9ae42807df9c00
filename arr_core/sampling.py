"""Noise-free images of a policy: what ``generate``, ``evaluate`` and validation share.

With the same seed and settings the stock pipeline of diffusers makes the same image.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .adapters import Adapter, inject
from .common.files import atomic_write
from .common.images import open_image
from .common.progress import ReportProgress, no_progress
from .config.schema import Rollout
from .data import Example
from .policies.base import Batch, Policy, static_sigmas

# ---------------------------------------------------------------------- the sampler


@torch.no_grad()
def denoise(
    policy: Policy, batch: Batch, seeds: Sequence[int], sigmas: torch.Tensor
) -> torch.Tensor:
    """The latents x0 [B, L, C] of the Euler method, x + v dt: ``training.sde.step`` without noise, bit for bit."""
    x = policy.initial_noise(batch, seeds)
    precise = torch.promote_types(x.dtype, torch.float32)
    for t, t_next in itertools.pairwise(sigmas.tolist()):
        v = policy.velocity(x, t, batch)
        x = (x.to(precise) + v.to(precise) * (t_next - t)).to(x.dtype)
    return x


def batches(policy: Policy, keys: Sequence[str], width: int) -> list[list[int]]:
    """The places of the keys in batches of at most ``width``, each of images of one size."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for place, key in enumerate(keys):
        by_size.setdefault(policy.size(key), []).append(place)
    return [
        places[start : start + width]
        for places in by_size.values()
        for start in range(0, len(places), width)
    ]


class Sampler:
    """Samples one image for each example and its seed, by the steps, shift and micro_batch of ``settings``."""

    def __init__(
        self,
        policy: Policy,
        examples: Sequence[Example],
        seeds: Sequence[int],
        settings: Rollout,
        report: ReportProgress = no_progress,
    ):
        """Encodes the prompts that are not yet encoded."""
        self.policy, self.examples, self.seeds, self.settings = policy, examples, seeds, settings
        self.keys = policy.encode(examples, report)

    def fill(self, side: Side, report: ReportProgress = no_progress) -> Iterator[list[int]]:
        """Sample the images that a side lacks. Yields the places that are there: at first those of before, then each batch."""
        stage, total, width = f"{side.name} images", len(self.keys), self.settings.micro_batch
        there = [place for place in range(total) if place in side.images]
        missing = sorted(set(range(total)) - set(there))
        done = len(there)
        report(stage, done, total)
        for at in range(0, done, width):
            yield there[at : at + width]
        groups = batches(self.policy, [self.keys[place] for place in missing], width)
        with side.weights():
            for group in self.policy.in_step(groups, dummy=lambda: self._sample([0])):
                places = [missing[at] for at in group]
                for place, image in zip(places, self._sample(places), strict=True):
                    side.images[place] = image
                done += len(places)
                report(stage, done, total)
                yield places

    def _sample(self, places: Sequence[int]) -> list[Image.Image]:
        batch = self.policy.batch([self.keys[place] for place in places])
        sigmas = static_sigmas(self.settings.steps, self.settings.shift)
        x0 = denoise(self.policy, batch, [self.seeds[place] for place in places], sigmas)
        return self.policy.decode(x0, batch)

    def images(self) -> list[Image.Image]:
        """The images under the weights as they are, in the order of the examples."""
        side = Side("")
        for _ in self.fill(side):
            pass
        return [side.images[place] for place in range(len(self.keys))]


# ---------------------------------------------------------------------- adapters and files


@contextlib.contextmanager
def adapted(policy: Policy, adapter: Adapter | None, strength: float = 1.0) -> Iterator[None]:
    """A context in which the policy's base carries ``adapter``. Raises AdapterError where they do not fit."""
    if adapter is None:
        yield
        return
    inject(scaled(adapter, strength), policy.transformer)
    try:
        yield
    finally:
        policy.transformer.delete_adapters("default")


def scaled(adapter: Adapter, strength: float) -> Adapter:
    """The adapter with its effect multiplied by ``strength``: 0 is the base, 1 the adapter as it is."""
    return replace(
        adapter,
        modules={
            module: pair._replace(alpha=pair.alpha * strength, scale=pair.scale * strength)
            for module, pair in adapter.modules.items()
        },
    )


def save_image(image: Image.Image, file: Path, text: Mapping[str, str] | None = None) -> None:
    """Write a PNG file, atomically, with ``text`` as its text fields."""
    info = PngInfo()
    for name, value in (text or {}).items():
        info.add_itxt(name, value)
    with atomic_write(file) as part:
        image.save(part, "PNG", pnginfo=info)


class ImageFiles:
    """Images by place, each in a PNG file whose text fields say what it was made of.

    A file whose text says something else counts as missing, and so does one that is no image.
    """

    def __init__(self, files: Sequence[Path], texts: Sequence[dict[str, str]]):
        self.files, self.texts = dict(enumerate(files)), texts

    def __contains__(self, place: int) -> bool:
        with contextlib.suppress(OSError), Image.open(self.files[place]) as image:
            return image.info == self.texts[place]
        return False

    def __getitem__(self, place: int) -> Image.Image:
        return open_image(self.files[place])

    def __setitem__(self, place: int, image: Image.Image) -> None:
        save_image(image, self.files[place], self.texts[place])


class MemoryImages(dict[int, Image.Image]):
    """Images by place, in memory. Those that have a file are written too."""

    def __init__(self, files: Mapping[int, Path] | None = None):
        self.files = files or {}

    def __setitem__(self, place: int, image: Image.Image) -> None:
        super().__setitem__(place, image)
        if place in self.files:
            save_image(image, self.files[place])


@dataclass(frozen=True)
class Side:
    """Whose images are sampled: the context in which its weights compute, and its images, which may be there already."""

    name: str
    weights: Callable[[], AbstractContextManager] = contextlib.nullcontext
    images: ImageFiles | MemoryImages = field(default_factory=MemoryImages)
