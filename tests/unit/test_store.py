"""The verdict store: what comes back, the audit trail, and many writers, some of them killed."""

from __future__ import annotations

import dataclasses
import io
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from arr_core.judging import Judge, JudgeError
from arr_core.judging.client import GroupClient
from arr_core.judging.pictures import image_hash
from arr_core.judging.store import Entry, VerdictStore, thumbnail
from arr_core.judging.verdict import Opinion
from arr_core.rubrics import Rubric

ROOT = Path(__file__).resolve().parents[2]
RUBRIC = Rubric(name="light", task="t2i", criteria=("The image is bright.",))
FAILED = Opinion(None, failure="HTTP 500", latency_s=2.0)
OPINION = Opinion(
    1,
    "zwei Tassen, 两个杯子",
    (("1", "first: one; second: two"), ("2", "")),
    confidence=0.9,
    reply='{"preferred": 2}',
    tokens=120,
    cost=0.002,
    latency_s=1.5,
    members=(Opinion(0), Opinion(1, log_odds=-2.0)),
)


@pytest.fixture
def store(tmp_path):
    with_file = VerdictStore(tmp_path / "verdicts.sqlite")
    yield with_file
    with_file.close()


def entry(*opinions: Opinion, preferred=None, **fields) -> Entry:
    pair = {"prompt": "a cup", "image_a": b"a", "image_b": b"b", "source": None}
    judged = {"rubric": "r", "judge": "j", "reason": "why"}
    return Entry(**{**pair, **judged, "preferred": preferred, "opinions": opinions, **fields})


def grey(level: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (level,) * 3)


# --- opinions and replies -----------------------------------------------------------------------------------------


def test_an_opinion_comes_back_as_it_was_and_marked(store, tmp_path):
    assert store.get(["key"]) == {}
    store.put({"key": OPINION})
    assert store.get(["other", "key"]) == {"key": dataclasses.replace(OPINION, cached=True)}
    store.close()
    again = VerdictStore(tmp_path / "verdicts.sqlite")
    assert again.get(["key"])["key"].reason == OPINION.reason
    again.close()


def test_what_is_stored_stays_and_failures_are_not_stored(store):
    store.put({"key": OPINION, "failed": FAILED})
    store.put({"key": Opinion(0)})
    assert (store.get(["key", "failed"])["key"].preferred, len(store)) == (1, 1)
    store.put_reply("key", "first")
    store.put_reply("key", "second")
    assert (store.get_reply("key"), store.get_reply("other")) == ("first", None)


def test_thousands_of_keys_are_found_at_once(store):
    store.put({f"{number}": Opinion(number % 2) for number in range(2500)})
    found = store.get([f"{number}" for number in range(2600)])
    assert {key: opinion.preferred for key, opinion in found.items()} == {
        f"{number}": number % 2 for number in range(2500)
    }


@pytest.mark.parametrize(
    "text", ["\ud800", "a\x00b", "'; DROP TABLE opinions; --", "🙂" * 1000, ""]
)
def test_any_text_can_be_kept(store, text):
    opinion = Opinion(0, text, ((text, text),), reply=text)
    store.put({"key": opinion})
    store.put_reply("key", text)
    store.put_verdicts([entry(opinion, prompt=text, reason=text)], [("r", text, text)])
    assert store.get(["key"]) == {"key": dataclasses.replace(opinion, cached=True)}
    assert store.get_reply("key") == text
    (kept,) = store.entries()
    assert kept.opinions == (opinion,)
    assert kept.prompt == text.encode("utf-8", "backslashreplace").decode()


def test_memory_alone_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = VerdictStore(":memory:")
    store.put({"key": OPINION})
    assert (len(store), store.keeps_trail) == (1, False)
    store.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", [b"no database, but text that is long enough to be looked at" * 20, b"\x00" * 5000]
)
def test_a_file_that_is_no_store_is_named(tmp_path, content):
    (tmp_path / "verdicts.sqlite").write_bytes(content)
    with pytest.raises(
        JudgeError, match="verdicts.sqlite: expected a verdict store that can be written; "
    ):
        VerdictStore(tmp_path / "verdicts.sqlite")


def test_a_database_of_another_version_or_program_is_refused_and_left_as_it_is(tmp_path):
    with sqlite3.connect(tmp_path / "verdicts.sqlite") as other:
        other.execute("CREATE TABLE opinions (key TEXT PRIMARY KEY)")
    with pytest.raises(JudgeError, match="store of version 1, got version 0 or .*; move it away"):
        VerdictStore(tmp_path / "verdicts.sqlite")
    assert other.execute("SELECT name FROM sqlite_master").fetchall()[0] == ("opinions",)
    other.close()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        JudgeError, match="nowhere.verdicts.sqlite: expected a verdict store that can be written; "
    ):
        VerdictStore(tmp_path / "nowhere" / "verdicts.sqlite")


