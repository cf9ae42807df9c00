"""Training of the small judge: a Qwen2.5-VL that describes one picture, or what changed between two."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

from arr_core.miniature import world
from arr_core.miniature.judge import MiniatureVLM
from arr_core.miniature.world import COLOURS, SHAPES, Request, Thing

from . import scenes
from .build import Schedule, other, scene_for
from .models import vision_language_model, vision_language_processor
from .scenes import instruction_of, place, prompt_of, render
from .tokenizers import qwen_tokenizer

NO_PICTURE = "no picture"
NOTHING_CHANGED = "everything is as it was"


def weathered(image: Image.Image, rng: random.Random) -> Image.Image:
    """The picture as a generator would have drawn it: a little soft, a little noisy."""
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 0.7)))
    if rng.random() < 0.5:
        noise = np.random.default_rng(rng.getrandbits(32)).normal(
            0, rng.uniform(1, 10), (world.SIZE, world.SIZE, 3)
        )
        image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    return image


def vary(scene: list[Thing], rng: random.Random) -> list[Thing]:
    """The scene with one thing changed, added, removed, or two colours exchanged."""
    at = rng.randrange(len(scene))
    kind = rng.choice(["colour", "shape", "drop", "exchange", "add"])
    if kind == "colour":
        return [
            replace(t, colour=other(COLOURS, t.colour, rng=rng)) if i == at else t
            for i, t in enumerate(scene)
        ]
    if kind == "shape":
        return [
            replace(t, shape=other(SHAPES, t.shape, rng=rng)) if i == at else t
            for i, t in enumerate(scene)
        ]
    if kind == "drop" and len(scene) > 1:
        return [t for i, t in enumerate(scene) if i != at]
    if kind == "exchange" and len(scene) > 1:
        first, second, *rest = rng.sample(scene, len(scene))
        return [replace(first, colour=second.colour), replace(second, colour=first.colour), *rest]
    free = [
        cell
        for cell in scenes.CELLS
        if all(abs(cell[0] - t.x) + abs(cell[1] - t.y) > 13 for t in scene)
    ]
    if not free:
        return scene
    x, y = rng.choice(free)
    return [*scene, replace(scene[at], x=x, y=y)]


def caption_loss(judge: MiniatureVLM, pictures, captions: list[str]) -> torch.Tensor:
    """Next-token loss of describing pictures, over the words of the descriptions."""
    log_probs, tokens, mask = judge.describe(pictures, captions)
    return F.nll_loss(log_probs[mask], tokens[mask])


def garbled(image: Image.Image, other: Image.Image, rng: random.Random) -> Image.Image:
    """Two pictures in one, as an undecided generator draws them."""
    return Image.blend(image, other, rng.uniform(0.3, 0.7))


def captioned_image(pool: list[Request], rng: random.Random) -> tuple[list[Image.Image], str]:
    """One picture and what it shows; what no prompt describes is called no picture."""
    request, draw = rng.choice(pool), rng.random()
    scene = place(request, rng)
    image, caption = render(scene), prompt_of(request)
    if draw < 0.08:
        image, caption = garbled(image, render(place(rng.choice(pool), rng)), rng), NO_PICTURE
    elif draw < 0.2:
        varied = vary(scene, rng)
        if not any(
            sorted(thing.name for thing in varied) == r.things
            for r in pool
            if r.count == len(varied) > 1 or r.second is not None and len(varied) == 2
        ):
            image, caption = (
                render(varied),
                NO_PICTURE if len(varied) != 1 else f"one {varied[0].name}",
            )
    return [weathered(image, rng)], caption


def captioned_edit(edits: list[world.Edit], rng: random.Random) -> tuple[list[Image.Image], str]:
    """A source, what became of it, and the list of changes in any order."""
    edit, draw = rng.choice(edits), rng.random()
    before = scene_for(edit, rng)
    bystander = next(thing for thing in before if thing.name != edit.target)
    others = [
        e
        for e in edits
        if e.target == bystander.name
        and e.value != edit.value
        and e.value not in edit.target.split()
    ]
    after, changes = before, []
    if draw > 0.1:
        after, changes = edit.apply(after), [edit]
    if others and rng.random() < 0.3:
        second = rng.choice(others)
        after, changes = second.apply(after), [*changes, second]
    rng.shuffle(changes)
    image, caption = (
        render(after),
        " and ".join(instruction_of(change) for change in changes) or NOTHING_CHANGED,
    )
    if draw > 0.92:
        image, caption = garbled(image, render(scene_for(rng.choice(edits), rng)), rng), NO_PICTURE
    return [weathered(render(before), rng), weathered(image, rng)], caption


def train_judge(
    folder: Path,
    relations: Sequence[str],
    steps: int,
    start: Path | None,
    peak: float,
    batch: int = 48,
) -> None:
    """Train the judge to describe pictures and changes in turn, and save it as an ordinary transformers folder."""
    rng, tokenizer = random.Random(2), qwen_tokenizer()
    model = vision_language_model(
        tokenizer, width=64, layers=4, patch_size=4, vision_width=48, vision_layers=2
    )
    judge = MiniatureVLM(
        model, vision_language_processor(tokenizer, patch_size=4, min_pixels=8 * 8)
    )
    if start is not None:
        judge = MiniatureVLM.load(start)
        model = judge.model
    model.train()
    requests, edits = scenes.requests(relations), scenes.edits()
    pool = requests + [request for request in requests if request.second is None] * 4
    schedule = Schedule(model.parameters(), peak, steps)
    for step in range(steps):
        draw, source = ((captioned_image, pool), (captioned_edit, edits))[step % 2]
        pictures, captions = zip(*(draw(source, rng) for _ in range(batch)), strict=True)
        schedule.step(
            caption_loss(judge, pictures, list(captions)), "judge edit" if step % 2 else "judge t2i"
        )
        if step % 1000 in (98, 998):
            pictures, captions = zip(*(captioned_image(pool, rng) for _ in range(64)), strict=True)
            print(f"  t2i {caption_loss(judge, pictures, list(captions)).item():.3f}", flush=True)
    schedule.finish()
    model.eval().to(torch.bfloat16).save_pretrained(folder)
    judge.processor.save_pretrained(folder)
    print("saved", folder, flush=True)
