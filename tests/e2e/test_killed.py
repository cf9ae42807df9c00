"""A run that is killed at any moment: a resume ends as if nothing had happened, and what it names is of its last update."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from doubles.client import Scripted, brighter

from arr_core.judging import Judge
from arr_core.rubrics import BUILT_IN
from arr_core.training import trainer as module
from arr_core.training.checkpoint import RunError, list_checkpoints
from arr_core.training.events import read_events
from arr_core.training.trainer import Trainer


@pytest.fixture
def trainer(run_config, tmp_path):
    def make(name: str, save_every: int, resume: bool = False) -> Trainer:
        fields = {
            "run.output_dir": tmp_path,
            "run.name": name,
            "run.updates": 2,
            "run.save_every": save_every,
            "rollout.steps": 2,
            "rollout.prompts_per_update": 2,
            "rollout.micro_batch": 4,
            "validation.every": 2,
            "validation.count": 2,
            "adapter.rank": 2,
        }
        judge = Judge(Scripted(brighter), BUILT_IN["t2i"])
        return Trainer(run_config("flux", **fields), resume=resume, judge=judge)

    return make


@pytest.mark.parametrize("save_every", [1, 2], ids=["stale", "missing"])
def test_killed_between_the_last_checkpoint_and_its_adapter(
    trainer, tmp_path, monkeypatch, save_every
):
    with contextlib.closing(trainer("whole", save_every)) as whole:
        whole.run()
    publish = Trainer._publish

    def kill(self):
        if list_checkpoints(self.folder / "checkpoints")[-1] == 2:
            raise KeyboardInterrupt
        publish(self)

    with monkeypatch.context() as patch, contextlib.closing(trainer("killed", save_every)) as run:
        patch.setattr(Trainer, "_publish", kill)
        with pytest.raises(KeyboardInterrupt):
            run.run()
    with contextlib.closing(trainer("killed", save_every, resume=True)) as resumed:
        assert resumed.run().update == 2
    for name in ("adapter/adapter_model.safetensors", "{}.safetensors"):
        files = [tmp_path / run / name.format(run) for run in ("whole", "killed")]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and cc")
def test_a_run_that_is_killed_in_any_file_operation_is_resumed_exactly():
    """A sample of them; ``benchmarks/killed.py`` alone takes them all."""
    benchmark = Path(__file__).resolve().parents[2] / "benchmarks" / "killed.py"
    command = [sys.executable, str(benchmark), "--every", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "exceptions" in done.stdout


def test_a_full_disk_is_waited_out_where_the_run_saves_and_ends_it_saved_elsewhere(
    trainer, monkeypatch
):
    full = OSError(errno.ENOSPC, "No space left on device")
    save, left = module.save_checkpoint, iter([full, full])

    def save_later(*args):
        if error := next(left, None):
            raise error
        return save(*args)

    def write(*_, **__):
        raise full

    monkeypatch.setattr(module, "save_checkpoint", save_later)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.0)
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    with contextlib.closing(trainer("run", 100)) as run:
        monkeypatch.setattr(run.recorder.log._lines, "_file", SimpleNamespace(write=write))
        monkeypatch.setattr(module.Validation, "run", write)
        outcome = run.run()
        assert outcome.stopped and outcome.update == 2 and next(left, None) is None
        monkeypatch.undo()
    assert list_checkpoints(run.folder / "checkpoints") == [2]
    with contextlib.closing(trainer("run", 100, resume=True)) as resumed:
        assert not resumed.run().stopped
    events = [event.event for event in read_events(run.folder / "events.jsonl")]
    assert events.count("update") == 2 and events.count("warning") >= 2 and "stopped" in events


def test_one_trainer_a_folder(trainer):
    with contextlib.closing(trainer("run", 1)) as first:
        for resume in (False, True):  # two fresh starts, and a resume beside a run
            with pytest.raises(RunError, match=f"one that process {os.getpid()} on .+ trains"):
                trainer("run", 1, resume)
        for name in (".events.jsonl.1.part", ".tmpAbCdEf"):
            (first.folder / name).touch()
    with contextlib.closing(trainer("run", 1, resume=True)):
        assert not [*first.folder.glob(".*")], "what a killed process left is removed"
