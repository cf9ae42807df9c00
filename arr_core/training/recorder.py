"""What a run records: its events, throttled progress, and the sentence that it ends with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..common import collectives
from ..config.load import config_hash
from ..config.schema import TrainConfig
from ..rubrics import Rubric
from .events import (
    Event,
    EventLog,
    Observer,
    ProgressEvent,
    RubricName,
    StartedEvent,
)

PROGRESS_S = 5.0  # least time between two events where the later one is progress


class Recorder:
    """The event log of a run. Only the first process writes."""

    def __init__(self, folder: Path, observers: Sequence[Observer]):
        first = collectives.rank() == 0
        self.log = EventLog(folder / "events.jsonl", observers) if first else None
        self.last = time.monotonic()

    def emit(self, event: Event) -> None:
        """Record an event."""
        self.last = time.monotonic()
        if self.log is not None:
            self.log.emit(event)

    def report_progress(self, stage: str, done: int, total: int) -> None:
        """Record progress, unless something was recorded a moment ago."""
        if time.monotonic() > self.last + PROGRESS_S:
            self.emit(ProgressEvent(stage=stage, done=done, total=total))

    def close(self) -> None:
        """Close the log and its observers."""
        if self.log is not None:
            self.log.close()


class Timer:
    """Seconds since it was made, and between laps."""

    def __init__(self):
        self.begun = self.last = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last lap."""
        before, self.last = self.last, time.monotonic()
        return self.last - before

    @property
    def total(self) -> float:
        return time.monotonic() - self.begun


def started_event(
    config: TrainConfig, rubric: Rubric, *, prompts: int, validation_prompts: int, device: str
) -> StartedEvent:
    """The first event of a process."""
    return StartedEvent(
        run=config.run.name,
        config_hash=config_hash(config),
        version=__version__,
        updates=config.run.updates,
        prompts=prompts,
        task=config.task,
        validation_prompts=validation_prompts,
        device=device,
        algorithm=config.objective.algorithm,
        rubric=RubricName(name=rubric.name, hash=rubric.content_hash),
    )
