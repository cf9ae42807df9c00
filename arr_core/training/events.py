"""The one way out of a running trainer: ``events.jsonl``, one JSON object a line, only ever appended to.

A line is ``{"event": kind, "time": ISO time in UTC, ...}``. The progress bar, the report, the trackers and a ComfyUI node
read these and nothing else. ``null`` stands for what is unknown, and for numbers that are not finite.

| event | fields |
|---|---|
| started | run, config_hash, version, updates, prompts, validation_prompts, device, task, algorithm, rubric {name, hash} |
| resumed | update: the checkpoint's; whatever was recorded after it happens again |
| encoded | examples, seconds |
| update | update (from 1), seconds, sampling_s, waiting_s, training_s, pairs, decided, undecided, failures, first_pick_rate, loss, kl, ratio_mean, clip_high, clip_low (rpo) or shift (nft), grad_norm, learning_rate, judge_calls, judge_tokens, judge_cost |
| validation | update, wins, losses, undecided, win_rate, low, high, best, seconds, judge_calls, judge_tokens, judge_cost, statistics {base, policy}, images [{prompt, base, policy, source, preferred, reason}] |
| progress | stage, done, total: how far the first process is within something that takes more than a moment |
| checkpoint | update, path |
| measure | name, unit, base {value, low, high, count}, policy {value, low, high, count} |
| warning | message |
| stopped | update, reason |
| finished | update, seconds, adapter, universal, report, sentence |

Every process begins with ``started``; one that goes on says ``resumed`` next, when its model is there.
Paths are relative to the run's folder. What an update says of time and of the judge is about that update alone.
"""  # noqa: E501 (a table's row is one line)

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path, PurePath
from typing import Any

Event = dict[str, Any]
Observer = Callable[[Event], None]


class EventLog:
    """The open log of a run. A line is on its way to disk before any observer hears of it."""

    def __init__(self, path: str | os.PathLike, observers: Iterable[Observer] = ()):
        self.path, self.observers = Path(path), tuple(observers)
        torn = _ends_inside_a_line(self.path)
        # Unbuffered: a line is one call of the system, so a signal handler may emit too, and a kill loses nothing.
        self._file = open(self.path, "ab", buffering=0)
        if torn:
            self._write(b"\n")

    def emit(self, kind: str, **fields: Any) -> Event:
        """The event as it was written."""
        event = {
            "event": kind,
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            **_plain(fields),
        }
        line = json.dumps(event, ensure_ascii=False, allow_nan=False)
        # A lone surrogate has no UTF-8; the escape that Python puts in its place is the one that JSON reads back.
        self._write(line.encode("utf-8", "backslashreplace") + b"\n")
        for observer in self.observers:
            observer(event)
        return event

    def close(self) -> None:
        """Closes the file, and every observer that can be closed."""
        self._file.close()
        for observer in self.observers:
            getattr(observer, "close", lambda: None)()

    def _write(self, line: bytes) -> None:
        while line:
            line = line[self._file.write(line) :]

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def read_events(path: str | os.PathLike) -> list[Event]:
    """The events of a log in order, without the lines that a crash or another hand left unreadable.

    Of a log that is being written, the last line may be half there; the next reading finds it whole.
    """
    events = []
    for line in Path(path).read_bytes().split(b"\n"):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):  # torn: neither the JSON nor the UTF-8 need be whole
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            events.append(event)
    return events


@dataclass
class History:
    """What a run has done, each thing once: of updates that a resume did again, only the later ones count."""

    started: Event = field(default_factory=dict)
    encoded: list[Event] = field(default_factory=list)
    updates: list[Event] = field(default_factory=list)
    validations: list[Event] = field(default_factory=list)
    checkpoints: list[Event] = field(default_factory=list)
    measures: list[Event] = field(default_factory=list)
    warnings: list[Event] = field(default_factory=list)
    resumed: list[Event] = field(default_factory=list)
    repeated: list[Event] = field(default_factory=list)
    stopped: Event | None = None
    finished: Event | None = None
    progress: Event | None = None
    last_time: str = ""

    @property
    def update(self) -> int:
        """Number of the last update that counts; 0 before the first."""
        return self.updates[-1]["update"] if self.updates else 0

    @property
    def total(self) -> int | None:
        """Number of updates that the run was to do, as far as it is known."""
        return self.started.get("updates")

    @property
    def state(self) -> str:
        """ "finished", "stopped", or "open": still going, or killed without a word."""
        return "finished" if self.finished else "stopped" if self.stopped else "open"


def history(events: Iterable[Event]) -> History:
    """The events folded into what counts.

    After ``resumed`` at update k, updates, validations and checkpoints beyond k are dropped, and so are the end and the
    measures of the earlier process: they were of a policy that is trained further. ``repeated`` keeps the dropped
    updates, whose time and judge calls were spent all the same.
    """
    result = History()
    for event in events:
        kind = event["event"]
        result.progress = event if kind == "progress" else None
        result.last_time = str(event.get("time") or result.last_time)
        if kind == "started":
            result.started, result.stopped, result.finished = event, None, None
        elif kind == "resumed":
            _rewind(result, event)
        elif kind in ("update", "validation", "checkpoint") and isinstance(
            event.get("update"), int
        ):
            kept = getattr(result, f"{kind}s")
            while (
                kept and kept[-1]["update"] >= event["update"]
            ):  # only a log that lost its ``resumed`` has such
                kept.pop()
            kept.append(event)
        elif kind == "measure":
            others = [
                measure for measure in result.measures if measure.get("name") != event.get("name")
            ]
            result.measures = [*others, event]
        elif kind == "encoded":
            result.encoded.append(event)
        elif kind == "warning":
            result.warnings.append(event)
        elif kind in ("stopped", "finished"):
            setattr(result, kind, event)
    return result


def _rewind(result: History, event: Event) -> None:
    """Takes back everything after the update that ``event`` resumes from."""
    result.resumed.append(event)
    result.stopped = result.finished = None
    result.measures.clear()
    start = event.get("update")
    if isinstance(start, int):
        result.repeated += [update for update in result.updates if update["update"] > start]
        for kept in (result.updates, result.validations, result.checkpoints):
            kept[:] = [earlier for earlier in kept if earlier["update"] <= start]


def _plain(value: Any) -> Any:
    """The value in JSON's own types: no numpy, no torch, paths with forward slashes, and None for NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, PurePath):
        return value.as_posix()
    if hasattr(value, "item"):
        return _plain(value.item())
    raise TypeError(
        "expected text, a number, a path, or lists and mappings of them in an event, "
        f"came {type(value).__name__}"
    )


def _ends_inside_a_line(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
