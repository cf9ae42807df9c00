"""The small world: coloured shapes on a pale ground, what people ask of it, and an exact measure of what they got.

A prompt names one relation (``a red circle left of a blue square``) or one count (``three green triangles``); an edit
names one change to one object of a picture (``make the red circle blue``) and implies that the rest stays.

``exact_image`` and ``exact_edit`` find the objects in the pixels and compare every part with the request. They know
nothing of any model, and no training ever sees them: judges are learned networks, this is the ruler held against both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

SIZE = 32  # pixels, square
GROUND = (238, 238, 232)
COLOURS = {
    "red": (216, 44, 40),
    "green": (40, 158, 64),
    "blue": (44, 88, 220),
    "yellow": (240, 200, 40),
    "purple": (150, 56, 176),
}
SHAPES = ("circle", "square", "triangle")
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
COUNTS = {"one": 1, "two": 2, "three": 3, "four": 4}


@dataclass(frozen=True)
class Thing:
    """One coloured shape: name, colour name, centre and half-width in pixels."""

    shape: str
    colour: str
    x: float = 0.0
    y: float = 0.0
    half: float = 5.0

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Request:
    """What a prompt asks for: ``count`` equal things, or ``first`` in ``relation`` to ``second``."""

    first: Thing
    count: int = 1
    second: Thing | None = None
    relation: str = ""

    @property
    def things(self) -> list[str]:
        """Sorted names of everything that must be in the picture, and nothing else."""
        return sorted(
            [self.first.name] * self.count
            if self.second is None
            else [self.first.name, self.second.name]
        )


@dataclass(frozen=True)
class Edit:
    """One change to the one thing called ``target``: ``colour`` or ``shape`` becomes ``value``, or it is removed."""

    target: str
    kind: str  # "colour", "shape" or "remove"
    value: str = ""

    def apply(self, scene: list[Thing]) -> list[Thing]:
        """The scene after the change: same places, everything else as it was."""
        if self.kind == "remove":
            return [thing for thing in scene if thing.name != self.target]
        return [
            replace(thing, **{self.kind: self.value}) if thing.name == self.target else thing
            for thing in scene
        ]


def parse_prompt(prompt: str) -> Request:
    """The request a prompt states. Raises ValueError for a sentence that is not of this world."""
    relation = re.fullmatch(
        r"an? (\w+) (\w+) (left of|right of|above|below) an? (\w+) (\w+)", prompt.strip().lower()
    )
    if relation:
        c1, s1, where, c2, s2 = relation.groups()
        return Request(Thing(s1, c1), 1, Thing(s2, c2), where)
    count = re.fullmatch(r"(one|two|three|four) (\w+) (\w+?)s?", prompt.strip().lower())
    if not count:
        raise ValueError(
            f"not a prompt of the miniature world: {prompt!r} (try 'a red circle left of a blue square')"
        )
    number, colour, shape = count.groups()
    return Request(Thing(shape, colour), COUNTS[number])


def parse_instruction(instruction: str) -> Edit:
    """The edit an instruction states. Raises ValueError for a sentence that is not of this world."""
    text = instruction.strip().lower()
    for kind, pattern in (
        ("colour", r"make the (\w+ \w+) (\w+)"),
        ("shape", r"turn the (\w+ \w+) into an? (\w+)"),
        ("remove", r"remove the (\w+ \w+)()"),
    ):
        found = re.fullmatch(pattern, text)
        if found:
            return Edit(found[1], kind, found[2])
    raise ValueError(
        f"not an edit of the miniature world: {instruction!r} (try 'make the red circle blue')"
    )


def draw_outline(
    draw: ImageDraw.ImageDraw, shape: str, box: tuple[float, float, float, float], fill
) -> None:
    left, top, right, bottom = box
    if shape == "circle":
        draw.ellipse(box, fill=fill)
    elif shape == "square":
        draw.rectangle(box, fill=fill)
    else:
        draw.polygon([((left + right) / 2, top), (right, bottom), (left, bottom)], fill=fill)


# --------------------------------------------------------------------------- the ruler


def _components(mask: np.ndarray) -> list[np.ndarray]:
    """Boolean masks of the 4-connected regions of ``mask``."""
    left, regions = mask.copy(), []
    while left.any():
        grown = np.zeros_like(mask)
        grown[tuple(np.argwhere(left)[0])] = True
        while True:
            wider = grown.copy()
            wider[1:] |= grown[:-1]
            wider[:-1] |= grown[1:]
            wider[:, 1:] |= grown[:, :-1]
            wider[:, :-1] |= grown[:, 1:]
            wider &= left
            if (wider == grown).all():
                break
            grown = wider
        regions.append(grown)
        left &= ~grown
    return regions


def find_things(image: Image.Image) -> list[Thing] | None:
    """The things in a picture, or None where something in it is no clean shape of one known colour."""
    pixels = np.asarray(
        image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float32
    )
    names, palette = list(COLOURS), np.array(list(COLOURS.values()), np.float32)
    found = []
    contrast = np.linalg.norm(pixels - np.array(GROUND, np.float32), axis=-1)
    for region in _components(contrast > 60):
        if region.sum() < 6:
            continue
        distance = np.linalg.norm(pixels[region][:, None] - palette[None], axis=-1)
        colour = int(np.bincount(distance.argmin(1), minlength=len(names)).argmax())
        if np.median(distance[:, colour]) > 60 or (distance[:, colour] < 110).mean() < 0.6:
            return None
        # Outlines are compared four times larger, at half coverage, so that a pixel's edge decides nothing.
        full = np.linalg.norm(palette[colour] - np.array(GROUND, np.float32))
        cover = np.clip(contrast * region / full, 0, 1)
        fine = (
            np.asarray(
                Image.fromarray(cover).resize((SIZE * 4, SIZE * 4), Image.Resampling.BILINEAR)
            )
            > 0.5
        )
        if not fine.any():
            return None
        ys, xs = np.nonzero(fine)
        top, left, height, width = ys.min(), xs.min(), int(np.ptp(ys)) + 1, int(np.ptp(xs)) + 1
        if not all(5.5 * 4 < side < 17 * 4 for side in (height, width)):
            return None
        crop, overlap = fine[top : top + height, left : left + width], {}
        for shape in SHAPES:
            drawn = Image.new("1", (width, height))
            draw_outline(ImageDraw.Draw(drawn), shape, (0, 0, width - 1, height - 1), 1)
            overlap[shape] = (np.asarray(drawn) & crop).sum() / (np.asarray(drawn) | crop).sum()
        shape = max(overlap, key=lambda shape: overlap[shape])
        if overlap[shape] < 0.78:
            return None
        found.append(
            Thing(
                shape,
                names[colour],
                float(left + width / 2) / 4,
                float(top + height / 2) / 4,
                (width + height) / 16,
            )
        )
    return found


def exact_image(image: Image.Image, prompt: str) -> bool:
    """Whether every part of the prompt is right: each thing, its colour, the number of things, where they stand."""
    request, found = parse_prompt(prompt), find_things(image)
    if found is None or sorted(thing.name for thing in found) != request.things:
        return False
    if request.second is None:
        return True
    first, second = sorted(found, key=lambda thing: thing.name != request.first.name)
    dx, dy = RELATIONS[request.relation]
    along, across = (
        (first.x - second.x) * dx + (first.y - second.y) * dy,
        abs((first.x - second.x) * dy) + abs((first.y - second.y) * dx),
    )
    return along > 6 and along > across


def outside_change(
    source: Image.Image, image: Image.Image, target: Thing, margin: int = 3
) -> float:
    """Mean absolute change, in 0..255, of the pixels that the edit of ``target`` has no business with."""
    before, after = (
        np.asarray(im.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX), np.float32)
        for im in (source, image)
    )
    ys, xs = np.mgrid[:SIZE, :SIZE] + 0.5
    outside = np.maximum(np.abs(xs - target.x), np.abs(ys - target.y)) > target.half + margin
    return float(np.abs(before - after)[outside].mean())


def edited_thing(source: Image.Image, instruction: str) -> Thing:
    """The thing in the source picture that an instruction is about. Raises ValueError where there is none."""
    target = parse_instruction(instruction).target
    for thing in find_things(source) or ():
        if thing.name == target:
            return thing
    raise ValueError(f"expected a {target} in the source picture, got none")


def exact_edit(
    source: Image.Image, image: Image.Image, instruction: str, tolerance: float = 8.0
) -> bool:
    """Whether the one change was made, in its place, and nothing else moved or changed (mean change <= tolerance)."""
    target, after = edited_thing(source, instruction), find_things(image)
    if after is None or outside_change(source, image, target) > tolerance:
        return False
    wanted = parse_instruction(instruction).apply(find_things(source) or [])
    if sorted(thing.name for thing in after) != sorted(thing.name for thing in wanted):
        return False
    return all(
        any(
            got.name == want.name and max(abs(got.x - want.x), abs(got.y - want.y)) < 3.0
            for got in after
        )
        for want in wanted
    )
