"""The criteria of the miniature's rubrics: each is about certain words of the prompt.

The embedded judge describes pictures; a criterion asks how well the words that it is about fit what the judge sees. A
rubric that names fewer criteria looks at fewer words; a criterion that is not listed here is about the whole sentence.
"""

from __future__ import annotations

from ..rubrics.rubric import Rubric, Task
from .world import COLOURS, COUNTS, SHAPES

COLOURS_RIGHT = "every colour is right"
SHAPES_RIGHT = "every shape is right"
NUMBER_RIGHT = "the number of things is right"
PLACES_RIGHT = "each thing has its own colour and place"
CHANGE_MADE = "the change that was asked for is made"
REST_KEPT = "everything else is as it was"
T2I = (COLOURS_RIGHT, SHAPES_RIGHT, NUMBER_RIGHT, PLACES_RIGHT)
EDIT = (CHANGE_MADE, REST_KEPT)
RUBRICS: dict[Task, Rubric] = {
    "t2i": Rubric(name="miniature", task="t2i", criteria=T2I),
    "edit": Rubric(name="miniature edits", task="edit", criteria=EDIT),
}

END = "<|im_end|>"
ABOUT = {
    COLOURS_RIGHT: {*COLOURS},
    SHAPES_RIGHT: {*SHAPES, *(f"{shape}s" for shape in SHAPES)},
    NUMBER_RIGHT: {*COUNTS, END},
    PLACES_RIGHT: {"left", "right", "above", "below"},
    REST_KEPT: {END},  # the description ends where nothing else has changed
}


def positions(criterion: str, words: list[str]) -> list[int]:
    """Where the words stand that a criterion is about, in a sentence that closes with ``END``."""
    chosen = [at for at, word in enumerate(words) if word in ABOUT.get(criterion, ())]
    return chosen or [at for at, word in enumerate(words) if word != END]
