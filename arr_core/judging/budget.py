"""A budget around a chat: limits of calls, tokens and money that end the run before the account is empty."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from .chat import Chat, Messages, Reply, RequestOptions
from .verdict import JudgeError

if TYPE_CHECKING:
    from .outage import Outage
    from .profiles import Profile


class Budget(Chat):
    """A chat that stops with a JudgeError at its profile's limits.

    Calls are questions, counted before they are asked, so their limit is exact; retries are not counted. Tokens and money
    are known afterwards: what is in flight when the limit is reached is still paid, and still used.
    """

    def __init__(self, chat: Chat, profile: Profile, name: str, concurrency: int = 16):
        """concurrency: requests in flight at most, where tokens or money are limited."""
        self.chat, self.profile, self.name = chat, profile, name
        self.identity = chat.identity
        self.calls, self.tokens, self.cost = 0, 0, 0.0
        exact = profile.max_tokens_total is None and profile.max_cost is None
        self._free = contextlib.nullcontext() if exact else asyncio.Semaphore(concurrency)

    async def complete(self, messages: Messages, options: RequestOptions | None = None) -> Reply:
        async with self._free:
            self._admit()
            self.calls += 1
            reply = await self.chat.complete(messages, options)
            self.tokens += reply.tokens
            self.cost += reply.cost
        return reply

    @property
    def outage(self) -> Outage | None:
        return self.chat.outage

    async def close(self) -> None:
        await self.chat.close()

    def _admit(self) -> None:
        for field, spent in (
            ("max_calls", self.calls),
            ("max_tokens_total", self.tokens),
            ("max_cost", self.cost),
        ):
            limit = getattr(self.profile, field)
            if limit is not None and spent >= limit:
                raise JudgeError(
                    f"the judge profile {self.name!r} has spent {spent:g} of its {field}: {limit:g}; raise "
                    f"{field} in the file of profiles and start again: what was answered is remembered"
                )