# --- the audit trail ----------------------------------------------------------------------------------------------


def test_the_trail_gives_back_verdicts_newest_first(store):
    said = (Opinion(0), Opinion(1))
    store.put_verdicts(
        [entry(*said, preferred="a"), entry(Opinion(0), FAILED, prompt="later", source=b"s")],
        [("r", "light", "1. bright")],
    )
    store.put_thumbnails({b"a": b"A", b"s": b"S"})
    later, first = store.entries()
    assert dataclasses.replace(first, time="") == entry(*said, preferred="a")
    assert (later.prompt, later.source, later.opinions[1]) == ("later", b"s", FAILED)
    assert store.thumbnails([b"a", b"b", b"s"]) == {b"a": b"A", b"s": b"S"}
    assert store.without_thumbnail([b"a", b"b"]) == {b"b"}
    assert store.rubrics() == {"r": ("light", "1. bright")}
    assert [one.prompt for one in store.entries(last=1)] == ["later"]
    assert first.time.endswith("+00:00")


@pytest.mark.parametrize(
    ("preferred", "said", "outcome"),
    [
        ("a", (Opinion(0), Opinion(1)), "decided"),
        (None, (Opinion(0), Opinion(0)), "disagree"),
        (None, (Opinion(1), Opinion(1)), "disagree"),
        (None, (Opinion(0), Opinion(None)), "tie"),
        (None, (Opinion(None),), "tie"),
        (None, (Opinion(0), FAILED), "failed"),
        ("b", (Opinion(1),), "decided"),
        (None, (Opinion(0), Opinion(1)), "tie"),
    ],
    ids=str,
)
def test_every_outcome_has_a_name(preferred, said, outcome):
    """The last one: a judge that agrees with itself and yet abstains, for want of confidence."""
    assert entry(*said, preferred=preferred).outcome == outcome


def test_the_same_verdict_is_kept_once_and_different_ones_each(store):
    later = dataclasses.replace(FAILED, latency_s=3.0)
    for failed in (FAILED, later, dataclasses.replace(later, cached=True)):
        store.put_verdicts([entry(Opinion(0), preferred="a"), entry(failed)])
    assert [one.outcome for one in store.entries()] == ["failed", "decided"]
    changes = ({"prompt": "a mug"}, {"image_a": b"c"}, {"judge": "another"}, {"source": b"s"})
    store.put_verdicts([entry(FAILED, **change) for change in changes])
    assert len(list(store.entries())) == 6


def test_a_thumbnail_is_small_webp():
    large = Image.effect_noise((1024, 512), 60).convert("RGB")
    with Image.open(io.BytesIO(thumbnail(large))) as small:
        assert (small.format, small.size) == ("WEBP", (192, 96))
    assert large.size == (1024, 512)  # the image itself is left as it is


def test_a_tiny_picture_is_kept_exactly():
    picture = Image.effect_noise((64, 64), 60).convert("RGB")
    with Image.open(io.BytesIO(thumbnail(picture))) as small:
        assert small.convert("RGB").tobytes() == picture.tobytes()


def test_images_are_named_by_what_is_seen():
    assert image_hash(grey(1)) == image_hash(Image.new("L", (4, 4), 1)) != image_hash(grey(2))
    assert image_hash(Image.new("RGB", (2, 8))) != image_hash(Image.new("RGB", (4, 4)))


# --- what a judge leaves in it ------------------------------------------------------------------------------------


class Scripted(GroupClient):
    identity = "scripted"

    def __init__(self, *replies: Opinion):
        self.replies, self.asked = list(replies), 0

    async def answer_all(self, questions):
        self.asked += len(questions)
        return [self.replies.pop(0) if self.replies else Opinion(0) for _ in questions]


def test_a_judge_leaves_verdicts_pictures_and_the_rubric(tmp_path):
    client = Scripted(
        Opinion(0, "brighter"),
        Opinion(1, "brighter too"),
        Opinion(0),
        Opinion(None, failure="HTTP 500"),
    )
    with Judge(client, RUBRIC, store=tmp_path / "verdicts.sqlite") as judge:
        judge.compare("a cup", grey(9), grey(1))
        judge.compare("make it so", grey(9), grey(1), source=grey(5))
    store = VerdictStore(tmp_path / "verdicts.sqlite")
    edit, first = store.entries()
    assert (first.prompt, first.preferred, first.outcome, first.source) == (
        "a cup",
        "a",
        "decided",
        None,
    )
    assert [opinion.reason for opinion in first.opinions] == ["brighter", "brighter too"]
    assert (edit.outcome, edit.source, edit.judge) == ("failed", image_hash(grey(5)), "scripted")
    assert set(store.thumbnails([image_hash(grey(n)) for n in (1, 5, 9)])) == {
        image_hash(grey(n)) for n in (1, 5, 9)
    }
    assert store.rubrics() == {RUBRIC.content_hash: ("light", "1. The image is bright.")}
    store.close()


