"""The judge that gives reasons: findings for each criterion, then a verdict in words; a repair question, and votes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from .chat import Chat, Reply
from .judge import Question
from .parsing import read_reply
from .prompts import SCHEMA, messages, repair_messages, version
from .verdict import JudgeError, Opinion

NEXT = "\n\n[asked again]\n\n"  # between the replies that made one opinion


class PairwiseClient:
    """Asks a chat which of two pictures is better, and why. No failure, refusal or unreadable reply prefers anything.

    votes: replies to each question, drawn at ``temperature``. What more than half of them say is the opinion, and their
    share its confidence; a vote that failed is counted for nobody.
    threshold: the share below which the opinion is undecided.
    """

    def __init__(
        self, chat: Chat, *, votes: int = 1, temperature: float = 0.7, threshold: float = 0.0
    ):
        self.chat, self.votes, self.temperature, self.threshold = (
            chat,
            votes,
            temperature,
            threshold,
        )
        drawn = f":votes={votes}:at={temperature}:threshold={threshold}" if votes > 1 else ""
        self.identity = f"{chat.identity}:reasons={version('reasons')}{drawn}"

    async def close(self) -> None:
        await self.chat.close()

    async def ask(self, questions: Sequence[Question]) -> list[Opinion]:
        """One opinion a question, in order."""
        return await answer_all(self._answer, questions)

    async def _answer(self, question: Question) -> Opinion:
        asked = messages(question)
        if self.votes == 1:
            return await self._opinion(asked, {})
        return _majority(
            await asyncio.gather(
                *(
                    self._opinion(asked, {"temperature": self.temperature, "seed": seed})
                    for seed in range(self.votes)
                )
            ),
            self.threshold,
        )

    async def _opinion(self, asked: list[dict[str, Any]], settings: dict[str, Any]) -> Opinion:
        reply = await self.chat.complete(asked, schema=SCHEMA, **settings)
        opinion = _read(reply)
        if reply.failure or not opinion.failure:
            return opinion
        repair = repair_messages(asked, reply.text, opinion.failure)
        second = _read(await self.chat.complete(repair, schema=SCHEMA, **settings))
        failure = f"{opinion.failure}; asked once more: {second.failure}" if second.failure else ""
        return replace(
            _sum(second, [opinion, second], latency_s=opinion.latency_s + second.latency_s),
            failure=failure,
        )


async def answer_all(
    answer: Callable[[Question], Awaitable[Opinion]], questions: Sequence[Question]
) -> list[Opinion]:
    """The answers to all questions at once. A JudgeError holds those that had come, so that nothing paid is lost."""
    answers = await asyncio.gather(*map(answer, questions), return_exceptions=True)
    errors = [error for error in answers if isinstance(error, BaseException)]
    for error in errors:
        if not isinstance(error, JudgeError):
            raise error
    if errors:  # an error of this call's own: a chat may have raised its one to others, too
        raise JudgeError(
            str(errors[0]),
            {at: found for at, found in enumerate(answers) if isinstance(found, Opinion)},
        ) from errors[0]
    return answers


def spent(reply: Reply) -> dict[str, Any]:
    """What a reply took, as fields of its opinion."""
    return {"tokens": reply.tokens, "cost": reply.cost, "latency_s": reply.latency_s}


def _read(reply: Reply) -> Opinion:
    if reply.failure:
        return Opinion(None, failure=reply.failure, **spent(reply))
    opinion = replace(read_reply(reply.text, cut=reply.cut), **spent(reply))
    if opinion.failure and reply.cut:
        return replace(opinion, failure=f"{opinion.failure}, cut off at the profile's max_tokens")
    return opinion


def _sum(opinion: Opinion, parts: Sequence[Opinion], latency_s: float) -> Opinion:
    """The opinion with what all its parts took; their replies stay readable for whoever checks it."""
    return replace(
        opinion,
        reply=NEXT.join(part.reply for part in parts),
        tokens=sum(part.tokens for part in parts),
        cost=sum(part.cost for part in parts),
        calls=sum(part.calls for part in parts),
        latency_s=latency_s,
    )


def _majority(votes: Sequence[Opinion], threshold: float) -> Opinion:
    failures = [vote.failure for vote in votes if vote.failure]
    count = Counter(vote.preferred for vote in votes if not vote.failure)
    place, most = count.most_common(1)[0] if count else (None, 0)
    share = most / len(votes)
    tally = f"{count[0]} votes for the first, {count[1]} for the second, {count[None]} for neither"
    if share > 0.5:
        spoken = next(vote for vote in votes if not vote.failure and vote.preferred == place)
        sure = place is not None and share >= threshold
        opinion = Opinion(
            place if sure else None,
            f"{tally}: {spoken.reason}"
            if sure or place is None
            else f"{tally}, less than {threshold:.0%}",
            spoken.findings,
            confidence=share,
        )
    elif failures:
        opinion = Opinion(
            None, failure=f"{len(failures)} of {len(votes)} votes failed: {failures[0]}"
        )
    else:
        opinion = Opinion(None, tally)
    return _sum(
        replace(opinion, threshold=threshold),
        votes,
        latency_s=max(vote.latency_s for vote in votes),
    )
