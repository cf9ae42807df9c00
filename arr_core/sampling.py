"""Images and edits from a base and an adapter: one PNG each, which says what it was made of, and a grid of them all.

Sampling is the noise-free one of the validation: with the same seed the stock pipeline makes the same image.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from . import __version__
from .adapters import Adapter, base_id, inject
from .config.schema import Policy as PolicySettings
from .data import Example, open_image
from .policies.base import Policy
from .policies.loading import load_policy
from .reports.grid import Row, draw_grid
from .training.rollout import sample_images

ROWS = 32  # prompts in one grid picture


@dataclass(frozen=True)
class Plan:
    """What is to be generated. ``encodings`` is a folder of encodings that may hold some already; null makes one."""

    settings: PolicySettings
    examples: Sequence[Example]
    seeds: Sequence[int]
    output: Path
    adapter: Adapter | None = None
    strength: float = 1.0
    compare: bool = False
    steps: int = 30
    shift: float = 3.0
    micro_batch: int = 1
    encodings: Path | None = None

    @property
    def variants(self) -> tuple[str, ...]:
        """What is sampled for every prompt and seed: "base", "adapter" or both."""
        if self.adapter is None:
            return ("base",)
        return ("base", "adapter") if self.compare else ("adapter",)

    def file(self, number: int, seed: int, variant: str) -> Path:
        """Where an image goes: the prompt's number first, so that names sort as the prompts do."""
        suffix = f"-{variant}" if len(self.variants) > 1 else ""
        return (
            self.output
            / f"{number + 1:04d}-{slug(self.examples[number].prompt)}-seed{seed}{suffix}.png"
        )

    def files(self) -> list[Path]:
        """Every image file, row by row of the grid, and then the grid's own."""
        pages = range(0, len(self.examples), ROWS)
        return [
            self.file(number, seed, variant)
            for number in range(len(self.examples))
            for seed in self.seeds
            for variant in self.variants
        ] + [self._grid_file(page) for page in pages]

    def grid_pages(self) -> Iterator[tuple[Path, range]]:
        """Each grid picture with the numbers of the prompts that it shows."""
        for first in range(0, len(self.examples), ROWS):
            yield self._grid_file(first), range(first, min(first + ROWS, len(self.examples)))

    def _grid_file(self, first: int) -> Path:
        return self.output / (f"grid-{first // ROWS + 1}.png" if first else "grid.png")


def generate(
    plan: Plan, watch: Callable[[int, int], object] = lambda done, total: None
) -> list[Path]:
    """The files, written, the grid last. ``watch`` hears how many images of how many are done: first none, once the
    models are loaded.

    Raises PolicyError and AdapterError, before anything is sampled.
    """
    with _encodings(plan) as folder:
        policy = load_policy(plan.settings, folder)
        keys = policy.encode(plan.examples)
        if plan.adapter is not None:
            inject(scaled(plan.adapter, plan.strength), policy.transformer, dtype=torch.float32)
        plan.output.mkdir(parents=True, exist_ok=True)
        jobs = [(number, seed) for number in range(len(keys)) for seed in plan.seeds]
        jobs.sort(
            key=lambda job: policy.size(keys[job[0]])
        )  # stable: equal sizes share batches, in order
        done, total = 0, len(jobs) * len(plan.variants)
        watch(done, total)
        for at in range(0, len(jobs), plan.micro_batch):
            chosen = jobs[at : at + plan.micro_batch]
            for variant in plan.variants:
                images = _sample(
                    policy,
                    plan,
                    variant,
                    [keys[number] for number, _ in chosen],
                    [seed for _, seed in chosen],
                )
                for (number, seed), image in zip(chosen, images, strict=True):
                    image.save(
                        plan.file(number, seed, variant),
                        pnginfo=png_text(describe(plan, number, seed, variant)),
                    )
                done += len(images)
                watch(done, total)
    for file, numbers in plan.grid_pages():
        draw_grid([_row(plan, number) for number in numbers], _titles(plan), _summary(plan)).save(
            file
        )
    return plan.files()


def scaled(adapter: Adapter, strength: float) -> Adapter:
    """The adapter with its effect multiplied by ``strength``: 0 is the base, 1 the adapter as it is."""
    return replace(
        adapter,
        modules={
            module: pair._replace(alpha=pair.alpha * strength, scale=pair.scale * strength)
            for module, pair in adapter.modules.items()
        },
    )


def describe(plan: Plan, number: int, seed: int, variant: str) -> dict[str, str]:
    """What an image was made of, as it is written into its file: names and hashes, never a path of this machine."""
    example, settings = plan.examples[number], plan.settings
    content = {
        "prompt": example.prompt,
        "source": example.source.name if example.source else None,
        "seed": seed,
        "base": base_id(settings.base),
        "revision": settings.revision,
        "adapter": "none",
    }
    if variant == "adapter":
        content |= {"adapter": plan.adapter.content_hash, "strength": plan.strength}
    content |= {
        "steps": plan.steps,
        "shift": plan.shift,
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


def slug(prompt: str, longest: int = 40) -> str:
    """The prompt as a part of a file name: small ASCII letters, digits and hyphens, whole words where they fit."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "image"
    return (
        words
        if len(words) <= longest
        else words[: longest + 1].rpartition("-")[0] or words[:longest]
    )


@contextlib.contextmanager
def _encodings(plan: Plan) -> Iterator[Path]:
    if plan.encodings is not None:
        yield plan.encodings
        return
    with tempfile.TemporaryDirectory(prefix="arr-rpo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _sample(
    policy: Policy, plan: Plan, variant: str, keys: Sequence[str], seeds: Sequence[int]
) -> list[Image.Image]:
    without = variant == "base" and plan.adapter is not None
    with policy.reference() if without else contextlib.nullcontext():
        return sample_images(
            policy, keys, seeds, steps=plan.steps, shift=plan.shift, micro_batch=plan.micro_batch
        )


def png_text(content: dict[str, str]) -> PngInfo:
    """The content as text fields of a PNG file."""
    info = PngInfo()
    for name, value in content.items():
        info.add_itxt(name, value)
    return info


def _row(plan: Plan, number: int) -> Row:
    """A prompt's row of the grid; pictures are opened when they are drawn."""
    example = plan.examples[number]
    files = [plan.file(number, seed, variant) for seed in plan.seeds for variant in plan.variants]
    source = [lambda: open_image(example.source)] if example.source else []
    return Row(
        f"{number + 1}. {example.prompt}",
        [*source, *(lambda file=file: open_image(file) for file in files)],
    )


def _titles(plan: Plan) -> list[str]:
    names = {
        "base": "base",
        "adapter": "adapter" if plan.strength == 1 else f"adapter at {plan.strength:g}",
    }
    titles = [f"{names[variant]}, seed {seed}" for seed in plan.seeds for variant in plan.variants]
    return [*(["source"] if plan.examples[0].source else []), *titles]


def _summary(plan: Plan) -> str:
    """One line on what the whole grid has in common."""
    content = describe(plan, 0, plan.seeds[0], plan.variants[-1])
    words = [
        content["base"],
        "no adapter" if plan.adapter is None else f"adapter {plan.adapter.content_hash[:12]}",
        f"{plan.steps} steps",
        f"shift {content['shift']}",
    ]
    if "guidance_scale" in content:
        words.append(f"guidance {content['guidance_scale']}")
    if plan.settings.true_cfg_scale > 1:
        words.append(f"true CFG {content['true_cfg_scale']}")
    return ", ".join([*words, content["version"]])
