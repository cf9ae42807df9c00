"""Labelled pairs as seed pairs, which criteria are written from, and held-out pairs, which check them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from ..data import PreferencePair
from .rubric import RubricError

HELD_OUT = 0.3  # of all pairs

Pairs = list[PreferencePair]


def split(
    pairs: Sequence[PreferencePair], held_out: float | Sequence[PreferencePair] = HELD_OUT
) -> tuple[Pairs, Pairs]:
    """(seed pairs, held-out pairs): about a share of all is held out, or the given other pairs are.

    Pairs with the same prompt and source stay together, so that nothing is held out that the writer has seen. Which are
    held out is drawn by a hash of the prompt, so the same pairs are always split alike, whatever their order and
    wherever they lie. Raises RubricError.
    """
    if isinstance(held_out, Sequence):
        return _without(pairs, held_out), list(held_out)
    groups: dict[tuple[str, str], Pairs] = {}
    for pair in pairs:
        named = repr((pair.prompt, pair.source and pair.source.name))
        drawn = hashlib.sha256(named.encode("utf-8", "backslashreplace")).hexdigest()
        groups.setdefault((drawn, str(pair.source)), []).append(pair)
    if len(groups) < 2:
        raise RubricError(
            f"expected pairs for at least two different prompts, one to write from and one to check with, got "
            f"{len(groups)}; add pairs, or name others with --held-out-file"
        )
    wanted = max(1, math.floor(held_out * len(pairs) + 0.5))
    held: Pairs = []
    for name in sorted(groups)[:-1]:
        if len(held) >= wanted:
            break
        held += groups[name]
    taken = {id(pair) for pair in held}
    return (
        [pair for pair in pairs if id(pair) not in taken],
        [pair for pair in pairs if id(pair) in taken],
    )


def _without(pairs: Sequence[PreferencePair], held_out: Sequence[PreferencePair]) -> Pairs:
    """The pairs whose prompt and source are not held out. Raises RubricError where none are left."""
    reserved = {(pair.prompt, pair.source) for pair in held_out}
    kept = [pair for pair in pairs if (pair.prompt, pair.source) not in reserved]
    if not kept:
        raise RubricError(
            f"expected other prompts than those of the {len(held_out)} held-out pairs, got none; add pairs"
        )
    return kept
