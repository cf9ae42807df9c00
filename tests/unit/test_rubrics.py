"""Rubrics and their files."""
from __future__ import annotations

import json

import pytest

from arr_core.rubrics import BUILT_IN, Rubric, RubricError, load_rubric


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
    rubric = Rubric(name="cups", task="edit", criteria=("Two cups.", "苹果"), provenance={"model": "m"})
    rubric.save(tmp_path / "rubric.json")
    assert load_rubric(tmp_path / "rubric.json", "edit") == rubric
    assert json.loads((tmp_path / "rubric.json").read_text(encoding="utf-8"))["hash"] == rubric.content_hash


def test_a_text_file_holds_one_criterion_a_line(write):
    text = "\ufeff1. Two cups.\r\n\r\n- Blue.\n* Matt.\n• On wood.\n12) Soft light.\n"
    rubric = load_rubric(write(text, "my cups.txt"), "t2i")
    assert rubric.criteria == ("Two cups.", "Blue.", "Matt.", "On wood.", "Soft light.")
    assert (rubric.name, rubric.task) == ("my cups", "t2i")


def test_the_judge_reads_a_numbered_list():
    assert Rubric(name="n", task="t2i", criteria=("Two cups.", "Blue.")).text == "1. Two cups.\n2. Blue."


def test_the_hash_names_what_is_judged_and_nothing_else():
    rubric = Rubric(name="cups", task="t2i", criteria=("Two cups.", "Blue."))
    assert len(rubric.content_hash) == 16
    assert rubric.content_hash == rubric.model_copy(update={"name": "x", "provenance": {"date": "today"}}).content_hash
    others = [rubric.model_copy(update=update) for update in (
        {"task": "edit"}, {"criteria": ("Blue.", "Two cups.")}, {"criteria": ("Two cups.",)},
        {"criteria": ("Two cups.Blue.",)})]
    assert len({rubric.content_hash, *(other.content_hash for other in others)}) == 5


def test_a_hash_in_the_file_is_not_taken_at_its_word(write):
    path = write(json.dumps({"name": "n", "task": "t2i", "criteria": ["Two cups."], "hash": "0" * 16}))
    assert load_rubric(path, "t2i").content_hash == Rubric(name="n", task="t2i", criteria=("Two cups.",)).content_hash


@pytest.mark.parametrize("text, said", [
    ("{", "name, task and criteria"), ("", "name, task and criteria"), ("[]", "name, task and criteria"),
    ('{"name": "n", "task": "t2i"}', "criteria"), ('{"name": "n", "task": "t2i", "criteria": []}', "criteria"),
    ('{"name": "n", "task": "video", "criteria": ["a"]}', "task"),
    ('{"name": "n", "task": "t2i", "criteria": ["a"], "weight": 2}', "weight"),
    ('{"name": "n", "task": "edit", "criteria": ["a"]}', "for the task 't2i', came one for 'edit'"),
    (b"\xff\xfe", "UTF-8"),
])
def test_a_file_that_is_no_rubric_is_one_line(write, text, said):
    assert said in fault(write(text))


@pytest.mark.parametrize("text", ["", "\n \n", "- \n1.\n"])
def test_a_text_file_without_criteria_is_refused(write, text):
    assert "one criterion a line" in fault(write(text, "rubric.txt"))


def test_a_file_that_is_not_there(tmp_path):
    fault(tmp_path / "no.json")
    fault(tmp_path)


def test_a_rubric_does_not_change():
    with pytest.raises(ValueError, match="frozen"):
        BUILT_IN["t2i"].name = "other"


def test_the_built_in_rubrics_are_for_their_tasks():
    assert {name: rubric.task for name, rubric in BUILT_IN.items()} == {
        "t2i": "t2i", "edit": "edit", "miniature t2i": "t2i", "miniature edit": "edit"}
    assert all(len(rubric.criteria) >= 2 for rubric in BUILT_IN.values())
