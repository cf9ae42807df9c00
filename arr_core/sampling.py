"""Noise-free images of a policy: what ``generate``, ``evaluate`` and validation share.

With the same seed and settings the stock pipeline of diffusers makes the same image.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from . import __version__
from .adapters import Adapter, base_id, inject
from .common import collectives
from .common.files import atomic_write
from .common.progress import ReportProgress, no_progress
from .config.schema import Policy as PolicySettings
from .config.schema import Rollout
from .data import Example, open_image
from .policies.base import Batch, Policy
from .policies.loading import load_policy

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


@dataclass(frozen=True)
class Sampler:
    """Samples one image for each key of a conditioning and its seed, by the steps, shift and micro_batch of ``settings``."""

    policy: Policy
    keys: Sequence[str]
    seeds: Sequence[int]
    settings: Rollout

    def fill(
        self, images: Images, stage: str = "images", report: ReportProgress = no_progress
    ) -> Iterator[list[int]]:
        """Sample what ``images`` lacks. Yields the places that are there: at first those of before, then each batch."""
        settings, total = self.settings, len(self.keys)
        missing = [place for place in range(total) if place not in images]
        there = sorted(set(range(total)) - set(missing))
        report(stage, len(there), total)
        for at in range(0, len(there), settings.micro_batch):
            yield there[at : at + settings.micro_batch]
        sigmas = self.policy.sigmas(settings.steps, settings.shift)
        groups = batches(self.policy, [self.keys[at] for at in missing], settings.micro_batch)
        done = len(there)
        for group, own in collectives.in_step(groups, [0], needed=self.policy.sharded):
            places = [missing[at] for at in group] if own else [0]
            batch = self.policy.batch([self.keys[place] for place in places])
            x0 = denoise(self.policy, batch, [self.seeds[place] for place in places], sigmas)
            if own:
                for place, image in zip(places, self.policy.decode(x0, batch), strict=True):
                    images[place] = image
                report(stage, done := done + len(places), total)
                yield places


def sample_images(
    policy: Policy, keys: Sequence[str], seeds: Sequence[int], settings: Rollout
) -> list[Image.Image]:
    """One image for each key and seed, in their order."""
    images: dict[int, Image.Image] = {}
    for _ in Sampler(policy, keys, seeds, settings).fill(images):
        pass
    return [images[place] for place in range(len(keys))]


# ---------------------------------------------------------------------- adapters and files


@contextlib.contextmanager
def adapted(policy: Policy, adapter: Adapter | None, strength: float = 1.0) -> Iterator[None]:
    """A context in which the policy's base carries ``adapter``. Raises AdapterError where they do not fit."""
    if adapter is None:
        yield
        return
    inject(scaled(adapter, strength), policy.transformer, dtype=torch.float32)
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


class ImageFiles:
    """Images by place as PNG files, whose text fields say what each was made of.

    A file whose text says something else counts as missing, and so does one that is no image.
    """

    def __init__(self, files: Sequence[Path], texts: Sequence[dict[str, str]]):
        self.files, self.texts = files, texts

    def __contains__(self, place: object) -> bool:
        assert isinstance(place, int)
        with contextlib.suppress(OSError), Image.open(self.files[place]) as image:
            return image.info == self.texts[place]
        return False

    def __getitem__(self, place: int) -> Image.Image:
        return open_image(self.files[place])

    def __setitem__(self, place: int, image: Image.Image) -> None:
        save_image(image, self.files[place], self.texts[place])


def save_image(image: Image.Image, file: Path, text: Mapping[str, str] | None = None) -> None:
    """Write a PNG file, atomically, with ``text`` as its text fields."""
    info = PngInfo()
    for name, value in (text or {}).items():
        info.add_itxt(name, value)
    with atomic_write(file) as part:
        image.save(part, "PNG", pnginfo=info)


Images = dict[int, Image.Image] | ImageFiles


@dataclass(frozen=True)
class Plan:
    """Which images are made: every example with every seed. ``encodings`` is a folder of encodings that may hold some
    already; None makes a temporary one."""

    settings: PolicySettings
    rollout: Rollout
    examples: Sequence[Example]
    seeds: Sequence[int]
    strength: float = 1.0
    encodings: Path | None = None

    @property
    def jobs(self) -> list[tuple[int, int]]:
        """(number of the example, seed) of every image; its index is the image's place."""
        return [(number, seed) for number in range(len(self.examples)) for seed in self.seeds]

    @contextlib.contextmanager
    def sampler(self, report: ReportProgress = no_progress) -> Iterator[Sampler]:
        """A sampler of the jobs, once the prompts are encoded. Raises PolicyError."""
        with contextlib.ExitStack() as stack:
            folder = self.encodings or stack.enter_context(
                tempfile.TemporaryDirectory(prefix="arr-rpo-", ignore_cleanup_errors=True)
            )
            policy = load_policy(self.settings, Path(folder))
            keys = policy.encode(self.examples, lambda done, total: report("prompts", done, total))
            yield Sampler(
                policy,
                [keys[number] for number, _ in self.jobs],
                [seed for _, seed in self.jobs],
                self.rollout,
            )

    def texts(self, sampler: Sampler, adapter: Adapter | None) -> list[dict[str, str]]:
        """What each image is made of, for ``ImageFiles``."""
        return [
            {**self.describe(number, seed, adapter), "encoding": key}
            for (number, seed), key in zip(self.jobs, sampler.keys, strict=True)
        ]

    def describe(self, number: int, seed: int, adapter: Adapter | None) -> dict[str, str]:
        """What an image is made of: names and hashes, never a path of this machine."""
        example, settings = self.examples[number], self.settings
        content = {
            "prompt": example.prompt,
            "source": example.source.name if example.source else None,
            "seed": seed,
            "base": base_id(settings.base),
            "revision": settings.revision,
            "adapter": adapter.content_hash if adapter else "none",
            "strength": self.strength if adapter else None,
            "steps": self.rollout.steps,
            "shift": self.rollout.shift,
            "true_cfg_scale": settings.true_cfg_scale,
            "guidance_scale": settings.guidance_scale if settings.family == "flux" else None,
            "negative_prompt": settings.negative_prompt if settings.true_cfg_scale > 1 else None,
            "dtype": settings.dtype,
            "version": f"arr-rpo {__version__}",
        }
        return {
            name: f"{value:g}" if isinstance(value, float) else str(value)
            for name, value in content.items()
            if value is not None
        }
