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

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..common.images import open_image
from ..common.progress import ReportProgress, no_progress
from ..common.proportions import Proportion
from ..data import PreferencePair
from ..rubrics import Rubric
from .judge import Judge, Pair, hash_images
from .store import pair_hash
from .verdict import Verdict

GROUP = 8  # pairs handed to the judge at a time
GROUPS = 8  # handed over and not yet answered; a set of any size needs the memory of this many
THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
MOST_VALUES = 20  # a key of the pairs file with more different values is a name, not a tag


@dataclass(frozen=True)
class Measures:
    """What was counted. The module's docstring defines each measure."""

    pairs: int
    accuracy: Proportion
    coverage: Proportion
    single_accuracy: Proportion
    flip_rate: Proportion
    first_position_rate: Proportion
    symmetric_bias: float | None
    failures: int
    commonest_failure: str | None
    calls: int
    tokens: int
    cost: float  # of the calls that were made now
    cost_per_pair: float  # of all replies, cached ones included
    tokens_per_pair: float
    latency_s: tuple[float, float] | None  # of a reply: median, 95th percentile
    by_tag: Mapping[str, tuple[Proportion, Proportion]]  # accuracy and coverage
    by_criterion: Mapping[str, tuple[Proportion, Proportion]]  # by its number, of its own verdicts
    by_threshold: Mapping[
        str, tuple[Proportion, Proportion]
    ]  # were it set so, where the judge states how sure it is

    @property
    def best_threshold(self) -> str | None:
        """The lowest threshold with the most right less wrong verdicts."""

        def gain(threshold: str) -> int:
            accuracy, _ = self.by_threshold[threshold]
            return 2 * accuracy.count - accuracy.total

        return max(self.by_threshold, key=gain, default=None)

    @property
    def right(self) -> int:
        """Pairs that the judge decides as people did."""
        return self.accuracy.count

    @property
    def wrong(self) -> int:
        """Pairs that the judge decides the other way."""
        return self.accuracy.total - self.accuracy.count

    def summary(self) -> dict[str, Any]:
        """Plain numbers, for a file."""
        values = {
            name: _plain(value) if isinstance(value, Proportion) else value
            for name, value in vars(self).items()
        }
        for parts in ("by_tag", "by_criterion", "by_threshold"):
            values[parts] = {
                part: {"accuracy": _plain(accuracy), "coverage": _plain(coverage)}
                for part, (accuracy, coverage) in values[parts].items()
            }
        return values


def evaluate(
    judge: Judge,
    pairs: Sequence[PreferencePair],
    *,
    rubric: Rubric | None = None,
    report_progress: ReportProgress = no_progress,
) -> Measures:
    """The measures of a judge on labelled pairs, under ``rubric`` or the judge's own. Raises JudgeError.

    The judge's store keeps the labels, for the page of its verdicts. The stage that is reported is the rubric's name.
    """
    rubric = rubric or judge.rubric
    verdicts: list[Verdict] = []
    pending: deque[Future[list[Verdict]]] = deque()

    def collect() -> None:
        verdicts.extend(pending.popleft().result())
        report_progress(rubric.name, len(verdicts), len(pairs))

    report_progress(rubric.name, 0, len(pairs))
    for start in range(0, len(pairs), GROUP):
        if len(pending) == GROUPS:
            collect()
        labelled = pairs[start : start + GROUP]
        group = [open_pair(pair) for pair in labelled]
        pending.append(judge.submit(group, rubric=rubric))
        if judge.store.keeps_trail:
            labels = {}
            for pair, (a, b, source) in zip(labelled, hash_images(group), strict=True):
                if pair.preferred is not None:
                    labels[pair_hash(pair.prompt, a, b, source)] = (a, b)[pair.preferred]
            judge.store.put_labels(labels)
    while pending:
        collect()
    return measure(pairs, verdicts)


