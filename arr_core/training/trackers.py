"""The numbers of a run, passed on to tensorboard or wandb through accelerate's trackers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..config.load import ConfigError
from .events import Event, MeasureEvent, ResumedEvent, UpdateEvent, ValidationEvent

PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
NOT_LOGGED = ("update", "best")  # the step, and a flag


class Trackers:
    """An observer of events that logs every number of updates, validations and measures.

    tensorboard writes below ``folder``/tensorboard. Raises ConfigError for a tracker that is not installed.
    """

    def __init__(self, names: Sequence[str], folder: str | Path, run: str):
        for name in names:
            if not any(importlib.util.find_spec(package) for package in PACKAGES[name]):
                raise ConfigError(
                    f"run.trackers: expected an installed tracker, but {name} is not: pip install {name}"
                )
        self.names, self.folder, self.run, self.update = names, str(folder), run, 0
        self.trackers: list[Any] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, UpdateEvent | ValidationEvent | MeasureEvent) and not self.trackers:
            self._open()
        if isinstance(event, ResumedEvent | UpdateEvent | ValidationEvent):
            self.update = event.update
        if isinstance(event, UpdateEvent | ValidationEvent | MeasureEvent):
            kind = f"measure/{event.name}" if isinstance(event, MeasureEvent) else event.event
            values = dict(_numbers(kind, asdict(event)))
            for tracker in self.trackers:
                tracker.log(values, step=self.update)

    def close(self) -> None:
        """Flush and close every tracker."""
        for tracker in self.trackers:
            tracker.finish()
        self.trackers = []

    def _open(self) -> None:
        """Start the trackers, at the first number: by then it is known whether the run was resumed, and where."""
        from accelerate import PartialState
        from accelerate.tracking import TensorBoardTracker, WandBTracker

        PartialState()  # accelerate's trackers ask it for their rank
        for name in self.names:
            if name == "tensorboard":
                tracker = TensorBoardTracker("tensorboard", self.folder, purge_step=self.update + 1)
            else:
                tracker = WandBTracker("arr-rpo", name=self.run, dir=self.folder)
            tracker.start()
            self.trackers.append(tracker)


def _numbers(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(path, number) of every number in ``values``; nested ones are a/b/c."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(f"{prefix}/{key}", value)
        elif isinstance(value, (int, float)) and key not in NOT_LOGGED:
            yield f"{prefix}/{key}", value
