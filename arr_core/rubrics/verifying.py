"""The judge's own question about a pair in both orders, without the label: verification is judging, word for word."""

from __future__ import annotations

import asyncio

from ..judging.client import Question
from ..judging.judge import Pair
from ..judging.parsing import read_reply
from ..judging.prompts import SCHEMA, messages
from ..judging.verdict import Opinion, Verdict, combine
from .asking import Asker, NoAnswer
from .rubric import Rubric


async def compare(asker: Asker, pair: Pair, rubric: Rubric) -> Verdict:
    """The verdict of both orders under a rubric. A question without an answer fails, and decides nothing."""
    questions = [
        Question(pair.prompt, *shown, pair.source, rubric)
        for shown in ((pair.image_a, pair.image_b), (pair.image_b, pair.image_a))
    ]
    return combine(
        tuple(await asyncio.gather(*(_opinion(asker, question) for question in questions)))
    )


async def _opinion(asker: Asker, question: Question) -> Opinion:
    try:
        return await asker.ask(messages(question), SCHEMA, _read)
    except NoAnswer as error:
        return Opinion(None, failure=str(error) or "no answer")


def _read(reply: str) -> Opinion:
    opinion = read_reply(reply)
    if opinion.failure:
        raise ValueError(opinion.failure)
    return opinion
