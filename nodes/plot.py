"""The picture on a node while it trains: the win rate against the base, and held-out images before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .pictures import GAP, GOOD, INK, PALE, PAPER, fit

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

    from ..arr_core.training.events import History, ValidationEvent, ValidationImage

WIDTH, HEIGHT, CHART, SIDE = 960, 460, 460, 128
BAND, GRID, BAD = "#264d3a", "#3a3c44", "#d05a4e"
ROWS = 3
VERDICTS = {"policy": ("better", GOOD), "base": ("worse", BAD), None: ("undecided", PALE)}


def training_picture(run: History, folder: Path) -> Image.Image:
    """The picture of a run as its events tell it; before the first validation, an empty chart."""
    from PIL import Image, ImageDraw

    from ..arr_core.reports.grid import font_for

    images = _telling(run.validations[-1].images) if run.validations else []
    font = font_for(" ".join(image.prompt for image in images))
    sheet = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(sheet)
    _chart(draw, run, font)
    _examples(
        sheet, draw, images, folder, font, {"source": "source", "base": "before", "policy": "after"}
    )
    return sheet


def _telling(images: Sequence[ValidationImage]) -> list[ValidationImage]:
    """The images of a validation that are shown: those first that the judge told apart."""
    return sorted(images, key=lambda image: image.preferred is None)[:ROWS]


def _chart(draw: ImageDraw.ImageDraw, run: History, font) -> None:
    left, top, right, bottom = 52, 2 * GAP + 20, CHART - GAP, HEIGHT - 2 * GAP - 14
    total = max(1, run.total or 1)

    def place(update: float, share: float) -> tuple[float, float]:
        return left + (right - left) * update / total, bottom - (bottom - top) * share

    draw.text((GAP, GAP), "win rate against the base, held-out prompts", INK, font)
    points = [
        (event.update, event.win_rate, event.low, event.high)
        for event in run.validations
        if event.win_rate is not None
    ]
    if len(points) > 1:
        draw.polygon(
            [place(at, low) for at, _, low, _ in points]
            + [place(at, high) for at, _, _, high in points[::-1]],
            BAND,
        )
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        draw.line([place(0, share), place(total, share)], PALE if share == 0.5 else GRID, 1)
        draw.text((left - 8, place(0, share)[1]), f"{share:.0%}", PALE, font, anchor="rm")
    for update in sorted({0, total // 2, total}):
        draw.text(
            (place(update, 0)[0], bottom + 8),
            str(update),
            PALE,
            font,
            anchor="mt" if update < total else "rt",
        )
    if not points:
        nothing = "no decided pair yet" if run.validations else "no validation yet"
        draw.text(((left + right) / 2, (top + bottom) / 2 - 24), nothing, PALE, font, anchor="mm")
        return
    if len(points) > 1:
        draw.line([place(at, rate) for at, rate, _, _ in points], GOOD, 3)
    for at, rate, low, high in points:
        x, y = place(at, rate)
        if len(points) == 1:
            draw.line([place(at, low), place(at, high)], BAND, 4)
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), GOOD)


def _examples(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    images: list[ValidationImage],
    folder: Path,
    font,
    names: dict[str, str],
) -> None:
    """Rows of pictures in the order of ``names``, with the verdict and the prompt beside them."""
    from ..arr_core.data import open_image
    from ..arr_core.reports.grid import wrapped

    columns = [name for name in names if name != "source" or images and images[0].source]
    for at, name in enumerate(columns):
        draw.text((CHART + 2 * GAP + at * (SIDE + GAP), GAP), names[name], INK, font)
    for row, image in enumerate(images):
        y = 2 * GAP + 16 + row * (SIDE + GAP)
        for at, name in enumerate(columns):
            path = folder / str(getattr(image, name))
            if path.is_file():  # it may be a moment behind its event
                sheet.paste(fit(open_image(path), SIDE), (CHART + 2 * GAP + at * (SIDE + GAP), y))
        x = CHART + 2 * GAP + len(columns) * (SIDE + GAP)
        verdict, colour = VERDICTS[image.preferred]
        draw.text((x, y), verdict, colour, font)
        for line, text in enumerate(wrapped(image.prompt, font, WIDTH - x - GAP, lines=5)):
            draw.text((x, y + 20 + line * 18), text, PALE, font)


def contest_picture(outcome: ValidationEvent, folder: Path, name: str, other: str) -> Image.Image:
    """The picture of a win rate: the rate with its interval, the counts as one bar, and some of the pairs."""
    from PIL import Image, ImageDraw

    from ..arr_core.reports.grid import font_for

    images = _telling(outcome.images)
    font = font_for(" ".join([name, other, *(image.prompt for image in images)]))
    sheet = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(sheet)
    left, right, rate = GAP + 20, CHART - GAP - 20, outcome.win_rate
    draw.text((GAP, GAP), f"{name} against {other}"[:52], INK, font)
    head = "no decided pair" if rate is None else f"{rate:.0%} of decided pairs won"
    draw.text((GAP, 70), head, GOOD if rate is not None and outcome.low > 0.5 else INK, font_at(28))
    for share in (0.0, 0.5, 1.0):
        x = left + (right - left) * share
        draw.line([(x, 140), (x, 200)], PALE if share == 0.5 else GRID, 1)
        draw.text((x, 208), f"{share:.0%}", PALE, font, anchor="mt")
    low, high = (left + (right - left) * getattr(outcome, end) for end in ("low", "high"))
    draw.rectangle((low, 164, high, 176), BAND if rate is not None else GRID)
    if rate is not None:
        x = left + (right - left) * rate
        draw.ellipse((x - 8, 162, x + 8, 178), GOOD)
        draw.text((GAP, 236), f"95 % interval {outcome.low:.0%} to {outcome.high:.0%}", PALE, font)
    at, total = float(left), max(1, outcome.wins + outcome.undecided + outcome.losses)
    for word, field, colour in (
        ("won", "wins", GOOD),
        ("undecided", "undecided", PALE),
        ("lost", "losses", BAD),
    ):
        width = (right - left) * getattr(outcome, field) / total
        if width:
            draw.rectangle((at, 300, at + width - 2, 330), colour)
        at += width
        draw.text(
            (GAP, 346 + 24 * ("wins", "undecided", "losses").index(field)),
            f"{word} {getattr(outcome, field)}",
            colour,
            font,
        )
    _examples(
        sheet,
        draw,
        images,
        folder,
        font,
        {"source": "source", "policy": name[:14], "base": other[:14]},
    )
    return sheet


def font_at(size: int):
    """Pillow's own font in a size."""
    from PIL import ImageFont

    return ImageFont.load_default(size)
