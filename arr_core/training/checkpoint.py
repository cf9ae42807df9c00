"""Checkpoints: atomic folders that hold everything a resume needs, verified before they are used.

Noise needs no generator state (``randomness.py``); what is saved of torch's generators serves LoRA dropout.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
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
    """The state of a run after an update: tensors by group ("adapter", "old", ...), and plain values."""

    update: int
    tensors: dict[str, dict[str, torch.Tensor]]
    optimizer: dict[str, Any]
    generators: dict[str, torch.Tensor]
    values: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """The folder ``checkpoints/<update>``, written whole or not at all; older ones beyond ``keep`` are removed."""
    final = folder / str(checkpoint.update)
    partial, replaced = (folder / f".{name}-{os.getpid()}" for name in ("partial", "replaced"))
    for left_over in folder.glob(".partial-*"):  # of a process that was killed, or found no room
        shutil.rmtree(left_over, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(partial, checkpoint)
    except (SafetensorError, RuntimeError) as error:  # what the two libraries call a full disk
        raise OSError(f"{final}: the checkpoint could not be written: {error}") from error
    finally:
        if not (partial / DONE).is_file():
            shutil.rmtree(partial, ignore_errors=True)
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    partial.rename(final)
    sync(folder)
    for left_over in folder.glob(".replaced-*"):  # of this save, and of one that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(folder / str(old))
    return final


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
        sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
        if folder.is_dir()
        else []
    )


def load_checkpoint(folder: Path) -> Checkpoint:
    """The newest checkpoint, verified. Raises RunError; a damaged one names the newest sound one."""
    updates = list_checkpoints(folder)
    if not updates:
        raise RunError(
            f"{folder}: expected a checkpoint to resume from, got none; start the run anew"
        )
    damage = _damage(folder / str(updates[-1]))
    if damage:
        sound = next(
            (update for update in reversed(updates[:-1]) if not _damage(folder / str(update))), None
        )
        advice = (
            f"the newest sound one is {sound}: delete {folder / str(updates[-1])} to resume from it"
            if sound is not None
            else "there is no sound one; start the run anew"
        )
        raise RunError(
            f"{folder / str(updates[-1])}: the checkpoint is damaged ({damage}); {advice}"
        )
    return _read(folder / str(updates[-1]))


def _read(path: Path) -> Checkpoint:
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(path / "weights.safetensors").items():
        group, _, rest = name.partition("/")
        tensors.setdefault(group, {})[rest] = tensor
    saved = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
    values = json.loads((path / "state.json").read_text())
    return Checkpoint(
        values.pop("update"), tensors, saved["optimizer"], saved["generators"], values
    )


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
