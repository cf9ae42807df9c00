"""The judge's question about a pair in both orders, asked without the label: verification is judging, word for word."""
from __future__ import annotations

import asyncio
from typing import Any

from ..judging.judge import Pair
from ..judging.parsing import read_reply
from ..judging.prompts import FORM, SCHEMA, SYSTEM
from ..judging.verdict import Opinion, Verdict, combine
from .asking import Asker, NoAnswer
from .rubric import Rubric


async def compare(asker: Asker, pair: Pair, rubric: Rubric | None) -> Verdict:
    """The verdict of both orders under a rubric, or under none. A question without an answer fails, and decides nothing."""
    shown = ((pair.image_a, pair.image_b), (pair.image_b, pair.image_a))
    return combine(tuple(await asyncio.gather(*(_opinion(asker, pair, rubric, *images) for images in shown))))


async def _opinion(asker: Asker, pair: Pair, rubric: Rubric | None, first, second) -> Opinion:
    try:
        return await asker.ask(_messages(pair, rubric, first, second), SCHEMA, _read)
    except NoAnswer as error:
        return Opinion(None, failure=str(error) or "no answer")


def _read(reply: str) -> Opinion:
    opinion = read_reply(reply)
    if opinion.failure:
        raise ValueError(opinion.failure)
    return opinion


def _messages(pair: Pair, rubric: Rubric | None, first, second) -> list[dict[str, Any]]:
    asked = "edit instruction" if pair.source is not None else "prompt"
    criteria = f"\n\nThe criteria:\n{rubric.text}" if rubric else ""
    shown = [("FIRST", first), ("SECOND", second)]
    if pair.source is not None:
        shown.insert(0, ("BASE (the source: for comparison, never ranked)", pair.source))
    content: list[dict[str, Any]] = [{"type": "text", "text": f"The {asked}:\n{pair.prompt}{criteria}"}]
    for label, image in shown:
        content += [{"type": "text", "text": f"{label}:"}, {"type": "image", "image": image}]
    over = "Over all criteria jointly, which" if rubric else "Which"
    content.append({"type": "text", "text": (
        f"{over} of FIRST and SECOND answers the {asked} better? Reply in this form:\n{FORM}")})
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]
