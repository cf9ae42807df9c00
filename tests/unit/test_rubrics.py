"""Rubrics and their files."""

from __future__ import annotations

import json
import re

import pytest

from arr_core.rubrics import BUILT_IN, Rubric, RubricError, Theme, load_rubric

LIGHT = Rubric(
    name="light",
    task="t2i",
    themes=(
        Theme(theme="Light", tips=("It is bright.", "Shadows agree.")),
        Theme(theme="It is sharp."),
    ),
)

CUPS = Rubric(name="cups", task="t2i", criteria=("Two cups.", "Blue."))


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes, name: str = "rubric.json"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def fault(path, task="t2i") -> str:
    with pytest.raises(RubricError) as caught:
        load_rubric(path, task)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: expected ")
    return str(caught.value)


def test_a_rubric_survives_its_file(tmp_path):
    rubric = CUPS.model_copy(update={"task": "edit", "provenance": {"model": "苹果"}})
    path = tmp_path / "rubric.json"
    rubric.save(path)
    assert load_rubric(path, "edit") == rubric
    assert json.loads(path.read_text(encoding="utf-8"))["hash"] == rubric.content_hash


def test_a_text_file_holds_one_criterion_a_line(write):
    text = "\ufeff1. Two cups.\r\n\r\n- Blue.\n* Matt.\n• On wood.\n12) Soft light.\n"
    rubric = load_rubric(write(text, "my cups.txt"), "t2i")
    assert rubric.criteria == ("Two cups.", "Blue.", "Matt.", "On wood.", "Soft light.")
    assert (rubric.name, rubric.task) == ("my cups", "t2i")


@pytest.mark.parametrize(
    "text",
    [
        "# My rubric\n\n## Realism\n- Light falls one way.\n- Hands have five fingers.\n## Text\n- It is spelled right.\n",
        "Theme: Realism\n- Tip 1: Light falls one way.\n- Tip 2: Hands have five fingers.\nTheme 2: Text\nTips:\n"
        "It is spelled right.",
        "Realism\n  - Light falls one way.\n  - Hands have five fingers.\nText\n  It is spelled right.",
    ],
)
def test_a_text_file_may_have_themes_with_tips(write, text):
    themes = load_rubric(write(text, "mine.txt"), "t2i").themes
    assert [(theme.theme, theme.tips) for theme in themes] == [
        ("Realism", ("Light falls one way.", "Hands have five fingers.")),
        ("Text", ("It is spelled right.",)),
    ]


def test_a_built_in_rubric_goes_by_its_name():
    assert load_rubric("t2i zh").language == "zh" and load_rubric("edit", "edit").task == "edit"
    with pytest.raises(RubricError, match="expected a rubric for the task 'edit'"):
        load_rubric("t2i zh", "edit")


def test_the_judge_reads_a_numbered_list():
    assert CUPS.text == "1. Two cups.\n2. Blue."
    assert LIGHT.text == "1. Light\n   - It is bright.\n   - Shadows agree.\n2. It is sharp."
    assert LIGHT.statements == ("It is bright.", "Shadows agree.", "It is sharp.")


def test_the_hash_names_what_is_judged_and_nothing_else():
    def hash_with(**changes) -> str:
        return CUPS.model_copy(update=changes).content_hash

    assert hash_with(name="x", provenance={"date": "today"}) == CUPS.content_hash
    others = {
        hash_with(task="edit"),
        hash_with(criteria=("Blue.", "Two cups.")),
        hash_with(criteria=("Two cups.",)),
        hash_with(criteria=("Two cups.Blue.",)),
    }
    assert len({CUPS.content_hash, *others}) == 5 and len(CUPS.content_hash) == 16


def test_a_hash_in_the_file_is_not_taken_at_its_word(write):
    path = write(json.dumps({**CUPS.model_dump(), "hash": "0" * 16}))
    assert load_rubric(path, "t2i").content_hash == CUPS.content_hash


