"""The labeling queue: pairs that wait for a person, and answers that can still be taken back.

Tasks come in groups. A group is handed back when all of it is answered and its undo window is over: ``undo_window_s``
seconds after its last answer, or when the person says that it is done. Until then answers can be taken back, the last
one first.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

Choice = Literal[0, 1] | None  # the place in the task, first or second; None: neither is better
Answer = tuple[Choice, float]  # and the seconds that it took
OpenImage = Callable[[], Image.Image]
Changed = Callable[[int, Choice, bool], object]


@dataclass(frozen=True)
class Task:
    """A pair for a person. Images are opened when the page asks for them; ``source`` is what an edit started from."""

    prompt: str
    criteria: str
    images: tuple[OpenImage, OpenImage]
    source: OpenImage | None = None


@dataclass(eq=False)
class _Group:
    future: Future[list[Answer]]
    changed: Changed
    unanswered: int
    timer: threading.Timer | None = None  # runs while the undo window is open


@dataclass(eq=False)
class _Item:
    """A task in the queue. Its sides are drawn once, so that a page that is loaded again shows the same."""

    task: Task
    group: _Group
    index: int  # in the group
    swapped: bool
    shown_at: float | None = None
    answer: Answer | None = None


class LabelingQueue:
    """Tasks and answers, shared by threads. ``total`` is how many tasks there will be, where that is known."""

    def __init__(self, *, undo_window_s: float = 4.0, total: int | None = None, answered: int = 0):
        self.undo_window_s, self.total, self.answered = undo_window_s, total, answered
        self.version, self.closed = 0, False
        self._added = 0
        self._items: dict[int, _Item] = {}  # by number
        self._undoable: list[_Item] = []  # in the order of their answers
        self._random = random.SystemRandom()
        self._changed = threading.Condition()

    def add(
        self, tasks: Sequence[Task], changed: Changed = lambda index, choice, undone: None
    ) -> Future[list[Answer]]:
        """Queue a group of tasks. The future is the group's answers; cancelling it removes the group.

        changed: called with the index of a task when it is answered, or its answer undone. If it raises, nothing has
        happened.
        """
        group = _Group(Future(), changed, len(tasks))
        with self._changed:
            for index, task in enumerate(tasks):
                swapped = self._random.random() < 0.5
                self._items[self._added] = _Item(task, group, index, swapped)
                self._added += 1
            self._notify()
        group.future.add_done_callback(lambda future: self._remove(group))
        return group.future

    def answer(self, number: int, side: Literal[0, 1] | None) -> None:
        """The person's choice: the left (0) or right (1) image, or neither. Only the task that is shown can be answered."""
        with self._changed:
            if number not in self._waiting()[:1]:
                return
            item, now = self._items[number], time.monotonic()
            choice = None if side is None else 1 if bool(side) != item.swapped else 0
            item.group.changed(item.index, choice, False)
            item.answer = choice, now - (item.shown_at or now)
            self._undoable.append(item)
            self._count(item.group, 1)
            if not item.group.unanswered:
                item.group.timer = threading.Timer(
                    self.undo_window_s, self._hand_back, [item.group]
                )
                item.group.timer.daemon = True
                item.group.timer.start()

    def undo(self) -> None:
        """Take back the last answer that has not been handed back."""
        with self._changed:
            if self.closed or not self._undoable:
                return
            item = self._undoable[-1]
            if item.answer is not None:
                item.group.changed(item.index, item.answer[0], True)
            if item.group.timer is not None:
                item.group.timer.cancel()
            item.answer = item.shown_at = None
            self._undoable.pop()
            self._count(item.group, -1)

    def finish(self) -> None:
        """Hand back every complete group at once."""
        with self._changed:
            for group in dict.fromkeys(item.group for item in self._undoable):
                self._hand_back(group)

    def image(self, number: int, side: str) -> Image.Image | None:
        """The image at the ``left`` or ``right`` of a task, or its ``source``; None where there is none."""
        with self._changed:
            item = self._items.get(number)
            if item is None or self.closed:
                return None
            task, right = item.task, (side == "right") != item.swapped
        open_image = task.source if side == "source" else task.images[right]
        return open_image() if open_image else None

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
                "undo": bool(self._undoable) and not self.closed,
                "task": task,
                "next": waiting[1] if len(waiting) > 1 else None,
                "undo_window_s": self.undo_window_s,
            }

    def close(self) -> None:
        """Ask nothing more, hand nothing back, and tell the page."""
        with self._changed:
            self.closed = True
            self._notify()

    def _waiting(self) -> list[int]:
        """The numbers of the tasks without an answer; the first one is shown."""
        if self.closed:
            return []
        return [number for number, item in self._items.items() if item.answer is None]

    def _count(self, group: _Group, answers: int) -> None:
        self.answered += answers
        group.unanswered -= answers
        self._notify()

    def _notify(self) -> None:
        self.version += 1
        self._changed.notify_all()

    def _hand_back(self, group: _Group) -> None:
        # The future may be cancelled at this moment, or done by ``finish``.
        with self._changed, contextlib.suppress(InvalidStateError):
            if not group.unanswered and not self.closed:
                items = [item for item in self._items.values() if item.group is group]
                group.future.set_result([item.answer for item in items if item.answer is not None])

    def _remove(self, group: _Group) -> None:
        with self._changed:
            self._items = {n: item for n, item in self._items.items() if item.group is not group}
            self._undoable = [item for item in self._undoable if item.group is not group]
            self._notify()
