"""What a run shows in a terminal, or in a file that stands in for one."""

from __future__ import annotations

import shlex
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from ..common.proportions import Proportion
from .events import (
    EncodedEvent,
    Event,
    FinishedEvent,
    MeasureEvent,
    OutageEvent,
    ProgressEvent,
    ResumedEvent,
    StartedEvent,
    StoppedEvent,
    UpdateEvent,
    ValidationEvent,
    WarningEvent,
)

WINDOW = 20  # updates over which the undecided share and the pace are taken
UPDATE_LINE_S = 10.0  # least time between two plain lines of updates
PROGRESS_LINE_S = 60.0  # and between two lines of progress within one
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


class Progress:
    """An observer of events: a bar where ``stream`` is a terminal, else a line now and then.

    The last sentence and the paths of the adapter and the report go to ``output``: they are what the command returns.
    """

    def __init__(
        self,
        folder: str | Path = "",
        *,
        stream: TextIO | None = None,
        output: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.folder, self.clock = Path(folder), clock
        self.stream, self.output = stream or sys.stderr, output or sys.stdout
        self.total = self.done = 0
        self.win_rate: float | None = None
        self.bar: tqdm | None = None
        self.recent: deque[UpdateEvent] = deque(maxlen=WINDOW)
        self.times: deque[float] = deque(maxlen=WINDOW + 1)
        self.next_update_line = self.next_progress_line = 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case StartedEvent():
                self.total = event.updates
                self._print(
                    f"{event.run}: {event.algorithm}, {event.prompts} prompts, {event.validation_prompts} held out, "
                    f"rubric {event.rubric.name if event.rubric else 'none'}, on {event.device}"
                )
            case ResumedEvent():
                self.done = event.update
                if self.bar is not None:
                    self.bar.initial = self.bar.n = self.done
                self._print(f"resumed after update {self.done}")
            case EncodedEvent():
                self._print(f"encoded {event.examples} prompts in {duration(event.seconds)}")
                self._open_bar()
            case UpdateEvent():
                self._update(event)
            case ProgressEvent():
                self._progress(f"{event.stage} {event.done}/{event.total}")
            case OutageEvent():
                self._print(event.text)
            case ValidationEvent():
                self._validation(event)
            case MeasureEvent():
                base, policy = event.base.value, event.policy.value
                self._print(f"{event.name}: base {base:.4g}, policy {policy:.4g} {event.unit}")
            case WarningEvent():
                self._print(f"warning: {event.message}")
            case StoppedEvent():
                self.close()
                self._print(f"stopped after update {event.update} of {self.total}: {event.reason}")
                if event.reason == "requested":
                    command = f"python -m arr_core.train --resume {shlex.quote(str(self.folder))}"
                    self._print(f"go on with: {command}")
            case FinishedEvent():
                self.close()
                _write(self.output, event.sentence)
                for name in ("adapter", "universal", "report"):
                    if path := getattr(event, name):
                        _write(self.output, f"{name:<10}{self.folder / path}")

    def close(self) -> None:
        """Leave the bar as it stands and the cursor below it."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _update(self, event: UpdateEvent) -> None:
        now = self.clock()
        if not self.times:
            self.times.append(now - event.seconds)
        self.times.append(now)
        self.recent.append(event)
        self._open_bar()
        self.done = event.update
        if self.bar is not None:
            self.bar.set_postfix_str(self._status(), refresh=False)
            self.bar.update(self.done - self.bar.n)
        elif now >= self.next_update_line or self.done == self.total:
            self.next_update_line = now + UPDATE_LINE_S
            self._print(f"update {self.done}/{self.total}  {self._status()}")

    def _progress(self, text: str) -> None:
        self._open_bar()
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self._status()}  {text}" if self.recent else text)
        elif (now := self.clock()) >= self.next_progress_line:
            self.next_progress_line = now + PROGRESS_LINE_S
            self._print(text)

    def _validation(self, event: ValidationEvent) -> None:
        self.win_rate = event.win_rate
        interval = f" ({100 * event.low:.0f}-{100 * event.high:.0f})"
        rate = _percent(event.win_rate) + (interval if event.win_rate is not None else "")
        best = ", the best so far" if event.best else ""
        if self.bar is not None and self.recent:
            self.bar.set_postfix_str(self._status(), refresh=False)
        self._print(
            f"validation after update {event.update}: win rate {rate}, {event.wins} won, {event.losses} lost, "
            f"{event.undecided} undecided{best}"
        )

    def _open_bar(self) -> None:
        if self.bar is None and self.stream.isatty():
            self.bar = tqdm(
                total=self.total or None,
                initial=self.done,
                desc="updates",
                file=self.stream,
                bar_format=BAR if self.total else None,
                dynamic_ncols=True,
            )

    def _status(self) -> str:
        """Win rate, undecided share of the last updates, KL or loss, and time left."""
        event = self.recent[-1]
        undecided = Proportion(
            sum(update.undecided for update in self.recent),
            sum(update.pairs for update in self.recent),
        )
        parts = [f"win rate {_percent(self.win_rate)}", f"undecided {_percent(undecided.value)}"]
        if event.kl:  # zero where the objective asks for no KL
            parts.append(f"kl {event.kl:.2g}")
        elif event.loss is not None:
            parts.append(f"loss {event.loss:.2g}")
        if skipped := sum(update.skipped for update in self.recent):
            parts.append(f"skipped {skipped}")
        pace = (self.times[-1] - self.times[0]) / (len(self.times) - 1)
        return "  ".join([*parts, f"left {duration(pace * max(0, self.total - self.done))}"])

    def _print(self, line: str) -> None:
        if self.bar is not None:
            self.bar.clear()
        _write(self.stream, line)
        if self.bar is not None:
            self.bar.refresh()


def duration(seconds: float) -> str:
    """Seconds as "9 s", "3:07" or "2:03:07"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.0f}%"


def _write(stream: TextIO, line: str) -> None:
    """Print a line. Characters that the stream's encoding lacks are replaced: a message must not end a run."""
    encoding = stream.encoding or "utf-8"
    print(line.encode(encoding, "replace").decode(encoding), file=stream, flush=True)
