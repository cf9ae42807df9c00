"""The judge by logits: the probability of A against B, and that asking both orders cancels a liking for a place."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from doubles import client as clients
from doubles.chat import ScriptedChat
from doubles.client import RUBRIC, grey, level

from arr_core.judging import Judge, Opinion, Pair
from arr_core.judging.chat import Reply, RequestOptions
from arr_core.judging.client import Question
from arr_core.judging.logits import LogitsClient, letter_log_odds
from arr_core.judging.verdict import combine


def letters(log_odds: float) -> Reply:
    """A reply whose first token is A or B with these log-odds, in 90 % of the probability."""
    a = 0.9 / (1 + math.exp(-log_odds))
    log_probs = {"A": math.log(a), "B": math.log(0.9 - a), "The": math.log(0.05)}
    return Reply("A", log_probs=log_probs, tokens=3)


def ask(reply: Reply, threshold: float = 0.0) -> Opinion:
    question = Question("a cup", grey(200), grey(50), None, RUBRIC)
    client = LogitsClient(ScriptedChat([reply]), threshold=threshold)
    return clients.ask(client, question)[0]


def test_what_a_server_did_not_count_makes_no_judge_surer_than_one_in_a_billion():
    opinion = ask(Reply("A", log_probs={"A": 0.0, "B": -9999.0}))
    assert (opinion.preferred, opinion.log_odds) == (0, 20.0)
    assert opinion.confidence == pytest.approx(1 - 2e-9, abs=1e-9)
    other = ask(Reply("A", log_probs={"A": math.log(0.7), "B": math.log(0.3)}))
    assert combine((opinion, other)).winner == 0 and combine((other, opinion)).winner == 1


@pytest.mark.parametrize(
    "log_probs, expected",
    [
        ({"A": 0.6, "B": 0.2}, math.log(3)),
        ({"A": 0.2, " A": 0.2, "B": 0.1, "\nB": 0.1}, math.log(2)),  # variants add up
        (
            {"A": 0.6, "The": 0.1},
            math.log(6),
        ),  # B is at most as likely as the least of those listed
        ({" B": 0.8, "the": 0.1, "a": 0.05}, -math.log(16)),  # "a" may begin a sentence
        ({"A": 1e-300, "B": 0.05}, -20.0),
        ({"A": 0.4}, 0.0),
        ({"The": 0.9, "Image": 0.05}, None),
        ({}, None),
    ],
)
def test_the_log_odds_of_two_letters(log_probs, expected):
    found = letter_log_odds({token: math.log(value) for token, value in log_probs.items()})
    assert found == (None if expected is None else pytest.approx(expected))


def test_the_likelier_letter_is_preferred_and_its_probability_the_confidence():
    said = ask(letters(math.log(4)))
    assert (said.preferred, said.reason, said.tokens, said.calls) == (0, "A 80%, B 20%", 3, 1)
    assert said.confidence == pytest.approx(0.8) and said.log_odds == pytest.approx(math.log(4))
    assert ask(letters(-math.log(4))).preferred == 1
    assert ask(letters(0.0)).preferred is None and not ask(letters(0.0)).failure


def test_below_the_threshold_nothing_is_preferred():
    assert ask(letters(math.log(4)), threshold=0.79).preferred == 0
    unsure = ask(letters(math.log(4)), threshold=0.81)
    assert (unsure.preferred, unsure.failure, unsure.confidence) == (None, "", pytest.approx(0.8))


@pytest.mark.parametrize(
    "reply, failure",
    [
        (Reply(failure="HTTP 500"), "HTTP 500"),
        (Reply("The", log_probs={"The": -0.1}), "neither A nor B is among the likeliest"),
        (Reply(""), "neither A nor B is among the likeliest first tokens"),
        (
            Reply("<think>", log_probs={"<think>": -1e-6, "A": -18.0, "B": -19.5}),
            "something other than a letter; turn its thinking off",
        ),
    ],
)
def test_no_probability_is_a_failure(reply, failure):
    said = ask(reply)
    assert (said.preferred, said.log_odds) == (None, None) and failure in said.failure


def test_the_question_asks_for_one_letter_with_its_probability():
    chat = ScriptedChat([letters(1.0)])
    clients.ask(LogitsClient(chat), Question("make it red", grey(1), grey(2), grey(3), RUBRIC))
    (asked,) = chat.asked
    assert asked.options == RequestOptions(log_probs=True)
    assert [level(picture) for picture in asked.pictures] == [3, 1, 2]
    assert asked.text.index("BASE") < asked.text.index("A:") < asked.text.index("B:")
    assert "edit instruction" in asked.text
    assert asked.text.endswith("Answer with A or B and nothing else.")


# --- both orders -------------------------------------------------------------------------------------------------------


def opinion(log_odds: float, threshold: float = 0.0) -> Opinion:
    return Opinion(
        (None, 0, 1)[(log_odds > 0) - (log_odds < 0)], log_odds=log_odds, threshold=threshold
    )


def test_a_liking_for_a_place_cancels_in_the_mean_of_the_orders():
    """Image a is better by 1, and whatever stands first is liked by 3 more: both orders name the first image."""
    orders = (opinion(1 + 3), opinion(-1 + 3))
    assert [said.preferred for said in orders] == [0, 0]
    verdict = combine(orders)
    assert (verdict.preferred, verdict.log_odds) == ("a", pytest.approx(1.0))
    assert verdict.confidence == pytest.approx(1 / (1 + math.exp(-1)))
    assert verdict.reason == "73% sure"
    assert combine((opinion(-1 + 3), opinion(1 + 3))).preferred == "b"


@pytest.mark.parametrize("bias", [-5.0, 0.0, 0.3, 5.0])
@pytest.mark.parametrize("threshold, preferred", [(0.73, "a"), (0.74, None)])
def test_the_threshold_is_for_the_calibrated_probability(bias, threshold, preferred):
    verdict = combine((opinion(1 + bias, threshold), opinion(-1 + bias, threshold)))
    assert (verdict.preferred, verdict.failed) == (preferred, False)
    assert preferred or verdict.reason == "undecided: 73% sure, less than 74%"


def test_equal_images_are_a_tie_whatever_the_bias():
    verdict = combine((opinion(2.0), opinion(2.0)))
    assert (verdict.preferred, verdict.reason) == (None, "undecided: a tie")
    assert verdict.confidence == 0.5


def test_one_order_alone_is_judged_as_it_is():
    assert combine((opinion(1.0, 0.7),)).preferred == "a"
    assert combine((opinion(-0.5, 0.7),)).preferred is None


def test_a_biased_judge_decides_more_pairs_by_probabilities_than_by_words_and_is_right_as_often():
    """A judge that sees brightness through noise, and likes the first picture: what calibration is there to mend."""
    dice = random.Random(0)
    pairs = [
        Pair(f"prompt {number}", grey(100 + dice.choice([-8, 8])), grey(100))
        for number in range(400)
    ]

    def probability(asked):
        first, second = map(level, asked.pictures)
        noise = random.Random(asked.text + str(first)).gauss(0, 0.5)
        return letters((first - second) / 8 + noise + 1.5)

    with Judge(LogitsClient(ScriptedChat(probability)), RUBRIC) as judge:
        calibrated = judge.submit(pairs).result()
    agreeing = [
        combine(tuple(replace(o, log_odds=None) for o in verdict.opinions))
        for verdict in calibrated
    ]

    better = ["a" if level(pair.image_a) > 100 else "b" for pair in pairs]
    assert sum(verdict.decided for verdict in agreeing) < 100
    assert all(verdict.decided for verdict in calibrated)
    right = [said.preferred == side for said, side in zip(calibrated, better, strict=True)]
    assert sum(right) / 400 > 0.97


@pytest.mark.parametrize("a, b, preferred", [(0.15, 0.06, 0), (0.06, 0.15, 1), (0.12, 0.07, None)])
def test_both_letters_together_are_a_fifth_of_the_probability_or_no_answer(a, b, preferred):
    said = ask(Reply("The", log_probs={"The": math.log(0.7), " A": math.log(a), "B": math.log(b)}))
    assert (said.preferred, bool(said.failure)) == (preferred, preferred is None)
