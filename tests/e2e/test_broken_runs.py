"""Gradients that are not finite, and learning rates that destroy the adapter: the run stops, says why, and keeps the best."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.collapse import all_finite, train


def saved(folder: Path, update: int) -> dict[str, torch.Tensor]:
    """The trained weights in a checkpoint."""
    file = folder / "run" / "checkpoints" / str(update) / "weights.safetensors"
    return {name: t for name, t in load_file(file).items() if name.startswith("adapter/")}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in other)


def test_one_gradient_that_is_not_finite_is_left_out_counted_and_shown(tmp_path):
    told, error = train(tmp_path, first=2, last=2, run={"updates": 3})
    assert not error and told.finished and told.update == 3
    assert [event.skipped for event in told.updates] == [0, 1, 0]
    [warning] = told.warnings
    assert warning.message == "a gradient was not finite, and its step was left out"
    first, second, third = (saved(tmp_path, update) for update in (1, 2, 3))
    assert same(first, second) and not same(second, third)


def test_several_in_a_row_stop_the_run_with_what_was_learned_before(tmp_path):
    told, error = train(tmp_path, first=2, last=math.inf, run={"save_every": 100})
    reason = "no gradient was finite in 3 updates in a row"
    assert error.startswith(f"the run has collapsed after update 4: {reason}; the best adapter is")
    assert told.stopped and (told.stopped.update, told.stopped.reason) == (4, reason)
    assert any(t.any() for name, t in saved(tmp_path, 4).items() if "lora_B" in name)
    assert all_finite(tmp_path) and (tmp_path / "run" / "adapter-best").is_dir()


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # images of NaN
@pytest.mark.parametrize("learning_rate", [1e2, 1e12, 1e30])
def test_a_learning_rate_that_destroys_the_adapter_stops_the_run_with_the_base_as_its_best(
    tmp_path, learning_rate
):
    told, error = train(tmp_path, optimizer={"learning_rate": learning_rate})
    assert "the run has collapsed after update" in error and told.stopped and not told.finished
    assert all_finite(tmp_path)
    best = load_file(tmp_path / "run" / "adapter-best" / "adapter_model.safetensors")
    assert not any(tensor.any() for name, tensor in best.items() if "lora_B" in name)
