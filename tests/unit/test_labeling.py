"""The labeling queue without a browser (order, undo, handing back), and the file of labels."""

from __future__ import annotations

import concurrent.futures
import json
import threading
import time
from dataclasses import replace
from functools import partial

import pytest
from PIL import Image

from arr_core.data import PreferencePair, load_pairs
from arr_core.judge import main
from arr_core.labeling.labels import Labels, folder_pairs
from arr_core.labeling.queue import LabelingQueue, Task

A, B = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")


def tasks(*prompts: str) -> list[Task]:
    return [Task(prompt, "", (A, B)) for prompt in prompts]


@pytest.fixture
def queue():
    made = LabelingQueue(1000.0)
    yield made
    made.close()


def shown(queue: LabelingQueue) -> str:
    return queue.state()["task"]["prompt"]


def choose(queue: LabelingQueue, choice: int | None) -> str:
    """Answer the task that is shown by its place, wherever it is shown; the task's prompt."""
    task = queue.state()["task"]
    side = choice if choice is None or queue.image(task["number"], "left") is A else 1 - choice
    queue.answer(task["number"], side)
    return task["prompt"]


def test_tasks_come_in_order_and_are_handed_back_after_the_undo_window():
    queue = LabelingQueue(0.4)
    answers = queue.add(tasks("one", "two", "three"))
    assert [choose(queue, choice) for choice in (0, 1, None)] == ["one", "two", "three"]
    with pytest.raises(concurrent.futures.TimeoutError):
        answers.result(0.2)
    assert [choice for choice, _ in answers.result(5)] == [0, 1, None]
    assert queue.state()["task"] is None
    queue.close()


def test_finish_hands_back_what_is_complete_and_nothing_else(queue):
    first, second = queue.add(tasks("one")), queue.add(tasks("two", "three"))
    choose(queue, 0)
    choose(queue, 1)
    queue.finish()
    assert first.done()
    choose(queue, 1)
    assert not second.done()  # it was completed after the word
    for _ in range(3):
        queue.undo()  # the first group is gone: nothing more to take back
    assert (shown(queue), queue.state()["undo"]) == ("two", False)


def test_undo_goes_back_in_the_order_of_the_answers_over_all_groups(queue):
    changes = []
    for group in ("ab", "cd"):
        queue.add([replace(one, changed=partial(record, changes, one)) for one in tasks(*group)])
    for choice in (0, 1, None):
        choose(queue, choice)
    for _ in range(3):
        queue.undo()
    given = [("a", 0), ("b", 1), ("c", None)]
    assert changes == [(*one, False) for one in given] + [(*one, True) for one in given[::-1]]
    assert (queue.state()["answered"], queue.state()["waiting"]) == (0, 4)


def record(changes, task, *change):
    changes.append((task.prompt, *change))


def test_only_the_task_that_is_shown_can_be_answered(queue):
    queue.add(tasks("one", "two"))
    for number in (1, 7, -1):
        queue.answer(number, 0)
    assert queue.state()["answered"] == 0
    choose(queue, 0)
    queue.answer(0, 1)  # pressed again
    assert (queue.state()["answered"], shown(queue)) == (1, "two")


def test_an_answer_that_cannot_be_kept_has_not_been_given(queue):
    def full(choice, undone):
        raise OSError("the disk is full")

    queue.add([Task("one", "", (A, B), changed=full)])
    with pytest.raises(OSError, match="the disk is full"):
        choose(queue, 0)
    assert (queue.state()["answered"], shown(queue)) == (0, "one")


def test_a_group_that_is_cancelled_is_not_asked(queue):
    answers = queue.add(tasks("one", "two"))
    queue.add(tasks("three"))
    choose(queue, 0)
    answers.cancel()
    queue.finish()
    assert shown(queue) == "three" and queue.image(0, "left") is None


def test_sides_are_drawn_evenly_and_both_places_are_shown(queue):
    queue.add(tasks(*map(str, range(400))))
    lefts = [queue.image(number, "left") is A for number in range(400)]
    rights = [queue.image(number, "right") is B for number in range(400)]
    assert lefts == rights and 140 < sum(lefts) < 260
    assert queue.image(0, "source") is None


