"""The desk of a person who judges, without a browser: order, undo, handing back; and the file of labels."""

from __future__ import annotations

import json
import threading
import time

import pytest
from PIL import Image

from arr_core.data import PreferencePair, load_pairs
from arr_core.judge import main
from arr_core.labeling.labels import Labels, folder_pairs
from arr_core.labeling.queue import Card, Desk

A, B = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")


def cards(*prompts: str) -> list[Card]:
    return [Card(prompt, "", (lambda: A, lambda: B)) for prompt in prompts]


class Result(list):
    """What was handed back, and when."""

    def __init__(self):
        super().__init__()
        self.came = threading.Event()

    def __call__(self, answers) -> None:
        self.extend(choice for choice, _ in answers)
        self.came.set()


@pytest.fixture
def desk():
    made = Desk(settle_s=0.0)
    yield made
    made.close()


def choose(desk: Desk, choice: int | None) -> None:
    """Answer the top card with the place in the question, wherever it is shown."""
    number = desk.state()["card"]["number"]
    if choice is None:
        return desk.answer(number, None)
    left = desk.picture(number, "left").getpixel((0, 0)) == A.getpixel((0, 0))
    desk.answer(number, choice if left else 1 - choice)


def test_cards_come_in_order_and_choices_go_back_by_place(desk):
    result, prompts = Result(), []
    desk.add(cards("one", "two", "three"), result)
    for choice in (0, 1, None):
        prompts.append(desk.state()["card"]["prompt"])
        choose(desk, choice)
    assert result.came.wait(5)
    assert (prompts, result) == (["one", "two", "three"], [0, 1, None])
    assert desk.state()["card"] is None


def test_a_group_waits_until_it_has_settled_or_the_person_is_done():
    desk, result = Desk(settle_s=0.4), Result()
    desk.add(cards("one"), result)
    choose(desk, 0)
    assert not result.came.wait(0.2)
    assert result.came.wait(5)
    patient, result = Desk(settle_s=1000), Result()
    patient.add(cards("one"), result)
    choose(patient, 0)
    assert not result.came.wait(0.1)
    patient.finish()
    assert result.came.wait(5)
    desk.close()
    patient.close()


def test_done_hands_on_what_is_complete_and_nothing_else():
    desk, first, second = Desk(settle_s=1000), Result(), Result()
    desk.add(cards("one"), first)
    desk.add(cards("two", "three"), second)
    choose(desk, 0)
    choose(desk, 1)
    desk.finish()
    assert first.came.wait(5)
    assert not second.came.wait(0.1)
    choose(desk, 1)
    assert not second.came.wait(0.1)  # it was completed after the word
    desk.undo()
    desk.undo()
    assert desk.state()["card"]["prompt"] == "two"
    desk.undo()  # the first group has gone: nothing more to take back
    assert (desk.state()["card"]["prompt"], desk.state()["undo"]) == ("two", False)
    desk.close()


def test_undo_goes_back_in_the_order_of_the_answers_over_all_groups():
    desk, changes = Desk(settle_s=1000), []
    for name in ("ab", "cd"):
        desk.add(
            cards(*name),
            Result(),
            lambda at, choice, back, name=name: changes.append((name[at], choice, back)),
        )
    for choice in (0, 1, None):
        choose(desk, choice)
    for _ in range(3):
        desk.undo()
    assert changes == [
        ("a", 0, False),
        ("b", 1, False),
        ("c", None, False),
        ("c", None, True),
        ("b", 1, True),
        ("a", 0, True),
    ]
    assert (desk.state()["answered"], desk.state()["waiting"]) == (0, 4)
    desk.close()


def test_an_answer_to_another_card_than_the_top_is_void(desk):
    result = Result()
    desk.add(cards("one", "two"), result)
    for number in (1, 7, -1):
        desk.answer(number, 0)
    assert desk.state()["answered"] == 0
    choose(desk, 0)
    desk.answer(0, 1)  # pressed again
    assert (desk.state()["answered"], desk.state()["card"]["prompt"]) == (1, "two")


def test_an_answer_that_cannot_be_kept_has_not_been_given(desk):
    def full(at, choice, taken_back):
        raise OSError("the disk is full")

    desk.add(cards("one"), Result(), full)
    with pytest.raises(OSError, match="the disk is full"):
        choose(desk, 0)
    assert (desk.state()["answered"], desk.state()["card"]["prompt"]) == (0, "one")


def test_a_group_that_is_taken_away_is_not_asked(desk):
    result = Result()
    take_away = desk.add(cards("one", "two"), result)
    desk.add(cards("three"), Result())
    choose(desk, 0)
    take_away()
    take_away()
    assert desk.state()["card"]["prompt"] == "three"
    assert desk.picture(0, "left") is None
    assert not result.came.wait(0.1)


def test_sides_are_drawn_evenly_and_both_places_are_shown(desk):
    desk.add(cards(*map(str, range(400))), Result())
    lefts = 0
    for number in range(400):
        left, right = (desk.picture(number, side).getpixel((0, 0)) for side in ("left", "right"))
        assert {left, right} == {A.getpixel((0, 0)), B.getpixel((0, 0))}
        lefts += left == A.getpixel((0, 0))
    assert 140 < lefts < 260
    assert desk.picture(0, "base") is None


