"""A small mind that writes rubrics and judges by them: it sees how bright pictures are, and reads what it is asked.

Left alone it takes the brighter of two pictures for the better one. Under criteria it does what they say, and where they
say nothing about light it takes the first. As a writer it knows better the more it is told: a prompt says how many
refinements it needs ("hard 2"), or that it never learns ("hopeless"), or first writes a comparison ("comparing").
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image, ImageStat

from arr_core.judging import Judge
from arr_core.judging.chat import Chat, Reply
from arr_core.judging.pairwise import PairwiseClient
from arr_core.rubrics import BUILT_IN
from arr_core.rubrics.pipeline import from_pairs
from arr_core.rubrics.prompts import Assignment

FILLERS = (
    "The thing that the prompt names is there.",
    "The frame is whole.",
    "Nothing is written on it.",
    "It is sharp.",
)
VAGUE = tuple(f"The picture has quality number {number}." for number in range(1, 9))
COMPARING = "It looks better than the other image."


def answer(text: str, pictures: Mapping[str, Image.Image]) -> str:
    """The reply to all the text and the labelled pictures of a question."""
    if "PREFERRED" in pictures:
        return _write(text, pictures)
    if "FIRST" in pictures:
        return _judge(text, pictures)
    return _structure(text)


def light(image: Image.Image) -> float:
    return ImageStat.Stat(image.convert("L")).mean[0]


def _write(text: str, pictures: Mapping[str, Image.Image]) -> str:
    word = "dark" if light(pictures["PREFERRED"]) < light(pictures["OTHER"]) else "bright"
    right = f"The picture is {word}."
    known = [line for line in (*VAGUE, COMPARING) if f"1. {line}" in text]
    told = len(known) and (known[0] == COMPARING or VAGUE.index(known[0]) + 1)
    if "comparing" in text and not known:
        right = COMPARING
    elif "hopeless" in text or (need := re.search(r"hard (\d)", text)) and told < int(need[1]):
        right = VAGUE[int(told)]
    return json.dumps({"reason": f"the {word} one was liked", "criteria": [right, *FILLERS]})


def _judge(text: str, pictures: Mapping[str, Image.Image]) -> str:
    first, second = light(pictures["FIRST"]), light(pictures["SECOND"])
    criteria = text.partition("The criteria:\n")[2].partition("\n[data ")[0]
    if any(rubric.text in criteria for rubric in BUILT_IN.values()):
        criteria = ""  # they say nothing about light
    brighter = "tie" if first == second else "first" if first > second else "second"
    darker = {"first": "second", "second": "first"}.get(brighter, "tie")
    preferred = "first"
    if "dark" in criteria:
        preferred = darker
    elif "bright" in criteria or not criteria:
        preferred = brighter
    finding = {"first": f"light {first:.0f}", "second": f"light {second:.0f}"}
    findings = [{"criterion": 1, **finding, "better": preferred}]
    findings.append({"criterion": 2, **finding, "better": "tie"})
    return json.dumps(
        {"findings": findings, "reason": f"{preferred} by its light", "preferred": preferred}
    )


def _structure(text: str) -> str:
    _, _, given = text.partition("Reply with one JSON object and nothing else.")  # the last rule
    lines = list(dict.fromkeys(re.findall(r"^- (.+)$", given, re.MULTILINE)))
    about = [line for line in lines if "dark" in line or "bright" in line]
    rest = [line for line in lines if line not in about]
    light = {"theme": "Light", "tips": about or ["The picture is bright."]}
    return json.dumps({"themes": [light, {"theme": "The rest", "tips": rest[:4]}]})


class ScriptedChat(Chat):
    """A chat in this process that answers by ``answer``; what it is asked is kept in ``asked`` as (text, labels)."""

    identity = "scripted"

    def __init__(self, said: Callable[[str, Mapping[str, Image.Image]], Any] = answer):
        self.said, self.asked, self.seeds, self.closed = said, [], [], False

    async def complete(self, messages, options=None) -> Reply:
        text, pictures, label = "", {}, ""
        for message in messages:
            content = message["content"]
            if isinstance(content, str):
                content = [{"type": "text", "text": content}]
            for part in content:
                if part["type"] == "image":
                    pictures[label] = part["image"]
                else:
                    text, label = f"{text}{part['text']}\n", re.split(r"\W", part["text"])[0]
        self.asked.append((text, tuple(pictures)))
        self.seeds.append(options and options.seed)
        reply = self.said(text, pictures)
        return reply if isinstance(reply, Reply) else Reply(reply, tokens=10, cost=0.001)

    async def close(self) -> None:
        self.closed = True


def make_rubric(pairs, chat: Chat, *, folder, task="t2i", **options):
    """What comes of labelled pairs where one chat writes and judges."""
    folder.mkdir(parents=True, exist_ok=True)
    client = PairwiseClient(chat)
    with Judge(client, BUILT_IN[task], store=folder / "verdicts.sqlite") as judge:
        work = from_pairs(pairs, judge, chat, Assignment(task), folder=folder, **options)
        return judge.runner.run(work)
