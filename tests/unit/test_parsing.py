"""A judge's reply as text: what is read from it, and that nothing else ever credits a picture."""

from __future__ import annotations

import json
import random
import time

import pytest

from arr_core.judging.parsing import read_reply
from arr_core.judging.verdict import Opinion

FORM = {
    "findings": [{"criterion": 1, "first": "two cups", "second": "one cup", "better": "First"}],
    "reason": "two cups were asked for",
}


def form(preferred, **more) -> str:
    return json.dumps({**FORM, "preferred": preferred, **more})


@pytest.mark.parametrize(
    "said, preferred",
    [
        ("first", 0),
        ("second", 1),
        ("FIRST", 0),
        (" Second ", 1),
        ("first image", 0),
        ("Image 2", 1),
        ("a", 0),
        ("B", 1),
        (1, 0),
        (2, 1),
        ("1", 0),
    ],
)
def test_our_form_names_a_place(said, preferred):
    opinion = read_reply(form(said))
    assert (opinion.preferred, opinion.failure) == (preferred, "")
    assert opinion.reason == "two cups were asked for"
    assert opinion.findings == (("1", "first: two cups; second: one cup", 0),)
    assert opinion.reply == form(said)


@pytest.mark.parametrize(
    "thoughts",
    [
        "<think>{}</think>",
        "<thinking>{}</thinking>",
        "◁think▷{}◁/think▷",
        "[THINK]{}[/THINK]",
        "{}</think>",
    ],
)
def test_thoughts_are_no_verdict(thoughts):
    assert read_reply(thoughts.format(form("first")) + form("second")).preferred == 1
    if not thoughts.startswith("{"):
        begun = thoughts.partition("{}")[0]
        assert (
            read_reply(begun + form("first")).failure == "a reply that was cut off in its thoughts"
        )


@pytest.mark.parametrize("said", ["tie", "neither", "both", "Equal", "none", None])
def test_a_tie_is_an_answer_that_prefers_nothing(said):
    opinion = read_reply(form(said))
    assert (opinion.preferred, opinion.failure) == (None, "")


@pytest.mark.parametrize(
    "said", [0, 3, -1, 1.0, True, "", "third", "first or second", ["first", "second"], {"a": 1}]
)
def test_a_place_that_is_not_there_is_a_failure(said):
    opinion = read_reply(form(said))
    assert opinion.preferred is None
    assert opinion.failure == "a reply without a verdict"


@pytest.mark.parametrize(
    "reply, preferred",
    [
        ("[1, 2]", 0),
        ("[2,1]", 1),
        ("```json\n[2, 1]\n```", 1),
        ("I looked at both.\n\n[1, 2]", 0),
        ("[\n 2,\n 1\n]", 1),
        ("<think>[1, 2]?</think>\n[2, 1]", 1),
    ],
)
def test_the_references_rank_list_is_read(reply, preferred):
    assert read_reply(reply).preferred == preferred


@pytest.mark.parametrize(
    "reply",
    [
        "[1,1]",
        "[2,2]",
        "[]",
        "[1]",
        '["a","b"]',
        "[0,1]",
        "[1,0]",
        "[1, 2, 3]",
        "[1.0, 2.0]",
        "[true, 2]",
        '["1","2"]',
        "[[1, 2]]",
        "[null, null]",
        "[1, 2",
        "[" + "1" * 5000 + ", 2]",
        # Within prose a list may be about anything.
        "FIRST fails the criteria [1, 2].",
        "Criteria [1, 2] and [2, 1] look alike, I cannot say.",
    ],
)
def test_every_other_list_decides_nothing(reply):
    opinion = read_reply(reply)
    assert opinion.preferred is None
    assert opinion.failure


@pytest.mark.parametrize(
    "reply",
    [
        "```json\n%s\n```",
        "```\n%s\n```",
        "```json\n%s",
        "Here you are:\n\n```json\n%s\n```\nI hope that helps.",
        '<think>The first? No: {"preferred": "first"} was wrong.</think>%s',
        "I think. FIRST has [1] cup {sic}. So: %s",
        'The form is {"preferred": "second"}. Now: %s',
        "a template's own thought\n</think>\n\n%s",
        "\ufeff%s",
        "[%s]",
    ],
)
def test_the_form_is_found_in_a_fence_and_after_thoughts(reply):
    opinion = read_reply(reply % form("second"))
    assert (opinion.preferred, opinion.failure) == (1, "")
    assert opinion.reason == FORM["reason"]


