"""What a judge says: an ``Opinion`` about one order of a pair, and the ``Verdict`` that both orders make."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..common.errors import ArrError

Side = Literal["a", "b"]


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

    preferred: Literal[0, 1] | None
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
            raise ValueError(
                f"an opinion prefers the place 0, the place 1 or None, not {self.preferred!r}"
            )
        if self.failure and self.preferred is not None:
            raise ValueError("a failed reply prefers nothing")
        if self.log_odds is not None and not math.isfinite(self.log_odds):
            raise ValueError(f"log-odds are a finite number, not {self.log_odds}")

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
        return None if self.preferred is None else "ab".index(self.preferred)

    @property
    def failed(self) -> bool:
        """Whether the pair is undecided and a reply was missing or could not be read."""
        return not self.decided and any(opinion.failure for opinion in self.opinions)

    @property
    def log_odds(self) -> float | None:
        """The mean over the orders of log P(a) / P(b): what favours a place, first or second, cancels in it."""
        if not self.opinions or any(opinion.log_odds is None for opinion in self.opinions):
            return None
        return sum(
            -opinion.log_odds if swapped else opinion.log_odds
            for swapped, opinion in enumerate(self.opinions)
        ) / len(self.opinions)

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
    def calls(self) -> int:
        return sum(opinion.calls for opinion in self.opinions if not opinion.cached)

    @property
    def tokens(self) -> int:
        return sum(opinion.tokens for opinion in self.opinions if not opinion.cached)

    @property
    def cost(self) -> float:
        return sum(opinion.cost for opinion in self.opinions if not opinion.cached)

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
        return _of_probabilities(verdict)
    sides = [
        None if opinion.preferred is None else "ab"[opinion.preferred ^ swapped]
        for swapped, opinion in enumerate(opinions)
    ]
    if None in sides:
        return replace(
            verdict, reason=f"undecided: {opinions[sides.index(None)].reason or 'a tie'}"
        )
    if len(set(sides)) > 1:
        return replace(verdict, reason="undecided: the two orders disagree")
    return Verdict(sides[0], opinions[0].reason, opinions)


def _of_probabilities(verdict: Verdict) -> Verdict:
    threshold = max(opinion.threshold for opinion in verdict.opinions)
    if not verdict.log_odds:
        return replace(verdict, reason="undecided: a tie")
    if verdict.confidence < threshold:
        return replace(
            verdict, reason=f"undecided: {verdict.confidence:.0%} sure, less than {threshold:.0%}"
        )
    return replace(
        verdict,
        preferred="a" if verdict.log_odds > 0 else "b",
        reason=f"{verdict.confidence:.0%} sure",
    )


def _of_members(opinions: tuple[Opinion, ...]) -> Verdict:
    """The panel's verdict. A member that failed, or that is undecided, is no vote for anybody."""
    quorum, failures = (
        max(opinion.quorum for opinion in opinions),
        [o.failure for o in opinions if not o.members],
    )
    if failures or len({len(opinion.members) for opinion in opinions}) > 1:
        return Verdict(
            None,
            f"no verdict: {failures[0] if failures else 'the panel changed between the orders'}",
            opinions,
        )
    verdicts = [
        combine(tuple(opinion.members[at] for opinion in opinions))
        for at in range(len(opinions[0].members))
    ]
    votes = {side: [verdict for verdict in verdicts if verdict.preferred == side] for side in "ab"}
    side = max(votes, key=lambda side: len(votes[side]))
    if len(votes[side]) >= quorum:
        return Verdict(
            side, f"{len(votes[side])} of {len(verdicts)} judges: {votes[side][0].reason}", opinions
        )
    failed = sum(verdict.failed for verdict in verdicts)
    return Verdict(
        None,
        f"undecided: {quorum} of {len(verdicts)} judges must agree; {len(votes['a'])} for a, "
        f"{len(votes['b'])} for b, {len(verdicts) - len(votes['a']) - len(votes['b'])} for neither"
        + f" ({failed} failed)"
        * (failed > 0),
        opinions,
    )