def test_who_waits_for_news_gets_it_at_once(desk):
    seen = desk.state()["version"]
    start = time.monotonic()
    assert desk.state(seen, 0.1)["version"] == seen
    assert time.monotonic() - start >= 0.1
    threading.Timer(0.1, lambda: desk.add(cards("one"), Result())).start()
    assert desk.state(seen, 20)["card"]["prompt"] == "one"
    assert time.monotonic() - start < 5
    threading.Timer(0.1, desk.close).start()
    assert desk.state(desk.version, 20)["closed"]


# --- the file of labels -------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path):
    for number, image in enumerate((A, B)):
        image.save(tmp_path / f"{number}.png")
    return PreferencePair(
        "two cups, 两个杯子", (tmp_path / "0.png", tmp_path / "1.png"), None, tags={"kind": "count"}
    )


def test_labels_are_read_back_as_preference_pairs(pair, tmp_path):
    (tmp_path / "deep").mkdir()
    labels = Labels(tmp_path / "deep" / "labels.jsonl")
    labels.add(pair, 1)
    (read,) = load_pairs(labels.path)
    assert (read.prompt, read.preferred, read.tags) == (pair.prompt, 1, {"kind": "count"})
    assert [path.resolve() for path in read.images] == [path.resolve() for path in pair.images]
    assert pair in Labels(labels.path)
    mirrored = PreferencePair(pair.prompt, pair.images[::-1], None)
    assert mirrored in Labels(labels.path)
    assert PreferencePair("another", pair.images, None) not in Labels(labels.path)


def test_what_stood_in_the_file_stays_and_a_missing_line_end_is_made_up(pair, tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text(
        '{"query": "x", "response": ["0.png", "1.png"], "label_rank": [1, 2]}', encoding="utf-8"
    )
    before = path.read_bytes()
    labels = Labels(path)
    labels.add(pair, 0)
    assert [one.prompt for one in load_pairs(path)] == ["x", pair.prompt]
    labels.take_back()
    assert path.read_bytes() == before


def test_a_tie_is_kept_apart(pair, tmp_path):
    labels = Labels(tmp_path / "labels.jsonl")
    labels.add(pair, None)
    assert not labels.path.exists() and (labels.decided, labels.ties) == (0, 1)
    assert pair in Labels(labels.path)
    labels.take_back()
    assert pair not in Labels(labels.path)


def test_nothing_is_cut_from_a_file_that_another_program_has_changed(pair, tmp_path):
    labels = Labels(tmp_path / "labels.jsonl")
    labels.add(pair, 0)
    with labels.path.open("a", encoding="utf-8") as file:
        file.write("{}\n")
    before = labels.path.read_bytes()
    with pytest.raises(OSError, match="another program has changed the file"):
        labels.take_back()
    assert labels.path.read_bytes() == before


def test_images_of_a_folder_are_compared_two_by_two(tmp_path):
    for name in ("mug/0.png", "mug/1.jpg", "mug/2.png", "mug/source.png", "hat/a.png", "hat/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        A.save(tmp_path / name)
    (tmp_path / "mug" / "prompt.txt").write_text("make the mug red\n", encoding="utf-8")
    (tmp_path / "mug" / "notes.md").write_text("no image", encoding="utf-8")
    hat, first, odd = folder_pairs(tmp_path)
    assert (hat.prompt, [path.name for path in hat.images], hat.source) == (
        "hat",
        ["a.png", "b.png"],
        None,
    )
    assert (first.prompt, [path.name for path in first.images]) == (
        "make the mug red",
        ["0.png", "1.jpg"],
    )
    assert ([path.name for path in odd.images], odd.source.name) == (
        ["1.jpg", "2.png"],
        "source.png",
    )


def wrong(tmp_path, capsys, source, output="labels.jsonl") -> str:
    assert main(["label", str(tmp_path / source), "--output", str(tmp_path / output)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ").replace(f"{tmp_path}", "").replace("\\", "/")


def test_what_cannot_be_labelled_is_named_in_one_line(pair, tmp_path, capsys):
    assert wrong(tmp_path, capsys, "none.jsonl") == (
        "/none.jsonl: expected a data file, came nothing: there is no such file"
    )
    (tmp_path / "empty").mkdir()
    assert wrong(tmp_path, capsys, "empty") == (
        "/empty: expected a folder for each prompt with two images or more in it, came none"
    )
    (tmp_path / "empty" / "mug").mkdir()
    assert wrong(tmp_path, capsys, "empty") == "/empty/mug: expected two images or more, came 0"
    for name in "ab":
        (tmp_path / "empty" / "mug" / f"{name}.png").write_text("no image")
    assert (
        wrong(tmp_path, capsys, "empty")
        == "/empty/mug/a.png: expected an image, came no image of these formats"
    )
    (tmp_path / "pairs.jsonl").write_text(
        json.dumps({"query": "x", "response": ["0.png", "1.png"]})
    )
    assert wrong(tmp_path, capsys, "pairs.jsonl", "labels.json") == (
        "/labels.json: expected an output that ends in .jsonl; change --output"
    )
    assert wrong(tmp_path, capsys, "pairs.jsonl", "no/labels.jsonl") == (
        "/no/labels.jsonl: expected a file in a folder that is there; make the folder, or change --output"
    )
    (tmp_path / "labels.jsonl").write_text("no labels")
    assert "labels.jsonl:1: expected one JSON object a line" in wrong(
        tmp_path, capsys, "pairs.jsonl"
    )
