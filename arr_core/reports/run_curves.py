"""Everything that is drawn over updates."""

from __future__ import annotations

from collections.abc import Callable

from ..training.events import History, UpdateEvent, ValidationEvent
from .charts import NOTHING, Line, Point, line_chart
from .words import (
    figure,
    number,
    percent,
    row,
    section,
    signed_percent,
    span,
    table,
    total,
)

STATISTICS = {
    "contrast": "Contrast",
    "edge_energy": "Edge energy",
    "colour_entropy": "Colour entropy",
}
MOVED = 0.25  # relative change of an image statistic from which it is pointed out


def win_rate_curve(run: History) -> str:
    """Win rate over validations with its interval, and the same as a table."""
    points, band = [], []
    for event in run.validations:
        rate, low, high = _rate(event)
        note = f"update {event.update}: {percent(rate)}"
        if rate is not None and low is not None and high is not None:
            note += f", interval {span(low, high)}"
            band.append((event.update, low, high))
        points.append(Point(event.update, rate, note))
    chart = line_chart(
        "Win rate",
        [Line(points, dots=True)],
        show=percent,
        band=band,
        level=0.5,
        low=0,
        high=1,
        kind="tall",
        value="policy against frozen base after so many updates, 95 % interval",
    )
    lead = (
        "Held-out prompts, the same seeds every time; the base is the same model with the adapter off. "
        "One half is no difference."
    )
    return section("Does it beat its base?", lead, chart + _validation_table(run))


def training_curves(run: History) -> str:
    """What the updates recorded: a thin line as it was, a bold one smoothed."""
    charts = [
        _curve("Undecided pairs", _line(run, _share("undecided")), percent, low=0),
        _curve("Loss", _line(run, _field("loss")), figure),
        _curve("KL to the reference", _line(run, _field("kl")), figure, low=0),
        _clip_fractions(run),
        _curve("Gradient norm", _line(run, _field("grad_norm")), figure, low=0),
        _curve(
            "First image preferred",
            _line(run, _field("first_pick_rate")),
            percent,
            low=0,
            high=1,
            level=0.5,
            note="Far from one half, the judge looks at the order more than at the images.",
        ),
    ]
    if failures := total(run.updates, "failures"):
        charts.append(
            _curve(
                "Failed verdicts",
                _line(run, _share("failures")),
                percent,
                low=0,
                note=f"{figure(failures)} in all; none became a reward.",
            )
        )
    known = [chart for chart in charts if NOTHING not in chart] or charts[:1]
    return section("Training", "Update by update: thin as it was, bold smoothed.", _grid(known))


def image_statistics(run: History) -> str:
    """Contrast, edge energy and colour entropy of base and policy over validations, marked where they moved far."""
    changed, charts = moved(run.validations[-1] if run.validations else None), []
    for name, label in STATISTICS.items():
        lines = [
            Line(
                [_statistic_point(event, side, name) for event in run.validations],
                side,
                side,
                dots=True,
            )
            for side in ("base", "policy")
        ]
        change = _change(run.validations[-1], name) if run.validations else None
        charts.append(
            line_chart(
                label,
                lines,
                show=figure,
                low=0,
                kind="moved" if label in changed else "",
                value="" if change is None else f"{signed_percent(change)} against the base",
            )
        )
    lead = (
        "A policy can win by fooling its judge, and then it usually shows here: harsher contrast, more edges, "
        f"gaudier or fewer colours. A change beyond {percent(MOVED)} is marked."
    )
    return section("Has the look of the pictures changed?", lead, _grid(charts))


def moved(validation: ValidationEvent | None) -> dict[str, float]:
    """Image statistics, by label, whose relative change between base and policy is beyond MOVED."""
    changes = (
        {label: _change(validation, name) for name, label in STATISTICS.items()}
        if validation
        else {}
    )
    return {
        label: change
        for label, change in changes.items()
        if change is not None and abs(change) > MOVED
    }


def _rate(event: ValidationEvent) -> tuple[float | None, float | None, float | None]:
    return tuple(number(getattr(event, name)) for name in ("win_rate", "low", "high"))


def _validation_table(run: History) -> str:
    rows = []
    for event in run.validations:
        rate, low, high = _rate(event)
        counts = (figure(number(getattr(event, name))) for name in ("wins", "losses", "undecided"))
        interval = "" if rate is None or low is None or high is None else span(low, high)
        best = "best so far" if event.best else ""
        rows.append(row(str(event.update), *counts, percent(rate), interval, best))
    heads = ("update", "wins", "losses", "undecided", "win rate", "95 % interval", "")
    return f"<details><summary>The numbers</summary>{table(heads, rows)}</details>" if rows else ""


def _clip_fractions(run: History) -> str:
    lines = [
        Line(_line(run, _field(name)), role, label, smooth=True)
        for name, role, label in (("clip_high", "policy", "above"), ("clip_low", "second", "below"))
    ]
    return line_chart("Clipped ratios", lines, show=percent, low=0)


def _curve(title: str, points: list[Point], show: Callable[[float], str], **options) -> str:
    """A chart of one quantity, with the mean of its last tenth beside the title."""
    known = [point.y for point in points if point.y is not None]
    recent = known[-max(1, len(known) // 10) :]
    value = f"{show(sum(recent) / len(recent))} lately" if recent else ""
    return line_chart(title, [Line(points, smooth=True)], show=show, value=value, **options)


def _line(run: History, read: Callable[[UpdateEvent], float | None]) -> list[Point]:
    return [Point(event.update, read(event)) for event in run.updates]


def _field(name: str) -> Callable[[UpdateEvent], float | None]:
    return lambda event: number(getattr(event, name))


def _share(name: str) -> Callable[[UpdateEvent], float | None]:
    """Reads a count as a share of the update's pairs."""

    def read(event: UpdateEvent) -> float | None:
        count, pairs = number(getattr(event, name)), number(event.pairs)
        return count / pairs if count is not None and pairs else None

    return read


def _grid(charts: list[str]) -> str:
    return f'<div class="charts">{"".join(charts)}</div>'


def _statistic_point(event: ValidationEvent, side: str, name: str) -> Point:
    value = _statistic(event, side, name)
    return Point(event.update, value, f"update {event.update}, {side}: {figure(value)}")


def _statistic(event: ValidationEvent, side: str, name: str) -> float | None:
    return getattr(getattr(event.statistics, side), name) if event.statistics else None


def _change(event: ValidationEvent, name: str) -> float | None:
    base, policy = (_statistic(event, side, name) for side in ("base", "policy"))
    return policy / base - 1 if base and policy is not None else None