def test_runs_share_a_second_file_and_each_keeps_a_whole_trail(tmp_path, monkeypatch):
    monkeypatch.setenv("ARR_VERDICTS", str(tmp_path / "shared.sqlite"))
    for run, calls in (("one", 2), ("two", 0)):
        client = Scripted(Opinion(0, "brighter"), Opinion(1))
        with Judge(client, RUBRIC, store=tmp_path / f"{run}.sqlite") as judge:
            verdict = judge.compare("a cup", grey(9), grey(1))
        assert (verdict.preferred, verdict.calls, client.asked) == ("a", calls, calls)
    monkeypatch.delenv("ARR_VERDICTS")
    for run in ("one", "two"):
        store = VerdictStore(tmp_path / f"{run}.sqlite")
        (entry,) = store.entries()
        assert (
            entry.preferred,
            entry.opinions[0].reason,
            len(store.thumbnails([entry.image_a, entry.image_b])),
        ) == ("a", "brighter", 2)
        store.close()
    with Judge(Scripted(), RUBRIC, store=tmp_path / "two.sqlite") as judge:
        assert (
            judge.compare("a cup", grey(9), grey(1)).calls == 0
        )  # what was shared has been copied


def test_the_shared_file_may_be_the_runs_own(tmp_path, monkeypatch):
    monkeypatch.setenv("ARR_VERDICTS", str(tmp_path / "verdicts.sqlite"))
    with Judge(Scripted(), RUBRIC, store=tmp_path / "verdicts.sqlite") as judge:
        judge.compare("a cup", grey(9), grey(1))
        assert len(judge.store) == 2


def test_a_shared_file_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ARR_VERDICTS", str(tmp_path / "nowhere" / "shared.sqlite"))
    with pytest.raises(
        JudgeError, match=r"ARR_VERDICTS names .*shared.sqlite: expected a verdict store"
    ):
        Judge(Scripted(), RUBRIC, store=tmp_path / "verdicts.sqlite")


# --- many at once -------------------------------------------------------------------------------------------------


def test_threads_share_one_store(store):
    def work(name: int) -> None:
        for number in range(50):
            store.put({f"shared {number}": Opinion(number % 2), f"{name} {number}": Opinion(0)})
            assert store.get([f"shared {number}"])[f"shared {number}"].preferred == number % 2

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store) == 50 + 4 * 50


WRITER = """
import sys
from arr_core.judging.store import Entry, VerdictStore
from arr_core.judging.verdict import Opinion
store, name, count = VerdictStore(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for n in range(count):
    keys = [f"{name} {n} {part}" for part in range(20)]
    opinion = Opinion(0, reply="x" * 2000)
    store.put({key: opinion for key in keys} | {f"shared {n}": Opinion(n % 2)})
    store.put_verdicts([Entry("p", key.encode(), b"b", None, "r", "j", "a", "", (opinion,)) for key in keys])
    store.put_thumbnails({key.encode(): b"w" * 3000 for key in keys})
    assert store.get([f"shared {n}"])[f"shared {n}"].preferred == n % 2
    print(n, flush=True)
store.close()
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)],
        cwd=ROOT,
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_share_one_file_which_none_of_them_made_before(tmp_path):
    processes = [writer(tmp_path / "verdicts.sqlite", name, 30) for name in "abc"]
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    store = VerdictStore(tmp_path / "verdicts.sqlite")
    assert len(store) == 30 + 3 * 30 * 20
    store.close()


def test_a_killed_writer_leaves_whole_groups_and_a_sound_file(tmp_path):
    process = writer(tmp_path / "verdicts.sqlite", "a", 100_000)
    for line in process.stdout:
        if int(line) >= 20:
            break
    time.sleep(0.05)
    process.kill()
    process.communicate()
    store = VerdictStore(tmp_path / "verdicts.sqlite")
    entries = list(store.entries())
    assert len(entries) >= 20 * 20 and len(entries) % 20 == 0
    assert not any(entry.opinions[0].failure for entry in entries)
    assert len(store) % 21 == 0
    assert store._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()