def test_who_waits_for_news_gets_it_at_once(queue):
    seen, start = queue.state()["version"], time.monotonic()
    assert queue.state(seen, 0.1)["version"] == seen
    assert time.monotonic() - start >= 0.1
    threading.Timer(0.1, queue.add, [tasks("one")]).start()
    assert queue.state(seen, 20)["task"]["prompt"] == "one"
    threading.Timer(0.1, queue.close).start()
    assert queue.state(queue.version, 20)["closed"]
    assert time.monotonic() - start < 5


# --- the file of labels -------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path):
    files = tmp_path / "0.png", tmp_path / "1.png"
    for file, image in zip(files, (A, B), strict=True):
        image.save(file)
    return PreferencePair("two cups, 两个杯子", files, None, tags={"kind": "count"})


@pytest.mark.parametrize("edit, choice", [(False, 1), (True, 0), (False, None)])
def test_labels_are_read_back_as_pairs_and_ties_are_kept_apart(pair, tmp_path, edit, choice):
    labels = Labels(tmp_path / "deep" / "labels.jsonl")
    pair = replace(pair, source=pair.images[0] if edit else None)
    labels.add(pair, choice)
    path = labels.ties_path if choice is None else labels.path
    assert labels.counts == {path: 1} and [*path.parent.iterdir()] == [path]
    (read,) = load_pairs(path, labelled=choice is not None, also=None)
    assert (read.prompt, read.preferred, read.tags) == (pair.prompt, choice, {"kind": "count"})
    files = [read.source, *read.images]
    assert [file and file.resolve() for file in files] == [pair.source, *pair.images]
    again = Labels(labels.path)
    assert pair in again and replace(pair, images=pair.images[::-1]) in again
    assert replace(pair, prompt="another") not in again
    labels.undo()
    assert pair not in Labels(labels.path)


def test_what_stood_in_the_file_or_another_program_wrote_stays(pair, tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"query": "x", "response": ["0.png", "1.png"], "label_rank": [1, 2]}')
    before = path.read_bytes()
    labels = Labels(path)
    labels.add(pair, 0)  # behind a line end, which is missing
    assert [one.prompt for one in load_pairs(path)] == ["x", pair.prompt]
    added = path.read_bytes()
    path.write_bytes(added + b"{}\n")
    with pytest.raises(OSError, match="another program has changed the file"):
        labels.undo()
    assert path.read_bytes() == added + b"{}\n"
    path.write_bytes(added)
    labels.undo()
    assert path.read_bytes() == before


def test_images_of_a_folder_are_compared_two_by_two(tmp_path):
    for name in ("mug/0.png", "mug/1.jpg", "mug/2.png", "mug/source.png", "hat/a.png", "hat/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        A.save(tmp_path / name)
    (tmp_path / "mug" / "prompt.txt").write_text("make the mug red\n", encoding="utf-8")
    (tmp_path / "mug" / "notes.md").write_text("no image", encoding="utf-8")
    found = [
        (pair.prompt, *(path.name for path in pair.images), pair.source and pair.source.name)
        for pair in folder_pairs(tmp_path)
    ]
    assert found == [
        ("hat", "a.png", "b.png", None),
        ("make the mug red", "0.png", "1.jpg", "source.png"),
        ("make the mug red", "1.jpg", "2.png", "source.png"),
    ]


@pytest.mark.parametrize(
    "source, output, message",
    [
        ("none.jsonl", "labels.jsonl", "/none.jsonl: expected a data file"),
        ("empty", "labels.jsonl", "/empty: expected a folder for each prompt"),
        ("one", "labels.jsonl", "/one/mug: expected two images or more, got 0"),
        ("torn", "labels.jsonl", "/torn/mug/a.png: expected an image, got no image of these"),
        ("pairs.jsonl", "labels.json", "/labels.json: expected an output that ends in .jsonl"),
        ("pairs.jsonl", "torn/mug/a.png/labels.jsonl", "/torn/mug/a.png"),
        ("pairs.jsonl", "other.jsonl", "/other.jsonl:1: expected one JSON object a line"),
    ],
)
def test_what_cannot_be_labelled_is_named_in_one_line(
    pair, tmp_path, capsys, source, output, message
):
    for name in ("empty", "one/mug", "torn/mug"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("torn/mug/a.png", "torn/mug/b.png", "other.jsonl"):
        (tmp_path / name).write_text("no image and no label")
    line = json.dumps({"query": "x", "response": ["0.png", "1.png"]})
    (tmp_path / "pairs.jsonl").write_text(line)
    assert main(["label", str(tmp_path / source), "--output", str(tmp_path / output)]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert message in said.replace(str(tmp_path), "").replace("\\", "/")
