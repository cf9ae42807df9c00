"""The report of a run: one page, made from what lies in the run's folder and nothing else."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from ..common.files import write_text
from ..rubrics import Rubric, RubricError, load_rubric
from ..training.events import (
    CheckpointEvent,
    Event,
    FinishedEvent,
    MeasureEvent,
    StoppedEvent,
    UpdateEvent,
    ValidationEvent,
    history,
    read_events,
)
from .charts import Chart, Line, Point, Role
from .html import figure, percent, percent_range, render
from .images import embed_inside

STATISTICS = {
    "contrast": "Contrast",
    "edge_energy": "Edge energy",
    "colour_entropy": "Colour entropy",
}
FAR = 0.25  # relative change of an image statistic from which it is pointed out
FRAMES = 8  # images of one prompt over updates


class ReportWriter:
    """An observer of events that keeps ``report.html`` in the run's folder up to date."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    def __call__(self, event: Event) -> None:
        if isinstance(event, CheckpointEvent | MeasureEvent | StoppedEvent | FinishedEvent):
            write_report(self.folder)


def write_report(run_dir: str | os.PathLike) -> Path:
    """The path of ``report.html`` in the run's folder, written anew.

    It is made from ``events.jsonl`` and, where they exist, ``config.yaml``, ``rubric.json`` and the images that the
    events name; a run may still be going. Nothing in them is trusted: text is escaped, and images are drawn anew and
    read only from inside the folder.
    """
    folder = Path(run_dir)
    run = history(read_events(folder / "events.jsonl"))
    last = run.validations[-1] if run.validations else None
    with_images = [event for event in run.validations if event.images]
    settings = folder / "config.yaml"
    changes = _changes(last)
    page = render(
        "run.html.jinja",
        name=run.started.run if run.started else folder.resolve().name,
        run=run,
        last=last,
        best=next((event for event in reversed(run.validations) if event.best), last),
        far=FAR,
        changes=changes,
        moved={title: change for title, change in changes.items() if abs(change) > FAR},
        win_rate=_win_rate_chart(run.validations),
        shown=with_images[-1] if with_images else None,
        embed=partial(embed_inside, folder),
        frames=_frames(with_images),
        statistics=[_statistic_chart(run.validations, *named) for named in STATISTICS.items()],
        training=_training_charts(run.updates),
        rubric=_rubric(folder / "rubric.json"),
        warnings=Counter(event.message for event in run.warnings),
        settings=settings.read_text("utf-8", "replace") if settings.is_file() else "",
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _rubric(path: Path) -> Rubric | None:
    try:
        return load_rubric(path)
    except RubricError:
        return None


def _frames(validations: Sequence[ValidationEvent]) -> dict[str, dict[int, str]]:
    """By prompt and update, the files of the policy's images; of at most FRAMES updates, with the first and the last."""
    last, frames = len(validations) - 1, defaultdict(dict)
    if last >= FRAMES:
        validations = [validations[round(at * last / (FRAMES - 1))] for at in range(FRAMES)]
    for event in validations:
        for image in event.images:
            frames[image.prompt][event.update] = image.policy
    return frames


def _win_rate_chart(validations: Sequence[ValidationEvent]) -> Chart:
    points, band = [], []
    for event in validations:
        note = f"update {event.update}: {percent(event.win_rate)}"
        if event.win_rate is not None:
            note += f", interval {percent_range(event.low, event.high)}"
            band.append((event.update, event.low, event.high))
        points.append(Point(event.update, event.win_rate, note))
    return Chart(
        "Win rate",
        [Line(points, dots=True)],
        percent,
        band=band,
        level=0.5,
        low=0,
        high=1,
    )


def _changes(event: ValidationEvent | None) -> dict[str, float]:
    """By title, how much larger each image statistic is under the policy than under the base, as a share."""
    if event is None or event.statistics is None:
        return {}
    base, policy = asdict(event.statistics.base), asdict(event.statistics.policy)
    return {STATISTICS[name]: policy[name] / base[name] - 1 for name in STATISTICS if base[name]}


def _statistic_chart(validations: Sequence[ValidationEvent], name: str, title: str) -> Chart:
    lines = []
    for side in ("base", "policy"):
        points = []
        for event in validations:
            if event.statistics is not None:
                value = getattr(getattr(event.statistics, side), name)
                note = f"update {event.update}, {side}: {figure(value)}"
                points.append(Point(event.update, value, note))
        lines.append(Line(points, side, side, dots=True))
    return Chart(title, lines, low=0)


def _training_charts(updates: Sequence[UpdateEvent]) -> list[Chart]:
    """What the updates recorded. A chart without data is left out where another one has some."""

    def line(name: str, role: Role = "policy", label: str = "", share: bool = False) -> Line:
        """What a field says of each update; with ``share``, of each of the update's pairs."""
        points = []
        for event in updates:
            value = getattr(event, name)
            if share:
                value = value / event.pairs if event.pairs else None
            points.append(Point(event.update, value))
        return Line(points, role, label, smooth=True)

    clipped = [line("clip_high", "policy", "above"), line("clip_low", "second", "below")]
    first = Chart(
        "First image preferred",
        [line("first_pick_rate")],
        percent,
        "Far from one half, the judge looks at the order more than at the images.",
        level=0.5,
        low=0,
        high=1,
    )
    charts = [
        Chart("Undecided pairs", [line("undecided", share=True)], percent, low=0),
        Chart("Loss", [line("loss")]),
        Chart("KL to the reference", [line("kl")], low=0),
        Chart("Clipped ratios", clipped, percent, low=0),
        Chart("Gradient norm", [line("grad_norm")], low=0),
        first,
    ]
    if failures := sum(event.failures for event in updates):
        note = f"{figure(failures)} in all; none became a reward."
        failed = [line("failures", share=True)]
        charts.append(Chart("Failed verdicts", failed, percent, note, low=0))
    return [chart for chart in charts if chart.known] or charts[:1]
