"""Training of the small judge: a Qwen2.5-VL that answers yes or no to one criterion about one picture or one edit."""
from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

from . import world
from .build import Schedule, misdescribe, mistake, other, scene_for
from .criteria import EDIT, T2I, edit_truth, image_truth, question
from .judge import MiniatureVLM
from .models import vision_language_model, vision_language_processor
from .tokenizers import qwen_tokenizer
from .world import COLOURS, SHAPES, Request, Thing, place, render


def weathered(image: Image.Image, rng: random.Random) -> Image.Image:
    """The picture as a generator would have drawn it: a little soft, a little noisy."""
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 0.7)))
    if rng.random() < 0.5:
        noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(1, 10), (world.SIZE, world.SIZE, 3))
        image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    return image


def vary(scene: list[Thing], rng: random.Random) -> list[Thing]:
    """The scene with one thing changed, added, removed, or two colours exchanged."""
    at = rng.randrange(len(scene))
    kind = rng.choice(["colour", "shape", "drop", "exchange", "add"])
    if kind == "colour":
        return [replace(t, colour=other(COLOURS, t.colour, rng=rng)) if i == at else t for i, t in enumerate(scene)]
    if kind == "shape":
        return [replace(t, shape=other(SHAPES, t.shape, rng=rng)) if i == at else t for i, t in enumerate(scene)]
    if kind == "drop" and len(scene) > 1:
        return [t for i, t in enumerate(scene) if i != at]
    if kind == "exchange" and len(scene) > 1:
        first, second, *rest = rng.sample(scene, len(scene))
        return [replace(first, colour=second.colour), replace(second, colour=first.colour), *rest]
    free = [cell for cell in world.CELLS if all(abs(cell[0] - t.x) + abs(cell[1] - t.y) > 13 for t in scene)]
    if not free:
        return scene
    x, y = rng.choice(free)
    return [*scene, replace(scene[at], x=x, y=y)]


def image_question(requests: list[Request], rng: random.Random) -> tuple[list[Image.Image], str, bool]:
    """One picture, one question, its answer."""
    request = rng.choice(requests)
    scene, draw = place(request, rng), rng.random()
    if draw < 0.25:
        scene = place(misdescribe(request, rng), rng)
    elif draw < 0.45:
        scene = vary(scene, rng)
    elif draw < 0.5:
        scene = place(rng.choice(requests), rng)
    criterion = rng.choice(T2I)
    truth, image = image_truth(scene, request)[criterion], render(scene)
    if rng.random() < 0.1:
        image, truth = Image.blend(image, render(place(rng.choice(requests), rng)), rng.uniform(0.3, 0.7)), False
    return [weathered(image, rng)], question(request.prompt, criterion), truth


def edit_question(edits: list[world.Edit], rng: random.Random) -> tuple[list[Image.Image], str, bool]:
    """A source, its edit, one question, the answer."""
    edit = rng.choice(edits)
    before = scene_for(edit, rng)
    after, draw = edit.apply(before), rng.random()
    if draw < 0.4:
        after = mistake(edit, before, rng)
    elif draw < 0.6 and after:
        after = vary(after, rng)
    criterion = rng.choice(EDIT)
    truth, image = edit_truth(before, after, edit)[criterion], render(after)
    if rng.random() < 0.1:
        image, truth = Image.blend(image, render(scene_for(rng.choice(edits), rng)), rng.uniform(0.3, 0.7)), False
    return [weathered(render(before), rng), weathered(image, rng)], question(edit.instruction, criterion), truth


def train_judge(folder: Path, steps: int, batch: int = 64) -> None:
    """Train the judge and save it as an ordinary transformers folder."""
    rng, tokenizer = random.Random(2), qwen_tokenizer()
    model = vision_language_model(tokenizer, width=64, layers=4, patch_size=4, vision_width=48, vision_layers=2)
    judge = MiniatureVLM(model.train(), vision_language_processor(tokenizer, patch_size=4, min_pixels=8 * 8))
    requests, edits = world.requests(), world.edits()
    pool = requests + [request for request in requests if request.second is None] * 4
    schedule = Schedule(model.parameters(), 1.5e-3, steps)
    for step in range(steps):
        ask, source = (image_question, pool) if step % 2 == 0 else (edit_question, edits)
        pictures, questions, truths = zip(*(ask(source, rng) for _ in range(batch)), strict=True)
        logits = judge.yes_logits(pictures, questions)
        loss = F.binary_cross_entropy_with_logits(logits, torch.tensor(truths).float())
        schedule.step(loss, "judge edit" if step % 2 else "judge t2i")
        if step % 500 > 497:
            right = ((logits > 0) == torch.tensor(truths)).float().mean().item()
            print(f"judge {'edit' if step % 2 else 't2i'} accuracy {right:.3f}", flush=True)
    schedule.finish()
    model.eval().to(torch.bfloat16).save_pretrained(folder)
    judge.processor.save_pretrained(folder)
    print("saved", folder, flush=True)
