"""Line charts as geometry: paths in a square of 100 units, which the page stretches, and labels placed in percent.

The macro ``chart`` draws them. Colours come from the style sheet by the role of a line, so light and dark need no second chart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from .html import figure

MOST_POINTS = 400  # of a drawn line; a longer one is averaged, which no screen can tell apart
TICKS = 4

Role = Literal["policy", "base", "second"]


class Point(NamedTuple):
    x: float
    y: float | None  # None interrupts the line
    note: str = ""


@dataclass(frozen=True)
class Line:
    """``role`` is the colour. ``dots`` marks every point and shows its note on hovering; ``smooth`` adds a bold mean."""

    points: Sequence[Point]
    role: Role = "policy"
    label: str = ""
    dots: bool = False
    smooth: bool = False


class Path(NamedTuple):
    """An SVG path: its classes, its data, and what it shows on hovering."""

    kind: str
    d: str
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """Lines over updates.

    format: a y value as text. band: (x, low, high), filled behind the lines. level: a y that is drawn across.
    low, high: ends of the y axis; None fits the data.
    """

    title: str
    lines: Sequence[Line]
    format: Callable[[float], str] = figure
    note: str = ""
    band: Sequence[tuple[float, float, float]] = ()
    level: float | None = None
    low: float | None = None
    high: float | None = None

    @cached_property
    def known(self) -> list[tuple[float, float]]:
        """The points that are drawn; where there are none, the chart says that there is no data."""
        return [(x, y) for line in self.lines for x, y, _ in line.points if y is not None]

    @property
    def lately(self) -> str:
        """The mean of the last tenth of a smoothed line."""
        recent = [y for _, y in self.known[-max(1, len(self.known) // 10) :]]
        smooth = recent and len(self.lines) == 1 and self.lines[0].smooth
        return f"{self.format(sum(recent) / len(recent))} lately" if smooth else ""

    @property
    def spoken(self) -> str:
        """The chart in words."""
        (first_x, first_y), (last_x, last_y) = self.known[0], self.known[-1]
        first, last = self.format(first_y), self.format(last_y)
        return f"{self.title}: {first} at update {first_x:.0f}, {last} at update {last_x:.0f}"

    @property
    def x_labels(self) -> list[tuple[float, str]]:
        """(percent from the left, update)."""
        left, right = self._x_axis
        ticks = [
            tick for tick in _ticks(left, right) if left <= tick <= right and tick.is_integer()
        ]
        return [(self._x(tick), f"{tick:.0f}") for tick in ticks or [left]]

    @property
    def y_labels(self) -> list[tuple[float, str]]:
        """(percent from the top, value)."""
        return [(self._y(tick), self.format(tick)) for tick in self._y_ticks]

    @property
    def paths(self) -> list[Path]:
        """What is drawn, from the back to the front."""
        paths = [Path("grid", self._across(tick)) for tick in self._y_ticks]
        if self.band:
            upper = [Point(x, high) for x, _, high in self.band]
            lower = [Point(x, low) for x, low, _ in reversed(self.band)]
            paths.append(Path("band", f"{self._path(upper + lower)}Z"))
        if self.level is not None:
            paths.append(Path("level", self._across(self.level)))
        for line in self.lines:
            points, kind = _thinned(line.points), f"line {line.role}"
            if line.smooth:
                paths.append(Path(f"{kind} faint", self._path(points)))
            paths.append(Path(kind, self._path(_smoothed(points) if line.smooth else points)))
            if line.dots:
                dots = [point for point in points if point.y is not None]
                paths += [Path(f"dot {line.role}", self._path([dot]), dot.note) for dot in dots]
        return paths

    @cached_property
    def _x_axis(self) -> tuple[float, float]:
        xs = [point.x for line in self.lines for point in line.points]
        return min(xs), max(xs)

    @cached_property
    def _y_ticks(self) -> list[float]:
        ys = [y for _, y in self.known] + [end for _, *ends in self.band for end in ends]
        low, high = min(ys, default=0.0), max(ys, default=0.0)
        return _ticks(
            low if self.low is None else self.low, high if self.high is None else self.high
        )

    def _x(self, value: float) -> float:
        left, right = self._x_axis
        return 50.0 if left == right else 100 * (value - left) / (right - left)

    def _y(self, value: float) -> float:
        bottom, top = self._y_ticks[0], self._y_ticks[-1]
        return 100 * (top - value) / (top - bottom)

    def _across(self, y: float) -> str:
        return f"M0 {self._y(y):.2f}H100"

    def _path(self, points: Sequence[Point]) -> str:
        """Path data; a line of no length (h0) with round ends is drawn as a dot, however the SVG is stretched."""
        commands, pen = [], "M"
        for x, y, _ in points:
            if y is not None:
                commands.append(f"{pen}{self._x(x):.2f} {self._y(y):.2f}")
            pen = "M" if y is None else "L"
        return "".join(commands) + ("h0" if len(commands) == 1 else "")


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """The points; where there are too many, means of equal runs of them."""
    run = math.ceil(len(points) / MOST_POINTS)
    if run <= 1:
        return points
    runs = [points[start : start + run] for start in range(0, len(points), run)]
    return [Point(run[-1].x, _mean(run)) for run in runs]


def _smoothed(points: Sequence[Point]) -> list[Point]:
    """Means over a window around each point, a tenth of the line wide."""
    reach = max(1, len(points) // 20)
    return [
        Point(point.x, _mean(points[max(0, place - reach) : place + reach + 1]))
        for place, point in enumerate(points)
    ]


def _mean(points: Sequence[Point]) -> float | None:
    known = [point.y for point in points if point.y is not None]
    return sum(known) / len(known) if known else None


def _ticks(low: float, high: float) -> list[float]:
    """About TICKS round numbers from at most ``low`` to at least ``high``."""
    if low >= high:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [tick * step for tick in range(first, last + 1)]