def test_themes_and_their_tips_survive_their_file(tmp_path):
    LIGHT.save(tmp_path / "rubric.json")
    assert load_rubric(tmp_path / "rubric.json") == LIGHT
    content = json.loads((tmp_path / "rubric.json").read_text(encoding="utf-8"))
    assert "criteria" not in content
    assert content["themes"][1] == {"theme": "It is sharp.", "tips": []}
    assert [file.name for file in tmp_path.iterdir()] == ["rubric.json"]


def test_what_the_judge_reads_is_itself_a_rubric_file(write):
    read = load_rubric(write(LIGHT.text, "light.txt"), "t2i")
    assert read.themes == LIGHT.themes and read.content_hash == LIGHT.content_hash


def test_a_text_file_may_be_indented_as_a_whole(write):
    assert load_rubric(write("  - a\n  - b\n", "r.txt"), "edit").criteria == ("a", "b")
    assert load_rubric(write("\t1) a\n\t\t* b\n\t2) c\n", "r.txt"), "edit").themes == (
        Theme(theme="a", tips=("b",)),
        Theme(theme="c"),
    )


def test_chinese_lists_are_read(write):
    rubric = load_rubric(write("1、主体明确。\n2、没有水印。\n", "r.txt"), "t2i")
    assert (rubric.criteria, rubric.language) == (("主体明确。", "没有水印。"), "zh")


def test_a_decimal_at_the_beginning_is_no_number_of_a_list(write):
    path = write("3 cups stand there.\n1.5 cups are full.\n", "r.txt")
    assert load_rubric(path, "t2i").criteria == ("3 cups stand there.", "1.5 cups are full.")


def test_a_line_break_can_fake_no_criterion():
    """Else two rubrics that judges read alike could be told apart, or the other way round."""
    assert Rubric(name="n", task="t2i", criteria=("a\n2. b",)).text == "1. a 2. b"


def test_a_text_file_needs_its_task_said(write):
    with pytest.raises(RubricError, match="expected a task with this text file"):
        load_rubric(write("a", "r.txt"))


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "name, task, and criteria"),
        ("", "name, task, and criteria"),
        ("[]", "name, task, and criteria"),
        ('{"name": "n", "task": "t2i"}', "either criteria or themes"),
        ('{"name": "n", "task": "t2i", "criteria": []}', "either criteria or themes"),
        (
            '{"name": "n", "task": "t2i", "criteria": ["a"], "themes": [{"theme": "b"}]}',
            "and not both",
        ),
        (
            '{"name": "n", "task": "t2i", "criteria": ["a", " "]}',
            "criteria.1: expected a text that is not empty",
        ),
        ('{"name": "n", "task": "t2i", "themes": [{"theme": "b", "tip": "c"}]}', "themes.0.tip"),
        ('{"name": "n", "task": "video", "criteria": ["a"]}', "task"),
        ('{"name": "n", "task": "t2i", "criteria": ["a"], "weight": 2}', "weight"),
        (
            '{"name": "n", "task": "edit", "criteria": ["a"]}',
            "for the task 't2i', got one for 'edit'",
        ),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_file_that_is_no_rubric_is_one_line(write, text, said):
    assert said in fault(write(text))


@pytest.mark.parametrize("text", ["", "\n \n", "- \n1.\n"])
def test_a_text_file_without_criteria_is_refused(write, text):
    assert "one criterion a line" in fault(write(text, "rubric.txt"))


def test_a_file_that_is_not_there(tmp_path):
    fault(tmp_path / "no.json")
    fault(tmp_path)


def test_the_built_in_rubrics_are_for_their_tasks():
    assert set(BUILT_IN) == {"t2i", "edit", "t2i zh", "edit zh"}
    for name, rubric in BUILT_IN.items():
        task, _, language = name.partition(" ")
        assert (rubric.task, rubric.language) == (task, language or "en")


@pytest.mark.parametrize("task", ["t2i", "edit"])
def test_the_chinese_rubric_says_what_the_english_one_says(task):
    english, chinese = BUILT_IN[task], BUILT_IN[f"{task} zh"]
    for one, other in zip(english.criteria, chinese.criteria, strict=True):
        assert ("BASE" in one) == ("BASE" in other)
    assert not re.search("[A-Za-z]", chinese.text.replace("BASE", ""))
