"""Does a run that breaks stop, say why, and keep what is sound? Learning rates far too high, and NaN in its gradients.

    python benchmarks/collapse.py

Prints a Markdown table; a row is a short run of the embedded world.
"""

from __future__ import annotations

import contextlib
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arr_core.config.load import make_config
from arr_core.training.checkpoint import RunError
from arr_core.training.events import History, history, read_events
from arr_core.training.trainer import Trainer

SETTINGS: dict[str, dict[str, Any]] = {
    "run": {"name": "run", "updates": 6, "save_every": 1, "keep_checkpoints": 9, "threads": 1},
    "rollout": {"steps": 3, "prompts_per_update": 8, "micro_batch": 16},
    "validation": {"every": 3, "count": 16, "images": 0},
}
LEARNING_RATES = (1e-3, 1e2, 1e4, 1e8, 1e12, 1e20, 1e30)


class Planted(Trainer):
    """A trainer of a short run in which all gradients of the updates ``first`` to ``last`` become NaN."""

    def __init__(self, folder: Path, *, first: int = 1, last: float = 0, **sections: dict):
        names = {*SETTINGS, *sections}
        fields = {name: {**SETTINGS.get(name, {}), **sections.get(name, {})} for name in names}
        fields["run"]["output_dir"] = folder
        super().__init__(make_config("miniature", fields))
        self.first, self.last = first, last

    def update(self, update: int) -> None:
        planted = self.first <= update <= self.last
        hooks = [
            parameter.register_hook(lambda gradient: gradient * math.nan)
            for parameter in self.learner.parameters.values()
            if planted
        ]
        super().update(update)
        for hook in hooks:
            hook.remove()


def train(folder: Path, **settings) -> tuple[History, str]:
    """What a run did, and the error that it ended with."""
    error = ""
    with contextlib.closing(Planted(folder, **settings)) as trainer:
        try:
            trainer.run()
        except RunError as raised:
            error = str(raised)
    return history(read_events(folder / "run" / "events.jsonl")), error


def all_finite(run: Path) -> bool:
    """Whether every weight in every file of a run is finite."""
    tensors = [tensor for file in run.rglob("*.safetensors") for tensor in load_file(file).values()]
    return bool(tensors) and all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def _row(name: str, **settings) -> str:
    with tempfile.TemporaryDirectory() as folder:
        told, _ = train(Path(folder), **settings)
        best = [event for event in told.validations if event.best][-1:]
        kept = (
            f"update {best[0].update}: {best[0].wins} won, {best[0].losses} lost"
            if best
            else "the base"
        )
        end = told.stopped.reason if told.stopped else "finished"
        skipped = sum(event.skipped for event in told.updates)
        finite = "yes" if all_finite(Path(folder)) else "no"
        return f"| {name} | {told.update} | {end} | {skipped} | {kept} | {finite} |"


if __name__ == "__main__":
    print("| run | updates | its end | steps left out | `adapter-best` | all files finite |")
    print("|---|---|---|---|---|---|")
    for rate in LEARNING_RATES:
        print(_row(f"learning rate {rate:g}", optimizer={"learning_rate": rate}), flush=True)
    print(_row("NaN in update 2", first=2, last=2), flush=True)
    print(_row("NaN from update 2", first=2, last=math.inf), flush=True)