@pytest.mark.parametrize(
    "reply",
    [
        '{"reason": "the "red" cup", "preferred": "second"}',
        "{'reason': 'red', 'preferred': 'second',}",
        '{"reason": "two\nlines", "preferred": "second"}',
        "{reason: red, preferred: second}",
        '{"reason": "red", "preferred": "second"',
        '```json\n{"reason": "red", "preferred": "second",}\n```',
    ],
)
def test_json_that_is_nearly_json_is_repaired(reply):
    opinion = read_reply(reply)
    assert (opinion.preferred, opinion.failure) == (1, "")
    assert opinion.reason


def test_a_form_cut_off_anywhere_before_its_verdict_decides_nothing():
    whole = form("second")
    end = whole.index('"second"}') + len('"second"')
    for length in range(end):
        opinion = read_reply(whole[:length])
        assert opinion.preferred is None and opinion.failure, whole[:length]
    assert read_reply(whole[:end]).preferred == 1


@pytest.mark.parametrize(
    "reply",
    [
        '{"findings": [{"criterion": 1, "preferred": "first"}, {"criterion": 2, "preferred": "second"}], "reason": "so',
        '{"findings": [{"criterion": 1, "preferred": "first"}, {"crit',
        '{"findings": [...], "reason": "one sentence", "preferred": "first" or "second" or "tie"}',
        '{"reason": "I say \\"preferred\\": \\"first\\", since", "preferred": "sec',
        '<think>I would say {"preferred": "first"} but let me see whether',
        "The first image is better.",
        '{"```json1```preferred:t,',  # what the repairing library trips over
        '{"preferred": first, "```json{"```',
        'Draft: {"preferred": "first"}. On reflection: {"preferred": "second"}',
        '{"preferred": "third", "note": "the first"}',
        "yes",
        "{}",
        "null",
        "{",
        "{}{}{}",
        "\x00",
        "\ud800",
        "🙂",
    ],
)
def test_what_only_looks_like_a_verdict_is_none(reply):
    opinion = read_reply(reply)
    assert opinion.preferred is None
    assert opinion.failure


@pytest.mark.parametrize("reply", [None, "", "  \n", "<think>Hmm.</think>"])
def test_an_empty_reply_is_a_failure(reply):
    assert read_reply(reply) == Opinion(None, failure="an empty reply", reply=reply or "")


@pytest.mark.parametrize(
    "findings", [None, "two cups", 3, [1, "a", None], {"criterion": 1}, [{"better": ["first"]}]]
)
def test_findings_of_another_shape_cost_no_verdict(findings):
    assert read_reply(form("first", findings=findings)).preferred == 0


@pytest.mark.parametrize(
    "reply",
    [
        "[" * 100_000,
        "{" * 100_000,
        '{"a":' * 100_000,
        '{"preferred":' * 9_000,
        '"preferred": a ' * 8_000,
        "{" + " " * 100_000,
        "```" * 30_000,
        "[1, 2]" * 20_000,
        '{"preferred":' + " " * 50_000,
    ],
)
def test_a_reply_without_end_is_read_in_seconds(reply):
    start = time.monotonic()
    assert read_reply(reply).preferred is None
    assert time.monotonic() - start < 5


def test_pieces_of_replies_in_any_order_never_crash():
    pieces = [
        '{"preferred": "first"',
        '"second"',
        "}",
        "]",
        "[1, 2",
        "```json\n",
        "```",
        "<think>",
        "</think>",
        ",",
        ":",
        '"findings": [',
        '"preferred": "third"',
        '"note": "the first"',
        '"winner": "second"',
        "~~",
        '{"criterion": 1',
        "\\",
        '"',
        "null",
        "tie",
        "\n",
        "\ud800",
        "\x00",
        form("first"),
        form("tie"),
    ]
    dice = random.Random(0)
    for _ in range(5_000):
        reply = "".join(dice.choices(pieces, k=dice.randint(1, 8)))
        opinion = read_reply(reply)
        assert opinion.preferred in (0, 1, None)
        assert not (opinion.failure and opinion.preferred is not None)


@pytest.mark.parametrize(
    "reply, preferred",
    [
        ("{preferred: first image}", 0),
        ("{preferred: second image ,", 1),
        ("{preferred: a, reason: it is red}", 0),
        ("{preferred:   2}", 1),
        ("{preferred: first", None),
        ("{preferred: first image", None),
        ("{preferred: first or second}", None),
        ("{preferred: first; second}", None),
        ("{preferred: }", None),
        ("{preferred: first " + " " * 40_000 + ",", 0),
        ("first", 0),
        ("Second.", 1),
        ("**A**", 0),
        ('"second"', 1),
        ("2", 1),
    ],
)
def test_a_value_without_quotes_and_a_bare_word_are_read_where_they_are_whole(reply, preferred):
    assert read_reply(reply).preferred == preferred
