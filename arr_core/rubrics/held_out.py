"""Whether a rubric helps: the judge on held-out pairs with it and without it, both orders, pair by pair."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..data import PreferencePair
from ..judging.verdict import Verdict
from ..training.intervals import wilson


@dataclass(frozen=True)
class Figures:
    """Counts of one judge on labelled pairs. A verdict counts only if both orders name the same image."""

    pairs: int
    right: int
    wrong: int
    flipped: int  # both replies name an image, and not the same one
    named: int  # both replies name an image
    failed: int

    @property
    def undecided(self) -> int:
        return self.pairs - self.right - self.wrong

    @property
    def accuracy(self) -> float | None:
        """Right among the decided."""
        return self.right / (self.right + self.wrong) if self.right + self.wrong else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return wilson(self.right, self.right + self.wrong)

    @property
    def coverage(self) -> float:
        return (self.right + self.wrong) / self.pairs if self.pairs else 0.0

    @property
    def flip_rate(self) -> float | None:
        return self.flipped / self.named if self.named else None


@dataclass(frozen=True)
class Comparison:
    """The judge with the rubric and without any, on the same held-out pairs."""

    with_rubric: Figures
    without: Figures
    gained: int  # pairs on which the rubric does better: wrong -> undecided or right, undecided -> right
    lost: int

    @property
    def better(self) -> bool:
        """More right less wrong verdicts with the rubric than without: what a policy would be paid by them."""
        return self.with_rubric.right - self.with_rubric.wrong > self.without.right - self.without.wrong

    @property
    def p_value(self) -> float:
        """Two-sided sign test over the pairs that changed: how often chance alone would be as uneven."""
        changed = self.gained + self.lost
        tail = sum(math.comb(changed, k) for k in range(min(self.gained, self.lost) + 1))
        return min(1.0, 2 * tail / 2**changed)


def compare_figures(pairs: Sequence[PreferencePair], with_rubric: Sequence[Verdict],
                    without: Sequence[Verdict]) -> Comparison:
    """What two sets of verdicts on the same pairs are worth. A pair that failed in either counts in neither's score."""
    scores = [(_score(pair, one), _score(pair, other)) for pair, one, other in zip(pairs, with_rubric, without, strict=True)
              if not (one.failed or other.failed)]
    return Comparison(figures(pairs, with_rubric, without), figures(pairs, without, with_rubric),
                      sum(one > other for one, other in scores), sum(one < other for one, other in scores))


def figures(pairs: Sequence[PreferencePair], verdicts: Sequence[Verdict], beside: Sequence[Verdict] = ()) -> Figures:
    """The counts of verdicts; a pair that failed here, or in those ``beside`` them, decides nothing."""
    failed = [verdict.failed for verdict in verdicts]
    skipped = [one or other.failed for one, other in zip(failed, beside or verdicts, strict=True)]
    scores = [0 if skip else _score(pair, verdict) for pair, verdict, skip in zip(pairs, verdicts, skipped, strict=True)]
    named = [[opinion.preferred for opinion in verdict.opinions] for verdict in verdicts
             if len(verdict.opinions) == 2 and all(opinion.preferred is not None for opinion in verdict.opinions)]
    return Figures(len(scores), scores.count(1), scores.count(-1), sum(first == second for first, second in named),
                   len(named), sum(failed))


def _score(pair: PreferencePair, verdict: Verdict) -> int:
    return 0 if verdict.winner is None else 1 if verdict.winner == pair.preferred else -1
