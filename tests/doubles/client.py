"""A judge's client that answers as it is told, in this process."""

from __future__ import annotations

from arr_core.judging import Opinion


class Scripted:
    """Answers each question with ``choose(question)``, a place, None or an Opinion, and keeps what it was asked."""

    identity = "scripted"

    def __init__(self, choose):
        self.choose, self.asked = choose, []

    async def ask(self, questions):
        self.asked += questions
        answers = [self.choose(question) for question in questions]
        return [
            answer if isinstance(answer, Opinion) else Opinion(answer, "as scripted")
            for answer in answers
        ]
