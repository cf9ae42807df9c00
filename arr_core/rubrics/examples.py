"""Curated examples of how people chose, for the question that a rubric is written from."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..data import DataError, load_examples


@dataclass(frozen=True)
class Exemplar:
    """A prompt or instruction, why people chose as they did, and criteria that an expert would write."""

    prompt: str
    rationale: str
    criteria: tuple[str, ...] = ()


def load_exemplars(path: str | Path) -> list[Exemplar]:
    """The examples of a .json list or .jsonl file: ``prompt``, ``rationale`` and perhaps a list ``criteria``.

    They are shown as text; pictures beside them are not read. Raises DataError.
    """
    exemplars = []
    for number, example in enumerate(load_examples(path, "t2i"), 1):
        rationale, criteria = example.tags.get("rationale"), example.tags.get("criteria", [])
        if not isinstance(rationale, str) or not rationale.strip():
            raise DataError(f"{path}: example {number}: rationale: expected a text that is not empty, came {rationale!r}")
        if not isinstance(criteria, list) or not all(isinstance(line, str) and line.strip() for line in criteria):
            raise DataError(f"{path}: example {number}: criteria: expected a list of texts, came {str(criteria)[:80]!r}")
        exemplars.append(Exemplar(example.prompt, rationale.strip(), tuple(" ".join(line.split()) for line in criteria)))
    return exemplars