def open_pair(pair: PreferencePair) -> Pair:
    """The pair with its images in memory."""
    first, second = map(open_image, pair.images)
    return Pair(pair.prompt, first, second, open_image(pair.source) if pair.source else None)


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
    places = [[opinion.preferred for opinion in verdict.opinions] for verdict in verdicts]
    both = [place for place in places if len(place) == 2 and None not in place]
    opinions = [opinion for verdict in verdicts for opinion in verdict.opinions]
    failures = Counter(opinion.failure for opinion in opinions if opinion.failure)
    latencies = [one.latency_s for one in opinions if one.latency_s and not one.failure]
    latency_s = None
    if latencies:
        median, late = np.quantile(latencies, (0.5, 0.95), method="inverted_cdf")
        latency_s = float(median), float(late)
    accuracy, coverage = _accuracy(judged)
    named_criteria = Counter(
        name for one in opinions for name in {found.criterion for found in one.findings}
    )
    return Measures(
        pairs=len(judged),
        accuracy=accuracy,
        coverage=coverage,
        single_accuracy=_share(better == first for better, first in named),
        flip_rate=_share(one == other for one, other in both),
        first_position_rate=_share(first for _, first in named),
        symmetric_bias=_symmetric_bias(named),
        failures=sum(verdict.failed for verdict in verdicts),
        commonest_failure=max(failures, key=lambda failure: failures[failure], default=None),
        calls=sum(verdict.calls for verdict in verdicts),
        tokens=sum(verdict.tokens for verdict in verdicts),
        cost=sum(verdict.cost for verdict in verdicts),
        cost_per_pair=sum(opinion.cost for opinion in opinions) / max(1, len(judged)),
        tokens_per_pair=sum(opinion.tokens for opinion in opinions) / max(1, len(judged)),
        latency_s=latency_s,
        by_tag={
            tag: _accuracy([judged[at] for at in members])
            for tag, members in tag_groups(pairs).items()
        },
        by_criterion={
            criterion: _accuracy(
                [(pair, verdict.of_criterion(criterion)) for pair, verdict in judged]
            )
            for criterion, times in named_criteria.items()
            if 2 * times > len(opinions)  # what few replies name is no criterion of the rubric
        },
        by_threshold=_by_threshold(judged),
    )


def tag_groups(pairs: Sequence[PreferencePair]) -> dict[str, list[int]]:
    """The indices of the pairs that share a tag, by its name: ``key=value``, or the word alone for a list under ``tags``.

    A key whose values are long, nested, or different in nearly every pair is no tag.
    """
    groups: dict[str, dict[str, list[int]]] = {}
    for at, pair in enumerate(pairs):
        for key, value in pair.tags.items():
            words = value if isinstance(value, list) else [value]
            for word in dict.fromkeys(str(one) for one in words if isinstance(one, str | int)):
                if 0 < len(word) <= 40:
                    groups.setdefault(key, {}).setdefault(word, []).append(at)
    return {
        word if key == "tags" else f"{key}={word}": members
        for key, values in groups.items()
        if len(values) <= MOST_VALUES and any(len(members) > 1 for members in values.values())
        for word, members in sorted(values.items())
    }


def _by_threshold(
    judged: Sequence[tuple[PreferencePair, Verdict]],
) -> dict[str, tuple[Proportion, Proportion]]:
    """Accuracy and coverage at each threshold; nothing of a judge that does not say how sure it is.

    Log-odds are there for undecided pairs, too. A judge with votes only says what is above its own threshold.
    """
    sure = [
        (verdict.confidence, verdict.likelier == pair.preferred)
        for pair, verdict in judged
        if verdict.confidence is not None and verdict.likelier is not None
    ]
    table, shown = {}, 0
    for threshold in THRESHOLDS if sure else ():
        decided = [right for confidence, right in sure if confidence >= threshold]
        if table and len(decided) == shown:
            continue  # a threshold that changes nothing
        shown = len(decided)
        table[f"{threshold:.2f}"] = _share(decided), Proportion(len(decided), len(judged))
    return table


def _accuracy(judged: Sequence[tuple[PreferencePair, Verdict]]) -> tuple[Proportion, Proportion]:
    """Accuracy of the decided pairs, and coverage."""
    decided = [verdict.winner == pair.preferred for pair, verdict in judged if verdict.decided]
    return _share(decided), Proportion(len(decided), len(judged))


def _symmetric_bias(named: Sequence[tuple[bool, bool]]) -> float | None:
    rates = [
        _share(first for better, first in named if better == better_first).value
        for better_first in (True, False)
    ]
    return None if rates[0] is None or rates[1] is None else (rates[0] + rates[1]) / 2 - 0.5


def _share(values: Iterable[bool]) -> Proportion:
    values = list(values)
    return Proportion(sum(values), len(values))


def _plain(part: Proportion) -> dict[str, Any]:
    low, high = part.interval
    return {"value": part.value, "low": low, "high": high, **asdict(part)}
