"""What opinions make: a verdict that credits one image or none."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from arr_core.judging.verdict import Opinion, Verdict, combine

FIRST, SECOND, TIE, FAILED = (
    Opinion(0, "clear"),
    Opinion(1, "clear"),
    Opinion(None),
    Opinion(None, failure="HTTP 500"),
)


@pytest.mark.parametrize(
    "orders, preferred",
    [
        ((FIRST, SECOND), "a"),
        ((SECOND, FIRST), "b"),
        ((FIRST, FIRST), None),
        ((SECOND, SECOND), None),
        ((TIE, FIRST), None),
        ((FIRST, TIE), None),
        ((TIE, TIE), None),
        ((FIRST,), "a"),
        ((SECOND,), "b"),
        ((TIE,), None),
    ],
)
def test_two_orders_must_agree_and_one_order_decides_alone(orders, preferred):
    verdict = combine(orders)
    assert verdict.preferred == preferred
    assert verdict.decided == (preferred is not None)
    assert verdict.winner == {"a": 0, "b": 1, None: None}[preferred]
    assert not verdict.failed
    assert verdict.opinions == orders


@pytest.mark.parametrize(
    "orders",
    [
        orders
        for n in (1, 2)
        for orders in itertools.product((FIRST, SECOND, TIE, FAILED), repeat=n)
        if FAILED in orders
    ],
)
def test_one_failure_leaves_the_pair_undecided(orders):
    verdict = combine(orders)
    assert verdict.failed
    assert verdict.winner is None
    assert verdict.reason == "no verdict: HTTP 500"


@pytest.mark.parametrize(
    "orders, reason",
    [
        ((FIRST, FIRST), "undecided: the two orders disagree"),
        ((FIRST, TIE), "undecided: a tie"),
        ((Opinion(None, "both show two cups"), FIRST), "undecided: both show two cups"),
        ((FIRST, SECOND), "clear"),
    ],
)
def test_a_verdict_says_why(orders, reason):
    assert combine(orders).reason == reason


def test_a_failure_prefers_nothing_and_a_place_is_0_or_1():
    with pytest.raises(ValueError, match="expected no preferred place"):
        Opinion(0, failure="HTTP 500")
    for place in (2, -1, "first", "a"):
        with pytest.raises(ValueError, match="expected a preferred place of 0, 1 or None"):
            Opinion(place)
    with pytest.raises(ValueError, match="expected no preferred place"):
        dataclasses.replace(FAILED, preferred=1)


def test_verdicts_and_opinions_do_not_change():
    for made in (FIRST, combine((FIRST,))):
        with pytest.raises(dataclasses.FrozenInstanceError):
            made.preferred = None


def test_what_was_remembered_costs_nothing():
    asked = Opinion(
        0,
        tokens=100,
        cost=0.5,
        latency_s=2.0,
        confidence=0.9,
        findings=(("1", "seen"),),
        reply="{}",
    )
    remembered = dataclasses.replace(asked, preferred=1, cached=True, latency_s=3.0, confidence=0.7)
    verdict = combine((asked, remembered))
    assert (verdict.calls, verdict.tokens, verdict.cost) == (1, 100, 0.5)
    assert (verdict.latency_s, verdict.confidence, verdict.replies) == (3.0, 0.7, ("{}", "{}"))
    assert verdict.findings == (("1", "seen"),)


def test_first_picks_count_places_not_images():
    assert [
        combine(orders).first_picks
        for orders in ((FIRST, FIRST), (FIRST, SECOND), (SECOND, SECOND), (TIE, TIE))
    ] == [2, 1, 0, 0]


def test_a_verdict_without_opinions_has_no_confidence():
    verdict = Verdict(None, "nothing was asked")
    assert (verdict.confidence, verdict.findings, verdict.calls, verdict.latency_s) == (
        None,
        (),
        0,
        0.0,
    )


def test_calls_count_votes_and_repairs():
    three = dataclasses.replace(FIRST, calls=3)
    assert combine((three, SECOND)).calls == 4
    assert combine((three, dataclasses.replace(SECOND, cached=True))).calls == 3


def test_orders_of_which_one_gives_probabilities_must_agree_in_words():
    assert combine((Opinion(0, log_odds=9.0), FIRST)).preferred is None
    assert combine((Opinion(0, log_odds=0.1), SECOND)).preferred == "a"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_log_odds_are_finite(value):
    with pytest.raises(ValueError, match="expected finite log-odds"):
        Opinion(None, log_odds=value)


@pytest.mark.parametrize(
    "first, second", list(itertools.product((-1e9, -3.0, -1e-9, 0.0, 1e-9, 3.0, 1e9), repeat=2))
)
def test_probabilities_credit_the_side_of_their_mean_or_none(first, second):
    verdict = combine(tuple(Opinion(None, log_odds=value) for value in (first, second)))
    mean = (first - second) / 2
    assert verdict.preferred == ("a" if mean > 0 else "b" if mean < 0 else None)
    assert 0.5 <= verdict.confidence <= 1
