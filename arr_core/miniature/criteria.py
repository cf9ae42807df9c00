"""The criteria that the miniature's rubrics may hold, and the truth of each for a drawn scene.

The judge learns them from these labels; a rubric that names fewer asks for fewer.
"""
from __future__ import annotations

from .world import RELATIONS, Edit, Request, Thing

COLOURS_RIGHT = "every colour is right"
SHAPES_RIGHT = "every shape is right"
NUMBER_RIGHT = "the number of things is right"
PLACES_RIGHT = "each thing has its own colour and place"
CHANGE_MADE = "the change that was asked for is made"
REST_KEPT = "everything else is as it was"
T2I = (COLOURS_RIGHT, SHAPES_RIGHT, NUMBER_RIGHT, PLACES_RIGHT)
EDIT = (CHANGE_MADE, REST_KEPT)


def question(prompt: str, criterion: str) -> str:
    """The sentence the judge is asked."""
    return f"{prompt}. {criterion}?"


def image_truth(scene: list[Thing], request: Request) -> dict[str, bool]:
    """Which criteria a drawn scene meets."""
    wanted = [request.first] if request.second is None else [request.first, request.second]
    names = sorted(thing.name for thing in scene) == request.things
    placed = names
    if names and request.second is not None:
        first, second = sorted(scene, key=lambda thing: thing.name != request.first.name)
        dx, dy = RELATIONS[request.relation]
        placed = (first.x - second.x) * dx + (first.y - second.y) * dy > 6
    return {COLOURS_RIGHT: {thing.colour for thing in scene} == {thing.colour for thing in wanted},
            SHAPES_RIGHT: {thing.shape for thing in scene} == {thing.shape for thing in wanted},
            NUMBER_RIGHT: len(scene) == len(request.things), PLACES_RIGHT: placed}


def edit_truth(before: list[Thing], after: list[Thing], edit: Edit) -> dict[str, bool]:
    """Which criteria a drawn answer to an edit meets."""
    target = next(thing for thing in before if thing.name == edit.target)
    rest = [thing for thing in before if thing is not target]
    changed = edit.apply([target])
    at_target = [thing for thing in after if abs(thing.x - target.x) + abs(thing.y - target.y) < 4]
    return {CHANGE_MADE: [thing.name for thing in at_target] == [thing.name for thing in changed],
            REST_KEPT: sorted(map(repr, rest)) == sorted(repr(thing) for thing in after if thing not in at_target)}
