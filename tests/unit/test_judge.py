"""The pairwise judge with scripted clients: orders, abstention, and what is asked once."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest
from doubles.client import FAILED, RUBRIC, Scripted, always_first, brighter, grey, level
from PIL import Image

from arr_core.judging import Judge, JudgeError, Opinion, Pair
from arr_core.judging.client import Client
from arr_core.judging.pictures import image_hash
from arr_core.judging.store import VerdictStore, thumbnail
from arr_core.rubrics import Rubric

PAIR = Pair("a cup", grey(200), grey(100))
DARK = Rubric(name="light", task="t2i", criteria=("It is dark.",))


def judge(choose, **settings) -> Judge:
    return Judge(Scripted(choose), RUBRIC, **settings)


def pairs(count: int) -> list[Pair]:
    """Pairs that differ from one another; a is the brighter one where the number is even."""
    bright, dark = PAIR.image_a, PAIR.image_b
    return [
        Pair(f"prompt {n}", *((dark, bright) if n % 2 else (bright, dark))) for n in range(count)
    ]


def preferred(verdicts) -> list[str | None]:
    return [verdict.preferred for verdict in verdicts]


@pytest.mark.parametrize(
    "choose, sides, reason, first_picks",
    [
        (always_first, [None, None], "undecided: the two orders disagree", 100),
        (brighter, ["a", "b"], "as scripted", 50),
    ],
)
def test_a_preference_for_a_place_decides_nothing_and_a_perfect_judge_everything(
    choose, sides, reason, first_picks
):
    with judge(choose) as it:
        verdicts = it.submit(pairs(50)).result()
    assert preferred(verdicts) == sides * 25
    assert not any(verdict.failed for verdict in verdicts)
    assert {verdict.reason for verdict in verdicts} == {reason}
    places = [opinion.preferred for verdict in verdicts for opinion in verdict.opinions]
    assert places.count(0) == first_picks


def test_in_one_order_a_judge_that_names_the_first_always_prefers_a():
    with judge(always_first, both_orders=False) as it:
        assert preferred(it.submit(pairs(10)).result()) == ["a"] * 10
        assert len(it.client.asked) == 10


def test_a_client_that_hides_the_order_is_asked_once():
    client = Scripted(brighter)
    client.hides_order = True
    with Judge(client, RUBRIC) as it:
        assert preferred(it.submit(pairs(4)).result()) == ["a", "b", "a", "b"]
        assert len(client.asked) == 4


@pytest.mark.parametrize(
    "choose", [always_first, lambda question: 1, brighter, lambda question: None]
)
def test_swapping_the_images_swaps_the_verdict_and_equal_ones_are_undecided(choose):
    mirror = {"a": "b", "b": "a", None: None}
    with judge(choose) as it:
        for pair in pairs(6):
            there = it.compare(pair.prompt, pair.image_a, pair.image_b)
            back = it.compare(pair.prompt, pair.image_b, pair.image_a)
            assert back.preferred == mirror[there.preferred]
        assert len(it.client.asked) == 12  # the way back is remembered
        assert it.compare("a", grey(9), grey(9)).preferred is None


def test_the_client_sees_prompt_rubric_source_and_both_orders():
    with judge(brighter) as it:
        it.compare("make it brighter", grey(1), grey(2), source=grey(3))
        asked = it.client.asked
    assert [(one.prompt, one.rubric) for one in asked] == [("make it brighter", RUBRIC)] * 2
    shown = [[level(image) for image in (one.first, one.second, one.source)] for one in asked]
    assert shown == [[1, 2, 3], [2, 1, 3]]


def test_the_same_question_costs_no_second_call_and_a_tie_is_remembered(tmp_path):
    store = tmp_path / "verdicts.sqlite"
    same = Pair("a tie", grey(1), grey(1))
    with judge(brighter, store=store) as it:
        first = it.submit([*pairs(4), *pairs(4), same]).result()
        again = it.submit([*pairs(4), same]).result()
        assert len(it.client.asked) == 9  # both orders of equal images are one question
    assert preferred(first) == ["a", "b"] * 4 + [None]
    assert preferred(again) == ["a", "b"] * 2 + [None]
    assert [sum(verdict.calls for verdict in one) for one in (first, again)] == [9, 0]
    with judge(brighter, store=store) as reopened:
        assert preferred(reopened.submit(pairs(4)).result()) == ["a", "b"] * 2
        assert reopened.client.asked == []


def palette(*colour: int) -> Image.Image:
    image = Image.new("P", (4, 4))
    image.putpalette(colour)
    return image


@pytest.mark.parametrize(
    "change, calls",
    [
        ({"prompt": "a mug"}, 4),
        ({"image_a": grey(9)}, 4),
        ({"image_b": Image.new("RGB", (2, 8))}, 4),
        ({"image_b": palette(255, 0, 0)}, 4),
        ({"source": None}, 4),
        ({"rubric": DARK}, 4),
        ({"identity": "another"}, 4),
        ({"rubric": RUBRIC.model_copy(update={"name": "other", "provenance": {"m": "m"}})}, 2),
    ],
)
def test_whatever_may_change_an_answer_is_asked_anew(change, calls):
    pair = {
        "prompt": "a cup",
        "image_a": grey(1),
        "image_b": palette(0, 0, 0),
        "source": grey(3),
    }
    with judge(always_first) as it:
        it.compare(**pair)
        it.client.identity = change.pop("identity", it.client.identity)
        rubric = change.pop("rubric", None)
        it.submit([Pair(**{**pair, **change})], rubric=rubric).result()
        assert len(it.client.asked) == calls


def test_a_failure_is_undecided_and_asked_again():
    replies = iter([FAILED, Opinion(1)])
    with judge(lambda question: next(replies, Opinion(0))) as it:
        failed = it.compare("a cup", grey(1), grey(2))
        assert (failed.preferred, failed.failed, len(it.store)) == (None, True, 1)
        assert it.compare("a cup", grey(1), grey(2)).preferred == "a"
        assert (len(it.client.asked), len(it.store)) == (3, 2)


def test_what_was_answered_before_a_judge_gave_up_is_not_asked_again():
    class OutOfMoney(Client):
        identity, calls = "poor", 0

        async def answer(self, question):
            self.calls += 1
            if self.calls in (6, 7, 8):
                raise JudgeError("the budget is spent")
            await asyncio.sleep(0.01)  # still in flight when the others are refused
            return Opinion(brighter(question))

    with Judge(OutOfMoney(), RUBRIC) as it:
        with pytest.raises(JudgeError, match="the budget is spent"):
            it.submit(pairs(4)).result()
        assert len(it.store) == 5
        assert preferred(it.submit(pairs(4)).result()) == ["a", "b", "a", "b"]
        assert it.client.calls == 8 + 3


# --- in flight ----------------------------------------------------------------------------------------------------


class Held(Scripted):
    """A client that answers when it is told to."""

    def __init__(self, choose):
        super().__init__(choose)
        self.free = threading.Event()

    async def answer_all(self, questions):
        answers = await super().answer_all(questions)
        await asyncio.to_thread(self.free.wait)
        return answers


def test_the_caller_goes_on_and_a_question_that_is_in_flight_is_not_asked_again():
    with Judge(Held(brighter), RUBRIC) as it:
        futures = [it.submit(pairs(3)) for _ in range(4)]
        mirrored = it.submit([Pair(pair.prompt, pair.image_b, pair.image_a) for pair in pairs(3)])
        assert not any(future.done() for future in futures)
        it.client.free.set()
        verdicts = [future.result(timeout=10) for future in futures]
        assert len(it.client.asked) == 6
        assert [preferred(group) for group in verdicts] == [["a", "b", "a"]] * 4
        assert sorted(sum(v.calls for v in group) for group in verdicts) == [0, 0, 0, 6]
        assert preferred(mirrored.result(timeout=10)) == ["b", "a", "b"]


def test_an_error_in_flight_is_everybodys_error_and_the_next_one_asks_again():
    class Once(Held):
        async def answer_all(self, questions):
            answers = await super().answer_all(questions)
            if len(self.asked) == 2:
                raise JudgeError("the server went away")
            return answers

    with Judge(Once(brighter), RUBRIC) as it:
        futures = [it.submit(pairs(1)) for _ in range(2)]
        it.runner.run(asyncio.sleep(0.3))  # until both wait for the same answer
        it.client.free.set()
        for future in futures:
            with pytest.raises(JudgeError, match="the server went away"):
                future.result(timeout=10)
        assert preferred(it.submit(pairs(1)).result()) == ["a"]


def test_a_caller_who_cancels_takes_the_answer_from_nobody():
    with Judge(Held(brighter), RUBRIC) as it:
        first = it.submit(pairs(1))
        while not it.client.asked:
            threading.Event().wait(0.01)
        second = it.submit(pairs(1))
        first.cancel()
        it.client.free.set()
        assert preferred(second.result(timeout=10)) == ["a"]


def test_a_failure_in_flight_is_everybodys_failure_and_nobody_is_credited():
    with Judge(Held(lambda question: FAILED), RUBRIC) as it:
        futures = [it.submit(pairs(1)) for _ in range(3)]
        it.runner.run(asyncio.sleep(0.3))
        it.client.free.set()
        assert [future.result(timeout=10)[0].failed for future in futures] == [True] * 3
        assert len(it.client.asked) == 2


def test_many_askers_of_the_same_questions_at_once_pay_once():
    """Ten threads, all with the same forty pairs in an order of their own."""
    with judge(brighter) as it:
        futures = []

        def ask(seed: int) -> None:
            order = random.Random(seed).sample(range(40), 40)
            futures.extend((number, it.submit([pairs(40)[number]])) for number in order)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number, future in futures:
            assert preferred(future.result(timeout=30)) == ["ab"[number % 2]]
        assert len(it.client.asked) == 80


def test_images_are_hashed_and_made_small_beside_the_caller(tmp_path, monkeypatch):
    """Both are held up here until the caller has gone on; and no verdict waits for a thumbnail."""
    hash_now, shrink_now = threading.Event(), threading.Event()
    monkeypatch.setattr(
        "arr_core.judging.judge.image_hash", lambda image: hash_now.wait(20) and image_hash(image)
    )
    monkeypatch.setattr(
        "arr_core.judging.judge.thumbnail", lambda image: shrink_now.wait(20) and thumbnail(image)
    )
    with judge(always_first, store=tmp_path / "store") as it:
        future = it.submit(pairs(4))
        assert not future.done()
        hash_now.set()
        assert len(future.result(timeout=10)) == 4
        shades = [image_hash(grey(shade)) for shade in (100, 200)]
        assert it.store.thumbnails(shades) == {}
        shrink_now.set()
    reopened = VerdictStore(tmp_path / "store")
    assert set(reopened.thumbnails(shades)) == set(shades)  # closing has waited for them
    reopened.close()


# --- the end ------------------------------------------------------------------------------------------------------


def test_closing_cancels_what_is_in_flight_and_may_be_done_twice():
    class Endless(Scripted):
        async def answer_all(self, questions):
            await asyncio.sleep(3600)

    it = Judge(Endless(brighter), RUBRIC)
    future = it.submit(pairs(1))
    it.close()
    it.close()
    assert future.cancelled() or future.exception() is not None


def test_a_client_that_cannot_be_closed_keeps_nothing_else_open(tmp_path):
    class Stuck(Scripted):
        async def close(self):
            raise OSError("still in use")

    it = Judge(Stuck(brighter), RUBRIC, store=tmp_path / "store")
    it.submit(pairs(2)).result()
    before = threading.active_count()
    with pytest.raises(OSError, match="still in use"):
        it.close()
    assert threading.active_count() < before
    with pytest.raises(JudgeError, match="closed database"):
        len(it.store)
