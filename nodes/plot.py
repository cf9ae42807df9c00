"""The picture of a training or of a win rate: a chart on the left, some of the compared images on the right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..arr_core.common.images import open_image
from .images import BAD, DIM, GAP, GOOD, TEXT, Sheet

if TYPE_CHECKING:
    from ..arr_core.training.events import ValidationEvent

WIDTH, HEIGHT, CHART, SIDE = 960, 460, 460, 128
INTERVAL, GRID = "#264d3a", "#3a3c44"
ROWS = 3
VERDICTS = {"policy": ("better", GOOD), "base": ("worse", BAD), None: ("undecided", DIM)}


def win_rate_picture(
    title: str,
    validations: Sequence[ValidationEvent],
    updates: int,
    folder: Path,
    columns: dict[str, str],
) -> Image.Image:
    """The win rates with their intervals over so many updates, the counts of the last one, and some of its images.

    columns: "base" and "policy" in the order of their images, each with the title of its column.
    """
    last = validations[-1] if validations else None
    # Those that the judge told apart come first.
    images = sorted(last.images if last else (), key=lambda image: image.preferred is None)[:ROWS]
    sheet = Sheet(WIDTH, HEIGHT)
    sheet.text(GAP, GAP, title[:52], TEXT)
    _draw_chart(sheet, validations, updates)
    counts = f"won {last.wins} · undecided {last.undecided} · lost {last.losses}" if last else ""
    if last and last.win_rate is not None:
        counts += f" · {last.win_rate:.0%} ({last.low:.0%} to {last.high:.0%})"
    sheet.text(GAP, HEIGHT - GAP, counts or "no validation yet", TEXT, anchor="lb")
    if any(image.source for image in images):
        columns = {"source": "source", **columns}
    rows = [
        (
            [_opened(folder, getattr(image, name)) for name in columns],
            [VERDICTS[image.preferred], (image.prompt, DIM)],
        )
        for image in images
    ]
    sheet.rows(CHART + 2 * GAP, SIDE, [*columns.values()], rows)
    return sheet.image


def _draw_chart(sheet: Sheet, validations: Sequence[ValidationEvent], updates: int) -> None:
    left, top, right, bottom = 52, 2 * GAP + 20, CHART - GAP, HEIGHT - 4 * GAP - 14

    def place(update: int, share: float) -> tuple[float, float]:
        done = update / updates if updates else 0.5
        return left + (right - left) * done, bottom - (bottom - top) * share

    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = place(0, share)[1]
        sheet.draw.line((left, y, right, y), DIM if share == 0.5 else GRID, 1)
        sheet.text(left - 8, y, f"{share:.0%}", anchor="rm")
    if updates:
        sheet.text(left, bottom + 8, "0", anchor="mt")
        sheet.text(right, bottom + 8, str(updates), anchor="rt")
    rates = []
    for event in validations:
        if event.win_rate is not None:
            ends = [place(event.update, event.low), place(event.update, event.high)]
            sheet.draw.line(ends, INTERVAL, 6)
            rates.append(place(event.update, event.win_rate))
    sheet.draw.line(rates, GOOD, 3)
    for x, y in rates:
        sheet.draw.ellipse((x - 4, y - 4, x + 4, y + 4), GOOD)


def _opened(folder: Path, name: str | None) -> Image.Image | None:
    """An image of an event; None while there is none: it may be a moment behind its event."""
    return open_image(folder / name) if name and (folder / name).is_file() else None
