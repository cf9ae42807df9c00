"""Labelled pairs as seed and held-out pairs, and a name for what a rubric was made from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from ..data import PreferencePair
from .rubric import RubricError, Task

HELD_OUT = 0.3  # of all pairs


def check(pairs: Sequence[PreferencePair], task: Task) -> None:
    """Raises RubricError for pairs of another task, or without a label."""
    for number, pair in enumerate(pairs, 1):
        if (pair.source is not None) != (task == "edit"):
            came = (
                "none: did you mean --task t2i?"
                if task == "edit"
                else "one: did you mean --task edit?"
            )
            expected = (
                "a source image for the task edit"
                if task == "edit"
                else "no source image for the task t2i"
            )
            raise RubricError(
                f"pair {number} ({pair.prompt[:60]!r}): expected {expected}, came {came}"
            )
        if pair.preferred is None:
            raise RubricError(f"pair {number} ({pair.prompt[:60]!r}): expected a label, came none")


def split(
    pairs: Sequence[PreferencePair], share: float = HELD_OUT
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Seed pairs and held-out pairs, about ``share`` of all. The same pairs are always split alike, wherever they lie.

    Pairs with the same prompt and source stay together, so that nothing is held out that the writer has seen. Which
    are held out is drawn by a hash of the prompt, whatever the order in the file. Raises RubricError.
    """
    groups: dict[tuple[str, str], list[PreferencePair]] = {}
    for pair in pairs:
        drawn = _digest(repr((pair.prompt, pair.source and pair.source.name)))
        groups.setdefault((drawn, str(pair.source)), []).append(pair)
    if len(groups) < 2:
        raise RubricError(
            f"expected pairs for at least two different prompts, one to write from and one to check with, came "
            f"{len(groups)}; add pairs, or name others with --held-out-file"
        )
    wanted, held = max(1, math.floor(share * len(pairs) + 0.5)), set()
    for name in sorted(groups)[:-1]:
        if sum(len(groups[name]) for name in held) >= wanted:
            break
        held.add(name)
    group_of = {id(pair): name for name, group in groups.items() for pair in group}
    return (
        [pair for pair in pairs if group_of[id(pair)] not in held],
        [pair for pair in pairs if group_of[id(pair)] in held],
    )


def without(
    pairs: Sequence[PreferencePair], held_out: Sequence[PreferencePair]
) -> list[PreferencePair]:
    """The pairs whose prompt and source are not held out. Raises RubricError where none are left."""
    reserved = {(pair.prompt, pair.source) for pair in held_out}
    kept = [pair for pair in pairs if (pair.prompt, pair.source) not in reserved]
    if not kept:
        raise RubricError(
            f"expected pairs beside the {len(held_out)} that are held out, came none; all prompts are the same"
        )
    return kept


def data_hash(pairs: Sequence[PreferencePair]) -> str:
    """Sixteen hex digits that name prompts, labels and the images' files by content."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(repr((pair.prompt, pair.preferred)).encode("utf-8", "backslashreplace"))
        for path in (*pair.images, *([pair.source] if pair.source else [])):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
