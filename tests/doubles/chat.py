"""A chat that replies as it is told, in this process: for what a judge makes of replies, thousands at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from arr_core.judging.chat import Chat, Reply, RequestOptions


@dataclass(frozen=True)
class Asked:
    """One call: the messages and the options that came with them."""

    messages: Sequence[dict[str, Any]]
    options: RequestOptions

    @property
    def text(self) -> str:
        """Every text of every message."""
        return "\n".join(
            part["text"]
            for message in self.messages
            for part in (
                [{"text": message["content"]}]
                if isinstance(message["content"], str)
                else message["content"]
            )
            if "text" in part
        )

    @property
    def pictures(self) -> list[Image.Image]:
        """The pictures, in the order in which they are shown."""
        return [
            part["image"]
            for message in self.messages
            if not isinstance(message["content"], str)
            for part in message["content"]
            if part["type"] == "image"
        ]

    @property
    def repair(self) -> bool:
        """Whether this is the question after a reply that could not be read."""
        return self.messages[-2]["role"] == "assistant"


@dataclass
class ScriptedChat(Chat):
    """``answer`` makes a reply (or its text, or an error to raise) of what is asked, or is replayed, its last for ever."""

    answer: Callable[[Asked], Reply | str | BaseException] | Sequence[Reply | str | BaseException]
    identity: str = "scripted"
    asked: list[Asked] = field(default_factory=list)
    closed: bool = False

    async def complete(self, messages, options=None) -> Reply:
        asked, number = Asked(messages, options or RequestOptions()), len(self.asked)
        self.asked.append(asked)
        await asyncio.sleep(0)
        said = (
            self.answer(asked)
            if callable(self.answer)
            else self.answer[min(number, len(self.answer) - 1)]
        )
        if isinstance(said, BaseException):
            raise said
        return said if isinstance(said, Reply) else Reply(said, tokens=10, cost=0.5, latency_s=0.25)

    async def close(self) -> None:
        self.closed = True
