"""The estimate before a job and the page after it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from doubles.html_page import Page
from doubles.rubric_model import ScriptedChat, make_rubric
from PIL import Image

from arr_core.common.proportions import Proportion
from arr_core.data import PreferencePair
from arr_core.judging.profiles import Profile
from arr_core.reports.rubric import MOST_CARDS, write_report
from arr_core.rubrics.estimate import estimate
from arr_core.rubrics.writer import Attempt, PairOutcome

FREE = Profile(url="http://x/v1", model="eye")
PRICED = FREE.model_copy(
    update={"price_per_million_tokens": 10.0, "price_per_million_reply_tokens": 40.0}
)
HOSTILE = "<script>alert('a')</script> & \"b\" \ud800"


@pytest.fixture
def pairs(tmp_path):
    """Twelve labelled pairs of pictures of 56 x 84 pixels, whose darker one was liked."""
    made, others = [], [f"cup {number}" for number in range(9)]
    for number, prompt in enumerate(["a cup", "hard 2 cup", "hopeless cup", *others]):
        files = tmp_path / f"{number}-dark.png", tmp_path / f"{number}-light.png"
        for file, grey in zip(files, (40, 200), strict=True):
            Image.new("RGB", (56, 84), (grey, grey, number)).save(file)
        made.append(PreferencePair(prompt, files, 0))
    return made


@pytest.fixture
def outcome(pairs, tmp_path):
    folder = tmp_path / "work"
    return make_rubric(pairs[:7], ScriptedChat(), task="t2i", folder=folder, held_out=pairs[7:])


def page(outcome, tmp_path, name: str = "cups") -> Page:
    return Page(write_report(outcome, tmp_path / "page.html", name))


# --- the estimate, by hand ------------------------------------------------------------------------------------------


def test_calls_tokens_and_money(pairs):
    said = estimate(pairs[:7], pairs[7:], PRICED, PRICED)
    assert (said.least, said.most) == (3 * 7 + 1 + 4 * 5, 18 * 7 + 1 + 4 * 5)
    assert said.expected == 29 + 1 + 20  # 7 pairs, 3 calls each, a third of a refinement more
    images = 7 * 12 * 3 * 1.335 + 5 * 12 * 4  # 2 x 3 patches an image, two images a pair
    calls = 7 * 3 * 1.335 + 1 + 20
    assert said.prompt_tokens == round(images + 700 * calls)
    assert said.reply_tokens == round(350 * calls)
    assert said.cost == pytest.approx(
        (said.prompt_tokens * 10 + said.reply_tokens * 40) / 1e6, rel=1e-4
    )
    assert said.text == (
        "about 50 calls (42 to 147) with 96 pictures, 35,000 prompt tokens and 17,000 reply tokens; about 1.04 at the "
        "profile's price"
    )


def test_an_estimate_without_a_price_names_none(pairs):
    said = estimate(pairs[:7], pairs[7:], FREE, FREE)
    assert said.cost is None and said.text.endswith("the profile has no price")


def test_large_images_are_counted_as_they_are_sent(pairs):
    for file in pairs[0].images:
        with Image.open(file) as image:
            image.resize((2240, 1120)).save(file)
    small = estimate(pairs[1:2], [], FREE, FREE)
    large = estimate(pairs[:1], [], *[FREE.model_copy(update={"max_side": 560})] * 2)
    assert large.prompt_tokens - small.prompt_tokens == pytest.approx(
        (20 * 10 - 6) * 2 * 3 * 1.335, abs=1
    )


def test_an_estimate_holds_for_a_job(pairs, outcome):
    said = estimate(pairs[:7], pairs[7:], FREE, FREE)
    assert said.least <= outcome.calls <= said.most


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_page_says_what_became_of_every_pair_and_why(outcome, tmp_path):
    shown = page(outcome, tmp_path)
    shown.assert_inert()
    assert shown.html.count('<p class="tag') == shown.html.count('<figure class="preferred">') == 7
    places = [shown.html.index(f">{prompt}<") for prompt in ("hopeless cup", "hard 2 cup", "a cup")]
    assert places == sorted(places)  # what gave trouble comes first
    for words in (
        outcome.sentence,
        outcome.rubric.content_hash,
        "6 failed attempts",
        "2 failed attempts",
        "the verifier could not decide (the two orders disagree), after 5 refinements",
        "quality number 2",
        "chose OTHER",
        "alone right on 5 of 5 held-out pairs that it decides",
        "The frame is whole. decided 0 of 6 pairs",
    ):
        assert words in shown.text, words


def test_hostile_text_stays_text(outcome, tmp_path):
    attempt = Attempt((HOSTILE,), HOSTILE, HOSTILE)
    spoiled = replace(
        outcome,
        sentence=HOSTILE,
        selected={HOSTILE: Proportion(1, 1)},
        pairs=(replace(outcome.pairs[0], prompt=HOSTILE), *outcome.pairs[1:]),
        outcomes=(PairOutcome("discarded", (attempt,), HOSTILE), *outcome.outcomes[1:]),
    )
    shown = page(spoiled, tmp_path, HOSTILE)
    shown.assert_inert()
    assert shown.html.count("&lt;script&gt;") >= 8


def test_missing_images_and_many_pairs_make_no_broken_or_endless_page(outcome, tmp_path):
    outcome.pairs[0].images[0].unlink()
    outcome.pairs[1].images[0].write_bytes(b"no image")
    assert page(outcome, tmp_path).html.count("image missing") == 2
    many = replace(outcome, pairs=outcome.pairs * 20, outcomes=outcome.outcomes * 20)
    shown = page(many, tmp_path)
    assert shown.html.count('<p class="tag') == MOST_CARDS
    assert "80 more pairs in pairs.jsonl" in shown.text


@pytest.mark.parametrize(
    "gained, tone, words",
    [(12, "good", "makes the judge better"), (5, "bad", "not shown to be better")],
)
def test_only_a_rubric_that_is_shown_to_be_better_is_praised(
    outcome, tmp_path, gained, tone, words
):
    comparison = replace(outcome.comparison, gained=gained, lost=2)
    kept = outcome.candidate if comparison.better else None
    shown = page(replace(outcome, comparison=comparison, rubric=kept), tmp_path)
    (verdict,) = re.findall(r'<p class="verdict (.*?)</p>', shown.html)
    assert verdict.startswith(f'{tone}">') and words in verdict


def test_a_job_without_a_rubric_has_a_page_too(pairs, tmp_path):
    chat = ScriptedChat(lambda text, pictures: "no")
    outcome = make_rubric(pairs, chat, task="t2i", folder=tmp_path / "other")
    text = page(outcome, tmp_path).text
    assert "No rubric came of these pairs." in text and "no JSON in the reply (8 times)" in text
