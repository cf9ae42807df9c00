"""From labelled pairs to a rubric that is kept only if it helps: splitting, selecting, comparing, the whole job."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import math
import random
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from doubles.client import Scripted
from doubles.rubric_model import FILLERS, ScriptedChat, answer, light, make_rubric
from PIL import Image

from arr_core.common.proportions import Proportion
from arr_core.data import DataError, PreferencePair
from arr_core.judging import Judge
from arr_core.judging.chat import Reply
from arr_core.judging.verdict import JudgeError, Opinion, combine
from arr_core.rubrics import BUILT_IN, RubricError, load_rubric
from arr_core.rubrics.comparison import compare_judges
from arr_core.rubrics.pipeline import from_pairs
from arr_core.rubrics.prompts import Assignment
from arr_core.rubrics.provenance import data_hash
from arr_core.rubrics.selection import _greedy, _similarities, select
from arr_core.rubrics.splitting import split
from arr_core.rubrics.writer import Attempt, PairOutcome, decisions, from_description


@pytest.fixture
def make_pairs(tmp_path):
    """``make_pairs(prompts, darker=True)``: pairs of one dark and one light picture, the darker (or lighter) one preferred."""

    def make(prompts, darker: bool = True, source: bool = False) -> list[PreferencePair]:
        pairs = []
        for number, prompt in enumerate(prompts):
            files = tmp_path / f"{number}-dark.png", tmp_path / f"{number}-light.png"
            for file, grey in zip(files, (40, 200), strict=True):
                Image.new("RGB", (16, 16), (grey, grey, number % 256)).save(file)
            images = files[::-1] if number % 2 else files
            preferred = images.index(files[0 if darker else 1])
            pairs.append(PreferencePair(prompt, images, preferred, files[0] if source else None))
        return pairs

    return make


# --- splitting ------------------------------------------------------------------------------------------------------


def test_no_prompt_is_both_written_from_and_checked_with(make_pairs):
    pairs = make_pairs([f"cup {number // 3}" for number in range(30)])
    seeds, held = split(pairs)
    assert not {pair.prompt for pair in seeds} & {pair.prompt for pair in held}
    assert len(seeds) + len(held) == 30 and len(held) == 9


def test_the_split_depends_on_the_prompts_and_not_on_their_order(make_pairs):
    pairs = make_pairs([f"cup {number}" for number in range(20)])
    held = {pair.prompt for pair in split(pairs)[1]}
    assert held == {pair.prompt for pair in split(pairs[::-1])[1]} and len(held) == 6


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_something_is_left_on_both_sides(make_pairs, share):
    seeds, held = split(make_pairs(["a", "b", "c"]), share)
    assert seeds and held


def test_edits_of_sources_of_one_name_are_split_by_their_folders_and_alike_wherever_those_lie(
    tmp_path,
):
    def edits(where):
        images = (Path("a"), Path("b"))
        return [
            PreferencePair("make it red", images, 0, where / str(number) / "source.png")
            for number in range(9)
        ]

    here, elsewhere = (split(edits(tmp_path / name))[1] for name in ("here", "elsewhere"))
    names = [pair.source.parent.name for pair in here]
    assert names == [pair.source.parent.name for pair in elsewhere] and len(names) == 3


def test_one_prompt_cannot_be_split(make_pairs):
    with pytest.raises(RubricError, match="at least two different prompts"):
        split(make_pairs(["a", "a"]))


def test_what_is_held_out_elsewhere_is_left_out(make_pairs):
    pairs = make_pairs(["a", "b", "c"])
    assert [pair.prompt for pair in split(pairs, pairs[1:2])[0]] == ["a", "c"]
    with pytest.raises(RubricError, match="got none"):
        split(pairs, pairs)


def test_the_seed_data_has_a_name_by_content(make_pairs, tmp_path):
    pairs = make_pairs(["a", "b"])
    name = data_hash(pairs)
    assert data_hash(make_pairs(["a", "b"])) == name
    others = pairs[:1], make_pairs(["a", "b"], darker=False), make_pairs(["a", "c"])
    assert len({name, *map(data_hash, others)}) == 4
    Image.new("RGB", (16, 16)).save(tmp_path / "0-dark.png")
    assert data_hash(pairs) != name


# --- selecting ------------------------------------------------------------------------------------------------------


def test_few_criteria_are_all_taken_each_once_and_in_order():
    assert select(["b", "a", "b", "c"], 3) == ["b", "a", "c"]


def test_one_of_each_kind_is_taken_before_a_second_of_any():
    hands = [f"Every hand has five fingers, number {word}." for word in ("one", "two", "three")]
    text = ["Written words can be read.", "The written words can all be read."]
    groups = [hands, text, ["The horizon is level."]]
    chosen = select([line for group in groups for line in group], 3)
    assert [sum(line in group for line in chosen) for group in groups] == [1, 1, 1]


def test_chinese_criteria_are_told_apart():
    lines = ["手指数量正确。", "每只手的手指数量正确。", "文字清晰可读。", "画面中的文字清晰可读。"]
    one, other = select(lines, 2)
    assert "手指" in one and "文字" in other


def test_the_choice_reaches_what_greedy_choice_promises():
    """1 - 1/e of the best choice, which is found by trying all of them."""
    for seed in range(20):
        rows = np.abs(np.random.default_rng(seed).normal(size=(9, 3)))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        similarity = rows @ rows.T
        worth = {
            chosen: similarity[:, chosen].max(axis=1).sum()
            for chosen in itertools.combinations(range(9), 3)
        }
        chosen = _greedy(similarity, 3)
        assert len(set(chosen)) == 3
        assert worth[tuple(sorted(chosen))] >= (1 - 1 / np.e) * max(worth.values())


def test_similarity_is_the_cosine_of_tf_idf_vectors():
    """By hand: each text has the words a (in both) and one of its own, and one pair of words, also its own."""
    common, own = math.log(3 / 3) + 1, math.log(3 / 2) + 1
    expected = common**2 / (common**2 + 2 * own**2)
    assert _similarities(["a b", "a c"])[0, 1] == pytest.approx(expected)
    equal = _similarities(["a b", "c d", "a b"])
    np.testing.assert_allclose(equal, [[1, 0, 1], [0, 1, 0], [1, 0, 1]])


def test_words_that_are_none_are_no_obstacle():
    assert select(["!", "?", "..."], 2) == ["!", "?"]


# --- comparing ------------------------------------------------------------------------------------------------------

RIGHT, WRONG = combine((Opinion(0), Opinion(1))), combine((Opinion(1), Opinion(0)))
FLIPPED, TIE = combine((Opinion(0), Opinion(0))), combine((Opinion(None), Opinion(1)))
FAILED = combine((Opinion(None, failure="x"), Opinion(1)))


def compared(with_rubric, plain):
    pairs = [PreferencePair("p", (None, None), 0)] * len(with_rubric)
    return compare_judges(pairs, with_rubric, plain)


def test_counts_of_both_judges():
    result = compared(
        [RIGHT, RIGHT, RIGHT, WRONG, FLIPPED, TIE], [RIGHT, WRONG, FLIPPED, FLIPPED, FLIPPED, RIGHT]
    )
    one, other = result.with_rubric, result.baseline
    assert (one.pairs, one.right, one.wrong) == (6, 3, 1)
    assert (one.accuracy.value, one.coverage.value, one.flip_rate.value) == (3 / 4, 4 / 6, 1 / 5)
    assert (other.accuracy.value, other.coverage.value) == (2 / 3, 3 / 6)
    assert (result.gained, result.lost, result.better, result.failed) == (2, 2, False, 0)


@pytest.mark.parametrize(
    "changes, p",
    [
        ({}, 1.0),
        ({(TIE, RIGHT): 4}, 1 / 16),
        ({(TIE, RIGHT): 5}, 1 / 32),
        ({(WRONG, RIGHT): 5}, 1 / 32),
        ({(RIGHT, WRONG): 5}, 1.0),
        ({(WRONG, TIE): 8, (RIGHT, TIE): 1}, 10 / 512),
        ({(WRONG, FLIPPED): 8, (RIGHT, FLIPPED): 2}, 56 / 1024),
    ],
)
def test_a_rubric_is_better_by_a_one_sided_exact_test_on_the_pairs_that_changed(changes, p):
    before = [one for (one, _), times in changes.items() for _ in range(times)]
    after = [other for (_, other), times in changes.items() for _ in range(times)]
    result = compared([RIGHT, *after], [RIGHT, *before])
    assert result.p_value == pytest.approx(p) and result.better is (p <= 0.05)


def test_pairs_turned_from_right_to_wrong_outweigh_more_that_are_only_decided():
    result = compared([RIGHT] * 60 + [WRONG] * 40, [TIE] * 60 + [RIGHT] * 40)
    assert result.p_value < 0.05 and not result.better  # right less wrong: 20 with it, 40 without


@pytest.mark.parametrize(
    "right, wrong, least, most",
    [(0.55, 0.2, 0.0, 0.055), (0.4, 0.35, 0.0, 0.005), (0.9, 0.05, 0.8, 1.0)],
    ids=["no effect", "harmful", "helpful"],
)
def test_a_rubric_without_effect_is_kept_once_in_twenty_times_and_a_harmful_one_never(
    right, wrong, least, most
):
    """A thousand simulated checks on 30 held-out pairs, against a judge that is right on 55 % and wrong on 20 %."""
    draw = random.Random(0)

    def verdicts(right, wrong):
        return draw.choices([RIGHT, WRONG, TIE], [right, wrong, 1 - right - wrong], k=30)

    kept = sum(compared(verdicts(right, wrong), verdicts(0.55, 0.2)).better for _ in range(1000))
    assert least <= kept / 1000 <= most


def test_a_pair_that_failed_on_one_side_counts_on_neither():
    """Else a judge whose server fails under the longer question could seem worse, or better, than it is."""
    result = compared([FAILED, RIGHT, RIGHT], [RIGHT, FAILED, RIGHT])
    for side in (result.with_rubric, result.baseline):
        assert (side.pairs, side.right) == (1, 1)
    assert (result.gained, result.lost, result.failed, result.better) == (0, 0, 2, False)


# --- the whole job --------------------------------------------------------------------------------------------------

PROMPTS = [
    "a cup",
    "hard 1 cup",
    "hard 5 cup",
    "a hopeless cup",
    *(f"plain cup {number}" for number in range(16)),
]


def failing(*words: str) -> ScriptedChat:
    """A chat whose server fails on every question with one of these words."""

    def said(text, pictures):
        if any(word in text for word in words):
            return Reply(failure="HTTP 500")
        return answer(text, pictures)

    return ScriptedChat(said)


def test_a_rubric_that_is_shown_to_be_better_is_kept(make_pairs, tmp_path):
    pairs = make_pairs(PROMPTS[:13])
    pairs, held, chat, steps = pairs[:8], pairs[8:], ScriptedChat(), []
    outcome = make_rubric(
        pairs,
        chat,
        folder=tmp_path / "work",
        held_out=held,
        report_progress=lambda *step: steps.append(step),
    )
    endings = [one.ending for one in outcome.outcomes]
    assert endings == ["kept", "refined", "refined", "discarded", *["kept"] * 4]
    assert [theme.theme for theme in outcome.rubric.themes] == ["Light", "The rest"]
    assert "The picture is dark." in outcome.rubric.text
    assert (outcome.comparison.with_rubric.right, outcome.comparison.baseline.wrong) == (5, 5)
    assert outcome.sentence.startswith(
        "On 5 held-out pairs the rubric is better than 'text to image': 5 pairs changed for the better and 0 for the worse"
    )
    told = outcome.rubric.provenance
    expected = {
        "held_out_accuracy": 1.0,
        "held_out_accuracy_baseline": 0.0,
        "flip_rate": 0.0,
        "model": "scripted",
        "seed_pairs": 8,
        "pairs_discarded": 1,
        "held_out_pairs": 5,
        "seed_data_hash": data_hash(pairs),
        "shown_to_be_better": True,
        "baseline": "text to image",
    }
    assert expected.items() <= told.items()
    assert chat.closed and outcome.calls == len(chat.asked) == 3 * (5 + 2 + 6 + 6) + 1 + 4 * 5
    assert steps[0] == ("writing", 0, 8) and steps[-1] == ("checking", 5, 5)
    assert [step[1:] for step in steps if step[0] == "writing"] == [(done, 8) for done in range(9)]
    lines = (tmp_path / "work/pairs.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["ending"] for line in lines) == sorted(endings)
    outcome.rubric.save(tmp_path / "rubric.json")
    assert load_rubric(tmp_path / "rubric.json", "t2i") == outcome.rubric


def test_a_rubric_that_is_no_better_is_not_kept(make_pairs, tmp_path):
    """Here the judge alone likes what people like, so there is nothing to gain."""
    outcome = make_rubric(
        make_pairs(PROMPTS, darker=False), ScriptedChat(), folder=tmp_path / "work"
    )
    assert outcome.rubric is None and outcome.candidate is not None
    checked = outcome.comparison
    assert checked.with_rubric.right == checked.baseline.right == len(outcome.held_out)
    assert "the rubric is not shown to be better than 'text to image'" in outcome.sentence
    assert outcome.candidate.provenance["shown_to_be_better"] is False


def test_nothing_verified_is_no_rubric_and_no_further_call(make_pairs, tmp_path):
    chat = ScriptedChat()
    outcome = make_rubric(
        make_pairs([f"hopeless cup {number}" for number in range(4)]),
        chat,
        folder=tmp_path,
    )
    assert (outcome.rubric, outcome.candidate, outcome.comparison) == (None, None, None)
    assert "None of the 3 pairs" in outcome.sentence and len(chat.asked) == 3 * 18


def test_a_structure_that_cannot_be_read_says_what_to_do(make_pairs, tmp_path):
    broken = ScriptedChat(
        lambda text, pictures: answer(text, pictures) if pictures else "no themes today"
    )
    outcome = make_rubric(make_pairs(PROMPTS), broken, folder=tmp_path)
    assert outcome.rubric is None and "Run the command again" in outcome.sentence
    again = make_rubric(make_pairs(PROMPTS), ScriptedChat(), folder=tmp_path)
    assert again.rubric and again.calls == 1 + 4 * len(
        again.held_out
    )  # what was verified is not asked again


def test_a_job_that_a_dead_server_ended_goes_on_where_it_was(make_pairs, tmp_path):
    chat, count = ScriptedChat(), itertools.count()

    def dies(text, pictures):
        if next(count) >= 20:
            raise JudgeError("no server answers")
        return answer(text, pictures)

    chat.said = dies
    with pytest.raises(JudgeError, match="no server answers"):
        make_rubric(make_pairs(PROMPTS), chat, folder=tmp_path, at_once=3)
    with sqlite3.connect(tmp_path / "verdicts.sqlite") as store:
        count = "SELECT (SELECT count(*) FROM opinions) + (SELECT count(*) FROM replies)"
        [answered] = store.execute(count).fetchone()
    assert 15 <= answered <= 20
    resumed, whole = ScriptedChat(), ScriptedChat()
    outcome = make_rubric(make_pairs(PROMPTS), resumed, folder=tmp_path)
    fresh = make_rubric(make_pairs(PROMPTS), whole, folder=tmp_path / "fresh")
    assert outcome.rubric == fresh.rubric and outcome.outcomes == fresh.outcomes
    assert len(resumed.asked) == len(whole.asked) - answered and outcome.cached == answered


def test_an_error_that_ends_the_job_is_told_once(make_pairs, tmp_path, caplog):
    """Others come from questions in flight, which nobody waits for any more: asyncio has nothing to say of them."""

    class Refusing(ScriptedChat):
        async def complete(self, messages, options=None):
            reply = await super().complete(messages, options)
            if "FIRST" in self.asked[-1][1]:
                await asyncio.sleep(len(self.asked) / 1000)
                raise JudgeError("wrong key")
            return reply

    with pytest.raises(JudgeError, match="wrong key"):
        make_rubric(make_pairs(PROMPTS), Refusing(), folder=tmp_path)
    gc.collect()
    assert not caplog.records


def test_failures_of_single_calls_cost_their_pairs_only_and_are_asked_again_later(
    make_pairs, tmp_path
):
    flaky = failing("plain cup 3", "hard")
    pairs = make_pairs(PROMPTS)
    outcome = make_rubric(pairs, flaky, folder=tmp_path, held_out=pairs[-5:])
    assert (outcome.endings["failed"], outcome.endings["kept"]) == (3, 11) and outcome.rubric
    chat = ScriptedChat()
    again = make_rubric(pairs, chat, folder=tmp_path, held_out=pairs[-5:])
    assert again.endings["failed"] == 0
    written = [text for text, labels in chat.asked if "PREFERRED" in labels]
    assert all("hard" in text or "plain cup 3" in text for text in written)


def test_a_check_that_failed_altogether_proves_nothing(make_pairs, tmp_path):
    outcome = make_rubric(
        make_pairs(PROMPTS), failing("Light\n", BUILT_IN["t2i"].criteria[1]), folder=tmp_path
    )
    assert outcome.rubric is None and "held-out pairs failed" in outcome.sentence


def test_the_judge_verifies_what_another_model_writes(make_pairs, tmp_path):
    """The judge, whatever its kind, is asked under the criteria; the writer is never asked to judge."""

    def choose(question):
        darker_second = light(question.second) < light(question.first)
        return int(darker_second) if "dark" in question.rubric.text else 0

    chat, client = ScriptedChat(), Scripted(choose)
    with Judge(client, BUILT_IN["t2i"]) as judge:
        work = from_pairs(make_pairs(PROMPTS[4:]), judge, chat, Assignment("t2i"), folder=tmp_path)
        outcome = judge.runner.run(work)
    assert outcome.rubric and outcome.endings["kept"] == len(outcome.pairs)
    assert not any("FIRST" in labels for _, labels in chat.asked)
    assert outcome.calls == len(chat.asked) + len(client.asked)


def test_no_more_pairs_are_in_work_than_allowed(make_pairs, tmp_path):
    class Slow(ScriptedChat):
        now = most = 0

        async def complete(self, messages, options=None):
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.002)
            self.now -= 1
            return await super().complete(messages, options)

    chat = Slow()
    make_rubric(make_pairs(PROMPTS), chat, folder=tmp_path, at_once=2)
    assert (
        2 <= chat.most <= 8
    )  # two pairs; in the check each asks both orders, with the rubric and without


def test_many_criteria_are_selected_from_before_they_are_structured(make_pairs, tmp_path):
    chat = ScriptedChat()
    outcome = make_rubric(make_pairs(PROMPTS), chat, folder=tmp_path, most_criteria=3)
    [structuring] = [text for text, labels in chat.asked if not labels]
    assert len(outcome.selected) == 3
    _, *listed = re.findall("^- (.*\\.)$", structuring, re.MULTILINE)  # after the last rule
    assert sorted(listed) == sorted(outcome.selected)


def test_the_structurer_sees_how_often_each_criterion_decided(make_pairs, tmp_path):
    chat = ScriptedChat()
    outcome = make_rubric(make_pairs(PROMPTS[:9]), chat, folder=tmp_path)
    kept = len([one for one in outcome.outcomes if one.criteria])
    [structuring] = [text for text, labels in chat.asked if not labels]
    assert f"Decided {kept} of {kept}:\n- The picture is dark.\nDecided 0 of {kept}:" in structuring
    assert outcome.selected["The picture is dark."] == Proportion(kept, kept)
    assert outcome.selected[FILLERS[0]] == Proportion(0, kept)


def test_where_a_judge_says_nothing_of_criteria_each_decides_as_all_of_them():
    attempt = Attempt(("a", "b"))
    told = Attempt(("a", "c"), alone=(True, False))
    outcomes = [PairOutcome("kept", (one,)) for one in (attempt, told)]
    outcomes.append(PairOutcome("discarded", (attempt,)))
    counts = {"a": Proportion(2, 2), "b": Proportion(1, 1), "c": Proportion(0, 1)}
    assert decisions(outcomes) == counts


@pytest.mark.parametrize(
    "task, source, said",
    [("edit", False, "did you mean --task t2i"), ("t2i", True, "did you mean --task edit")],
)
def test_pairs_of_the_other_task_are_refused_before_any_call(
    make_pairs, tmp_path, task, source, said
):
    chat = ScriptedChat()
    with pytest.raises(DataError, match=said):
        make_rubric(make_pairs(["a", "b"], source=source), chat, task=task, folder=tmp_path)
    assert not chat.asked and chat.closed


def test_edits_are_written_and_checked_with_their_source(make_pairs, tmp_path):
    chat = ScriptedChat()
    outcome = make_rubric(make_pairs(PROMPTS, source=True), chat, task="edit", folder=tmp_path)
    assert outcome.rubric.task == "edit"
    assert all(labels[0] == "BASE" for _, labels in chat.asked if labels)


def test_an_image_that_went_missing_is_one_line(make_pairs, tmp_path):
    pairs = make_pairs(PROMPTS)
    pairs[0].images[0].unlink()
    with pytest.raises(RubricError, match="expected its images where they were"):
        make_rubric(pairs, ScriptedChat(), folder=tmp_path / "work")


def test_large_images_are_made_smaller_once(make_pairs, tmp_path):
    pairs, sizes = make_pairs(["a", "b"]), set()
    for file in tmp_path.glob("*.png"):
        with Image.open(file) as image:
            image.resize((2048, 512)).save(file)

    def said(text, pictures):
        sizes.update(image.size for image in pictures.values())
        return answer(text, pictures)

    make_rubric(pairs, ScriptedChat(said), folder=tmp_path / "work")
    assert sizes == {(1024, 256)}


# --- zero-shot ------------------------------------------------------------------------------------------------------

THEMES = json.dumps({"themes": [{"theme": "Cups", "tips": ["Two cups stand there."]}]})


def test_a_description_alone_makes_a_rubric():
    chat = ScriptedChat(lambda text, pictures: THEMES)
    rubric = asyncio.run(from_description("two matte\nblue cups", chat, Assignment("t2i", "zh")))
    assert rubric.text == "1. Cups\n   - Two cups stand there."
    assert (rubric.name, rubric.language, rubric.task) == ("two matte blue cups", "zh", "t2i")
    told = {"description": "two matte\nblue cups", "model": "scripted"}
    assert told.items() <= rubric.provenance.items()
    [(text, labels)] = chat.asked
    assert "two matte\nblue cups" in text and "Simplified Chinese" in text and labels == ()


def test_a_description_that_gives_no_rubric_is_one_line():
    with pytest.raises(RubricError, match="expected a rubric from scripted, got none: HTTP 500"):
        asyncio.run(from_description("cups", failing("cups"), Assignment("t2i")))
