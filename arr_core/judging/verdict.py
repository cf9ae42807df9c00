"""What a judge says: an ``Opinion`` about one order of a pair, and the ``Verdict`` that both orders make."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Side = Literal["a", "b"]


class JudgeError(RuntimeError):
    """A judge that can give no verdict at all (no server, wrong key, unknown model): stop, and say what to do."""


@dataclass(frozen=True)
class Opinion:
    """One reply to one order of a pair. ``preferred`` is the place (0 first, 1 second) or None: a tie or a failure.

    ``failure`` says why there is no answer (time-out, a reply that cannot be read); it is empty for an honest tie.
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

    def __post_init__(self):
        if self.preferred not in (0, 1, None):
            raise ValueError(f"an opinion prefers the place 0, the place 1 or None, not {self.preferred!r}")
        if self.failure and self.preferred is not None:
            raise ValueError("a failed reply prefers nothing")


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
        """Whether a reply was missing or could not be read."""
        return any(opinion.failure for opinion in self.opinions)

    @property
    def confidence(self) -> float | None:
        """The least confident of the orders asked, where the judge states its confidence."""
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
        return sum(not opinion.cached for opinion in self.opinions)

    @property
    def tokens(self) -> int:
        return sum(opinion.tokens for opinion in self.opinions if not opinion.cached)

    @property
    def cost(self) -> float:
        return sum(opinion.cost for opinion in self.opinions if not opinion.cached)

    @property
    def latency_s(self) -> float:
        return max((opinion.latency_s for opinion in self.opinions), default=0.0)


def combine(opinions: tuple[Opinion, ...]) -> Verdict:
    """The verdict of one opinion (order a, b) or of two (a, b then b, a). Orders that disagree decide nothing."""
    failures = [opinion.failure for opinion in opinions if opinion.failure]
    if failures:
        return Verdict(None, f"no verdict: {failures[0]}", opinions)
    sides = [None if opinion.preferred is None else "ab"[opinion.preferred ^ swapped]
             for swapped, opinion in enumerate(opinions)]
    if None in sides:
        return Verdict(None, f"undecided: {opinions[sides.index(None)].reason or 'a tie'}", opinions)
    if len(set(sides)) > 1:
        return Verdict(None, "undecided: the two orders disagree", opinions)
    return Verdict(sides[0], opinions[0].reason, opinions)
