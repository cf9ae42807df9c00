"""The labeling queue: pairs that wait for a person, and answers that can still be taken back.

Tasks come in groups. A group is handed back when all of it is answered and its undo window is over: ``undo_window_s``
seconds after its last answer, or when the person says that it is done. Until then answers can be taken back, the last
one first.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..common.images import open_image
from ..judging.verdict import Place

Choice = Place | None  # the place in the task; None: neither is better
Answer = tuple[Choice, float]  # and the seconds that it took
ORDERS: tuple[tuple[Place, Place], ...] = ((0, 1), (1, 0))


@dataclass(frozen=True)
class Task:
    """A pair for a person. Files are opened when the page asks for them; ``source`` is what an edit started from.

    changed: called with the choice and false when the task is answered, and with true when that answer is undone. If it
    raises, nothing has happened.
    """

    prompt: str
    criteria: str
    images: tuple[Image.Image, Image.Image] | tuple[Path, Path]
    source: Image.Image | Path | None = None
    changed: Callable[[Choice, bool], object] = lambda choice, undone: None


@dataclass(eq=False)
class _Group:
    items: list[_Item] = field(default_factory=list)
    future: Future[list[Answer]] = field(default_factory=Future)
    timer: threading.Timer | None = None  # runs from the last answer on


@dataclass(eq=False)
class _Item:
    """A task in the queue. ``places``: of the images shown left and right; a page that is loaded again shows the same."""

    task: Task
    group: _Group
    places: tuple[Place, Place]
    shown_at: float | None = None
    answer: Answer | None = None


class LabelingQueue:
    """Tasks and answers, shared by threads. ``total`` is how many tasks there will be, where that is known."""

    def __init__(self, undo_window_s: float, *, total: int | None = None, answered: int = 0):
        self.undo_window_s, self.total, self.answered = undo_window_s, total, answered
        self.version, self.closed = 0, False
        self._numbers = itertools.count()
        self._items: dict[int, _Item] = {}  # by number
        self._undoable: list[tuple[_Item, Choice]] = []  # in the order of their answers
        self._changed = threading.Condition()

    def add(self, tasks: Sequence[Task]) -> Future[list[Answer]]:
        """Queue a group of tasks. The future is the group's answers; cancelling it removes the group."""
        group = _Group()
        with self._changed:
            group.items = [_Item(task, group, secrets.choice(ORDERS)) for task in tasks]
            self._items |= {next(self._numbers): item for item in group.items}
            self._notify()
        group.future.add_done_callback(lambda future: self._remove(group))
        return group.future

    def answer(self, number: int, side: Place | None) -> None:
        """The person's choice: the left (0) or right (1) image, or neither. Only the task that is shown can be answered."""
        with self._changed:
            if number not in self._waiting()[:1]:
                return
            item, now = self._items[number], time.monotonic()
            group, choice = item.group, None if side is None else item.places[side]
            item.task.changed(choice, False)
            item.answer = choice, now - (item.shown_at or now)
            self._undoable.append((item, choice))
            self.answered += 1
            self._notify()
            if group.timer is not None:
                group.timer.cancel()
            group.timer = threading.Timer(self.undo_window_s, self._hand_back, [group])
            group.timer.daemon = True
            group.timer.start()

    def undo(self) -> None:
        """Take back the last answer that has not been handed back."""
        with self._changed:
            if not self._undoable:
                return
            item, choice = self._undoable[-1]
            item.task.changed(choice, True)
            item.answer = item.shown_at = None
            self._undoable.pop()
            self.answered -= 1
            self._notify()

    def finish(self) -> None:
        """Hand back every complete group at once."""
        with self._changed:
            for group in {item.group for item, _ in self._undoable}:
                self._hand_back(group)

    def image(self, number: int, side: str) -> Image.Image | None:
        """The image at the ``left`` or ``right`` of a task, or its ``source``; None where there is none."""
        with self._changed:
            item = self._items.get(number)
        if item is None:
            return None
        task = item.task
        image = task.source if side == "source" else task.images[item.places[side == "right"]]
        return open_image(image) if isinstance(image, Path) else image

    def state(self, seen: int = -1, timeout_s: float = 0.0) -> dict[str, Any]:
        """What the page shows, as soon as its version is not the one ``seen``, or when the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self.version != seen or self.closed, timeout_s)
            waiting, task = self._waiting(), None
            if waiting:
                item = self._items[waiting[0]]
                item.shown_at = item.shown_at or time.monotonic()
                task = {
                    "number": waiting[0],
                    "prompt": item.task.prompt,
                    "criteria": item.task.criteria,
                    "source": item.task.source is not None,
                }
            return {
                "version": self.version,
                "closed": self.closed,
                "answered": self.answered,
                "waiting": len(waiting),
                "total": self.total,
                "undo": bool(self._undoable),
                "task": task,
                "next": waiting[1] if len(waiting) > 1 else None,
                "undo_window_s": self.undo_window_s,
            }

    def close(self) -> None:
        """Ask nothing more, hand nothing back, and tell the page."""
        with self._changed:
            self.closed, self._items, self._undoable = True, {}, []
            self._notify()

    def _waiting(self) -> list[int]:
        """The numbers of the tasks without an answer; the first one is shown."""
        return [number for number, item in self._items.items() if item.answer is None]

    def _notify(self) -> None:
        self.version += 1
        self._changed.notify_all()

    def _hand_back(self, group: _Group) -> None:
        """Hand back the group if it is complete. It may be cancelled at this moment, or done by ``finish``."""
        with self._changed, contextlib.suppress(InvalidStateError):
            answers = [item.answer for item in group.items if item.answer is not None]
            if len(answers) == len(group.items) and not self.closed:
                group.future.set_result(answers)

    def _remove(self, group: _Group) -> None:
        with self._changed:
            self._items = {n: item for n, item in self._items.items() if item.group is not group}
            self._undoable = [one for one in self._undoable if one[0].group is not group]
            self._notify()
