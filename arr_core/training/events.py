"""The one way out of a running trainer: ``events.jsonl``, one JSON object a line, only ever appended to.

A line is ``{"event": kind, "time": ISO time in UTC, ...}`` and one of the dataclasses below. The progress bar, the report,
the trackers and the ComfyUI nodes read these and nothing else. ``null`` stands for what is unknown, and for numbers that
are not finite. Paths are relative to the run's folder.

Every process begins with ``started``; one that resumes says ``resumed`` next, once its model is loaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from ..common.files import JsonLines, read_json_lines

if TYPE_CHECKING:
    from ..judging import Verdict

Count = Annotated[int, Field(ge=0, lt=2**53)]
MAX_NUMBER = 1e30
Number = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


@dataclass(frozen=True, kw_only=True)
class BaseEvent:
    """What every event has."""

    time: str = field(default_factory=_now)


@dataclass(frozen=True, kw_only=True)
class RubricName:
    """The rubric of a run: its name, and the hash of its content."""

    name: str
    hash: str


@dataclass(frozen=True, kw_only=True)
class StartedEvent(BaseEvent):
    """A process began to work on the run. ``updates`` is how many the run is to do."""

    event: Literal["started"] = "started"
    run: str
    updates: Count
    config_hash: str = ""
    version: str = ""
    prompts: Count = 0
    validation_prompts: Count = 0
    device: str = ""
    task: str = ""
    algorithm: str = ""
    rubric: RubricName | None = None


@dataclass(frozen=True, kw_only=True)
class ResumedEvent(BaseEvent):
    """The run goes on from the checkpoint of ``update``. What was recorded after that update happens again."""

    event: Literal["resumed"] = "resumed"
    update: Count


@dataclass(frozen=True, kw_only=True)
class EncodedEvent(BaseEvent):
    """All prompts are encoded."""

    event: Literal["encoded"] = "encoded"
    examples: Count
    seconds: Number


@dataclass(frozen=True, kw_only=True)
class UpdateEvent(BaseEvent):
    """One update (counted from 1), over all processes. Times and judge calls are of this update alone.

    ``skipped`` counts the optimizer steps that were left out, since their gradient or the weights that they led to were
    not finite. ``ratio_mean``, ``clip_high`` and ``clip_low`` are of rpo; ``shift`` is of nft.
    """

    event: Literal["update"] = "update"
    update: Count
    seconds: Number
    sampling_s: Number
    waiting_s: Number
    training_s: Number
    pairs: Count
    decided: Count
    undecided: Count
    failures: Count
    first_pick_rate: Number | None = None
    loss: Number | None = None
    kl: Number | None = None
    ratio_mean: Number | None = None
    clip_high: Number | None = None
    clip_low: Number | None = None
    shift: Number | None = None
    grad_norm: Number | None = None
    skipped: Count = 0
    learning_rate: Number
    judge_calls: Count
    judge_tokens: Count
    judge_cost: Number

    @classmethod
    def of(cls, update: int, verdicts: Sequence[Verdict], **numbers: float) -> UpdateEvent:
        """The event of an update with the verdicts of all processes, and times and statistics by name, where finite."""
        opinions = [opinion for verdict in verdicts for opinion in verdict.opinions]
        picks = [opinion.preferred for opinion in opinions if opinion.preferred is not None]
        decided = sum(verdict.decided for verdict in verdicts)
        known: dict[str, Any] = {
            name: number for name, number in numbers.items() if abs(number) <= MAX_NUMBER
        }
        return cls(
            update=update,
            pairs=len(verdicts),
            decided=decided,
            undecided=len(verdicts) - decided,
            failures=sum(verdict.failed for verdict in verdicts),
            first_pick_rate=picks.count(0) / len(picks) if picks else None,
            judge_calls=sum(verdict.calls for verdict in verdicts),
            judge_tokens=sum(verdict.tokens for verdict in verdicts),
            judge_cost=sum(verdict.cost for verdict in verdicts),
            **known,
        )


@dataclass(frozen=True, kw_only=True)
class ImageStatistics:
    """Means over images, of ``image_statistics.image_statistics``."""

    contrast: Number
    edge_energy: Number
    colour_entropy: Number


@dataclass(frozen=True, kw_only=True)
class BothStatistics:
    """The image statistics of the two sides of a validation."""

    base: ImageStatistics
    policy: ImageStatistics


@dataclass(frozen=True, kw_only=True)
class ValidationImage:
    """A held-out prompt with the files of its images, and what the judge said."""

    prompt: str
    base: str
    policy: str
    source: str | None = None
    preferred: Literal["base", "policy"] | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class ValidationEvent(BaseEvent):
    """The policy against the base on held-out prompts; ``low`` to ``high`` is the 95 % interval of the win rate."""

    event: Literal["validation"] = "validation"
    update: Count
    wins: Count
    losses: Count
    undecided: Count
    win_rate: Number | None
    low: Number
    high: Number
    best: bool = False
    seconds: Number = 0.0
    judge_calls: Count = 0
    judge_tokens: Count = 0
    judge_cost: Number = 0.0
    statistics: BothStatistics | None = None
    images: tuple[ValidationImage, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ProgressEvent(BaseEvent):
    """How far the first process is within something that takes more than a moment."""

    event: Literal["progress"] = "progress"
    stage: str
    done: Count
    total: Count


@dataclass(frozen=True, kw_only=True)
class OutageEvent(BaseEvent):
    """The judge answered before and does not any more. The run has saved and waits. Times are ISO times in UTC."""

    event: Literal["outage"] = "outage"
    reason: str
    since: str
    next_try: str
    gives_up: str

    @property
    def text(self) -> str:
        """The sentence for people, with the times of this machine."""
        since, next_try, gives_up = (
            datetime.fromisoformat(time).astimezone().strftime("%H:%M")
            for time in (self.since, self.next_try, self.gives_up)
        )
        return (
            f"the judge does not answer since {since} ({self.reason}); next try at {next_try}; "
            f"gives up at {gives_up}"
        )


@dataclass(frozen=True, kw_only=True)
class CheckpointEvent(BaseEvent):
    """A checkpoint was written."""

    event: Literal["checkpoint"] = "checkpoint"
    update: Count
    path: str


@dataclass(frozen=True, kw_only=True)
class MeasuredShare:
    """A measured value with its 95 % interval, and the number of images that it was measured on."""

    value: Number
    low: Number
    high: Number
    count: Count
    outside_change: Number | None = None


@dataclass(frozen=True, kw_only=True)
class MeasureEvent(BaseEvent):
    """A measure that needs no judge, of the base and of the policy."""

    event: Literal["measure"] = "measure"
    name: str
    unit: str
    base: MeasuredShare
    policy: MeasuredShare


@dataclass(frozen=True, kw_only=True)
class WarningEvent(BaseEvent):
    """Something that does not end the run but that a person should know."""

    event: Literal["warning"] = "warning"
    message: str


@dataclass(frozen=True, kw_only=True)
class StoppedEvent(BaseEvent):
    """The run was stopped after ``update`` and has saved: ``reason`` is "requested", or why it has collapsed."""

    event: Literal["stopped"] = "stopped"
    update: Count
    reason: str


@dataclass(frozen=True, kw_only=True)
class FinishedEvent(BaseEvent):
    """The run is done. ``adapter`` ... ``result`` are paths; an empty one was not written."""

    event: Literal["finished"] = "finished"
    update: Count = 0
    seconds: Number = 0.0
    sentence: str = ""
    adapter: str = ""
    universal: str = ""
    report: str = ""
    result: str = ""


Event = Annotated[
    StartedEvent
    | ResumedEvent
    | EncodedEvent
    | UpdateEvent
    | ValidationEvent
    | ProgressEvent
    | OutageEvent
    | CheckpointEvent
    | MeasureEvent
    | WarningEvent
    | StoppedEvent
    | FinishedEvent,
    Field(discriminator="event"),
]
Observer = Callable[[Event], object]
_READER: TypeAdapter[Event] = TypeAdapter(Event)


class EventLog:
    """The open log of a run. A line is written before any observer hears of its event. Use as a context manager."""

    def __init__(self, path: str | os.PathLike, observers: Iterable[Observer] = ()):
        self._lines, self.observers = JsonLines(path), tuple(observers)
        self._warned: set[str] = set()

    def emit(self, event: Event) -> None:
        """Append the event, then call the observers with it. A line is one system call, so signal handlers may emit."""
        plain = {"event": event.event, **asdict(event)}
        values = json.loads(json.dumps(plain), parse_constant=lambda name: None)
        for write in (lambda _: self._lines.append(values), *self.observers):
            try:
                write(event)
            except OSError as error:  # such as a full disk: what is only shown ends no run
                self._warn(str(error))

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self.emit(WarningEvent(message=message))

    def close(self) -> None:
        """Close the file, and every observer that can be closed."""
        self._lines.close()
        for observer in self.observers:
            if close := getattr(observer, "close", None):
                close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def read_events(path: str | os.PathLike) -> list[Event]:
    """The events of a log in order. Lines that are no valid event, such as one that a kill cut off, are skipped."""
    events = []
    for line in read_json_lines(path):
        try:
            events.append(_READER.validate_python(line))
        except ValidationError:
            continue
    return events


@dataclass
class History:
    """What a run has done, each thing once: of updates that a resume did again, only the later ones count."""

    started: StartedEvent | None = None
    encoded: list[EncodedEvent] = field(default_factory=list)
    updates: list[UpdateEvent] = field(default_factory=list)
    validations: list[ValidationEvent] = field(default_factory=list)
    checkpoints: list[CheckpointEvent] = field(default_factory=list)
    measures: list[MeasureEvent] = field(default_factory=list)
    warnings: list[WarningEvent] = field(default_factory=list)
    resumed: list[ResumedEvent] = field(default_factory=list)
    repeated: list[UpdateEvent] = field(default_factory=list)
    stopped: StoppedEvent | None = None
    finished: FinishedEvent | None = None
    progress: ProgressEvent | None = None
    outage: OutageEvent | None = None
    last_time: str = ""

    @property
    def update(self) -> int:
        """Number of the last update that counts; 0 before the first."""
        return self.updates[-1].update if self.updates else 0

    @property
    def total(self) -> int | None:
        """Number of updates that the run is to do; None before it started."""
        return self.started.updates if self.started else None

    @property
    def state(self) -> Literal["finished", "stopped", "open"]:
        """ "open" is a run that is still going, or was killed."""
        return "finished" if self.finished else "stopped" if self.stopped else "open"


def history(events: Iterable[Event]) -> History:
    """The events folded into what counts.

    After ``resumed`` at update k, updates, validations and checkpoints beyond k are dropped, and so are the end and the
    measures of the earlier process: they were of a policy that is trained further. ``repeated`` keeps the dropped
    updates, whose time and judge calls were spent all the same.
    """
    result = History()
    for event in events:
        result.progress = event if isinstance(event, ProgressEvent) else None
        if not isinstance(event, CheckpointEvent):  # an outage ends with what is done after it
            result.outage = event if isinstance(event, OutageEvent) else None
        result.last_time = event.time
        match event:
            case StartedEvent():
                result.started, result.stopped, result.finished = event, None, None
            case ResumedEvent():
                _rewind(result, event)
            case EncodedEvent():
                result.encoded.append(event)
            case UpdateEvent():
                _drop_after(result.updates, event.update - 1)
                result.updates.append(event)
            case ValidationEvent():
                _drop_after(result.validations, event.update - 1)
                result.validations.append(event)
            case CheckpointEvent():
                _drop_after(result.checkpoints, event.update - 1)
                result.checkpoints.append(event)
            case MeasureEvent():
                others = [measure for measure in result.measures if measure.name != event.name]
                result.measures = [*others, event]
            case WarningEvent():
                result.warnings.append(event)
            case StoppedEvent():
                result.stopped = event
            case FinishedEvent():
                result.finished = event
    return result


def _rewind(result: History, event: ResumedEvent) -> None:
    """Drop everything after the update that ``event`` resumes from."""
    result.resumed.append(event)
    result.stopped = result.finished = None
    result.measures = []
    result.repeated += [update for update in result.updates if update.update > event.update]
    for events in (result.updates, result.validations, result.checkpoints):
        _drop_after(events, event.update)


def _drop_after(
    events: list[UpdateEvent] | list[ValidationEvent] | list[CheckpointEvent], last: int
) -> None:
    """Remove the events beyond the update ``last``, in place."""
    while events and events[-1].update > last:
        events.pop()
