"""How good a judge is, measured on pairs that people have labelled.

What is counted, for pairs with a label and the verdicts on them, of both orders or of one:

* accuracy = correct / decided: of the pairs that the judge decides, the share that it decides as people did.
* coverage = decided / pairs: what is left when both orders must agree.
* single accuracy: of the single replies that name an image, the share that name the better one. It is what one order
  alone would give: no swapping, no abstention.
* flip rate: of the pairs whose two replies both name an image, the share in which they name different ones. It is the
  conflict rate of Wang et al. (arXiv 2305.17926), and 1 - the position consistency of Shi et al. (arXiv 2406.07791).
* first-position rate: of the replies that name an image, the share that name the one shown first; 1/2 without bias. Zheng
  et al. (arXiv 2306.05685) count the same as "biased toward first".
* symmetric bias = [P(first | the better one is first) + P(first | the better one is second)] / 2 - 1/2: 0 without bias,
  1/2 for a judge that always names the first, -1/2 for one that always names the second.

The first-position rate mixes bias with how often the better image happened to be shown first, and with ties and failures
that fall more often on one order. The symmetric bias weighs both cases alike, whatever their number: with hit rate
``H = P(first | better first)`` and false alarms ``F = P(first | better second)`` it is (H + F)/2 - 1/2, where a judge that
errs without bias has F = 1 - H, hence 0. (H - F)/2 + 1/2 is the accuracy of the single replies on balanced labels.

Intervals are Wilson's. The two replies to one pair depend on each other, so those of shares of replies are a little too
narrow; accuracy, coverage and flip rate count pairs.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..common.proportions import wilson
from ..data import PreferencePair, open_image
from ..rubrics import Rubric
from .judge import Judge, Pair
from .verdict import Verdict

GROUP = 8  # pairs handed to the judge at a time
GROUPS = 8  # handed over and not yet answered; a set of any size needs the memory of this many
MOST_VALUES = 20  # a key of the pairs file with more different values is a name, not a tag

# The question without a rubric, which a rubric must beat. One criterion that asks for everything, so that every judge and
# form of reply takes it as it takes any other.
NO_RUBRIC: dict[str, Rubric] = {
    "t2i": Rubric(
        name="no rubric", task="t2i", criteria=("All in all, it is a good image for this prompt.",)
    ),
    "edit": Rubric(
        name="no rubric",
        task="edit",
        criteria=("All in all, it is a good edit of BASE for this instruction.",),
    ),
}


@dataclass(frozen=True)
class Share:
    """So many of so many, as a share with its interval."""

    count: int
    of: int

    @property
    def value(self) -> float | None:
        return self.count / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        return wilson(self.count, self.of)

    def summary(self) -> dict[str, Any]:
        """Plain numbers, for a file."""
        low, high = self.interval
        return {"value": self.value, "low": low, "high": high, "count": self.count, "of": self.of}


@dataclass(frozen=True)
class Measures:
    """What was counted. The module's docstring defines each measure."""

    pairs: int
    accuracy: Share
    coverage: Share
    single_accuracy: Share
    flip_rate: Share
    first_position_rate: Share
    symmetric_bias: float | None
    failures: int
    commonest_failure: str | None
    calls: int
    tokens: int
    cost: float  # of the calls that were made now
    cost_per_pair: float  # of all replies, remembered ones included
    tokens_per_pair: float
    latency_s: tuple[float, float] | None  # of a reply: median, 95th percentile
    by_tag: Mapping[str, tuple[Share, Share]] = field(default_factory=dict)  # accuracy and coverage

    def summary(self) -> dict[str, Any]:
        """Plain numbers, for a file."""
        values = {
            name: value.summary() if isinstance(value, Share) else value
            for name, value in vars(self).items()
        }
        values["by_tag"] = {
            tag: {"accuracy": accuracy.summary(), "coverage": coverage.summary()}
            for tag, (accuracy, coverage) in self.by_tag.items()
        }
        return values


