"""Waiting out a judge that answered before and does not any more: one wait for all of its questions, with growing pauses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .server_errors import Fault
from .verdict import JudgeError

FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 300.0  # less than what processes of one run wait for each other


@dataclass(frozen=True)
class Outage:
    """A judge that does not answer: why, since when, when it is tried next and when it is given up (``time.time``)."""

    reason: str
    since: float
    next_try: float
    gives_up: float


class Patience:
    """Waits for one judge, so many hours at most. ``outage`` is what it waits for, None while the judge answers."""

    def __init__(self, hours: float):
        self.hours = hours
        self.outage: Outage | None = None
        self._wait: asyncio.Task[None] | None = None

    async def join(self) -> None:
        """Wait with those that wait, if any do. Raises JudgeError where the judge is given up."""
        if self._wait is not None:
            await asyncio.shield(self._wait)

    async def wait(self, reason: str, attempt: Callable[[], Awaitable[object]]) -> None:
        """Wait until ``attempt``, a request that was answered before, raises no Fault any more. Raises JudgeError."""
        if self._wait is None:
            self._wait = asyncio.ensure_future(self._try_until_answered(reason, attempt))
            self._wait.add_done_callback(self._end)
        await self.join()

    async def _try_until_answered(
        self, reason: str, attempt: Callable[[], Awaitable[object]]
    ) -> None:
        since, pause = time.time(), FIRST_PAUSE_S
        gives_up = since + 3600 * self.hours
        while (now := time.time()) < gives_up:
            self.outage = Outage(reason, since, min(now + pause, gives_up), gives_up)
            await asyncio.sleep(self.outage.next_try - now)
            try:
                await attempt()
                return
            except Fault as fault:
                reason, pause = str(fault), min(2 * pause, LONGEST_PAUSE_S)
        raise JudgeError(
            f"the judge has not answered for {self.hours:g} hours ({reason}); see that it answers, then go on: what was "
            "answered is remembered"
        )

    def _end(self, wait: asyncio.Task[None]) -> None:
        self._wait = self.outage = None
        if not wait.cancelled():
            wait.exception()  # seen, even where nobody waits any more
