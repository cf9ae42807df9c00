"""One question to a chat model at a time, whose readable replies are remembered: a job that was killed pays nothing twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from ..judging.chat import Chat, RequestOptions
from ..judging.prompts import once_more

Value = TypeVar("Value")
TRIES = 2  # of a question whose reply cannot be read


class NoAnswer(Exception):
    """A question that got no readable reply. It says why; the job goes on with its other questions."""


class Asker:
    """Asks a chat model, and keeps every reply that could be read in ``path``, one JSON object a line.

    A line is written when the reply is there and nothing is ever rewritten, so that a killed process loses only what was
    in flight; half a line at the end of the file is skipped. Failed and unreadable replies are asked for again.
    """

    def __init__(self, chat: Chat, path: Path | None = None):
        self.chat, self.path = chat, path
        self.calls = self.tokens = self.remembered = 0
        self.cost = 0.0
        self._replies = dict(_lines(path)) if path else {}

    async def ask(
        self,
        messages: Sequence[dict[str, Any]],
        schema: dict[str, Any],
        read: Callable[[str], Value],
        *,
        seed: int = 0,
    ) -> Value:
        """What ``read`` makes of the reply; it raises ValueError for a reply that says nothing. Raises NoAnswer."""
        # On a thread, as large pictures take some milliseconds, in which the loop has replies to take.
        key = await asyncio.to_thread(question_key, self.chat.identity, messages, seed)
        if key in self._replies:
            self.remembered += 1
            return read(self._replies[key])
        reason, asked = "", list(messages)
        for attempt in range(TRIES):
            reply = await self.chat.complete(
                asked, RequestOptions(schema, seed=seed + 1000 * attempt)
            )
            self.calls, self.tokens, self.cost = (
                self.calls + 1,
                self.tokens + reply.tokens,
                self.cost + reply.cost,
            )
            if reply.failure:
                raise NoAnswer(reply.failure)  # the chat itself has tried often enough
            try:
                value = read(reply.text)
            except ValueError as error:
                reason = f"{error}{', cut off at the token limit' if reply.cut else ''}"
                asked = [*messages, *once_more(reply.text, reason)]
            else:
                self._remember(key, reply.text)
                return value
        raise NoAnswer(reason)

    def _remember(self, key: str, text: str) -> None:
        self._replies[key] = text
        if self.path:
            append_line(self.path, {"key": key, "text": text})


def question_key(identity: str, messages: Sequence[dict[str, Any]], seed: int) -> str:
    """A name of the question by its content: model, texts, pixels and seed."""
    digest = hashlib.sha256(repr((identity, seed)).encode("utf-8", "backslashreplace"))
    for message in messages:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            image: Image.Image | None = part.get("image")
            said = repr((message["role"], part.get("text") if image is None else image.size))
            digest.update(
                said.encode("utf-8", "backslashreplace")
                + (b"" if image is None else image.tobytes())
            )
    return digest.hexdigest()


def append_line(path: Path, content: dict[str, Any]) -> None:
    """Adds one JSON object and its line end at once, on a line of its own even after half a line."""
    line = json.dumps(content, ensure_ascii=True) + "\n"
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            line = line if file.read(1) == b"\n" else f"\n{line}"
        file.write(line.encode())


def _lines(path: Path) -> list[tuple[str, str]]:
    """Keys and replies of the lines that are whole."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            content = json.loads(line)
            found.append((str(content["key"]), str(content["text"])))
        except (ValueError, KeyError, TypeError):
            continue
    return found
