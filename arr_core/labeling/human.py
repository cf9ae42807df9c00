"""The human judge: the client's seam, answered by a person in a page on this machine. Nobody waits for nobody: no time-out."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from ..judging.judge import Question
from ..judging.verdict import Opinion
from .queue import Card, Choice, Desk
from .server import DeskServer

TOLD = {
    0: "a person prefers the first",
    1: "a person prefers the second",
    None: "a person finds neither better",
}


class HumanClient:
    """Lays questions before a person, who answers in a browser; the page's address is printed when the client is made.

    ``hides_order``: the page draws left and right anew for every pair, so one order is enough. What is answered can be
    taken back for ``settle_s`` seconds after the last answer of a group.
    """

    identity, hides_order = "human", True

    def __init__(self, port: int = 0, settle_s: float = 4.0):
        """Raises JudgeError for a port that is taken."""
        self.desk = Desk(settle_s=settle_s)
        self.server = DeskServer(self.desk, port)
        self.url = self.server.url
        print(f"you are the judge: open {self.url}", file=sys.stderr, flush=True)

    async def ask(self, questions: Sequence[Question]) -> list[Opinion]:
        """One opinion a question, in order, when the person has answered all of them."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[list[tuple[Choice, float]]] = loop.create_future()

        def done(answers: list[tuple[Choice, float]]) -> None:
            loop.call_soon_threadsafe(lambda: answered.done() or answered.set_result(answers))

        take_away = self.desk.add([_card(question) for question in questions], done)
        try:
            return [
                Opinion(choice, TOLD[choice], latency_s=seconds)
                for choice, seconds in await answered
            ]
        except asyncio.CancelledError:
            take_away()
            raise

    async def close(self) -> None:
        """Tell the page that the run has ended, and end the server."""
        self.desk.close()
        await asyncio.to_thread(self.server.close)


def _card(question: Question) -> Card:
    source = question.source
    return Card(
        question.prompt,
        question.rubric.text,
        (lambda: question.first, lambda: question.second),
        None if source is None else lambda: source,
    )
