"""The pairwise judge with scripted clients: orders, abstention, and what is asked once."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest
from doubles.client import Scripted
from PIL import Image

from arr_core.judging import Judge, JudgeError, Opinion, Pair
from arr_core.judging.client import Client
from arr_core.judging.pictures import image_hash
from arr_core.judging.store import VerdictStore, thumbnail
from arr_core.rubrics import Rubric

RUBRIC = Rubric(name="light", task="t2i", criteria=("The image is bright.",))


def grey(level: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (level, level, level))


def always_first(question):
    return 0


def brighter(question):
    """A judge that makes no mistake: level of the first pixel, whatever the place."""
    first, second = question.first.getpixel((0, 0)), question.second.getpixel((0, 0))
    return None if first == second else int(second > first)


def judge(choose, **settings) -> Judge:
    return Judge(Scripted(choose), RUBRIC, **settings)


def pairs(count: int) -> list[Pair]:
    """Pairs that differ from one another; a is the brighter one where the number is even."""
    return [
        Pair(f"prompt {n}", *(grey(200), grey(100))[:: 1 if n % 2 == 0 else -1])
        for n in range(count)
    ]


def test_a_judge_that_always_names_the_first_image_decides_nothing():
    with judge(always_first) as it:
        verdicts = it.submit(pairs(50)).result()
    assert not any(verdict.decided or verdict.failed for verdict in verdicts)
    assert sum(verdict.first_picks for verdict in verdicts) == 100  # of 100 opinions: rate 1
    assert {verdict.reason for verdict in verdicts} == {"undecided: the two orders disagree"}


def test_in_one_order_the_same_judge_always_prefers_a():
    with judge(always_first, both_orders=False) as it:
        assert {verdict.preferred for verdict in it.submit(pairs(10)).result()} == {"a"}
        assert len(it.client.asked) == 10


def test_a_perfect_judge_leaves_nothing_undecided():
    with judge(brighter) as it:
        verdicts = it.submit(pairs(50)).result()
    assert [verdict.preferred for verdict in verdicts] == ["a", "b"] * 25
    assert sum(verdict.first_picks for verdict in verdicts) == 50  # rate one half


@pytest.mark.parametrize(
    "choose", [always_first, lambda question: 1, brighter, lambda question: None]
)
def test_swapping_the_images_swaps_the_verdict(choose):
    mirror = {"a": "b", "b": "a", None: None}
    with judge(choose) as it:
        for pair in pairs(6):
            there = it.compare(pair.prompt, pair.image_a, pair.image_b)
            back = it.compare(pair.prompt, pair.image_b, pair.image_a)
            assert back.preferred == mirror[there.preferred]
        assert len(it.client.asked) == 12  # the way back is remembered


def test_equal_images_are_undecided():
    with judge(always_first) as it:
        assert it.compare("a", grey(9), grey(9)).preferred is None
    with judge(brighter) as it:
        assert it.compare("a", grey(9), grey(9)).preferred is None


def test_the_client_sees_prompt_rubric_source_and_both_orders():
    with judge(brighter) as it:
        it.compare("make it brighter", grey(1), grey(2), source=grey(3))
    one, other = it.client.asked
    assert {question.prompt for question in (one, other)} == {"make it brighter"}
    assert one.rubric == other.rubric == RUBRIC
    assert [image.getpixel((0, 0))[0] for image in (one.first, one.second, one.source)] == [1, 2, 3]
    assert [image.getpixel((0, 0))[0] for image in (other.first, other.second, other.source)] == [
        2,
        1,
        3,
    ]


def test_the_same_question_costs_no_second_call(tmp_path):
    with judge(brighter, store=tmp_path / "verdicts.sqlite") as it:
        first = it.submit(pairs(4)).result()
        again = it.submit(pairs(4)).result()
        assert len(it.client.asked) == 8
    assert [v.preferred for v in again] == [v.preferred for v in first]
    assert (sum(v.calls for v in first), sum(v.calls for v in again)) == (8, 0)
    with judge(brighter, store=tmp_path / "verdicts.sqlite") as reopened:
        assert [v.preferred for v in reopened.submit(pairs(4)).result()] == [
            v.preferred for v in first
        ]
        assert reopened.client.asked == []


def test_a_question_that_comes_twice_at_once_is_asked_once():
    with judge(brighter) as it:
        verdicts = it.submit([*pairs(1), *pairs(1)]).result()
        assert len(it.client.asked) == 2
    assert [v.preferred for v in verdicts] == ["a", "a"]
    assert sum(v.calls for v in verdicts) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a mug"},
        {"image_a": grey(9)},
        {"image_b": Image.new("RGB", (2, 8), (2, 2, 2))},
        {"source": None},
        {"rubric": Rubric(name="light", task="t2i", criteria=("It is dark.",))},
        {"identity": "another"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_the_question_is_asked_anew(change):
    pair = {"prompt": "a cup", "image_a": grey(1), "image_b": grey(2), "source": grey(3)}
    with judge(always_first) as it:
        it.compare(**pair)
        it.rubric = change.get("rubric", it.rubric)
        it.client.identity = change.get("identity", it.client.identity)
        it.compare(**{name: change.get(name, value) for name, value in pair.items()})
        assert len(it.client.asked) == 4


def test_images_that_differ_in_their_palettes_alone_are_different():
    red, green = Image.new("P", (4, 4)), Image.new("P", (4, 4))
    red.putpalette([255, 0, 0])
    green.putpalette([0, 255, 0])
    with judge(always_first) as it:
        it.compare("a cup", grey(1), red)
        it.compare("a cup", grey(1), green)
        assert len(it.client.asked) == 4


def test_the_name_of_a_rubric_is_no_part_of_the_question():
    with judge(always_first) as it:
        it.compare("a cup", grey(1), grey(2))
        it.rubric = RUBRIC.model_copy(update={"name": "other", "provenance": {"model": "m"}})
        it.compare("a cup", grey(1), grey(2))
        assert len(it.client.asked) == 2


def test_a_failure_is_undecided_and_asked_again():
    replies = iter([Opinion(None, failure="HTTP 500"), Opinion(1)])
    with judge(lambda question: next(replies, Opinion(0))) as it:
        failed = it.compare("a cup", grey(1), grey(2))
        assert (failed.preferred, failed.failed, len(it.store)) == (None, True, 1)
        assert it.compare("a cup", grey(1), grey(2)).preferred == "a"
        assert (len(it.client.asked), len(it.store)) == (3, 2)


def test_an_honest_tie_is_remembered():
    with judge(lambda question: None) as it:
        it.compare("a cup", grey(1), grey(2))
        it.compare("a cup", grey(1), grey(2))
        assert (len(it.client.asked), len(it.store)) == (2, 2)


def test_a_judge_that_cannot_answer_says_so_to_the_caller():
    def refuse(question):
        raise JudgeError("the key is wrong")

    with judge(refuse) as it:
        with pytest.raises(JudgeError, match="the key is wrong"):
            it.compare("a cup", grey(1), grey(2))


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
        assert [one.preferred for one in it.submit(pairs(4)).result()] == ["a", "b", "a", "b"]
        assert it.client.calls == 8 + 3


def test_the_caller_goes_on_while_the_judge_works():
    free = threading.Event()

    class Slow(Scripted):
        async def answer_all(self, questions):
            await asyncio.to_thread(free.wait)
            return await super().answer_all(questions)

    with Judge(Slow(brighter), RUBRIC) as it:
        futures = [it.submit([pair]) for pair in pairs(3)]
        assert not any(future.done() for future in futures)
        free.set()
        assert [future.result(timeout=10)[0].preferred for future in futures] == ["a", "b", "a"]


class Held(Scripted):
    """A client that answers when it is told to."""

    def __init__(self, choose):
        super().__init__(choose)
        self.free = threading.Event()

    async def answer_all(self, questions):
        answers = await super().answer_all(questions)
        await asyncio.to_thread(self.free.wait)
        return answers


def test_a_question_that_is_in_flight_is_not_asked_again():
    with Judge(Held(brighter), RUBRIC) as it:
        futures = [it.submit(pairs(3)) for _ in range(4)]
        mirrored = it.submit([Pair(pair.prompt, pair.image_b, pair.image_a) for pair in pairs(3)])
        it.client.free.set()
        verdicts = [future.result(timeout=10) for future in futures]
        assert len(it.client.asked) == 6
        assert [[v.preferred for v in group] for group in verdicts] == [["a", "b", "a"]] * 4
        assert sorted(sum(v.calls for v in group) for group in verdicts) == [0, 0, 0, 6]
        assert [v.preferred for v in mirrored.result(timeout=10)] == ["b", "a", "b"]


def test_an_error_in_flight_is_everybodys_error_and_the_next_one_asks_again():
    class Once(Held):
        async def answer_all(self, questions):
            answers = await super().answer_all(questions)
            if len(self.asked) == 2:
                raise JudgeError("the server went away")
            return answers

    with Judge(Once(brighter), RUBRIC) as it:
        futures = [it.submit(pairs(1)) for _ in range(2)]
        it.client.free.set()
        for future in futures:
            with pytest.raises(JudgeError, match="the server went away"):
                future.result(timeout=10)
        assert it.compare("prompt 0", grey(200), grey(100)).preferred == "a"


def test_a_caller_who_cancels_takes_the_answer_from_nobody():
    with Judge(Held(brighter), RUBRIC) as it:
        first = it.submit(pairs(1))
        while not it.client.asked:
            threading.Event().wait(0.01)
        second = it.submit(pairs(1))
        first.cancel()
        it.client.free.set()
        assert second.result(timeout=10)[0].preferred == "a"


def test_a_failure_in_flight_is_everybodys_failure_and_nobody_is_credited():
    with Judge(Held(lambda question: Opinion(None, failure="HTTP 500")), RUBRIC) as it:
        futures = [it.submit(pairs(1)) for _ in range(3)]
        it.client.free.set()
        assert [future.result(timeout=10)[0].failed for future in futures] == [True] * 3
        assert len(it.client.asked) == 2


def test_many_askers_of_the_same_questions_at_once_pay_once():
    """Ten threads, all with the same forty pairs in an order of their own."""
    with judge(brighter) as it:
        futures = []

        def ask(seed: int) -> None:
            mixed = random.Random(seed).sample(pairs(40), 40)
            futures.extend((pair, it.submit([pair])) for pair in mixed)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for pair, future in futures:
            assert future.result(timeout=30)[0].preferred == (
                "a" if int(pair.prompt.split()[1]) % 2 == 0 else "b"
            )
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
        shades = [image_hash(grey(level)) for level in (100, 200)]
        assert it.store.thumbnails(shades) == {}
        shrink_now.set()
    reopened = VerdictStore(tmp_path / "store")
    assert set(reopened.thumbnails(shades)) == set(shades)  # closing has waited for them
    reopened.close()


def test_a_client_that_hides_the_order_is_asked_once():
    client = Scripted(brighter)
    client.hides_order = True
    with Judge(client, RUBRIC) as it:
        assert [verdict.preferred for verdict in it.submit(pairs(4)).result()] == [
            "a",
            "b",
            "a",
            "b",
        ]
        assert len(client.asked) == 4


def test_another_rubric_is_another_question():
    other = Rubric(name="dark", task="t2i", criteria=("It is dark.",))
    with judge(brighter) as it:
        it.submit(pairs(1)).result()
        it.submit(pairs(1), rubric=other).result()
        it.submit(pairs(1), rubric=other).result()
        assert [question.rubric for question in it.client.asked] == [RUBRIC] * 2 + [other] * 2


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
