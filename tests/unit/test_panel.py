"""A panel: who votes, what a failure and an abstention are worth, and that it stays whole in the store."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import replace

import pytest
from doubles.client import FAILED, RUBRIC, ask
from PIL import Image

from arr_core.judging import Judge, JudgeError, Opinion, Pair
from arr_core.judging.client import Client, Question
from arr_core.judging.panel import Panel
from arr_core.judging.verdict import combine

LIGHT, DARK = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")


class Member(Client):
    """Says one thing in each order of a pair: ``sees`` of the image shown first, light or dark."""

    def __init__(self, *says: Opinion | Exception, name: str = "m"):
        self.says, self.identity, self.calls = says, name, 0

    async def answer(self, question):
        self.calls += 1
        said = self.says[question.first is DARK]
        if isinstance(said, Exception):
            raise said
        return said


def question(first: Image.Image) -> Question:
    return Question("a cup", first, LIGHT, None, RUBRIC)


def prefers(place: int | None) -> Opinion:
    return Opinion(place, "seen", tokens=5, cost=0.25, latency_s=0.5)


LIKES_LIGHT = Member(prefers(0), prefers(1))
LIKES_DARK = Member(prefers(1), prefers(0))
LIKES_FIRST = Member(prefers(0), prefers(0))
TIED = Member(prefers(None), prefers(None))
FAILS = Member(FAILED, FAILED)


def verdict(*members: Member, rule: str = "majority"):
    with Judge(Panel(members, rule), RUBRIC) as judge:
        return judge.compare("a cup", LIGHT, DARK)


@pytest.mark.parametrize(
    "members, majority, unanimous",
    [
        ((LIKES_LIGHT, LIKES_LIGHT), "a", "a"),
        ((LIKES_LIGHT, LIKES_DARK), None, None),
        ((LIKES_LIGHT, LIKES_FIRST), None, None),  # one of two is no majority
        ((LIKES_LIGHT, FAILS, LIKES_LIGHT), "a", None),  # a failure is no vote, for or against
        ((LIKES_LIGHT, LIKES_LIGHT, LIKES_DARK, LIKES_DARK), None, None),
    ],
)
def test_so_many_members_must_make_the_same_verdict(members, majority, unanimous):
    assert verdict(*members).preferred == majority
    assert verdict(*members, rule="unanimous").preferred == unanimous


def test_members_that_like_a_place_never_make_a_majority():
    said = verdict(LIKES_FIRST, LIKES_FIRST, LIKES_FIRST)
    assert said.preferred is None
    assert [opinion.preferred for opinion in said.opinions] == [0, 0]
    assert said.reason == "undecided: 2 of 3 judges must agree; 0 for a, 0 for b, 3 for neither"


def test_each_member_is_calibrated_by_itself():
    """By words the member by logits likes whatever stands first; by its probabilities it likes the light image."""
    biased = Member(Opinion(0, log_odds=4.0), Opinion(0, log_odds=2.0))
    said = verdict(biased, LIKES_LIGHT)
    assert (said.preferred, said.reason) == ("a", "2 of 2 judges: 73% sure")


def test_what_all_members_took_is_summed_and_they_work_side_by_side():
    said = verdict(LIKES_LIGHT, LIKES_DARK, LIKES_LIGHT)
    assert (said.tokens, said.cost, said.calls, said.latency_s) == (30, 1.5, 6, 0.5)


def test_a_member_that_can_never_answer_stops_the_panel():
    with pytest.raises(JudgeError, match="no server"):
        verdict(LIKES_LIGHT, Member(JudgeError("no server"), FAILED), LIKES_LIGHT)


def test_a_failure_that_decides_is_asked_again_and_one_that_does_not_is_remembered(tmp_path):
    for members, asked in (
        ((LIKES_LIGHT, LIKES_DARK, FAILS), 4),
        ((LIKES_LIGHT, LIKES_LIGHT, FAILS), 2),
    ):
        first = Member(*members[0].says)
        for _ in range(2):
            with Judge(Panel([first, *members[1:]]), RUBRIC, store=tmp_path / str(asked)) as judge:
                judge.compare("a cup", LIGHT, DARK)
        assert first.calls == asked


def test_the_store_gives_back_the_members_opinions(tmp_path):
    biased = Member(*(Opinion(0, log_odds=value, threshold=0.6) for value in (4.0, 2.0)))
    said = []
    for _ in range(2):
        with Judge(Panel([biased, LIKES_LIGHT]), RUBRIC, store=tmp_path / "store") as judge:
            said.append(judge.compare("a cup", LIGHT, DARK))
    asked, remembered = said
    assert biased.calls == 2 and (asked.calls, remembered.calls) == (4, 0)
    assert asked.preferred == remembered.preferred == "a"
    for one, other in zip(asked.opinions, remembered.opinions, strict=True):
        assert other == replace(one, cached=True)


def test_the_panel_is_named_by_its_members_and_its_rule():
    one, two = Member(name="one"), Member(name="two")
    assert Panel([one, two]).identity == "panel:majority:[one, two]"
    assert Panel([two, one]).identity == "panel:majority:[two, one]"
    assert Panel([one, two], "unanimous").identity == "panel:unanimous:[one, two]"


@pytest.mark.parametrize("rule", ["majority", "unanimous"])
def test_no_panel_of_three_credits_a_side_that_fewer_than_two_members_chose(rule):
    kinds = (LIKES_LIGHT, LIKES_DARK, LIKES_FIRST, TIED, FAILS)
    for members in itertools.product(kinds, repeat=3):
        opinions = [ask(Panel(members, rule), question(first))[0] for first in (LIGHT, DARK)]
        for_a, for_b = members.count(LIKES_LIGHT), members.count(LIKES_DARK)
        needed = 3 if rule == "unanimous" else 2
        assert combine(tuple(opinions)).preferred == (
            "a" if for_a >= needed else "b" if for_b >= needed else None
        )


class Spent(Member):
    """Answers so many questions, and then has nothing left."""

    def __init__(self, member: Member, answers: int):
        super().__init__(*member.says)
        self.answers = answers

    async def answer(self, question):
        if self.calls == self.answers:
            raise JudgeError("the budget is spent")
        return await super().answer(question)


def test_one_members_word_is_never_remembered_as_the_panels(tmp_path):
    def judged(first: Member):
        pairs = [Pair(f"cup {number}", LIGHT, DARK) for number in range(4)]
        panel = Panel((first, LIKES_DARK, LIKES_DARK))
        with Judge(panel, RUBRIC, store=tmp_path / "store") as judge:
            return judge.submit(pairs).result()

    with pytest.raises(JudgeError, match="budget is spent"):
        judged(Spent(LIKES_LIGHT, 3))
    verdicts = judged(LIKES_LIGHT)
    assert [found.preferred for found in verdicts] == ["b"] * 4
    remembered = [sum(opinion.cached for opinion in found.opinions) for found in verdicts]
    assert remembered == [2, 1, 0, 0]  # what all had said


class Closing(Member):
    """Takes its time to close, and may fail to."""

    def __init__(self, fault: Exception | None = None):
        super().__init__(FAILED, FAILED)
        self.fault, self.closed = fault, False

    async def close(self):
        await asyncio.sleep(0.3)
        self.closed = True
        if self.fault:
            raise self.fault


def test_members_close_side_by_side_and_all_of_them_where_one_cannot():
    members = [Closing(OSError("still in use")), *(Closing() for _ in range(9)), LIKES_LIGHT]
    start = time.monotonic()
    with pytest.raises(OSError, match="still in use"):
        asyncio.run(Panel(members).close())
    assert time.monotonic() - start < 10 * 0.3 / 2
    assert all(member.closed for member in members[:-1])
