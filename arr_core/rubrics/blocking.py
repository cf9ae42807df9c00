"""Coroutines for callers without a loop of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..judging.chat import Chat

Value = TypeVar("Value")


def blocking(chat: Chat, work: Awaitable[Value]) -> Value:
    """The result of work with a chat, which is closed at the end, since its connections end with the loop.

    Where this thread's loop runs already, as ComfyUI's does, the work gets a thread of its own.
    """

    async def all_of_it() -> Value:
        try:
            return await work
        finally:
            await chat.close()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(all_of_it())
    with ThreadPoolExecutor(1, thread_name_prefix="rubric") as thread:
        return thread.submit(asyncio.run, all_of_it()).result()
