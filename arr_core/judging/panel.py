"""Several judges as one: each answers every question, and so many of them must say the same."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

from .judge import Client, Question
from .verdict import JudgeError, Opinion

Rule = Literal["majority", "unanimous"]


class Panel:
    """Clients as one client. Members vote on verdicts, not on orders: each is calibrated, or abstains, by itself first.

    majority: more than half of all members; unanimous: all of them. A member that fails, or that is undecided, is no vote.
    """

    def __init__(self, members: Sequence[Client], rule: Rule = "majority"):
        self.members, self.rule = tuple(members), rule
        self.quorum = len(self.members) if rule == "unanimous" else len(self.members) // 2 + 1
        self.identity = f"panel:{rule}:[{', '.join(member.identity for member in self.members)}]"

    async def close(self) -> None:
        closing = [member.close() for member in self.members if hasattr(member, "close")]
        for fault in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(fault, BaseException):
                raise fault

    async def ask(self, questions: Sequence[Question]) -> list[Opinion]:
        """One opinion a question, in order, with the members' opinions in it."""
        answers = await asyncio.gather(
            *(member.ask(questions) for member in self.members), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, JudgeError):
                raise answer
        if fault := next((answer for answer in answers if isinstance(answer, JudgeError)), None):
            # Only what all members had answered is an answer of the panel.
            known = [
                answer.answered if isinstance(answer, JudgeError) else dict(enumerate(answer))
                for answer in answers
            ]
            whole = sorted(set.intersection(*map(set, known)))
            raise JudgeError(
                str(fault), {at: self._opinion(tuple(said[at] for said in known)) for at in whole}
            ) from fault
        if any(len(answer) != len(questions) for answer in answers):
            raise JudgeError(
                f"a member of the panel gave another number of answers than {len(questions)} questions"
            )
        return [self._opinion(opinions) for opinions in zip(*answers, strict=True)]

    def _opinion(self, opinions: tuple[Opinion, ...]) -> Opinion:
        took = {
            "tokens": sum(o.tokens for o in opinions),
            "cost": sum(o.cost for o in opinions),
            "calls": sum(o.calls for o in opinions),
            "latency_s": max(o.latency_s for o in opinions),
            "members": opinions,
            "quorum": self.quorum,
        }
        votes = [opinion.preferred for opinion in opinions]
        reason = f"{votes.count(0)} for the first, {votes.count(1)} for the second, {votes.count(None)} for neither"
        for place in (0, 1):
            if votes.count(place) >= self.quorum:
                return Opinion(
                    place,
                    reason,
                    opinions[votes.index(place)].findings,
                    confidence=votes.count(place) / len(votes),
                    **took,
                )
        failures = [opinion.failure for opinion in opinions if opinion.failure]
        if failures:  # asked again next time: with a vote more it may be decided
            return Opinion(
                None,
                failure=f"{len(failures)} of {len(opinions)} judges failed: {failures[0]}",
                **took,
            )
        return Opinion(None, reason, **took)
