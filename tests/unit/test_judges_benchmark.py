"""The judge of benchmarks/judges.py: its bias is what it says, swapping cancels it, and it knows only its messages."""

from __future__ import annotations

import asyncio
import math

import pytest
from doubles.client import ask
from PIL import Image

from arr_core.judging import Judge
from arr_core.judging.chat import RequestOptions
from arr_core.judging.client import Question
from arr_core.judging.logits import LogitsClient
from arr_core.judging.pairwise import PairwiseClient
from arr_core.judging.prompts import messages, repair_messages
from arr_core.rubrics import BUILT_IN
from benchmarks.judges import BIAS, RUBRICS, TEMPERATURE, PlantedChat, read

PROMPT = "a red circle left of a blue square"
GREY, DARK, LIGHT = (Image.new("RGB", (8, 8), (level,) * 3) for level in (128, 100, 160))


class Brightness:
    """A model for which every criterion is met as far as the picture is bright."""

    def criterion_scores(self, pictures, prompts, criteria):
        return [[picture[0].getpixel((0, 0))[0] / 255] * len(criteria) for picture in pictures]


def question(first: Image.Image, second: Image.Image, rubric=RUBRICS["with"]) -> Question:
    return Question(PROMPT, first, second, None, rubric)


def planted(bias: float, grain: float = 0) -> PlantedChat:
    return PlantedChat(Brightness(), bias=bias, grain=grain)


def log_odds(chat: PlantedChat, first: Image.Image, second: Image.Image) -> float:
    return ask(LogitsClient(chat), question(first, second))[0].log_odds


def firsts(chat: PlantedChat, first: Image.Image, second: Image.Image, count: int = 4000) -> float:
    """The share of replies in words, each with a seed of its own, that name the first."""

    async def draw():
        asked = messages(question(first, second))
        return [await chat.complete(asked, RequestOptions(seed=seed)) for seed in range(count)]

    return sum('"preferred": "first"' in reply.text for reply in asyncio.run(draw())) / count


def test_equal_pictures_have_the_log_odds_that_were_planted():
    for bias in (-0.5, 0.0, BIAS):
        assert log_odds(planted(bias), GREY, GREY.copy()) == pytest.approx(bias)


def test_swapping_cancels_the_bias_and_leaves_the_difference_of_the_scores():
    chat = planted(BIAS)
    there, back = log_odds(chat, LIGHT, DARK), log_odds(chat, DARK, LIGHT)
    assert (there + back) / 2 == pytest.approx(BIAS)
    assert (there - back) / 2 == pytest.approx((160 - 100) / 255 / TEMPERATURE)


@pytest.mark.parametrize("first, second", [(GREY, GREY), (LIGHT, DARK), (DARK, LIGHT)])
def test_words_are_drawn_from_the_probability_that_logits_state(first, second):
    chat = planted(BIAS)
    stated = 1 / (1 + math.exp(-log_odds(chat, first, second)))
    deviation = math.sqrt(stated * (1 - stated) / 4000)
    assert firsts(chat, first, second) == pytest.approx(stated, abs=3 * deviation)


def test_votes_differ_and_the_same_question_at_the_same_seed_does_not():
    def verdict():
        client = PairwiseClient(planted(0), votes=51)
        with Judge(client, RUBRICS["with"]) as judge:
            return judge.compare(PROMPT, GREY, LIGHT)

    one, again = verdict(), verdict()
    for opinion, same in zip(one.opinions, again.opinions, strict=True):
        assert opinion.reply == same.reply and 0.5 < opinion.confidence < 1


def test_grain_is_the_same_at_every_look_and_differs_between_pictures():
    scores = [
        planted(0, grain=30).scores(PROMPT, ("bright",), picture)
        for picture in (GREY, GREY.copy(), Image.new("RGB", (8, 8), (128, 128, 129)))
    ]
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.parametrize(
    "rubric", [*RUBRICS.values(), BUILT_IN["t2i"]], ids=lambda rubric: rubric.name
)
def test_it_reads_prompt_criteria_and_pictures_from_the_messages(rubric):
    asked = messages(question(LIGHT, DARK, rubric))
    assert read(asked) == (PROMPT, rubric.statements, [LIGHT, DARK])
    assert read(repair_messages(asked, "what?", "no JSON")) == read(asked)
