"""Limits of calls, tokens and money: where they stop, and what they say."""

from __future__ import annotations

import asyncio

import pytest
from doubles.chat import ScriptedChat
from doubles.openai_server import verdict
from PIL import Image

from arr_core.judging import Judge, JudgeError, Pair
from arr_core.judging.budget import Budget
from arr_core.judging.chat import RequestOptions
from arr_core.judging.pairwise import PairwiseClient
from arr_core.judging.profiles import Profile
from arr_core.rubrics import BUILT_IN

LIGHT, DARK = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")


@pytest.mark.parametrize(
    "limits, answered, said",
    [
        (
            dict(max_calls=3),
            3,
            "'box' has spent 3 of its max_calls: 3; raise max_calls in the file of profiles",
        ),
        (
            dict(max_tokens_total=25),
            3,
            "'box' has spent 30 of its max_tokens_total: 25; raise max_tokens_total in",
        ),  # 10 a reply
        (
            dict(max_cost=1.5),
            3,
            "'box' has spent 1.5 of its max_cost: 1.5; raise max_cost in",
        ),  # 0.5 a reply
        (dict(max_calls=9, max_tokens_total=10, max_cost=9.0), 1, "max_tokens_total: 10"),
    ],
)
def test_a_limit_stops_before_the_next_call_and_says_what_to_raise(limits, answered, said):
    chat = ScriptedChat(["a reply"])

    async def spend():
        budget = Budget(chat, Profile(**limits), "box")
        assert (
            budget.identity == chat.identity
        )  # a limit changes no answer: what is remembered stays known
        for _ in range(9):
            await budget.complete([], RequestOptions(max_tokens=5))

    with pytest.raises(JudgeError, match="what was answered is remembered") as caught:
        asyncio.run(spend())
    assert said in str(caught.value) and len(chat.asked) == answered
    assert chat.asked[0].options.max_tokens == 5


def test_calls_at_the_same_time_are_counted_before_they_are_made():
    chat = ScriptedChat(["a reply"])

    async def spend():
        budget = Budget(chat, Profile(max_calls=4), "box")
        return await asyncio.gather(
            *(budget.complete([]) for _ in range(10)), return_exceptions=True
        )

    said = asyncio.run(spend())
    assert [isinstance(reply, JudgeError) for reply in said] == [False] * 4 + [True] * 6
    assert len(chat.asked) == 4


def test_what_was_answered_before_the_limit_is_paid_once(tmp_path):
    pairs = [Pair(f"prompt {number}", LIGHT, DARK) for number in range(5)]
    calls = []
    for _ in range(2):
        chat = ScriptedChat([verdict("tie")])
        with Judge(
            PairwiseClient(Budget(chat, Profile(max_calls=6), "box")),
            BUILT_IN["t2i"],
            store=tmp_path / "store",
        ) as judge:
            try:
                assert len(judge.submit(pairs).result()) == 5
            except JudgeError as error:
                assert "max_calls" in str(error)
        calls.append(len(chat.asked))
    assert calls == [6, 4]  # ten questions: five pairs in both orders


@pytest.mark.parametrize("limits", [dict(max_tokens_total=95), dict(max_cost=4.9)])
def test_what_waits_is_not_asked_once_the_money_is_gone(limits):
    chat = ScriptedChat(["a reply"])  # 10 tokens and 0.5 each

    async def spend():
        budget = Budget(chat, Profile(**limits), "box", 4)
        return await asyncio.gather(
            *(budget.complete([]) for _ in range(100)), return_exceptions=True
        )

    said = asyncio.run(spend())
    assert 10 <= len(chat.asked) < 10 + 4 and sum(
        isinstance(reply, JudgeError) for reply in said
    ) == 100 - len(chat.asked)
