"""The numbers of a run, passed on to tensorboard or wandb through accelerate's trackers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import ConfigError
from .events import Event

PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
STEP, FLAGS = "update", ("best",)


class Trackers:
    """An observer of events that logs every finite number of updates, validations and measures.

    tensorboard writes below ``folder``/tensorboard. Raises ConfigError for a tracker that is not installed.
    """

    def __init__(self, names: Sequence[str], folder: str | Path, run: str):
        for name in names:
            if not any(importlib.util.find_spec(package) for package in PACKAGES[name]):
                raise ConfigError(
                    f"run.trackers: expected an installed tracker, but {name} is not: pip install {name}"
                )
        self.names, self.folder, self.run, self.update = names, str(folder), run, 0
        self.trackers = None

    def __call__(self, event: Event) -> None:
        if event["event"] == "resumed":
            self.update = event[STEP]
        if event["event"] in ("update", "validation", "measure"):
            self._open()
            self.update = event.get(STEP, self.update)
            values = dict(_numbers(event["event"], event))
            for tracker in self.trackers:
                tracker.log(values, step=self.update)

    def close(self) -> None:
        """Flushes and closes every tracker."""
        for tracker in self.trackers or ():
            tracker.finish()
        self.trackers = None

    def _open(self) -> None:
        """Starts the trackers at the first number: by then it is known whether the run was resumed, and on what."""
        if self.trackers is not None:
            return
        from accelerate import PartialState
        from accelerate.tracking import TensorBoardTracker, WandBTracker

        PartialState()  # which accelerate's trackers ask for their rank
        makers = {
            "tensorboard": lambda: TensorBoardTracker(
                "tensorboard", self.folder, purge_step=self.update + 1
            ),
            "wandb": lambda: WandBTracker("arr-rpo", name=self.run, dir=self.folder),
        }
        self.trackers = [makers[name]() for name in self.names]
        for tracker in self.trackers:
            tracker.start()


def _numbers(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(path, number) of every number in an event, nested ones as a/b/c. A measure is filed under its name."""
    if prefix == "measure":
        prefix = f"measure/{values['name']}"
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(f"{prefix}/{key}", value)
        elif isinstance(value, (int, float)) and key != STEP and key not in FLAGS:
            yield f"{prefix}/{key}", value
