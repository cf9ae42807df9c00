"""What a judge says: an ``Opinion`` about one order of a pair, and the ``Verdict`` that both orders make."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..common.errors import ArrError

Side = Literal["a", "b"]
SIDES: tuple[Side, Side] = ("a", "b")
Place = Literal[0, 1]  # shown first, shown second


class JudgeError(ArrError, RuntimeError):
    """A judge that can give no verdict at all (no server, wrong key, unknown model): stop, and say what to do."""


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
    findings: tuple[tuple[str, str], ...] = ()
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
        """The opinion that ``dataclasses.asdict`` made into plain content, as a file of JSON gives it back."""
        return cls(
            **{
                **content,
                "findings": tuple(tuple(finding) for finding in content.get("findings", ())),
                "members": tuple(cls.load(member) for member in content.get("members", ())),
            }
        )


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
        return sum(-value if swapped else value for swapped, value in enumerate(stated)) / len(
            stated
        )

    @property
    def confidence(self) -> float | None:
        """The probability of what is preferred; else the least confident of the orders, where the judge states it."""
        if self.log_odds is not None:
            return confidence_of(self.log_odds)
        stated = [opinion.confidence for opinion in self.opinions if opinion.confidence is not None]
        return min(stated) if stated else None

    @property
    def findings(self) -> tuple[tuple[str, str], ...]:
        """What was found per criterion, from the first order."""
        return self.opinions[0].findings if self.opinions else ()

    @property
    def replies(self) -> tuple[str, ...]:
        return tuple(opinion.reply for opinion in self.opinions)

    @property
    def first_picks(self) -> int:
        """How many of the opinions named the image shown first: half of them, for a judge without position bias."""
        return sum(opinion.preferred == 0 for opinion in self.opinions)

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


def confidence_of(log_odds: float) -> float:
    """The probability of the likelier side, 0.5..1."""
    return 1.0 / (1.0 + math.exp(-abs(log_odds)))


def combine(opinions: tuple[Opinion, ...]) -> Verdict:
    """The verdict of one opinion (order a, b) or of two (a, b then b, a).

    Probabilities are averaged over the orders and must reach the threshold. Words must agree: orders that disagree
    decide nothing. A panel's members each make their own verdict first.
    """
    if any(opinion.members for opinion in opinions):
        return _of_members(opinions)
    failures = [opinion.failure for opinion in opinions if opinion.failure]
    if failures:
        return Verdict(None, f"no verdict: {failures[0]}", opinions)
    verdict = Verdict(None, "", opinions)
    if verdict.log_odds is not None:
        return _of_probabilities(verdict, verdict.log_odds)
    for opinion in opinions:
        if opinion.preferred is None:
            return replace(verdict, reason=f"undecided: {opinion.reason or 'a tie'}")
    first, *second = (opinion.preferred for opinion in opinions)
    if first in second:
        return replace(verdict, reason="undecided: the two orders disagree")
    return Verdict("a" if first == 0 else "b", opinions[0].reason, opinions)


def _of_probabilities(verdict: Verdict, log_odds: float) -> Verdict:
    threshold = max(opinion.threshold for opinion in verdict.opinions)
    confidence = confidence_of(log_odds)
    if log_odds == 0:
        return replace(verdict, reason="undecided: a tie")
    if confidence < threshold:
        reason = f"undecided: {confidence:.0%} sure, less than {threshold:.0%}"
        return replace(verdict, reason=reason)
    side: Side = "a" if log_odds > 0 else "b"
    return replace(verdict, preferred=side, reason=f"{confidence:.0%} sure")


def _of_members(opinions: tuple[Opinion, ...]) -> Verdict:
    """The panel's verdict. A member that failed, or that is undecided, is no vote for anybody."""
    quorum = max(opinion.quorum for opinion in opinions)
    for opinion in opinions:
        if not opinion.members:
            return Verdict(None, f"no verdict: {opinion.failure}", opinions)
    members = zip(*(opinion.members for opinion in opinions), strict=True)
    verdicts = [combine(orders) for orders in members]
    votes: dict[Side, list[Verdict]] = {
        side: [one for one in verdicts if one.preferred == side] for side in SIDES
    }
    for side, agreeing in votes.items():
        if len(agreeing) >= quorum:
            reason = f"{len(agreeing)} of {len(verdicts)} judges: {agreeing[0].reason}"
            return Verdict(side, reason, opinions)
    neither = sum(not one.decided for one in verdicts)
    failed = sum(one.failed for one in verdicts)
    reason = (
        f"undecided: {quorum} of {len(verdicts)} judges must agree; {len(votes['a'])} for a, "
        f"{len(votes['b'])} for b, {neither} for neither"
    )
    return Verdict(None, f"{reason} ({failed} failed)" if failed else reason, opinions)
