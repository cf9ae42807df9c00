"""A run that is killed at any moment: a resume ends as if nothing had happened, and what it names is of its last update."""

from __future__ import annotations

import contextlib
import os

import pytest
from doubles.client import Scripted, brighter

from arr_core.judging import Judge
from arr_core.rubrics import BUILT_IN
from arr_core.training.checkpoint import RunError, list_checkpoints
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


def test_one_trainer_a_folder(trainer):
    with contextlib.closing(trainer("run", 1)) as first:
        for resume in (False, True):  # two fresh starts, and a resume beside a run
            with pytest.raises(RunError, match=f"one that process {os.getpid()} on .+ trains"):
                trainer("run", 1, resume)
        (first.folder / ".events.jsonl.1.part").touch()
    with contextlib.closing(trainer("run", 1, resume=True)):
        assert not [*first.folder.glob(".*")], "what a killed process left is removed"
