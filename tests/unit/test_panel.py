"""A panel: who votes, what a failure and an abstention are worth, and that it stays whole in the store."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from dataclasses import replace

import pytest
from doubles.client import FAILED, RUBRIC
from PIL import Image

from arr_core.judging import Judge, JudgeError, Opinion
from arr_core.judging.client import Client
from arr_core.judging.panel import Panel
from arr_core.judging.verdict import combine

LIGHT, DARK = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")


class Member(Client):
    """Says one thing in each order of a pair: ``sees`` of the image shown first, light or dark."""

    numbers = itertools.count()

    def __init__(self, *says: Opinion | Exception, name: str = ""):
        self.says, self.identity, self.calls = says, name or f"member {next(self.numbers)}", 0

    async def answer(self, question):
        self.calls += 1
        said = self.says[question.first is DARK]
        if isinstance(said, Exception):
            raise said
        return said


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
    said = verdict(LIKES_LIGHT, LIKES_DARK, Member(*LIKES_LIGHT.says))
    assert (said.tokens, said.cost, said.calls, said.latency_s) == (30, 1.5, 6, 0.5)


def test_a_member_that_can_never_answer_stops_the_panel():
    with pytest.raises(JudgeError, match="no server"):
        verdict(LIKES_LIGHT, Member(JudgeError("no server"), FAILED), LIKES_LIGHT)


@pytest.mark.parametrize("second", [LIKES_DARK, LIKES_LIGHT])
def test_only_the_member_that_failed_is_asked_again(tmp_path, second):
    sound, failing = Member(*LIKES_LIGHT.says), Member(FAILED, FAILED)
    for _ in range(2):
        with Judge(Panel([sound, second, failing]), RUBRIC, store=tmp_path / "store") as judge:
            said = judge.compare("a cup", LIGHT, DARK)
    assert (sound.calls, failing.calls, said.calls) == (2, 4, 2)


def test_a_members_answer_is_kept_in_its_own_name(tmp_path):
    member = Member(*LIKES_LIGHT.says)
    for client in (Panel([member, LIKES_DARK]), member, Panel([member, FAILS], "unanimous")):
        with Judge(client, RUBRIC, store=tmp_path / "store") as judge:
            judge.compare("a cup", LIGHT, DARK)
    assert member.calls == 2


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
        members = tuple(replace(member, cached=True) for member in one.members)
        assert other == replace(one, cached=True, members=members)


def test_the_panel_is_named_by_its_members_and_its_rule():
    one, two = Member(name="one"), Member(name="two")
    assert Panel([one, two]).identity == "panel:majority:[one, two]"
    assert Panel([two, one]).identity == "panel:majority:[two, one]"
    assert Panel([one, two], "unanimous").identity == "panel:unanimous:[one, two]"


@pytest.mark.parametrize("rule", ["majority", "unanimous"])
def test_no_panel_of_three_credits_a_side_that_fewer_than_two_members_chose(rule):
    kinds = (LIKES_LIGHT, LIKES_DARK, LIKES_FIRST, TIED, FAILS)
    for members in itertools.product(kinds, repeat=3):
        panel = Panel(members, rule)
        opinions = [panel.join([member.says[place] for member in members]) for place in (0, 1)]
        for_a, for_b = members.count(LIKES_LIGHT), members.count(LIKES_DARK)
        needed = 3 if rule == "unanimous" else 2
        assert combine(tuple(opinions)).preferred == (
            "a" if for_a >= needed else "b" if for_b >= needed else None
        )


def test_a_member_that_can_never_answer_costs_the_others_nothing_twice(tmp_path):
    sound = Member(*LIKES_DARK.says)
    for last in (Member(JudgeError("no credit"), JudgeError("no credit")), LIKES_DARK):
        with (
            Judge(Panel([sound, last]), RUBRIC, store=tmp_path / "store") as judge,
            contextlib.suppress(JudgeError),
        ):
            said = judge.compare("a cup", LIGHT, DARK)
    assert (said.preferred, sound.calls, said.calls) == ("b", 2, 2)


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
