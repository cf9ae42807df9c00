"""A judge that gives up in the middle of a run: what was reached is kept, and a resume ends as if nothing had happened."""

from __future__ import annotations

import contextlib

import pytest
import torch
from safetensors.torch import load_file

from arr_core.judging import Judge, JudgeError, Opinion
from arr_core.judging.client import GroupClient
from arr_core.rubrics import BUILT_IN
from arr_core.training.checkpoint import list_checkpoints
from arr_core.training.events import read_events
from arr_core.training.trainer import Trainer


class Brightness(GroupClient):
    """A judge that prefers the brighter picture, and gives up for good when asked for the ``last`` time."""

    identity = "brightness"

    def __init__(self, last: int | None = None):
        self.last, self.asked = last, 0

    async def answer_all(self, questions):
        self.asked += 1
        if self.asked == self.last:
            raise JudgeError("the judge refuses the key")
        levels = [
            [image.convert("L").resize((1, 1)).getpixel((0, 0)) for image in (q.first, q.second)]
            for q in questions
        ]
        return [
            Opinion(None if first == second else int(second > first)) for first, second in levels
        ]


@pytest.fixture
def trainer(run_config, tmp_path):
    def make(name: str, client: Brightness, resume: bool = False) -> Trainer:
        config = run_config(
            "flux",
            **{
                "run.output_dir": tmp_path,
                "run.name": name,
                "run.updates": 4,
                "run.save_every": 100,
                "rollout.steps": 2,
                "rollout.prompts_per_update": 2,
                "rollout.micro_batch": 4,
                "validation.every": 2,
                "validation.count": 2,
                "validation.images": 0,
                "objective.algorithm": "rpo",
                "adapter.rank": 2,
            },
        )
        return Trainer(config, resume=resume, judge=Judge(client, BUILT_IN["t2i"]))

    return make


# One question an update and one a validation: 1, 2, validation, 3, 4, validation.
@pytest.mark.parametrize(
    "last, kept",
    [(2, 1), (3, 2), (5, 3), (6, 4)],
    ids=["in an update", "in a validation", "in a later update", "in the last validation"],
)
def test_nothing_that_was_reached_is_lost(trainer, tmp_path, last, kept):
    with contextlib.closing(trainer("whole", Brightness())) as whole:
        whole.run()
    with (
        contextlib.closing(trainer("broken", Brightness(last))) as broken,
        pytest.raises(JudgeError, match="refuses the key"),
    ):
        broken.run()
    assert list_checkpoints(tmp_path / "broken" / "checkpoints") == [kept]
    with contextlib.closing(trainer("broken", Brightness(), resume=True)) as resumed:
        assert resumed.run().update == 4
    validated = {
        name: [
            event.update
            for event in read_events(tmp_path / name / "events.jsonl")
            if event.event == "validation"
        ]
        for name in ("whole", "broken")
    }
    assert validated["whole"] == validated["broken"] == [2, 4]
    expected, came = (
        load_file(tmp_path / name / "checkpoints" / "4" / "weights.safetensors")
        for name in ("whole", "broken")
    )
    assert expected.keys() == came.keys() and any(
        tensor.any() for name, tensor in expected.items() if "lora_B" in name
    )
    assert all(torch.equal(expected[name], came[name]) for name in expected)


def test_before_the_first_update_there_is_nothing_to_keep(trainer, tmp_path):
    with contextlib.closing(trainer("run", Brightness(1))) as broken, pytest.raises(JudgeError):
        broken.run()
    assert not (tmp_path / "run" / "checkpoints").exists()
    with contextlib.closing(trainer("run", Brightness(), resume=True)) as resumed:
        assert resumed.run().update == 4
