"""Line charts as geometry: paths in a square of SIZE units, which the page stretches, and labels placed in percent.

The macro ``chart`` draws them. Colours come from the style sheet by the role of a line, so light and dark need no second chart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

SIZE = 1000
MOST_POINTS = 400  # of a drawn line; a longer one is averaged, which no screen can tell apart
TICKS = 4


class Point(NamedTuple):
    x: float
    y: float | None  # None interrupts the line
    note: str = ""


@dataclass(frozen=True)
class Line:
    """``role`` is the colour. ``dots`` marks every point and shows its note on hovering; ``smooth`` adds a bold mean."""

    points: Sequence[Point]
    role: Literal["policy", "base", "second"] = "policy"
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
    """What the macro draws. Labels are (percent from the left or the top, text). No paths: there is no data."""

    title: str
    lines: Sequence[Line]
    value: str = ""
    note: str = ""
    kind: str = ""
    spoken: str = ""
    paths: Sequence[Path] = ()
    x_labels: Sequence[tuple[float, str]] = ()
    y_labels: Sequence[tuple[float, str]] = ()


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    format: Callable[[float], str],
    value: str = "",
    note: str = "",
    band: Sequence[tuple[float, float, float]] = (),
    level: float | None = None,
    low: float | None = None,
    high: float | None = None,
    kind: str = "",
) -> Chart:
    """The chart of lines over updates.

    format: a y value as text. value: what stands beside the title. band: (x, low, high), filled behind the lines.
    level: a y that is drawn across. low, high: ends of the y axis; None fits the data. kind: further CSS classes.
    """
    known = [(x, y) for line in lines for x, y, _ in line.points if y is not None]
    if not known:
        return Chart(title, lines, value, note, kind)
    xs = [point.x for line in lines for point in line.points]
    ys = [y for _, y in known] + [end for _, *ends in band for end in ends]
    ys += [] if level is None else [level]
    left, right = min(xs), max(xs)
    x_ticks = _whole_ticks(left, right)
    y_ticks = _ticks(min(ys) if low is None else low, max(ys) if high is None else high)
    scale = _Scale(
        left, right, y_ticks[0] if low is None else low, y_ticks[-1] if high is None else high
    )
    paths = [Path("grid", scale.across(tick)) for tick in y_ticks]
    if band:
        upper = [Point(x, top) for x, _, top in band]
        lower = [Point(x, bottom) for x, bottom, _ in reversed(band)]
        paths.append(Path("band", scale.path(upper + lower) + "Z"))
    if level is not None:
        paths.append(Path("level", scale.across(level)))
    for line in lines:
        paths += _draw(line, scale)
    (first_x, first_y), (last_x, last_y) = known[0], known[-1]
    spoken = f"{format(first_y)} at update {first_x:.0f}, {format(last_y)} at update {last_x:.0f}"
    return Chart(
        title,
        lines,
        value,
        note,
        kind,
        f"{title}: {spoken}",
        paths,
        [(round(scale.x(tick) * 100 / SIZE, 2), f"{tick:.0f}") for tick in x_ticks],
        [(round(scale.y(tick) * 100 / SIZE, 2), format(tick)) for tick in y_ticks],
    )


@dataclass(frozen=True)
class _Scale:
    left: float
    right: float
    bottom: float
    top: float

    def x(self, value: float) -> float:
        if self.left == self.right:
            return SIZE / 2
        return SIZE * (value - self.left) / (self.right - self.left)

    def y(self, value: float) -> float:
        return SIZE * (self.top - value) / (self.top - self.bottom)

    def across(self, y: float) -> str:
        return f"M0 {self.y(y):.1f}H{SIZE}"

    def path(self, points: Sequence[Point]) -> str:
        """Path data; a line of no length (h0) with round ends is drawn as a dot, however the SVG is stretched."""
        commands, pen = [], "M"
        for x, y, _ in points:
            if y is not None:
                commands.append(f"{pen}{self.x(x):.1f} {self.y(y):.1f}")
            pen = "M" if y is None else "L"
        return "".join(commands) + ("h0" if len(commands) == 1 else "")


def _draw(line: Line, scale: _Scale) -> list[Path]:
    points = _thinned(line.points)
    paths = [Path(f"line {line.role}", scale.path(_smoothed(points) if line.smooth else points))]
    if line.smooth:
        paths.insert(0, Path(f"line faint {line.role}", scale.path(points)))
    if line.dots:
        dots = [point for point in points if point.y is not None]
        paths += [Path(f"dot {line.role}", scale.path([dot]), dot.note) for dot in dots]
    return paths


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


def _step(low: float, high: float) -> float:
    """A round number that fits about TICKS times between low and high."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``."""
    if low >= high:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    step = _step(low, high)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [tick * step for tick in range(first, last + 1)]


def _whole_ticks(low: float, high: float) -> list[float]:
    """Round whole numbers between ``low`` and ``high``."""
    if low == high:
        return [low]
    step = max(1, round(_step(low, high)))
    return [tick * step for tick in range(math.ceil(low / step), math.floor(high / step) + 1)]
