"""Several judges as one: each answers every question for itself, and a quorum of them must agree."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from .client import Client
from .outage import Outage
from .verdict import Opinion, summed

Rule = Literal["majority", "unanimous"]


class Panel(Client):
    """Clients as one client. Members vote on verdicts, not on orders: each is calibrated, or abstains, by itself first.

    majority: more than half of all members; unanimous: all of them. A member that fails, or that is undecided, is no vote.
    """

    def __init__(self, members: Sequence[Client], rule: Rule = "majority"):
        self.members = tuple(members)
        self.rule = rule
        self.quorum = len(self.members) if rule == "unanimous" else len(self.members) // 2 + 1
        self.identity = f"panel:{rule}:[{', '.join(member.identity for member in self.members)}]"

    @property
    def outage(self) -> Outage | None:
        return next(filter(None, (member.outage for member in self.members)), None)

    async def close(self) -> None:
        closing = [asyncio.ensure_future(member.close()) for member in self.members]
        await asyncio.wait(closing)
        for closed in closing:
            closed.result()

    def join(self, opinions: Sequence[Opinion]) -> Opinion:
        """The opinion that holds the members' opinions."""
        votes = Counter(opinion.preferred for opinion in opinions)
        joint = Opinion(
            None,
            f"{votes[0]} for the first, {votes[1]} for the second, {votes[None]} for neither",
            **summed([one for one in opinions if not one.cached] or opinions),
            cached=all(one.cached for one in opinions),
            latency_s=max(one.latency_s for one in opinions),
            members=tuple(opinions),
            quorum=self.quorum,
        )
        for one in opinions:
            if one.preferred is not None and votes[one.preferred] >= self.quorum:
                share = votes[one.preferred] / len(opinions)
                return replace(
                    joint, preferred=one.preferred, findings=one.findings, confidence=share
                )
        failures = [one.failure for one in opinions if one.failure]
        if failures:  # asked again next time: with one more vote it may be decided
            failure = f"{len(failures)} of {len(opinions)} judges failed: {failures[0]}"
            return replace(joint, failure=failure)
        return joint
