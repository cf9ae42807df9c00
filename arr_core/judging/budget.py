"""A budget around a chat: calls, tokens and money, each with a limit that ends the work instead of the account."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .chat import Chat, Reply
from .verdict import JudgeError


@dataclass(frozen=True)
class Limits:
    """The most that one run of the program may spend; None is no limit."""

    calls: int | None = None
    tokens: int | None = None
    cost: float | None = None


class Budget:
    """A chat that stops with a JudgeError at its limits.

    Calls are questions, counted before they are asked, so their limit is exact; further attempts at one that failed are not
    counted. Tokens and money are known afterwards: what is in flight when the limit is reached is still paid, and still used.
    """

    def __init__(self, chat: Chat, limits: Limits, name: str, at_once: int = 16):
        """``at_once``: what may be asked before the first of it is paid, where tokens or money are limited."""
        self.chat, self.limits, self.name = chat, limits, name
        self.identity = chat.identity
        self.calls, self.tokens, self.cost = 0, 0, 0.0
        exact = limits.tokens is None and limits.cost is None
        self._free = contextlib.nullcontext() if exact else asyncio.Semaphore(at_once)

    async def complete(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        schema: dict[str, Any] | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        max_tokens: int | None = None,
        log_probs: bool = False,
    ) -> Reply:
        async with self._free:
            self._admit()
            self.calls += 1
            reply = await self.chat.complete(
                messages,
                schema=schema,
                temperature=temperature,
                seed=seed,
                max_tokens=max_tokens,
                log_probs=log_probs,
            )
            self.tokens += reply.tokens
            self.cost += reply.cost
        return reply

    async def close(self) -> None:
        await self.chat.close()

    def _admit(self) -> None:
        for field, spent, limit in (
            ("max_calls", self.calls, self.limits.calls),
            ("max_tokens_total", self.tokens, self.limits.tokens),
            ("max_cost", self.cost, self.limits.cost),
        ):
            if limit is not None and spent >= limit:
                raise JudgeError(
                    f"the judge profile {self.name!r} has spent {spent:g} of its {field}: {limit:g}; raise "
                    f"{field} in the file of profiles and start again: what was answered is remembered"
                )
