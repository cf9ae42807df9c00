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

from .events import Event

WINDOW = 20  # updates over which the undecided share and the pace are taken
QUIET_S = 10.0  # least time between two plain lines of updates
WITHIN_S = 60.0  # and between two that say how far it is within one
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


class Progress:
    """An observer of events: a bar where ``stream`` is a terminal, else a line now and then.

    The last sentence, and where the adapter and the report lie, go to ``output``: they are what the command returns.
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
        self.total, self.done, self.win_rate, self.bar = 0, 0, None, None
        self.recent: deque[Event] = deque(maxlen=WINDOW)
        self.times: deque[float] = deque(maxlen=WINDOW + 1)
        self.next_line = self.next_within = 0.0

    def __call__(self, event: Event) -> None:
        handle = getattr(self, f"on_{event['event']}", None)
        if handle is not None:
            handle(event)

    def close(self) -> None:
        """Leaves the bar as it stands and the cursor below it."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def on_started(self, event: Event) -> None:
        self.total = event.get("updates") or 0
        rubric = (event.get("rubric") or {}).get("name") or "none"
        self._say(
            f"{event.get('run')}: {event.get('algorithm')}, {event.get('prompts')} prompts, "
            f"{event.get('validation_prompts')} held out, rubric {rubric}, on {event.get('device')}"
        )

    def on_resumed(self, event: Event) -> None:
        self.done = event.get("update") or 0
        if self.bar is not None:
            self.bar.initial = self.bar.n = self.done
        self._say(f"resumed after update {self.done}")

    def on_encoded(self, event: Event) -> None:
        self._say(
            f"encoded {event.get('examples')} prompts in {duration(event.get('seconds') or 0)}"
        )
        self._open_bar()

    def on_update(self, event: Event) -> None:
        now = self.clock()
        if not self.times:
            self.times.append(now - (event.get("seconds") or 0))
        self.times.append(now)
        self.recent.append(event)
        self._open_bar()
        self.done = event["update"]
        status = self._status()
        if self.bar is not None:
            self.bar.set_postfix_str(status, refresh=False)
            self.bar.update(self.done - self.bar.n)
        elif now >= self.next_line or self.done == self.total:
            self.next_line = now + QUIET_S
            self._say(f"update {self.done}/{self.total}  {status}")

    def on_progress(self, event: Event) -> None:
        words = f"{event['stage']} {event['done']}/{event['total']}"
        self._open_bar()
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self._status()}  {words}" if self.recent else words)
        elif (now := self.clock()) >= self.next_within:
            self.next_within = now + WITHIN_S
            self._say(words)

    def on_validation(self, event: Event) -> None:
        self.win_rate = event.get("win_rate")
        interval = ""
        if None not in (self.win_rate, event.get("low"), event.get("high")):
            interval = f" ({100 * event['low']:.0f}-{100 * event['high']:.0f})"
        counts = f"{event.get('wins')} won, {event.get('losses')} lost, {event.get('undecided')} undecided"
        best = ", the best so far" if event.get("best") else ""
        if self.bar is not None and self.recent:
            self.bar.set_postfix_str(self._status(), refresh=False)
        rate = f"win rate {_percent(self.win_rate)}{interval}"
        self._say(f"validation after update {event.get('update')}: {rate}, {counts}{best}")

    def on_measure(self, event: Event) -> None:
        sides = [(event.get(side) or {}).get("value") for side in ("base", "policy")]
        base, policy = ("unknown" if value is None else f"{value:.4g}" for value in sides)
        self._say(
            f"{event.get('name')}: base {base}, policy {policy} {event.get('unit') or ''}".rstrip()
        )

    def on_warning(self, event: Event) -> None:
        self._say(f"warning: {event.get('message')}")

    def on_stopped(self, event: Event) -> None:
        self.close()
        self._say(
            f"stopped after update {event.get('update')} of {self.total}: {event.get('reason')}"
        )
        self._say(f"go on with: python -m arr_core.train --resume {shlex.quote(str(self.folder))}")

    def on_finished(self, event: Event) -> None:
        self.close()
        _write(self.output, str(event.get("sentence") or "finished"))
        for name in ("adapter", "universal", "report"):
            if event.get(name):
                _write(self.output, f"{name:<10}{self.folder / event[name]}")

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
        pairs = sum(recent.get("pairs") or 0 for recent in self.recent)
        undecided = (
            sum(recent.get("undecided") or 0 for recent in self.recent) / pairs if pairs else None
        )
        parts = [f"win rate {_percent(self.win_rate)}", f"undecided {_percent(undecided)}"]
        name = next(
            (name for name in ("kl", "loss") if event.get(name)), None
        )  # no KL is asked for where it is nothing
        if name:
            parts.append(f"{name} {event[name]:.2g}")
        pace = (self.times[-1] - self.times[0]) / (len(self.times) - 1)
        return "  ".join([*parts, f"left {duration(pace * max(0, self.total - self.done))}"])

    def _say(self, line: str) -> None:
        if self.bar is not None:
            self.bar.clear()
        _write(self.stream, line)
        if self.bar is not None:
            self.bar.refresh()


def duration(seconds: float) -> str:
    """Seconds as "9 s", "3:07" or "2:03:07"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}:{minutes:02}:{rest:02}"
        if hours
        else f"{minutes}:{rest:02}"
        if minutes
        else f"{rest} s"
    )


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.0f}%"


def _write(stream: TextIO, line: str) -> None:
    """A line, with what the stream's encoding does not hold replaced: a message must not end a run."""
    encoding = stream.encoding or "utf-8"
    print(line.encode(encoding, "replace").decode(encoding), file=stream, flush=True)
