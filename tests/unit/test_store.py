"""The verdict store: what comes back, what is kept, and many writers at once."""
from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from arr_core.judging.store import VerdictStore
from arr_core.judging.verdict import Opinion

ROOT = Path(__file__).resolve().parents[2]
OPINION = Opinion(1, "zwei Tassen, 两个杯子", (("1", "first: one; second: two"), ("2", "")), confidence=0.9,
                  reply='{"preferred": 2}', tokens=120, cost=0.002, latency_s=1.5)


@pytest.fixture
def store(tmp_path):
    with_file = VerdictStore(tmp_path / "verdicts.sqlite")
    yield with_file
    with_file.close()


def test_an_opinion_comes_back_as_it_was_and_marked(store):
    assert store.get("key") is None
    store.put("key", "a cup", OPINION)
    assert store.get("key") == dataclasses.replace(OPINION, cached=True)


def test_the_first_opinion_stays(store):
    store.put("key", "a cup", OPINION)
    store.put("key", "a cup", Opinion(0))
    assert (store.get("key").preferred, len(store)) == (1, 1)


def test_a_failure_is_refused(store):
    with pytest.raises(ValueError, match="a failure is no opinion to remember: HTTP 500"):
        store.put("key", "a cup", Opinion(None, failure="HTTP 500"))
    assert len(store) == 0


def test_it_survives_reopening(store, tmp_path):
    store.put("key", "a cup", OPINION)
    store.close()
    again = VerdictStore(tmp_path / "verdicts.sqlite")
    assert again.get("key").reason == OPINION.reason
    again.close()


@pytest.mark.parametrize("text", ["\ud800", "a\x00b", "'; DROP TABLE opinions; --", "🙂" * 1000, ""])
def test_any_text_can_be_kept(store, text):
    store.put("key", text, Opinion(0, text, ((text, text),), reply=text))
    assert store.get("key") == Opinion(0, text, ((text, text),), reply=text, cached=True)


def test_memory_alone_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = VerdictStore(":memory:")
    store.put("key", "a cup", OPINION)
    assert len(store) == 1
    store.close()
    assert not list(tmp_path.iterdir())


def test_threads_share_one_store(store):
    def work(name: int) -> None:
        for number in range(50):
            store.put(f"shared {number}", "p", Opinion(number % 2))
            store.put(f"{name} {number}", "p", Opinion(0))
            assert store.get(f"shared {number}").preferred == number % 2

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store) == 50 + 4 * 50


def test_processes_share_one_file(store, tmp_path):
    code = ("import sys\nfrom arr_core.judging.store import VerdictStore\n"
            "from arr_core.judging.verdict import Opinion\n"
            "store = VerdictStore(sys.argv[1])\n"
            "for n in range(100):\n"
            "    store.put(f'shared {n}', 'p', Opinion(n % 2)); store.put(f'{sys.argv[2]} {n}', 'p', Opinion(0))\n"
            "    assert store.get(f'shared {n}').preferred == n % 2\n"
            "store.close()")
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "verdicts.sqlite"), name], cwd=ROOT,
                                  env=os.environ, stderr=subprocess.PIPE, text=True) for name in "abc"]
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    assert len(store) == 100 + 3 * 100
