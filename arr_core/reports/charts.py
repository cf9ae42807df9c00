"""Small charts as HTML: an SVG that stretches with the page, and axis labels beside it that keep their size.

Colours come from the page: a line has the class of its role, so that light and dark are one style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal, NamedTuple

SIZE = 1000  # of the SVG's own square, which the page stretches
MOST_POINTS = 400  # of a drawn line; longer ones are averaged, which no screen can tell apart
TICKS = 4
NOTHING = '<p class="nothing">no data yet</p>'


class Point(NamedTuple):
    x: float
    y: float | None  # None interrupts the line
    note: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a chart: ``role`` is its colour, ``dots`` marks every point and shows its note on hovering."""

    points: Sequence[Point]
    role: Literal["policy", "base", "second"] = "policy"
    label: str = ""
    dots: bool = False
    smooth: bool = False


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    show: Callable[[float], str],
    value: str = "",
    note: str = "",
    band: Sequence[tuple[float, float, float]] = (),
    level: float | None = None,
    low: float | None = None,
    high: float | None = None,
    kind: str = "",
) -> str:
    """A figure of lines over updates, or of the words "no data yet".

    show: a y value as text, for the axis. value: what stands beside the title, usually where the line ends.
    band: (x, low, high) behind the lines. level: a y that is drawn across. low, high: ends of the y axis.
    """
    legend = "".join(
        f'<span class="key {line.role}">{escape(line.label)}</span>' for line in lines if line.label
    )
    caption = (
        f'<figcaption><span class="name">{escape(title)}</span> <span class="value">{escape(value)}</span>'
        f'<span class="legend">{legend}</span></figcaption>'
    )
    known = [point for line in lines for point in line.points if point.y is not None]
    if not known:
        return f'<figure class="chart {kind}">{caption}{NOTHING}</figure>'
    xs = [point.x for line in lines for point in line.points]
    ys = (
        [point.y for point in known]
        + [end for _, *ends in band for end in ends]
        + ([] if level is None else [level])
    )
    x_ticks = _ticks(min(xs), max(xs), whole=True)
    y_ticks = _ticks(min(ys) if low is None else low, max(ys) if high is None else high)
    scale = _Scale(
        min(xs), max(xs), y_ticks[0] if low is None else low, y_ticks[-1] if high is None else high
    )
    y_labels = "".join(
        f'<span style="top:{scale.y(tick) / 10:.2f}%">{escape(show(tick))}</span>'
        for tick in y_ticks
    )
    x_labels = "".join(
        f'<span style="left:{scale.x(tick) / 10:.2f}%">{tick:.0f}</span>' for tick in x_ticks
    )
    grid = "".join(f'<path class="grid" d="M0 {scale.y(tick):.1f}H{SIZE}"/>' for tick in y_ticks)
    middle = "" if level is None else f'<path class="level" d="M0 {scale.y(level):.1f}H{SIZE}"/>'
    drawn = "".join(_draw(line, scale) for line in lines)
    first, last = known[0], known[-1]
    spoken = escape(
        f"{title}: {show(first.y)} at update {first.x:.0f}, {show(last.y)} at update {last.x:.0f}"
    )
    remark = f'<p class="remark">{escape(note)}</p>' if note else ""
    return (
        f'<figure class="chart {kind}">{caption}<div class="plot" role="img" aria-label="{spoken}">'
        f'<div class="y">{y_labels}</div><svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none">'
        f'{grid}{_band(band, scale)}{middle}{drawn}</svg><div class="x">{x_labels}</div></div>{remark}</figure>'
    )


def interval(
    value: float,
    low: float,
    high: float,
    start: float,
    end: float,
    *,
    role: str = "policy",
    half: bool = False,
) -> str:
    """A value and its interval as a mark and a bar on a line from ``start`` to ``end``; ``half`` marks the middle."""
    left, right, at = (
        100 * min(1.0, max(0.0, (place - start) / (end - start))) for place in (low, high, value)
    )
    middle = '<span class="half" style="left:50%"></span>' if half else ""
    return (
        f'<div class="interval {role}" aria-hidden="true">{middle}<span class="span" style="left:{left:.1f}%;'
        f'width:{right - left:.1f}%"></span><span class="at" style="left:{at:.1f}%"></span></div>'
    )


@dataclass(frozen=True)
class _Scale:
    left: float
    right: float
    bottom: float
    top: float

    def x(self, value: float) -> float:
        return (
            SIZE * (value - self.left) / (self.right - self.left)
            if self.right > self.left
            else SIZE / 2
        )

    def y(self, value: float) -> float:
        return SIZE * (self.top - value) / (self.top - self.bottom)


def _draw(line: Line, scale: _Scale) -> str:
    points = _thinned(line.points)
    if not line.smooth:
        drawn = f'<path class="line {line.role}" d="{_path(points, scale)}"/>'
    else:
        drawn = (
            f'<path class="line faint {line.role}" d="{_path(points, scale)}"/>'
            f'<path class="line {line.role}" d="{_path(_smoothed(points), scale)}"/>'
        )
    if line.dots:
        # A line of no length with round ends stays a circle, however the page stretches the SVG.
        drawn += "".join(
            f'<path class="dot {line.role}" d="M{scale.x(x):.1f} {scale.y(y):.1f}h0">'
            f"<title>{escape(note)}</title></path>"
            for x, y, note in points
            if y is not None
        )
    return drawn


def _path(points: Sequence[Point], scale: _Scale) -> str:
    words, pen = [], "M"
    for x, y, _ in points:
        if y is not None:
            words.append(f"{pen}{scale.x(x):.1f} {scale.y(y):.1f}")
        pen = "M" if y is None else "L"
    return "".join(words) + ("h0" if len(words) == 1 else "")


def _band(band: Sequence[tuple[float, float, float]], scale: _Scale) -> str:
    if not band:
        return ""
    corners = [(x, high) for x, _, high in band] + [(x, low) for x, low, _ in reversed(band)]
    return f'<path class="band" d="M{"L".join(f"{scale.x(x):.1f} {scale.y(y):.1f}" for x, y in corners)}Z"/>'


def _thinned(points: Sequence[Point]) -> list[Point]:
    """The points, or means of equal runs of them where there are too many."""
    run = math.ceil(len(points) / MOST_POINTS)
    if run <= 1:
        return list(points)
    pieces = [points[start : start + run] for start in range(0, len(points), run)]
    return [Point(piece[-1].x, _mean([point.y for point in piece])) for piece in pieces]


def _smoothed(points: Sequence[Point]) -> list[Point]:
    """Means over a window around each point, a tenth of the line wide."""
    reach = max(1, len(points) // 20)
    return [
        Point(
            point.x, _mean([near.y for near in points[max(0, place - reach) : place + reach + 1]])
        )
        for place, point in enumerate(points)
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round numbers, about TICKS steps of them: inside [low, high] if whole, else from below low to above high."""
    if not high > low:
        if whole:
            return [low]
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1, round(step))
        return [tick * step for tick in range(math.ceil(low / step), math.floor(high / step) + 1)]
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [tick * step for tick in range(first, last + 1)]
