"""The human judge: a judge's client whose questions a person answers in a page on this machine. There is no time-out."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from ..judging.client import GroupClient, Question
from ..judging.verdict import Opinion
from .queue import LabelingQueue, Task
from .server import LabelingServer

REASONS = {
    0: "a person prefers the first",
    1: "a person prefers the second",
    None: "a person finds neither better",
}


class HumanClient(GroupClient):
    """Asks a person. The page's address is printed when the client is made.

    ``hides_order``: the page draws left and right anew for every pair, so one order is enough. Answers can be taken back
    for ``undo_window_s`` seconds after the last answer of a group.
    """

    identity, hides_order = "human", True

    def __init__(self, port: int = 0, undo_window_s: float = 4.0):
        """Raises JudgeError for a port that is taken."""
        self.queue = LabelingQueue(undo_window_s)
        self.server = LabelingServer(self.queue, port)
        self.url = self.server.url
        print(f"you are the judge: open {self.url}", file=sys.stderr, flush=True)

    async def answer_all(self, questions: Sequence[Question]) -> list[Opinion]:
        """One opinion a question, in order, when the person has answered all of them. Cancelling it removes the questions."""
        tasks = [
            Task(one.prompt, one.rubric.text, (one.first, one.second), one.source)
            for one in questions
        ]
        answers = await asyncio.wrap_future(self.queue.add(tasks))
        return [Opinion(choice, REASONS[choice], latency_s=seconds) for choice, seconds in answers]

    async def close(self) -> None:
        """Tell the page that the run has ended, and end the server."""
        self.queue.close()
        await asyncio.to_thread(self.server.close)
