"""What opinions make: a verdict that credits one image or none."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from doubles.client import FAILED

from arr_core.judging.verdict import Finding, Opinion, Verdict, combine

FIRST, SECOND, TIE = Opinion(0, "clear"), Opinion(1, "clear"), Opinion(None)


@pytest.mark.parametrize(
    "orders, preferred, reason",
    [
        ((FIRST, SECOND), "a", "clear"),
        ((SECOND, FIRST), "b", "clear"),
        ((FIRST, FIRST), None, "undecided: the two orders disagree"),
        ((SECOND, SECOND), None, "undecided: the two orders disagree"),
        ((TIE, FIRST), None, "undecided: a tie"),
        ((FIRST, TIE), None, "undecided: a tie"),
        ((Opinion(None, "both show two cups"), FIRST), None, "undecided: both show two cups"),
        ((FIRST,), "a", "clear"),
        ((SECOND,), "b", "clear"),
        ((TIE,), None, "undecided: a tie"),
        # Where one order alone gives probabilities, the words count.
        ((Opinion(0, log_odds=9.0), FIRST), None, "undecided: the two orders disagree"),
        ((Opinion(0, "so", log_odds=0.1), SECOND), "a", "so"),
    ],
)
def test_two_orders_must_agree_and_one_order_decides_alone(orders, preferred, reason):
    verdict = combine(orders)
    assert (verdict.preferred, verdict.reason) == (preferred, reason)
    assert verdict.decided == (preferred is not None)
    assert verdict.winner == {"a": 0, "b": 1, None: None}[preferred]
    assert not verdict.failed
    assert verdict.opinions == orders


@pytest.mark.parametrize("other", [FIRST, SECOND, TIE, FAILED, Opinion(0, log_odds=9.0)])
def test_one_failure_leaves_the_pair_undecided(other):
    for orders in ((FAILED,), (FAILED, other), (other, FAILED)):
        verdict = combine(orders)
        assert (verdict.failed, verdict.winner) == (True, None)
        assert verdict.reason == "no verdict: HTTP 500"


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
        calls=3,  # votes and repairs
        latency_s=2.0,
        confidence=0.9,
        findings=(Finding("1", "seen"),),
    )
    other = dataclasses.replace(asked, preferred=1, latency_s=3.0, confidence=0.7)
    assert combine((asked, other)).calls == 6
    verdict = combine((asked, dataclasses.replace(other, cached=True)))
    assert (verdict.calls, verdict.tokens, verdict.cost) == (3, 100, 0.5)
    assert (verdict.latency_s, verdict.confidence) == (3.0, 0.7)
    assert verdict.findings == (Finding("1", "seen"),)


@pytest.mark.parametrize(
    "first, second, winner", [(0, 1, 0), (1, 0, 1), (0, 0, None), (None, 1, None), (0, "", None)]
)
def test_a_criterion_has_a_verdict_of_its_own_where_both_orders_agree(first, second, winner):
    opinions = [Opinion(0, findings=(Finding("1", "", first),)), Opinion(1)]
    if second != "":
        opinions[1] = Opinion(1, findings=(Finding("2", ""), Finding("1", "", second)))
    assert combine(tuple(opinions)).of_criterion("1").winner == winner


def test_a_verdict_without_opinions_has_no_confidence():
    verdict = Verdict(None, "nothing was asked")
    assert (verdict.confidence, verdict.findings) == (None, ())
    assert (verdict.calls, verdict.latency_s) == (0, 0.0)


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
