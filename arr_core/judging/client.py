"""What a judge asks: a ``Question`` about one order of a pair, and the ``Client`` that answers it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from ..rubrics import Rubric
from .chat import Chat
from .outage import Outage
from .verdict import Opinion


@dataclass(frozen=True)
class Question:
    """One order of a pair under a rubric: which of ``first`` and ``second`` is better?"""

    prompt: str
    first: Image.Image
    second: Image.Image
    source: Image.Image | None
    rubric: Rubric
    # Of first, second and source, where they are known: see ``pictures.image_hash``.
    hashes: tuple[bytes | None, bytes | None, bytes | None] = (None, None, None)

    def key(self, identity: str) -> str:
        """The name of this question to the client of that identity: whatever changes an answer changes it."""
        *shown, source = self.hashes
        content = (identity, self.rubric.content_hash, self.prompt, tuple(shown), source)
        return hashlib.sha256(repr(content).encode()).hexdigest()


class Client:
    """A model or a person that answers questions, each by itself.

    identity: names the model and every setting that may change an answer; it holds no key.
    chat: the model that it asks, if it asks one.
    members: the clients of a panel; each is asked, and its answers are stored, in its own name.
    hides_order: the client shuffles the two images itself, so each pair is asked in one order only.
    """

    identity: str
    hides_order: bool = False
    chat: Chat | None = None
    members: tuple[Client, ...] = ()

    @property
    def outage(self) -> Outage | None:
        """What it waits for, where it answered before and does not any more."""
        return self.chat.outage if self.chat else None

    def ask(self, questions: Sequence[Question]) -> list[asyncio.Future[Opinion]]:
        """Start to answer; one future a question, in order. A failed answer is an opinion with a ``failure``.

        A future raises JudgeError where no answer can ever come: the run ends.
        """
        return [asyncio.ensure_future(self.answer(question)) for question in questions]

    async def answer(self, question: Question) -> Opinion:
        """The answer to one question."""
        raise NotImplementedError

    def join(self, opinions: Sequence[Opinion]) -> Opinion:
        """The opinion on a question of which every member, or the client itself, gave one."""
        return opinions[0]

    async def close(self) -> None:
        """Give back what is held: connections, the model's memory."""
        if self.chat:
            await self.chat.close()


class GroupClient(Client):
    """A client that answers questions in groups: a batch of a model, a page of a person."""

    def ask(self, questions: Sequence[Question]) -> list[asyncio.Future[Opinion]]:
        group = asyncio.ensure_future(self.answer_all(questions))

        async def answer(at: int) -> Opinion:
            return (await group)[at]

        return [asyncio.ensure_future(answer(at)) for at in range(len(questions))]

    async def answer_all(self, questions: Sequence[Question]) -> list[Opinion]:
        """One opinion a question, in order."""
        raise NotImplementedError
