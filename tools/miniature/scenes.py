"""The scenes from which the embedded world was made: every prompt and edit, their splits, and how a scene is laid out and drawn."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image, ImageDraw

from arr_core.miniature.world import (
    COLOURS,
    COUNTS,
    GROUND,
    RELATIONS,
    SHAPES,
    SIZE,
    Edit,
    Request,
    Thing,
    draw_outline,
)

# The relations of the embedded prompts. The exact measure reads all four.
PROMPTED = ("left of", "right of", "above")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
CELLS = ((8, 8), (24, 8), (8, 24), (24, 24))


def prompt_of(request: Request) -> str:
    """The sentence that states a request."""
    if request.second is not None:
        return f"a {request.first.name} {request.relation} a {request.second.name}"
    word = next(word for word, number in COUNTS.items() if number == request.count)
    return f"{word} {request.first.name}{'s' if request.count > 1 else ''}"


def instruction_of(edit: Edit) -> str:
    """The sentence that states an edit."""
    return {
        "colour": f"make the {edit.target} {edit.value}",
        "shape": f"turn the {edit.target} into a {edit.value}",
        "remove": f"remove the {edit.target}",
    }[edit.kind]


def requests(prompted: Sequence[str] = PROMPTED) -> list[Request]:
    """Every embedded prompt, in a fixed order: 180 pairs of differently coloured things in each relation, and 60 counts."""
    things = [Thing(shape, colour) for colour, shape in itertools.product(COLOURS, SHAPES)]
    relations = [
        Request(a, 1, b, where)
        for a, b in itertools.permutations(things, 2)
        if a.colour != b.colour
        for where in prompted
    ]
    return relations + [Request(thing, number) for thing in things for number in COUNTS.values()]


def edits() -> list[Edit]:
    """Every edit there is, in a fixed order: 60 recolourings, 30 reshapings and 15 removals."""
    names = [f"{colour} {shape}" for colour, shape in itertools.product(COLOURS, SHAPES)]
    found = [
        Edit(name, "colour", colour) for name in names for colour in COLOURS if colour not in name
    ]
    found += [Edit(name, "shape", shape) for name in names for shape in SHAPES if shape not in name]
    return found + [Edit(name, "remove") for name in names]


def held_out(key: str, share: float = 0.25) -> bool:
    """Whether a prompt or an instruction belongs to the held-out split; fixed for ever by its text."""
    return random.Random(f"held out: {key}").random() < share


def place(request: Request, rng: random.Random) -> list[Thing]:
    """One layout of the request: places and sizes drawn at random, cells never shared."""

    def near(thing: Thing, x: float, y: float, loose: float = 1.2) -> Thing:
        return replace(
            thing,
            x=x + rng.uniform(-loose, loose),
            y=y + rng.uniform(-loose, loose),
            half=rng.uniform(4.8, 6.0),
        )

    if request.second is None:
        if request.count == 1:
            return [near(request.first, SIZE / 2, SIZE / 2, 6.0)]
        return [near(request.first, *cell) for cell in rng.sample(CELLS, request.count)]
    dx, dy = RELATIONS[request.relation]
    drift = rng.uniform(-5, 5)
    across, down = (drift, 0) if dy else (0, drift)
    centre = SIZE / 2
    return [
        near(request.first, centre + 8 * dx + across, centre + 8 * dy + down),
        near(request.second, centre - 8 * dx + across, centre - 8 * dy + down),
    ]


def render(scene: list[Thing], scale: int = 4) -> Image.Image:
    """The picture of a scene, SIZE x SIZE RGB, anti-aliased by drawing ``scale`` times larger."""
    image = Image.new("RGB", (SIZE * scale, SIZE * scale), GROUND)
    draw = ImageDraw.Draw(image)
    for thing in scene:
        box = tuple(
            scale * side
            for side in (
                thing.x - thing.half,
                thing.y - thing.half,
                thing.x + thing.half,
                thing.y + thing.half,
            )
        )
        draw_outline(draw, thing.shape, box, COLOURS[thing.colour])
    return image.resize((SIZE, SIZE), Image.Resampling.BOX)
