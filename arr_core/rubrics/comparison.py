"""Whether a rubric helps: the judge on held-out pairs with it and without it, both orders, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..data import PreferencePair
from ..judging.metrics import Measures, measure
from ..judging.verdict import Verdict


@dataclass(frozen=True)
class Comparison:
    """The judge with the rubric and without any, on the same held-out pairs."""

    with_rubric: Measures
    without: Measures
    gained: int  # pairs on which the rubric does better: wrong -> undecided or right, undecided -> right
    lost: int
    failed: int  # pairs that failed on either side; they are in neither's measures

    @property
    def better(self) -> bool:
        """Whether right less wrong verdicts are more with the rubric than without. Then the rubric is kept."""
        one, other = self.with_rubric, self.without
        return one.right - one.wrong > other.right - other.wrong

    @property
    def sure(self) -> bool:
        """Better, and more pairs changed for the better than chance explains. (``better`` counts wrong -> right twice.)"""
        return self.better and self.gained > self.lost and self.p_value <= 0.05

    @property
    def p_value(self) -> float:
        """Two-sided sign test over the pairs that changed: how often chance alone would be as uneven."""
        changed = self.gained + self.lost
        tail = sum(math.comb(changed, k) for k in range(min(self.gained, self.lost) + 1))
        return min(1.0, 2 * tail / 2**changed)

    @property
    def sentence(self) -> str:
        """The result in words."""
        one, other = self.with_rubric, self.without
        if not one.pairs:
            return f"All {self.failed} held-out pairs failed, so nothing shows that the rubric helps; run the command again."
        failed = f" {self.failed} more failed." if self.failed else ""
        return (
            f"On {one.pairs} held-out pairs the rubric {'beats' if self.better else 'does not beat'} the same judge "
            f"without one: {one.right} right and {one.wrong} wrong against {other.right} right and {other.wrong} wrong, "
            f"the others undecided.{failed}"
        )


def compare_judges(
    pairs: Sequence[PreferencePair], with_rubric: Sequence[Verdict], without: Sequence[Verdict]
) -> Comparison:
    """What two sets of verdicts on the same pairs are worth. A pair that failed in either counts in neither."""
    judged = [
        (pair, one, other)
        for pair, one, other in zip(pairs, with_rubric, without, strict=True)
        if not (one.failed or other.failed)
    ]
    changes = [_score(pair, one) - _score(pair, other) for pair, one, other in judged]
    kept = [pair for pair, _, _ in judged]
    return Comparison(
        measure(kept, [one for _, one, _ in judged]),
        measure(kept, [other for _, _, other in judged]),
        gained=sum(change > 0 for change in changes),
        lost=sum(change < 0 for change in changes),
        failed=len(pairs) - len(judged),
    )


def _score(pair: PreferencePair, verdict: Verdict) -> int:
    return 0 if verdict.winner is None else 1 if verdict.winner == pair.preferred else -1
