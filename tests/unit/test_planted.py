"""Errors planted for benchmarks: at the rate that was asked for, the same every time, and never stored."""

from __future__ import annotations

import pytest
from doubles.client import FAILED, RUBRIC, Scripted, bright_first, brighter

from benchmarks.planted import PlantedJudge


def judge(choose, **settings) -> PlantedJudge:
    return PlantedJudge(Scripted(choose), RUBRIC, **settings)


def share(verdicts, side: str) -> float:
    return sum(verdict.preferred == side for verdict in verdicts) / len(verdicts)


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
def test_flip_rate_turns_that_share_of_the_verdicts_around(rate):
    with judge(brighter, flip_rate=rate) as it:
        verdicts = it.submit(bright_first(2000)).result()
    assert all(verdict.decided for verdict in verdicts)
    assert share(verdicts, "b") == pytest.approx(rate, abs=0.03)


@pytest.mark.parametrize("bias", [0.0, 0.3, 1.0])
def test_position_bias_names_the_first_image_with_that_probability(bias):
    """Both orders: the second one, where b is shown first, must agree. One order: a wrong image wins by bias alone."""
    with judge(brighter, position_bias=bias) as it:
        verdicts = it.submit(bright_first(2000)).result()
    assert share(verdicts, "a") == pytest.approx(1 - bias, abs=0.04)
    assert share(verdicts, "b") == 0
    with judge(
        lambda question: 1 - brighter(question), position_bias=bias, both_orders=False
    ) as it:
        assert share(it.submit(bright_first(2000)).result(), "a") == pytest.approx(bias, abs=0.04)


def test_planted_errors_are_the_same_every_time_and_are_not_stored(tmp_path):
    settings = dict(flip_rate=0.3, position_bias=0.3)
    with judge(brighter, **settings) as it:
        first = [verdict.preferred for verdict in it.submit(bright_first(200)).result()]
        assert [verdict.preferred for verdict in it.submit(bright_first(200)).result()] == first
    with judge(brighter, store=tmp_path / "store", **settings) as it:
        assert [verdict.preferred for verdict in it.submit(bright_first(200)).result()] == first
    with judge(brighter, store=tmp_path / "store") as it:
        assert {verdict.preferred for verdict in it.submit(bright_first(200)).result()} == {"a"}
        assert it.client.asked == []
    assert {"a", "b", None} == set(first)


@pytest.mark.parametrize(
    "answer, rates",
    [(FAILED, {"flip_rate": 1.0, "position_bias": 1.0}), (None, {"flip_rate": 1.0})],
)
def test_planted_errors_make_no_verdict_of_a_failure_or_a_tie(answer, rates):
    with judge(lambda question: answer, **rates) as it:
        assert not any(verdict.decided for verdict in it.submit(bright_first(20)).result())
