"""What a judge says: an ``Opinion`` about one order of a pair, and the ``Verdict`` that both orders make."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from ..common.errors import ArrError

Side = Literal["a", "b"]
SIDES: tuple[Side, Side] = ("a", "b")
Place = Literal[0, 1]  # shown first, shown second


class JudgeError(ArrError, RuntimeError):
    """A judge that can give no verdict at all (no server, wrong key, unknown model): stop, and say what to do."""


class Finding(NamedTuple):
    """What was seen under one criterion, and the place of the image that meets it better; None for a tie, or not said."""

    criterion: str
    seen: str
    preferred: Place | None = None


@dataclass(frozen=True)
class Opinion:
    """One answer to one order of a pair. ``preferred`` is the place (0 first, 1 second) or None: a tie or a failure.

    failure: why there is no answer (time-out, a reply that cannot be read); empty for an honest tie.
    log_odds: log of P(first) / P(second), where the judge gives probabilities.
    threshold: the confidence below which this judge decides nothing.
    members, quorum: a panel's opinions, and how many of them must say the same.
    calls: requests that it took, votes and repair questions included; tokens and cost are their sum.
    """

    preferred: Place | None
    reason: str = ""
    findings: tuple[Finding, ...] = ()
    confidence: float | None = None
    failure: str = ""
    reply: str = ""
    tokens: int = 0
    cost: float = 0.0
    latency_s: float = 0.0
    cached: bool = False
    calls: int = 1
    log_odds: float | None = None
    threshold: float = 0.0
    members: tuple[Opinion, ...] = ()
    quorum: int = 0

    def __post_init__(self):
        if self.preferred not in (0, 1, None):
            raise ValueError(f"expected a preferred place of 0, 1 or None, got {self.preferred!r}")
        if self.failure and self.preferred is not None:
            raise ValueError("expected no preferred place in a failed reply")
        if self.log_odds is not None and not math.isfinite(self.log_odds):
            raise ValueError(f"expected finite log-odds, got {self.log_odds}")

    @classmethod
    def load(cls, content: dict[str, Any]) -> Opinion:
        """The opinion that ``dataclasses.asdict`` made into plain content, as a file of JSON gives it back.

        Raises ValueError, TypeError or LookupError for content that is none.
        """
        findings = tuple(Finding(*row) for row in content["findings"])
        members = tuple(map(cls.load, content["members"]))
        opinion = cls(**{**content, "findings": findings, "members": members})
        texts = [opinion.reason, opinion.failure, opinion.reply]
        texts += [text for one in findings for text in one[:2]]
        numbers = [opinion.tokens, opinion.cost, opinion.latency_s, opinion.calls]
        numbers += [
            opinion.threshold,
            opinion.quorum,
            opinion.confidence or 0,
            opinion.log_odds or 0,
        ]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"expected texts, got {texts}")
        if not all(isinstance(number, int | float) for number in numbers):
            raise TypeError(f"expected numbers, got {numbers}")
        return opinion


@dataclass(frozen=True)
class Verdict:
    """The judge's decision on a pair: image ``a``, image ``b``, or None for undecided. It can never credit both."""

    preferred: Side | None
    reason: str
    opinions: tuple[Opinion, ...] = field(repr=False, default=())

    @property
    def decided(self) -> bool:
        return self.preferred is not None

    @property
    def winner(self) -> int | None:
        """0 for image a, 1 for image b, None for undecided."""
        return None if self.preferred is None else SIDES.index(self.preferred)

    @property
    def failed(self) -> bool:
        """Whether the pair is undecided and a reply was missing or could not be read."""
        return not self.decided and any(opinion.failure for opinion in self.opinions)

    @property
    def log_odds(self) -> float | None:
        """The mean over the orders of log P(a) / P(b): what favours a place, first or second, cancels in it."""
        stated = [one.log_odds for one in self.opinions if one.log_odds is not None]
        if not stated or len(stated) < len(self.opinions):
            return None
        return (stated[0] - sum(stated[1:])) / len(stated)

    @property
    def likelier(self) -> int | None:
        """The winner, or the image that the log-odds favour where they are below the threshold."""
        return (0 if self.log_odds > 0 else 1) if self.log_odds else self.winner

    @property
    def confidence(self) -> float | None:
        """The probability of what is preferred; else the least confident of the orders, where the judge states it."""
        if self.log_odds is not None:
            return confidence_of(self.log_odds)
        stated = (one.confidence for one in self.opinions if one.confidence is not None)
        return min(stated, default=None)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found per criterion, from the first order."""
        return self.opinions[0].findings if self.opinions else ()

    def of_criterion(self, criterion: str) -> Verdict:
        """The verdict by what the opinions say under one criterion: both orders must agree, as over all of them."""
        found = [
            [one for one in opinion.findings if one.criterion == criterion]
            for opinion in self.opinions
        ]
        return combine(tuple(Opinion(each[0].preferred if each else None) for each in found))

    @property
    def _paid(self) -> list[Opinion]:
        return [opinion for opinion in self.opinions if not opinion.cached]

    @property
    def calls(self) -> int:
        return sum(opinion.calls for opinion in self._paid)

    @property
    def tokens(self) -> int:
        return sum(opinion.tokens for opinion in self._paid)

    @property
    def cost(self) -> float:
        return sum(opinion.cost for opinion in self._paid)

    @property
    def latency_s(self) -> float:
        return max((opinion.latency_s for opinion in self.opinions), default=0.0)


def summed(parts: Sequence[Opinion]) -> dict[str, Any]:
    """What these opinions took in all, as fields of one."""
    names = ("calls", "tokens", "cost")
    return {name: sum(getattr(part, name) for part in parts) for name in names}


def confidence_of(log_odds: float) -> float:
    """The probability of the likelier side, 0.5..1."""
    return 1.0 / (1.0 + math.exp(-abs(log_odds)))


def combine(opinions: tuple[Opinion, ...]) -> Verdict:
    """The verdict of one opinion (order a, b) or of two (a, b then b, a).

    Probabilities are averaged over the orders and must reach the threshold. Words must agree: orders that disagree
    decide nothing. A panel's members each make their own verdict first.
    """
    undecided = Verdict(None, "", opinions)
    preferred, reason = _decide(undecided)
    return replace(undecided, preferred=preferred, reason=reason)


def _decide(verdict: Verdict) -> tuple[Side | None, str]:
    """Which image the opinions prefer, and why."""
    opinions, log_odds = verdict.opinions, verdict.log_odds
    if all(opinion.members for opinion in opinions):
        return _decide_by_members(opinions)
    for opinion in opinions:
        if opinion.failure:
            return None, f"no verdict: {opinion.failure}"
    if log_odds is not None:
        threshold = max(opinion.threshold for opinion in opinions)
        confidence = confidence_of(log_odds)
        if log_odds == 0:
            return None, "undecided: a tie"
        if confidence < threshold:
            return None, f"undecided: {confidence:.0%} sure, less than {threshold:.0%}"
        return "a" if log_odds > 0 else "b", f"{confidence:.0%} sure"
    for opinion in opinions:
        if opinion.preferred is None:
            return None, f"undecided: {opinion.reason or 'a tie'}"
    first, *second = (opinion.preferred for opinion in opinions)
    if first in second:
        return None, "undecided: the two orders disagree"
    return "a" if first == 0 else "b", opinions[0].reason


def _decide_by_members(opinions: tuple[Opinion, ...]) -> tuple[Side | None, str]:
    """What a quorum of the panel says. A member that failed, or that is undecided, is no vote for anybody."""
    quorum = opinions[0].quorum
    members = zip(*(opinion.members for opinion in opinions), strict=True)
    verdicts = [combine(orders) for orders in members]
    votes = Counter(verdict.preferred for verdict in verdicts)
    for verdict in verdicts:
        agreeing = votes[verdict.preferred]
        if verdict.decided and agreeing >= quorum:
            return verdict.preferred, f"{agreeing} of {len(verdicts)} judges: {verdict.reason}"
    failed = sum(verdict.failed for verdict in verdicts)
    return None, (
        f"undecided: {quorum} of {len(verdicts)} judges must agree; {votes['a']} for a, {votes['b']} for b, "
        f"{votes[None]} for neither{f' ({failed} failed)' if failed else ''}"
    )
