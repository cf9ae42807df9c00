"""The judge that gives reasons: findings for each criterion, then a verdict in words; a repair question, and votes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .chat import Chat, Messages, Reply, RequestOptions
from .client import Client, Question
from .parsing import read_reply
from .prompts import REASONS_VERSION, SCHEMA, messages, repair_messages
from .verdict import Opinion, summed

NEXT = "\n\n[asked again]\n\n"  # between the replies that made one opinion


class PairwiseClient(Client):
    """Asks a chat which of two images is better, and why. No failure, refusal or unreadable reply prefers anything.

    votes: replies to each question, drawn at ``temperature``. What more than half of them say is the opinion, and their
    share its confidence; a vote that failed is counted for nobody.
    threshold: the share below which the opinion is undecided.
    """

    def __init__(
        self, chat: Chat, *, votes: int = 1, temperature: float = 0.7, threshold: float = 0.0
    ):
        self.chat: Chat = chat
        self.votes = votes
        self.temperature, self.threshold = temperature, threshold
        drawn = f":votes={votes}:at={temperature}:threshold={threshold}" if votes > 1 else ""
        self.identity = f"{chat.identity}:reasons={REASONS_VERSION}{drawn}"

    async def answer(self, question: Question) -> Opinion:
        asked = messages(question)
        if self.votes == 1:
            return await self._opinion(asked, RequestOptions(SCHEMA))
        options = [RequestOptions(SCHEMA, self.temperature, seed) for seed in range(self.votes)]
        votes = await asyncio.gather(*(self._opinion(asked, each) for each in options))
        return _majority(votes, self.threshold)

    async def _opinion(self, asked: list[dict[str, Any]], options: RequestOptions) -> Opinion:
        reply, opinion = await self._ask(asked, options)
        if reply.failure or not opinion.failure:
            return opinion
        repair = repair_messages(asked, reply.text, opinion.failure)
        _, second = await self._ask(repair, options)
        failure = f"{opinion.failure}; asked once more: {second.failure}" if second.failure else ""
        latency_s = opinion.latency_s + second.latency_s
        return replace(_sum(second, [opinion, second], latency_s), failure=failure)

    async def _ask(self, asked: Messages, options: RequestOptions) -> tuple[Reply, Opinion]:
        reply = await self.chat.complete(asked, options)
        if reply.failure:
            return reply, Opinion(None, failure=reply.failure, **spent(reply))
        opinion = replace(read_reply(reply.text, cut=reply.cut), **spent(reply))
        if opinion.failure and reply.cut:
            failure = f"{opinion.failure}, cut off; the profile's max_tokens may be too small"
            opinion = replace(opinion, failure=failure)
        return reply, opinion


def spent(reply: Reply) -> dict[str, Any]:
    """What a reply took, as fields of its opinion."""
    return {"tokens": reply.tokens, "cost": reply.cost, "latency_s": reply.latency_s}


def _sum(opinion: Opinion, parts: Sequence[Opinion], latency_s: float) -> Opinion:
    """The opinion with the cost of all its parts; their replies stay readable for an audit."""
    replies = NEXT.join(part.reply for part in parts)
    return replace(opinion, reply=replies, latency_s=latency_s, **summed(parts))


def _majority(votes: Sequence[Opinion], threshold: float) -> Opinion:
    failures = [vote.failure for vote in votes if vote.failure]
    count = Counter(vote.preferred for vote in votes if not vote.failure)
    tally = f"{count[0]} votes for the first, {count[1]} for the second, {count[None]} for neither"
    opinion = Opinion(None, tally, threshold=threshold)
    agreeing = [
        vote for vote in votes if not vote.failure and count[vote.preferred] > len(votes) / 2
    ]
    if agreeing:
        example, share = agreeing[0], len(agreeing) / len(votes)
        opinion = replace(opinion, findings=example.findings, confidence=share)
        if example.preferred is not None and share < threshold:
            opinion = replace(opinion, reason=f"{tally}, less than {threshold:.0%}")
        else:
            reason = f"{tally}: {example.reason}"
            opinion = replace(opinion, preferred=example.preferred, reason=reason)
    elif failures:
        failure = f"{len(failures)} of {len(votes)} votes failed: {failures[0]}"
        opinion = replace(opinion, reason="", failure=failure)
    return _sum(opinion, votes, max(vote.latency_s for vote in votes))
