"""The verdict store: what comes back, the audit trail, and many writers, some of them killed."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from doubles.client import RUBRIC, Scripted, always_first, brighter, grey
from PIL import Image

from arr_core.judging import Judge, JudgeError
from arr_core.judging.pictures import image_hash
from arr_core.judging.store import Entry, VerdictStore, thumbnail
from arr_core.judging.verdict import Finding, Opinion

ROOT = Path(__file__).resolve().parents[2]
FAILED = Opinion(None, failure="HTTP 500", latency_s=2.0)
OPINION = Opinion(
    1,
    "zwei Tassen, 两个杯子",
    (Finding("1", "first: one; second: two", 1), Finding("2", "")),
    confidence=0.9,
    reply='{"preferred": 2}',
    tokens=120,
    cost=0.002,
    latency_s=1.5,
    members=(Opinion(0), Opinion(1, log_odds=-2.0)),
)


def opened(path: Path) -> contextlib.closing[VerdictStore]:
    return contextlib.closing(VerdictStore(path))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "verdicts.sqlite"


@pytest.fixture
def store(path):
    with opened(path) as store:
        yield store


def entry(*opinions: Opinion, preferred=None, **fields) -> Entry:
    pair = {"prompt": "a cup", "image_a": b"a", "image_b": b"b", "source": None}
    judged = {"rubric": "r", "judge": "j", "reason": "why"}
    return Entry(**{**pair, **judged, "preferred": preferred, "opinions": opinions, **fields})


# --- opinions and replies -----------------------------------------------------------------------------------------


def test_a_label_takes_the_place_of_an_earlier_one(path):
    with opened(path) as store:
        pair = entry(preferred="b").pair
        assert pair == entry(image_a=b"b", image_b=b"a").pair != entry(source=b"c").pair
        for image in (b"a", b"b"):
            store.put_labels({pair: image})
        assert store.labels() == {pair: b"b"} == {pair: entry(preferred="b").winner}


def test_what_is_stored_comes_back_as_it_was_and_failures_are_not_stored(store, path):
    cached = {"key": dataclasses.replace(OPINION, cached=True)}
    assert store.get(["key"]) == {}
    store.put({"key": OPINION, "failed": FAILED})
    store.put({"key": Opinion(0)})
    assert (store.get(["failed", "key"]), len(store)) == (cached, 1)
    store.put_reply("key", "first")
    store.put_reply("key", "second")
    assert (store.get_reply("key"), store.get_reply("other")) == ("first", None)
    with opened(path) as again:
        assert again.get(["key"]) == cached


def test_thousands_of_keys_are_found_at_once(store):
    known = {f"{number}": Opinion(number % 2, cached=True) for number in range(2500)}
    store.put(known)
    assert store.get([f"{number}" for number in range(2600)]) == known


@pytest.mark.parametrize(
    "text", ["\ud800", "a\x00b", "'; DROP TABLE opinions; --", "🙂" * 1000, ""]
)
def test_any_text_can_be_kept(store, text):
    opinion = Opinion(0, text, (Finding(text, text),), reply=text)
    store.put({"key": opinion})
    store.put_reply("key", text)
    store.put_rubric("r", text, text)
    store.put_verdicts([entry(opinion, prompt=text, reason=text)])
    assert store.get(["key"]) == {"key": dataclasses.replace(opinion, cached=True)}
    assert store.get_reply("key") == text
    (kept,) = store.entries()
    assert kept.opinions == (opinion,)
    assert kept.prompt == text.encode("utf-8", "backslashreplace").decode()


def test_memory_alone_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with opened(":memory:") as store:
        store.put({"key": OPINION})
        assert (len(store), store.keeps_trail) == (1, False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"no database, but long enough" * 50, b"\x00" * 5000, None])
def test_a_file_that_is_no_store_or_cannot_be_made_is_named(path, content):
    if content is None:
        path = path / "verdicts.sqlite"  # in a folder that is not there
    else:
        path.write_bytes(content)
    message = "verdicts.sqlite: expected a verdict store that can be written; "
    with pytest.raises(JudgeError, match=message):
        VerdictStore(path)


def test_a_database_of_another_version_or_program_is_refused_and_left_as_it_is(path):
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE opinions (key TEXT PRIMARY KEY)")
        message = "store of version 2, got version 0 or .*; move it away"
        with pytest.raises(JudgeError, match=message):
            VerdictStore(path)
        assert other.execute("SELECT name FROM sqlite_master").fetchall()[0] == ("opinions",)


# --- the audit trail ----------------------------------------------------------------------------------------------


def test_the_trail_gives_back_verdicts_newest_first(store):
    verdicts = [
        entry(Opinion(0), Opinion(1), preferred="a"),
        entry(Opinion(0), FAILED, prompt="later", source=b"s"),
    ]
    store.put_verdicts(verdicts)
    kept = list(store.entries())
    assert [dataclasses.replace(one, time="") for one in kept] == verdicts[::-1]
    assert kept[0].time.endswith("+00:00")


@pytest.mark.parametrize(
    "preferred, said, outcome",
    [
        ("a", (Opinion(0), Opinion(1)), "decided"),
        ("b", (Opinion(1),), "decided"),
        (None, (Opinion(0), Opinion(0)), "disagree"),
        (None, (Opinion(1), Opinion(1)), "disagree"),
        (None, (Opinion(0), Opinion(None)), "tie"),
        (None, (Opinion(None),), "tie"),
        (None, (Opinion(0), Opinion(1)), "tie"),  # it agrees with itself, but is not sure enough
        (None, (Opinion(0), FAILED), "failed"),
    ],
)
def test_every_outcome_has_a_name(preferred, said, outcome):
    assert entry(*said, preferred=preferred).outcome == outcome


def test_the_same_verdict_is_kept_once_and_different_ones_each(store):
    later = dataclasses.replace(FAILED, latency_s=3.0)
    for failed in (FAILED, later, dataclasses.replace(later, cached=True)):
        store.put_verdicts([entry(Opinion(0), preferred="a"), entry(failed)])
    assert [one.outcome for one in store.entries()] == ["failed", "decided"]
    changes = ({"prompt": "a mug"}, {"image_a": b"c"}, {"judge": "another"}, {"source": b"s"})
    store.put_verdicts([entry(FAILED, **change) for change in changes])
    assert len(list(store.entries())) == 6


@pytest.mark.parametrize(
    "size, small, exact", [((1024, 512), (192, 96), False), ((64, 64), (64, 64), True)]
)
def test_a_thumbnail_is_small_webp_and_a_tiny_picture_is_kept_exactly(size, small, exact):
    picture = Image.effect_noise(size, 60).convert("RGB")
    with Image.open(io.BytesIO(thumbnail(picture))) as made:
        assert (made.format, made.size) == ("WEBP", small)
        assert (made.convert("RGB").tobytes() == picture.tobytes()) == exact
    assert picture.size == size  # the image itself is left as it is


def test_images_are_named_by_what_is_seen():
    assert image_hash(grey(1)) == image_hash(Image.new("L", (4, 4), 1)) != image_hash(grey(2))
    assert image_hash(Image.new("RGB", (2, 8))) != image_hash(Image.new("RGB", (4, 4)))


# --- what a judge leaves in it ------------------------------------------------------------------------------------


def test_a_judge_leaves_verdicts_pictures_and_the_rubric(path):
    replies = iter([Opinion(0, "brighter"), Opinion(1, "brighter too"), Opinion(0), FAILED])
    with Judge(Scripted(lambda question: next(replies)), RUBRIC, store=path) as judge:
        judge.compare("a cup", grey(9), grey(1))
        judge.compare("make it so", grey(9), grey(1), source=grey(5))
    shades = [image_hash(grey(shade)) for shade in (9, 1, 5)]
    with opened(path) as store:
        edit, first = store.entries()
        assert store.thumbnails(shades).keys() == set(shades)
        assert store.rubrics() == {RUBRIC.content_hash: ("light", "1. The image is bright.")}
    assert (first.prompt, first.outcome, first.source) == ("a cup", "decided", None)
    assert [opinion.reason for opinion in first.opinions] == ["brighter", "brighter too"]
    assert (edit.outcome, edit.judge) == ("failed", "scripted")
    assert [edit.image_a, edit.image_b, edit.source] == shades


def judged(path: Path):
    """The verdict of a judge with this store, and how many questions were asked."""
    with Judge(Scripted(brighter), RUBRIC, store=path) as judge:
        return judge.compare("a cup", grey(9), grey(1)), len(judge.client.asked)


def test_runs_share_a_second_file_and_each_keeps_a_whole_trail(tmp_path, monkeypatch):
    one, two = tmp_path / "one.sqlite", tmp_path / "two.sqlite"
    monkeypatch.setenv("ARR_VERDICTS", str(tmp_path / "shared.sqlite"))
    for path, calls in ((one, 2), (two, 0)):
        verdict, asked = judged(path)
        assert (verdict.preferred, verdict.calls, asked) == ("a", calls, calls)
    monkeypatch.delenv("ARR_VERDICTS")
    for path in (one, two):
        with opened(path) as store:
            (kept,) = store.entries()
            assert (kept.preferred, kept.reason) == ("a", "as scripted")
            assert len(store.thumbnails([kept.image_a, kept.image_b])) == 2
        assert judged(path)[1] == 0  # what was shared has been copied


def test_the_shared_file_may_be_the_runs_own(path, monkeypatch):
    monkeypatch.setenv("ARR_VERDICTS", str(path))
    assert judged(path)[1] == 2
    with opened(path) as store:
        assert len(store) == 2


def test_a_shared_file_that_cannot_be_opened_is_named(path, tmp_path, monkeypatch):
    monkeypatch.setenv("ARR_VERDICTS", str(tmp_path / "nowhere" / "shared.sqlite"))
    message = "ARR_VERDICTS names .*shared.sqlite: expected a verdict store"
    with pytest.raises(JudgeError, match=message):
        Judge(Scripted(always_first), RUBRIC, store=path)


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
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def test_processes_share_one_file_which_none_of_them_made_before(path):
    processes = [writer(path, name, 30) for name in "abc"]
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    with opened(path) as store:
        assert len(store) == 30 + 3 * 30 * 20


def test_a_killed_writer_leaves_whole_groups_and_a_sound_file(path):
    process = writer(path, "a", 100_000)
    for line in process.stdout:
        if int(line) >= 20:
            break
    time.sleep(0.05)
    process.kill()
    process.communicate()
    with opened(path) as store:
        entries = list(store.entries())
        assert len(store) % 21 == 0
    assert len(entries) >= 20 * 20 and len(entries) % 20 == 0
    assert not any(entry.opinions[0].failure for entry in entries)
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
