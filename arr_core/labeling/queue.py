"""What lies before a person who judges: pairs that wait, answers that can still be taken back, and who asked for them.

Pairs come in groups. A group is handed back when all of it is answered and either nobody has touched it for ``settle_s``
seconds or the person says that it is done; until then any of its answers can be taken back, the last one first.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

Choice = Literal[0, 1] | None  # the place in the question, first or second; None: neither is better


@dataclass(frozen=True)
class Card:
    """A pair as it is shown. ``pictures`` are made when they are looked at: of the places 0 and 1, and the BASE."""

    prompt: str
    criteria: str
    pictures: tuple[Callable[[], Image.Image], Callable[[], Image.Image]]
    base: Callable[[], Image.Image] | None = None


@dataclass
class _Group:
    numbers: list[int]
    done: Callable[[list[tuple[Choice, float]]], None]
    changed: Callable[[int, Choice, bool], None]
    touched: float = 0.0


@dataclass
class _Shown:
    """A card on the desk. The sides are drawn once, so that a page that is loaded again shows the same."""

    card: Card
    group: _Group
    swapped: bool
    since: float | None = None  # when it came to the top
    answer: tuple[Choice, float] | None = None  # and the seconds that it took
    order: int = field(default=0)  # of the answers


class Desk:
    """Pairs and answers, shared by threads. ``total`` is how many pairs there will be, where that is known."""

    def __init__(self, *, settle_s: float = 4.0, total: int | None = None, answered: int = 0):
        self.settle_s, self.total, self.answered, self.version, self.closed = (
            settle_s,
            total,
            answered,
            0,
            False,
        )
        self._shown: dict[int, _Shown] = {}
        self._groups: list[_Group] = []
        self._number = self._order = 0
        self._changed = threading.Condition()
        self._draw = random.SystemRandom()
        threading.Thread(target=self._hand_back, name="desk", daemon=True).start()

    def add(
        self,
        cards: Sequence[Card],
        done: Callable[[list[tuple[Choice, float]]], None],
        changed: Callable[[int, Choice, bool], None] = lambda at, choice, taken_back: None,
    ) -> Callable[[], None]:
        """Lay down a group; what is returned takes it away again.

        done: called once with the choice and the seconds of each card. changed: called with the place of a card in the
        group when it is answered, or its answer taken back; if it raises OSError, nothing has happened.
        """
        with self._changed:
            numbers = list(range(self._number, self._number + len(cards)))
            self._number += len(cards)
            group = _Group(numbers, done, changed)
            self._groups.append(group)
            for number, card in zip(numbers, cards, strict=True):
                self._shown[number] = _Shown(card, group, self._draw.random() < 0.5)
            self._touch()
        return lambda: self._remove(group)

    def answer(self, number: int, side: Literal[0, 1] | None) -> None:
        """The person's choice: the left (0) or right (1) picture, or neither. An answer to another than the top is void."""
        with self._changed:
            if number != self._top():
                return
            shown, now = self._shown[number], time.monotonic()
            choice = side if side is None else side ^ shown.swapped
            shown.group.changed(shown.group.numbers.index(number), choice, False)
            self._order += 1
            shown.answer, shown.order = (choice, now - (shown.since or now)), self._order
            shown.group.touched = now
            self.answered += 1
            self._touch()

    def undo(self) -> None:
        """Take back the last answer that has not been handed on."""
        with self._changed:
            number = self._last()
            if number is None:
                return
            shown = self._shown[number]
            shown.group.changed(shown.group.numbers.index(number), shown.answer[0], True)
            shown.answer = shown.since = None
            self.answered -= 1
            self._touch()

    def finish(self) -> None:
        """Hand on at once what is answered."""
        with self._changed:
            for group in self._groups:
                group.touched = -self.settle_s
            self._changed.notify_all()

    def picture(self, number: int, side: str) -> Image.Image | None:
        """The picture at the ``left`` or ``right`` of a card, or its ``base``."""
        with self._changed:
            shown = self._shown.get(number)
            if shown is None or self.closed:
                return None
            made = (
                shown.card.base
                if side == "base"
                else shown.card.pictures[(side == "right") ^ shown.swapped]
            )
        return made() if made else None

    def state(self, seen: int = -1, timeout_s: float = 0.0) -> dict:
        """What the page shows, as soon as it differs from the version that was ``seen`` or the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self.version != seen or self.closed, timeout_s)
            top = self._top()
            waiting = [number for number, shown in self._shown.items() if shown.answer is None]
            card = None
            if top is not None:
                shown = self._shown[top]
                shown.since = shown.since or time.monotonic()
                card = {
                    "number": top,
                    "prompt": shown.card.prompt,
                    "criteria": shown.card.criteria,
                    "base": shown.card.base is not None,
                }
            following = next((number for number in waiting if number != top), None)
            return {
                "version": self.version,
                "closed": self.closed,
                "answered": self.answered,
                "waiting": len(waiting),
                "total": self.total,
                "undo": self._last() is not None,
                "card": card,
                "next": following,
                "settle_s": self.settle_s,
            }

    def close(self) -> None:
        """Nothing more is asked; whoever waits is told."""
        with self._changed:
            self.closed = True
            self._touch()

    def _top(self) -> int | None:
        return next(
            (
                number
                for number, shown in self._shown.items()
                if shown.answer is None and not self.closed
            ),
            None,
        )

    def _last(self) -> int | None:
        answered = [
            number
            for number, shown in self._shown.items()
            if shown.answer is not None and not self.closed
        ]
        return max(answered, key=lambda number: self._shown[number].order, default=None)

    def _touch(self) -> None:
        self.version += 1
        self._changed.notify_all()

    def _remove(self, group: _Group) -> None:
        with self._changed:
            if group in self._groups:
                self._groups.remove(group)
                for number in group.numbers:
                    del self._shown[number]
                self._touch()

    def _hand_back(self) -> None:
        """Waits for groups that are complete and have settled."""
        while True:
            with self._changed:
                if self.closed:
                    return
                complete = [
                    group
                    for group in self._groups
                    if all(self._shown[n].answer for n in group.numbers)
                ]
                due = min((group.touched + self.settle_s for group in complete), default=None)
                now = time.monotonic()
                if due is None or due > now:
                    self._changed.wait(None if due is None else due - now)
                    continue
                group = next(group for group in complete if group.touched + self.settle_s <= now)
                answers = [self._shown[number].answer for number in group.numbers]
                self._remove(group)
            group.done(answers)
