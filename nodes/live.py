"""What a node shows and hears while it works: text and pictures on it, and the wish to stop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import comfy.model_management
import comfy.utils

POLL_S = 0.1
LARGEST = 960  # pixels of a picture that is shown on a node: as wide as our plots, which are not drawn anew then


class Live:
    """A node's bar, picture and line of text. ``node_id`` is ``cls.hidden.unique_id``."""

    def __init__(self, node_id: str, total: int = 1):
        self.node_id, self.text = node_id, ""
        self.bar = comfy.utils.ProgressBar(total, node_id=node_id)

    def say(self, text: str) -> None:
        """Show text below the node's widgets. A page may take it for HTML (0.3.75's does, unchecked), and judges, prompts and
        workflows of strangers have their words in it: no tag can begin."""
        from server import PromptServer

        self.text = text = text.replace("<", "‹")
        PromptServer.instance.send_progress_text(text, self.node_id)

    def show(self, done: int, total: int, picture=None) -> None:
        """Move the bar, and show a PIL picture. Raises the interruption if the user pressed Cancel."""
        preview = None if picture is None else ("JPEG", picture, LARGEST)
        self.bar.update_absolute(done, max(1, total), preview)


def asked(chat, work: Coroutine, tell: Callable[[], Any] = lambda: None) -> Any:
    """What a coroutine that asks ``chat`` returns, on a loop of its own; Cancel is heard at once, whatever a server does."""
    loop = asyncio.new_event_loop()

    def run() -> None:
        loop.run_forever()
        loop.close()

    threading.Thread(target=run, name="asking", daemon=True).start()

    async def all_of_it():
        try:
            return await work
        finally:
            await chat.close()

    async def end():
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
        loop.stop()

    try:
        return wait(asyncio.run_coroutine_threadsafe(all_of_it(), loop), tell=tell)
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop)


def wait(
    future: Future, stop: Callable[[], Any] = lambda: None, tell: Callable[[], Any] = lambda: None
) -> Any:
    """The future's result. ``tell`` is called meanwhile; when the user presses Cancel, ``stop`` is, and it raises that."""
    while not future.done():
        try:
            comfy.model_management.throw_exception_if_processing_interrupted()
            tell()
        except comfy.model_management.InterruptProcessingException:
            stop()
            future.cancel()
            raise
        time.sleep(POLL_S)
    return future.result()
