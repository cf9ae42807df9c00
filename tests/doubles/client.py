"""A judge's client that answers as it is told, in this process."""

from __future__ import annotations

import asyncio

from PIL import Image

from arr_core.judging import Opinion, Pair
from arr_core.judging.client import Client, GroupClient, Question
from arr_core.rubrics import Rubric

RUBRIC = Rubric(name="light", task="t2i", criteria=("The image is bright.",))
FAILED = Opinion(None, failure="HTTP 500")


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


def grey(level: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (level, level, level))


def level(image: Image.Image) -> int:
    """The red of the first pixel."""
    return image.getpixel((0, 0))[0]


def bright_first(count: int) -> list[Pair]:
    """Pairs of different prompts; image a is the brighter one."""
    return [Pair(f"prompt {number}", grey(200), grey(100)) for number in range(count)]


def always_first(question: Question) -> int:
    return 0


def brighter(question: Question) -> int | None:
    """The place of the brighter image: a judge that makes no mistake."""
    first, second = level(question.first), level(question.second)
    return None if first == second else int(second > first)


def ask(client: Client, *questions: Question) -> list[Opinion]:
    """The client's opinions."""

    async def answers() -> list[Opinion]:
        return await asyncio.gather(*client.ask(questions))

    return asyncio.run(answers())