def evaluate(
    judge: Judge,
    pairs: Sequence[PreferencePair],
    *,
    rubric: Rubric | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> Measures:
    """The measures of a judge on labelled pairs, under ``rubric`` or the judge's own.

    ``progress`` is called with the number of pairs answered since the last call. Raises JudgeError.
    """
    verdicts: list[Verdict] = []
    waiting = deque()

    def take() -> None:
        answered = waiting.popleft().result()
        verdicts.extend(answered)
        progress(len(answered))

    for at in range(0, len(pairs), GROUP):
        if len(waiting) == GROUPS:
            take()
        waiting.append(
            judge.submit([opened(pair) for pair in pairs[at : at + GROUP]], rubric=rubric)
        )
    while waiting:
        take()
    return measure(pairs, verdicts)


def opened(pair: PreferencePair) -> Pair:
    """The pair with its images in memory."""
    return Pair(
        pair.prompt, *map(open_image, pair.images), open_image(pair.source) if pair.source else None
    )


def measure(pairs: Sequence[PreferencePair], verdicts: Sequence[Verdict]) -> Measures:
    """The measures of verdicts on labelled pairs, one for each, in order. No effects."""
    judged = list(zip(pairs, verdicts, strict=True))
    # Of every reply that names an image: was the better one shown first, and was the first one named?
    named = [
        ((pair.preferred == 0) ^ bool(swapped), opinion.preferred == 0)
        for pair, verdict in judged
        for swapped, opinion in enumerate(verdict.opinions)
        if opinion.preferred is not None
    ]
    both = [
        verdict
        for verdict in verdicts
        if len(verdict.opinions) == 2
        and all(opinion.preferred is not None for opinion in verdict.opinions)
    ]
    opinions = [opinion for verdict in verdicts for opinion in verdict.opinions]
    latencies = sorted(
        opinion.latency_s for opinion in opinions if opinion.latency_s and not opinion.failure
    )
    accuracy, coverage = _accuracy(judged)
    return Measures(
        pairs=len(judged),
        accuracy=accuracy,
        coverage=coverage,
        single_accuracy=Share(sum(better == first for better, first in named), len(named)),
        flip_rate=Share(
            sum(v.opinions[0].preferred == v.opinions[1].preferred for v in both), len(both)
        ),
        first_position_rate=Share(sum(first for _, first in named), len(named)),
        symmetric_bias=_symmetric_bias(named),
        failures=sum(verdict.failed for verdict in verdicts),
        commonest_failure=next(
            (
                failure
                for failure, _ in Counter(
                    opinion.failure for opinion in opinions if opinion.failure
                ).most_common(1)
            ),
            None,
        ),
        calls=sum(verdict.calls for verdict in verdicts),
        tokens=sum(verdict.tokens for verdict in verdicts),
        cost=sum(verdict.cost for verdict in verdicts),
        cost_per_pair=sum(opinion.cost for opinion in opinions) / max(1, len(judged)),
        tokens_per_pair=sum(opinion.tokens for opinion in opinions) / max(1, len(judged)),
        latency_s=(_quantile(latencies, 0.5), _quantile(latencies, 0.95)) if latencies else None,
        by_tag={
            tag: _accuracy([judged[at] for at in places])
            for tag, places in tag_groups(pairs).items()
        },
    )


def tag_groups(pairs: Sequence[PreferencePair]) -> dict[str, list[int]]:
    """The places of the pairs that share a tag, by its name: ``key=value``, or the word alone for a list under ``tags``.

    A key whose values are long, nested, or different in nearly every pair is no tag.
    """
    groups: dict[str, dict[str, list[int]]] = {}
    for at, pair in enumerate(pairs):
        for key, value in pair.tags.items():
            for word in value if isinstance(value, list) else [value]:
                if isinstance(word, (str, bool, int)) and 0 < len(str(word)) <= 40:
                    places = groups.setdefault(key, {}).setdefault(str(word), [])
                    if not places or places[-1] != at:
                        places.append(at)
    tags = {}
    for key, values in groups.items():
        if len(values) <= MOST_VALUES and any(len(places) > 1 for places in values.values()):
            tags.update(
                {
                    word if key == "tags" else f"{key}={word}": places
                    for word, places in sorted(values.items())
                }
            )
    return tags


def _accuracy(judged: Sequence[tuple[PreferencePair, Verdict]]) -> tuple[Share, Share]:
    """Accuracy of the decided pairs, and coverage."""
    decided = [verdict.winner == pair.preferred for pair, verdict in judged if verdict.decided]
    return Share(sum(decided), len(decided)), Share(len(decided), len(judged))


def _symmetric_bias(named: Sequence[tuple[bool, bool]]) -> float | None:
    counts = Counter(named)
    rates = [
        Share(counts[better, True], counts[better, True] + counts[better, False]).value
        for better in (True, False)
    ]
    return None if None in rates else sum(rates) / 2 - 0.5


def _quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not below ``share`` of all; ``values`` are sorted."""
    return values[max(0, math.ceil(share * len(values)) - 1)]
