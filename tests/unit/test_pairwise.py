"""The judge that gives reasons, on scripted replies: repair, votes, sums, and that no failure ever becomes a preference."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from doubles import client as clients
from doubles.chat import ScriptedChat
from doubles.openai_server import verdict
from PIL import Image

from arr_core.judging import Judge, Opinion, Pair
from arr_core.judging.chat import Reply
from arr_core.judging.client import Question
from arr_core.judging.pairwise import PairwiseClient
from arr_core.rubrics import BUILT_IN

LIGHT, DARK = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")
RUBRIC = BUILT_IN["t2i"]


def question(prompt: str = "a cup", source: Image.Image | None = None) -> Question:
    return Question(prompt, LIGHT, DARK, source, RUBRIC)


def ask(client: PairwiseClient, *questions: Question) -> list[Opinion]:
    return clients.ask(client, *(questions or [question()]))


# --- a reply, and the one question after it ------------------------------------------------------------------------


def test_findings_come_before_the_verdict_and_the_source_of_an_edit_is_base():
    chat = ScriptedChat([verdict("second")])
    (opinion,) = ask(PairwiseClient(chat), question(source=Image.new("RGB", (8, 8), "red")))
    assert (opinion.preferred, opinion.reason, opinion.calls, opinion.tokens) == (
        1,
        "as scripted",
        1,
        10,
    )
    (asked,) = chat.asked
    assert [picture.getpixel((0, 0)) for picture in asked.pictures] == [
        (255, 0, 0),
        (255, 255, 255),
        (0, 0, 0),
    ]
    assert asked.text.index("BASE") < asked.text.index("FIRST:") < asked.text.index("SECOND:")
    assert list(asked.options.schema["properties"]) == ["findings", "reason", "preferred"]
    assert "a cup" in asked.text and RUBRIC.criteria[0] in asked.text


@pytest.mark.parametrize(
    "bad", ["", "I like FIRST.", "[1, 1]", '{"preferred": "third"}', "<think>First?", "{" * 9]
)
def test_a_reply_that_cannot_be_read_is_asked_for_once_more(bad):
    chat = ScriptedChat([bad, verdict("first")])
    (opinion,) = ask(PairwiseClient(chat))
    assert (opinion.preferred, opinion.failure) == (0, "")
    assert (opinion.calls, opinion.tokens, opinion.cost, opinion.latency_s) == (2, 20, 1.0, 0.5)
    first, second = chat.asked
    assert list(second.messages[:2]) == list(first.messages) and second.repair
    assert second.messages[2]["content"] == (bad or "(an empty reply)")
    assert (
        "could not be read" in second.messages[3]["content"]
        and '"preferred"' in second.messages[3]["content"]
    )
    assert (
        bad in opinion.reply and verdict("first") in opinion.reply
    )  # whoever checks the verdict sees both


def test_a_long_reply_is_quoted_shortened():
    chat = ScriptedChat(["A" * 20_000 + "B" * 20_000, verdict("first")])
    assert ask(PairwiseClient(chat))[0].preferred == 0
    quoted = chat.asked[1].messages[2]["content"]
    assert (
        len(quoted) < 1600
        and quoted.startswith("AAA")
        and quoted.endswith("BBB")
        and "[...]" in quoted
    )


def test_after_two_replies_that_cannot_be_read_the_question_is_undecided():
    chat = ScriptedChat(["no", "[]", verdict("first")])
    (opinion,) = ask(PairwiseClient(chat))
    assert opinion.preferred is None and len(chat.asked) == 2
    assert (
        opinion.failure
        == "a reply without a verdict; asked once more: the ranks [] name no better image"
    )


def test_a_failure_to_repair_is_a_failure():
    (opinion,) = ask(PairwiseClient(ScriptedChat(["no", Reply(failure="HTTP 500")])))
    assert (opinion.preferred, opinion.failure) == (
        None,
        "a reply without a verdict; asked once more: HTTP 500",
    )


@pytest.mark.parametrize(
    "reply",
    [
        Reply(failure="no reply within 60 s"),
        Reply(failure="refused: not this"),
        Reply(verdict("tie")),
    ],
)
def test_time_outs_refusals_and_ties_are_not_asked_again(reply):
    chat = ScriptedChat([reply, verdict("first")])
    (opinion,) = ask(PairwiseClient(chat))
    assert (opinion.preferred, opinion.failure, len(chat.asked)) == (None, reply.failure, 1)


def test_a_reply_that_was_cut_off_says_what_to_change():
    (opinion,) = ask(PairwiseClient(ScriptedChat([Reply("I see", cut=True)])))
    assert opinion.failure.startswith(
        "a reply without a verdict, cut off at the profile's max_tokens; asked once more: "
    )
    (whole,) = ask(PairwiseClient(ScriptedChat([Reply(verdict("first"), cut=True)])))
    assert whole.preferred == 0  # the verdict stands whole at the end
    thought = f"So for now {verdict('first')} but I should check the cups again, since"
    (taken_back,) = ask(
        PairwiseClient(ScriptedChat([Reply(thought, cut=True), Reply(verdict("second"))]))
    )
    assert taken_back.preferred == 1


# --- votes -----------------------------------------------------------------------------------------------------------

F, S, T, BAD = verdict("first"), verdict("second"), verdict("tie"), Reply(failure="HTTP 500")


@pytest.mark.parametrize(
    "votes, threshold, preferred, confidence, failed",
    [
        ([F, F, F], 0.0, 0, 1.0, False),
        ([F, S, F], 0.0, 0, 2 / 3, False),
        ([S, S, T], 0.0, 1, 2 / 3, False),
        ([F, S, F], 0.7, None, 2 / 3, False),  # a majority that is less sure than the threshold
        ([F, S, T], 0.0, None, None, False),  # no majority
        ([T, T, F], 0.0, None, 2 / 3, False),  # a tie by majority
        ([F, F, BAD], 0.0, 0, 2 / 3, False),  # a failed vote lowers the share and helps nobody
        ([F, BAD, BAD], 0.0, None, None, True),
        ([BAD, BAD, BAD], 0.0, None, None, True),
        ([F, S], 0.0, None, None, False),
        ([F, S, BAD, F, F], 0.6, 0, 0.6, False),
    ],
)
def test_the_majority_of_all_votes_is_the_opinion_and_its_share_the_confidence(
    votes, threshold, preferred, confidence, failed
):
    (opinion,) = ask(PairwiseClient(ScriptedChat(votes), votes=len(votes), threshold=threshold))
    assert (opinion.preferred, bool(opinion.failure)) == (preferred, failed)
    assert opinion.confidence == (pytest.approx(confidence) if confidence else None)
    asked = sum(not isinstance(vote, Reply) for vote in votes)
    assert (opinion.calls, opinion.tokens) == (len(votes), 10 * asked)


def test_votes_are_drawn_each_with_its_own_seed():
    chat = ScriptedChat([F])
    ask(PairwiseClient(chat, votes=3, temperature=0.9))
    assert [(asked.options.temperature, asked.options.seed) for asked in chat.asked] == [
        (0.9, 0),
        (0.9, 1),
        (0.9, 2),
    ]


def test_a_vote_can_be_repaired_and_everything_is_summed():
    chat = ScriptedChat(lambda asked: F if asked.repair or asked.options.seed else "no")
    (opinion,) = ask(PairwiseClient(chat, votes=3))
    assert (opinion.preferred, opinion.calls, opinion.tokens, opinion.cost) == (0, 4, 40, 2.0)
    assert opinion.latency_s == 0.5  # votes run side by side: the repaired one took longest


def test_votes_name_the_client():
    chat = ScriptedChat([F])
    assert (
        len(
            {
                PairwiseClient(chat).identity,
                PairwiseClient(chat, votes=3).identity,
                PairwiseClient(chat, votes=3, threshold=0.8).identity,
                PairwiseClient(chat, votes=3, temperature=1.0).identity,
            }
        )
        == 4
    )


# --- what ends the work ------------------------------------------------------------------------------------------------


def test_an_error_of_the_program_is_not_taken_for_a_reply():
    with pytest.raises(ZeroDivisionError):
        ask(PairwiseClient(ScriptedChat([ZeroDivisionError()])))


def test_closing_the_client_closes_the_chat():
    chat = ScriptedChat([F])
    with Judge(PairwiseClient(chat), RUBRIC):
        pass
    assert chat.closed


# --- ten thousand replies ----------------------------------------------------------------------------------------------


def _bad(dice: random.Random) -> Reply | str:
    """A reply that says nothing: every kind that servers are known to give, and random pieces of good ones."""
    whole = verdict(dice.choice(["first", "second"]))
    return dice.choice(
        [
            "",
            " ",
            "[1,1]",
            "[2,2]",
            "[]",
            "[1]",
            '["a","b"]',
            "[0,1]",
            "null",
            "{}",
            "I cannot help with that.",
            "The first image is better, [1, 2] are met.",
            verdict("third"),
            verdict("first or second"),
            "<think>" + whole,
            whole[: dice.randrange(len(whole) - len('"second"}'))],
            "```json\n" + whole[:30],
            json.dumps([whole])[:40],
            "".join(chr(dice.randrange(32, 0x2000)) for _ in range(dice.randrange(60))),
            Reply(failure="no reply within 60 s"),
            Reply(failure="HTTP 429"),
            Reply(failure="HTTP 500"),
            Reply(failure="the connection was closed or refused"),
            Reply(failure="refused: no"),
            Reply(whole[:40], cut=True),
        ]
    )


def _good(dice: random.Random, place: int) -> str:
    whole, ranks = verdict(["first", "second"][place]), ["[1, 2]", "[2, 1]"][place]
    return dice.choice(
        [
            whole,
            f"```json\n{whole}\n```",
            f"<think>[2, 1] or [1, 2]?</think>\n{whole}",
            f"I looked.\n{whole}",
            ranks,
            f"```\n{ranks}\n```",
            whole[:-1],
            whole.replace('"', "'"),
            f"Hm.\n\n{ranks}",
        ]
    )


@pytest.mark.parametrize("votes", [1, 3])
def test_ten_thousand_random_replies_credit_nobody_by_accident(votes):
    """What each reply is worth is known, so the verdict on every pair is known; a failure is worth nothing."""
    dice = random.Random(votes)
    worth: dict[tuple[int, int, int, bool], int | None] = {}  # pair, order, vote, repair -> place
    replies = {}
    count = 10_000 // (2 * votes) + 1
    for pair in range(count):
        for key in (
            (pair, order, vote, repair)
            for order in (0, 1)
            for vote in range(votes)
            for repair in (False, True)
        ):
            worth[key] = dice.choice(
                [0, 1, 1 - key[1], None, "tie"]
            )  # image a rather than b, so that much is decided
            place = worth[key]
            replies[key] = (
                _bad(dice)
                if place is None
                else verdict("tie")
                if place == "tie"
                else _good(dice, place)
            )

    def answer(asked):
        pair = int(asked.text.split("pair number ")[1].split()[0])
        return replies[pair, int(asked.pictures[0] is DARK), asked.options.seed or 0, asked.repair]

    def vote_of(pair, order, vote):
        first = worth[pair, order, vote, False]
        stays = (
            isinstance(replies[pair, order, vote, False], Reply)
            and replies[pair, order, vote, False].failure
        )
        return worth[pair, order, vote, True] if first is None and not stays else first

    def place_of(pair, order):
        count = Counter(vote_of(pair, order, vote) for vote in range(votes))
        return next((place for place in (0, 1) if count[place] > votes / 2), None)

    client = PairwiseClient(chat := ScriptedChat(answer), votes=votes)
    with Judge(client, RUBRIC) as judge:
        verdicts = judge.submit(
            [Pair(f"pair number {pair} ", LIGHT, DARK) for pair in range(count)]
        ).result(timeout=200)
    assert sum(not asked.repair for asked in chat.asked) >= 10_000
    for pair, said in enumerate(verdicts):
        places = place_of(pair, 0), place_of(pair, 1)
        assert said.preferred == {(0, 1): "a", (1, 0): "b"}.get(places), (
            pair,
            places,
            said.opinions,
        )
        assert not (said.failed and said.decided)
    decided = sum(said.decided for said in verdicts)
    assert 0.2 * count < decided < 0.8 * count
    assert {said.preferred for said in verdicts} == {"a", "b", None}
    assert any(said.failed for said in verdicts)
