"""Checkpoints: atomic folders that hold everything a resume needs, verified before they are used.

Noise needs no generator state (``randomness.py``); what is saved of torch's generators serves LoRA dropout.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..adapters.file import write_tensors
from ..common.errors import ArrError
from ..common.files import sync

DONE = "checksums.json"


class RunError(ArrError, ValueError):
    """A run that cannot start, learn or be resumed: one line that says why and what to do."""


@dataclass
class Checkpoint:
    """The state of a run after an update: tensors by group ("adapter", "old", ...), and plain values.

    ``damaged`` says of each newer checkpoint what is wrong with it.
    """

    update: int
    tensors: dict[str, dict[str, torch.Tensor]]
    optimizer: dict[str, Any]
    generators: dict[str, torch.Tensor]
    values: dict[str, Any]
    damaged: tuple[str, ...] = ()


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """The folder ``checkpoints/<update>``, written whole or not at all; then ``keep_newest``."""
    final = folder / str(checkpoint.update)
    partial = folder / f".partial-{os.getpid()}"
    finish_saves(folder)
    partial.mkdir(parents=True)
    try:
        _write(partial, checkpoint)
    except (SafetensorError, RuntimeError) as error:  # what the two libraries call a full disk
        raise OSError(f"{final}: the checkpoint could not be written: {error}") from error
    finally:
        if not (partial / DONE).is_file():
            shutil.rmtree(partial, ignore_errors=True)
    if final.exists():
        final.rename(folder / f".old-{final.name}")
    partial.rename(final)
    sync(folder)
    keep_newest(folder, checkpoint.update, keep)
    return final


def keep_newest(folder: Path, last: int, keep: int) -> None:
    """Remove all but ``keep`` checkpoints up to update ``last``. What is newer is damaged: a resume has passed it by."""
    updates = list_checkpoints(folder)
    kept = [update for update in updates if update <= last][-keep:]
    for update in {*updates} - {*kept}:
        (folder / str(update)).rename(folder / f".old-{update}")
    finish_saves(folder)


def finish_saves(folder: Path) -> None:
    """Finish what a save was killed in: name a checkpoint that is whole, and remove what is not and what was replaced."""
    for partial in folder.glob(".partial-*"):
        if not _damage(partial):
            final = folder / str(_values(partial)["update"])
            if not final.exists():
                partial.rename(final)
    for left_over in [*folder.glob(".partial-*"), *folder.glob(".old-*")]:
        shutil.rmtree(left_over, ignore_errors=True)


def _write(partial: Path, checkpoint: Checkpoint) -> None:
    """Write the files of a checkpoint, the checksums last."""
    flat = {
        f"{group}/{name}": tensor.detach().cpu()
        for group, tensors in checkpoint.tensors.items()
        for name, tensor in tensors.items()
    }
    write_tensors(flat, partial / "weights.safetensors", {})
    torch.save(
        {"optimizer": checkpoint.optimizer, "generators": checkpoint.generators},
        partial / "optimizer.pt",
    )
    (partial / "state.json").write_text(
        json.dumps({"update": checkpoint.update, **checkpoint.values}, indent=1)
    )
    sums = {path.name: _digest(path) for path in sorted(partial.iterdir())}
    for path in partial.iterdir():
        sync(path)
    (partial / DONE).write_text(json.dumps(sums, indent=1))
    sync(partial / DONE)


def list_checkpoints(folder: Path) -> list[int]:
    """The updates that have a checkpoint, rising."""
    return (
        sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit() and path.is_dir())
        if folder.is_dir()
        else []
    )


def load_checkpoint(folder: Path) -> Checkpoint:
    """The newest sound checkpoint. Raises RunError where there is none."""
    updates = list_checkpoints(folder)
    if not updates:
        raise RunError(
            f"{folder}: expected a checkpoint to resume from, got none; start the run anew"
        )
    damaged: list[str] = []
    for path in (folder / str(update) for update in reversed(updates)):
        damage = _damage(path)
        if not damage:
            return replace(_read(path), damaged=tuple(damaged))
        damaged.append(f"{path}: the checkpoint is damaged ({damage})")
    raise RunError(f"{damaged[0]}; there is no sound one; start the run anew")


def _read(path: Path) -> Checkpoint:
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(path / "weights.safetensors").items():
        group, _, rest = name.partition("/")
        tensors.setdefault(group, {})[rest] = tensor
    saved = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
    values = _values(path)
    return Checkpoint(
        values.pop("update"), tensors, saved["optimizer"], saved["generators"], values
    )


def _values(path: Path) -> dict[str, Any]:
    return json.loads((path / "state.json").read_text())


def _damage(path: Path) -> str:
    """What is wrong with a checkpoint, or nothing."""
    try:
        sums = json.loads((path / DONE).read_text())
        if not isinstance(sums, dict):
            return f"{DONE} is not what was written"
        for name in ("weights.safetensors", "optimizer.pt", "state.json"):
            if sums.get(name) != _digest(path / name):
                return f"{name} is not what was written"
        load_file(path / "weights.safetensors")
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, SafetensorError) as error:  # ValueError: neither JSON nor text
        return str(error)
    return ""


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
