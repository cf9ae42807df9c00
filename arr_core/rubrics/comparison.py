"""Whether a rubric is better than the one that would be used in its place: the same judge under both, pair by pair.

The test is the exact binomial one, one-sided (McNemar's, exact): if both rubrics were worth the same, each pair on which
they do not do equally well would be as likely to favour one as the other. A rubric that is worth nothing is taken for
better once in twenty times at most; five pairs that all favour the new rubric are the fewest that show anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..common.proportions import Proportion
from ..data import PreferencePair
from ..judging.metrics import Measures, measure
from ..judging.verdict import Verdict

LEVEL = 0.05  # of the test: how often a rubric without effect may be kept


@dataclass(frozen=True)
class Comparison:
    """The judge under the rubric and under the baseline, on the same held-out pairs."""

    with_rubric: Measures
    baseline: Measures
    gained: int  # pairs on which the rubric does better: wrong -> undecided or right, undecided -> right
    lost: int
    failed: int  # pairs that failed on either side; they are in neither's measures

    @property
    def better(self) -> bool:
        """Whether the rubric is shown to be better, and right less wrong verdicts are more too. Then it is kept."""
        one, other = self.with_rubric, self.baseline
        return self.p_value <= LEVEL and one.right - one.wrong > other.right - other.wrong

    @property
    def p_value(self) -> float:
        """How often chance alone would favour the rubric on as many of the pairs that changed."""
        return Proportion(self.lost, self.gained + self.lost).by_chance

    def sentence(self, baseline: str) -> str:
        """The result in words; ``baseline`` names what the rubric was compared with."""
        one, other = self.with_rubric, self.baseline
        if not one.pairs:
            return f"All {self.failed} held-out pairs failed, so nothing shows that the rubric helps; run the command again."
        failed = f" {self.failed} more failed." if self.failed else ""
        return (
            f"On {one.pairs} held-out pairs the rubric is {'' if self.better else 'not shown to be '}better than "
            f"{baseline!r}: {self.gained} pairs changed for the better and {self.lost} for the worse (one-sided exact "
            f"binomial test: p = {self.p_value:.2g}, at most {LEVEL} is needed). {one.right} right and {one.wrong} wrong "
            f"against {other.right} right and {other.wrong} wrong, the others undecided.{failed}"
        )


def compare_judges(
    pairs: Sequence[PreferencePair], with_rubric: Sequence[Verdict], baseline: Sequence[Verdict]
) -> Comparison:
    """What two sets of verdicts on the same pairs are worth. A pair that failed in either counts in neither."""
    judged = [
        (pair, one, other)
        for pair, one, other in zip(pairs, with_rubric, baseline, strict=True)
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
