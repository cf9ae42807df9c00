"""The pictures of a training and of a win rate: numbers on the left, some of the compared images on the right."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .images import BAD, DIM, GAP, GOOD, TEXT, Sheet

if TYPE_CHECKING:
    from PIL import Image

    from ..arr_core.training.events import History, ValidationEvent, ValidationImage

WIDTH, HEIGHT, CHART, SIDE = 960, 460, 460, 128
INTERVAL, GRID = "#264d3a", "#3a3c44"
ROWS = 3
VERDICTS = {"policy": ("better", GOOD), "base": ("worse", BAD), None: ("undecided", DIM)}


def training_picture(history: History, folder: Path) -> Image.Image:
    """The win rate over the updates, and held-out images before and after; an empty chart before the first validation."""
    images = _examples(history.validations[-1]) if history.validations else []
    sheet = Sheet(WIDTH, HEIGHT, *(image.prompt for image in images))
    left, top, right, bottom = 52, 2 * GAP + 20, CHART - GAP, HEIGHT - 2 * GAP - 14
    total = history.total or 1

    def place(update: int, share: float) -> tuple[float, float]:
        return left + (right - left) * update / total, bottom - (bottom - top) * share

    sheet.text(GAP, GAP, "win rate against the base, held-out prompts", TEXT)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        start, end = place(0, share), place(total, share)
        sheet.draw.line([start, end], DIM if share == 0.5 else GRID, 1)
        sheet.text(left - 8, start[1], f"{share:.0%}", anchor="rm")
    for update, anchor in ((0, "mt"), (total, "rt")):
        sheet.text(place(update, 0)[0], bottom + 8, str(update), anchor=anchor)
    rates = []
    for event in history.validations:
        if event.win_rate is not None:
            ends = [place(event.update, event.low), place(event.update, event.high)]
            sheet.draw.line(ends, INTERVAL, 6)
            rates.append(place(event.update, event.win_rate))
    sheet.draw.line(rates, GOOD, 3)
    for x, y in rates:
        sheet.draw.ellipse((x - 4, y - 4, x + 4, y + 4), GOOD)
    if not rates:
        reason = "no decided pair yet" if history.validations else "no validation yet"
        sheet.text((left + right) / 2, (top + bottom) / 2 - 24, reason, anchor="mm")
    _draw_examples(sheet, images, folder, {"base": "before", "policy": "after"})
    return sheet.image


def win_rate_picture(outcome: ValidationEvent, folder: Path, name: str, other: str) -> Image.Image:
    """The rate with its interval, a bar for each count, and some of the pairs."""
    images = _examples(outcome)
    sheet = Sheet(WIDTH, HEIGHT, name, other, *(image.prompt for image in images))
    sheet.text(GAP, GAP, f"{name} against {other}"[:52], TEXT)
    if outcome.win_rate is None:
        sheet.text(GAP, 70, "no decided pair", TEXT, size=28)
    else:
        colour = GOOD if outcome.low > 0.5 else TEXT
        sheet.text(GAP, 70, f"{outcome.win_rate:.0%} of decided pairs won", colour, size=28)
        sheet.text(GAP, 116, f"95 % interval {outcome.low:.0%} to {outcome.high:.0%}")
    counts = {
        "won": (outcome.wins, GOOD),
        "undecided": (outcome.undecided, DIM),
        "lost": (outcome.losses, BAD),
    }
    pairs = sum(count for count, _ in counts.values())
    for row, (label, (count, colour)) in enumerate(counts.items()):
        y = 180 + 80 * row
        sheet.text(GAP, y, f"{label} {count}", colour)
        sheet.draw.rectangle((GAP, y + 24, CHART - GAP, y + 48), GRID)
        if count:
            end = GAP + (CHART - 2 * GAP) * count / pairs
            sheet.draw.rectangle((GAP, y + 24, end, y + 48), colour)
    _draw_examples(sheet, images, folder, {"policy": name[:14], "base": other[:14]})
    return sheet.image


def _examples(outcome: ValidationEvent) -> list[ValidationImage]:
    """A few of the compared images; those that the judge told apart come first."""
    return sorted(outcome.images, key=lambda image: image.preferred is None)[:ROWS]


def _draw_examples(
    sheet: Sheet, images: list[ValidationImage], folder: Path, titles: Mapping[str, str]
) -> None:
    """Rows of images in the order of ``titles``, a source first, with the verdict and the prompt beside them."""
    from ..arr_core.data import open_image

    if any(image.source for image in images):
        titles = {"source": "source", **titles}
    x = CHART + 2 * GAP
    for name, title in titles.items():
        sheet.text(x, GAP, title, TEXT)
        for row, image in enumerate(images):
            path = folder / (getattr(image, name) or "")
            if path.is_file():  # it may be a moment behind its event
                sheet.paste(open_image(path), x, 2 * GAP + 16 + row * (SIDE + GAP), SIDE)
        x += SIDE + GAP
    for row, image in enumerate(images):
        y = 2 * GAP + 16 + row * (SIDE + GAP)
        sheet.text(x, y, *VERDICTS[image.preferred])
        for number, line in enumerate(sheet.wrap(image.prompt, WIDTH - x - GAP, lines=5), 1):
            sheet.text(x, y + 2 + number * 18, line)
