"""Coroutines for callers without a loop of their own."""
from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from typing import Any, TypeVar

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
    ended: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            ended.append((asyncio.run(all_of_it()), None))
        except BaseException as error:  # raised again in the thread that waits
            ended.append((None, error))

    thread = threading.Thread(target=run, name="rubric")
    thread.start()
    thread.join()
    value, error = ended[0]
    if error is not None:
        raise error
    return value
