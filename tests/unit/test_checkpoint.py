"""Checkpoints: written whole or not at all, checked before they are believed, and no more of them than asked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from arr_core.training import checkpoint as module
from arr_core.training.checkpoint import (
    Checkpoint,
    RunError,
    finish_saves,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)


def made(update: int = 1) -> Checkpoint:
    """The state of a small run after ``update`` steps of AdamW."""
    generator = torch.Generator().manual_seed(update)
    weights = torch.nn.Parameter(torch.randn(3, 4, generator=generator))
    optimizer = torch.optim.AdamW([weights], lr=0.1, betas=(0.9, 0.99))
    weights.grad = torch.randn(3, 4, generator=generator)
    optimizer.step()
    tensors = {
        "adapter": {
            "blocks.0.attn.to_q.lora_A.default.weight": weights.detach().clone(),
            "odd/name": torch.arange(3),
        },
        "old": {
            "blocks.0.attn.to_q.lora_A.default.weight": torch.randn(4, 3, generator=generator).T
        },
    }
    values = {
        "order": {"count": 5, "seed": 0, "cursor": 7},
        "best_margin": -0.1,
        "score": [3, 1, 0],
        "nothing": None,
    }
    return Checkpoint(
        update, tensors, optimizer.state_dict(), {"cpu": torch.get_rng_state()}, values
    )


def save_many(folder: Path, updates, keep: int = 10) -> None:
    for update in updates:
        save_checkpoint(folder, made(update), keep)


def damage(folder: Path, update: object, name: str = "weights.safetensors") -> None:
    path = folder / str(update) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# ---------------------------------------------------------------------- round trip


def test_what_is_saved_is_what_is_loaded_bit_for_bit(tmp_path):
    saved = made(12)
    path = save_checkpoint(tmp_path, saved, keep=3)
    assert path == tmp_path / "12"
    loaded = load_checkpoint(tmp_path)
    assert loaded.update == 12 and loaded.values == saved.values
    assert loaded.tensors.keys() == saved.tensors.keys()
    for group, tensors in saved.tensors.items():
        assert loaded.tensors[group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            again = loaded.tensors[group][name]
            assert torch.equal(again, tensor) and again.dtype == tensor.dtype
    assert torch.equal(loaded.generators["cpu"], saved.generators["cpu"])
    assert loaded.optimizer["param_groups"] == saved.optimizer["param_groups"]
    for name, value in saved.optimizer["state"][0].items():
        assert torch.equal(loaded.optimizer["state"][0][name], value)


def test_an_optimizer_goes_on_from_a_loaded_checkpoint_as_if_it_had_never_stopped(tmp_path):
    def step(weights, optimizer, seed):
        weights.grad = torch.randn(weights.shape, generator=torch.Generator().manual_seed(seed))
        optimizer.step()

    weights = torch.nn.Parameter(torch.ones(5))
    optimizer = torch.optim.AdamW([weights], lr=0.1)
    step(weights, optimizer, 1)
    save_checkpoint(
        tmp_path, Checkpoint(1, {"adapter": {"w": weights}}, optimizer.state_dict(), {}, {}), keep=1
    )
    step(weights, optimizer, 2)
    loaded = load_checkpoint(tmp_path)
    resumed = torch.nn.Parameter(loaded.tensors["adapter"]["w"])
    again = torch.optim.AdamW([resumed], lr=0.5)
    again.load_state_dict(loaded.optimizer)
    step(resumed, again, 2)
    assert torch.equal(resumed, weights)


def test_loading_a_checkpoint_executes_nothing(tmp_path):
    """A checkpoint from a stranger: pickled code is refused by torch itself."""

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    state = made()
    state.optimizer = {"state": Evil(), "param_groups": []}
    save_checkpoint(tmp_path, state, keep=1)
    with pytest.raises(Exception, match="[Ww]eights.only|Unsupported"):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "owned").exists()


# ---------------------------------------------------------------------- which are kept


def test_only_the_newest_are_kept_and_newest_is_by_number(tmp_path):
    save_many(tmp_path, (8, 9, 10, 11), keep=3)
    assert list_checkpoints(tmp_path) == [9, 10, 11]
    assert load_checkpoint(tmp_path).update == 11
    save_checkpoint(tmp_path, made(100), keep=1)
    assert list_checkpoints(tmp_path) == [100]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["100"]


def test_saving_an_update_again_replaces_it(tmp_path):
    save_many(tmp_path, (1, 2))
    state = made(2)
    state.values["best_margin"] = 0.5
    save_checkpoint(tmp_path, state, keep=10)
    assert (
        list_checkpoints(tmp_path) == [1, 2]
        and load_checkpoint(tmp_path).values["best_margin"] == 0.5
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_other_files_in_the_folder_are_no_checkpoints(tmp_path):
    save_checkpoint(tmp_path, made(3), keep=1)
    (tmp_path / ".partial-1").mkdir()
    (tmp_path / "notes").write_text("mine")
    assert list_checkpoints(tmp_path) == [3] and list_checkpoints(tmp_path / "absent") == []


# ---------------------------------------------------------------------- whole or not at all


@pytest.mark.parametrize("broken", ["write_tensors", "torch.save", "_digest", "sync"])
def test_a_save_that_fails_midway_leaves_the_last_checkpoint_as_it_was(
    tmp_path, monkeypatch, broken
):
    save_many(tmp_path, (1, 2), keep=2)

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        module.torch if broken == "torch.save" else module, broken.removeprefix("torch."), fail
    )
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, made(3), keep=2)
    monkeypatch.undo()
    assert list_checkpoints(tmp_path) == [1, 2] and load_checkpoint(tmp_path).update == 2
    save_checkpoint(tmp_path, made(3), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"], (
        "nothing half-written is left"
    )


def test_a_checkpoint_that_is_replaced_is_deleted_only_when_the_new_one_stands(
    tmp_path, monkeypatch
):
    """A process that dies halfway through the deletion leaves something to resume from."""
    save_checkpoint(tmp_path, made(1), keep=1)

    def die_halfway(path, **_):
        if Path(path).exists():
            (Path(path) / "optimizer.pt").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(module.shutil, "rmtree", die_halfway)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, made(1), keep=1)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path).update == 1
    save_checkpoint(tmp_path, made(2), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_every_file_is_on_the_disk_before_the_folder_gets_its_name(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        module, "sync", lambda path: synced.append((path.name, list_checkpoints(tmp_path)))
    )
    save_checkpoint(tmp_path, made(4), keep=1)
    assert {name for name, named in synced if not named} == {
        "weights.safetensors",
        "optimizer.pt",
        "state.json",
        "checksums.json",
    }
    assert synced[-1] == (tmp_path.name, [4])


# ---------------------------------------------------------------------- damage


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.pt", "state.json"])
def test_past_damage_it_falls_back_to_the_newest_sound_one_and_says_so(tmp_path, name):
    save_many(tmp_path, (1, 2, 3, 4))
    damage(tmp_path, 3, name)
    (tmp_path / "4" / name).unlink()
    loaded = load_checkpoint(tmp_path)
    assert loaded.update == 2 and loaded.damaged == (
        f"{tmp_path / '4'}: the checkpoint is damaged ({name} is missing)",
        f"{tmp_path / '3'}: the checkpoint is damaged ({name} is not what was written)",
    )
    save_checkpoint(tmp_path, made(3), keep=2)
    assert list_checkpoints(tmp_path) == [2, 3] and load_checkpoint(tmp_path).damaged == ()


def test_with_no_sound_one_the_advice_is_to_start_anew(tmp_path):
    save_many(tmp_path, (1, 2))
    damage(tmp_path, 1), damage(tmp_path, 2)
    with pytest.raises(RunError, match=r"2: the checkpoint .* no sound one; start the run anew"):
        load_checkpoint(tmp_path)
    with pytest.raises(RunError, match="expected a checkpoint to resume from, got none"):
        load_checkpoint(tmp_path / "absent")


@pytest.mark.parametrize(
    "content",
    [None, b"", b"{", b"[]", b"3", b"{}", b"\x00" * 64, bytes(range(128, 256))],
    ids=["missing", "empty", "cut", "list", "number", "no sums", "zeros", "not text"],
)
def test_checksums_of_any_content_are_damage_and_never_a_crash(tmp_path, content):
    save_many(tmp_path, (1, 2))
    (tmp_path / "3").mkdir()
    (tmp_path / "4").write_text("a file is no checkpoint")
    sums = tmp_path / "2" / "checksums.json"
    sums.unlink() if content is None else sums.write_bytes(content)
    loaded = load_checkpoint(tmp_path)
    assert loaded.update == 1 and len(loaded.damaged) == 2


# ---------------------------------------------------------------------- killed


def test_a_save_that_was_killed_before_its_last_step_is_finished_and_what_it_replaced_is_removed(
    tmp_path,
):
    save_many(tmp_path, (1, 2))
    (tmp_path / "1").rename(tmp_path / ".old-1")
    (tmp_path / "2").rename(tmp_path / ".partial-77")
    shutil.copytree(tmp_path / ".partial-77", tmp_path / ".partial-78")
    damage(tmp_path, ".partial-78")
    finish_saves(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["2"]
    assert load_checkpoint(tmp_path).update == 2
