"""A judge's client that answers as it is told, in this process."""

from __future__ import annotations

import asyncio

from arr_core.judging import Opinion
from arr_core.judging.client import Client, GroupClient, Question


class Scripted(GroupClient):
    """Answers each question with ``choose(question)``, a place, None or an Opinion, and keeps what it was asked."""

    identity = "scripted"

    def __init__(self, choose):
        self.choose, self.asked = choose, []

    async def answer_all(self, questions):
        self.asked += questions
        answers = [self.choose(question) for question in questions]
        return [
            answer if isinstance(answer, Opinion) else Opinion(answer, "as scripted")
            for answer in answers
        ]


def ask(client: Client, *questions: Question) -> list[Opinion]:
    """The client's opinions."""

    async def answers() -> list[Opinion]:
        return await asyncio.gather(*client.ask(questions))

    return asyncio.run(answers())
