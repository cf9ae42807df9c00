"""The picture on a node while it trains: the win rate against the base, and held-out images before and after."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .pictures import GAP, GOOD, INK, PALE, PAPER, fit

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

    from ..arr_core.training.events import History

WIDTH, HEIGHT, CHART, SIDE = 960, 460, 460, 128
BAND, GRID, BAD = "#264d3a", "#3a3c44", "#d05a4e"
ROWS = 3
VERDICTS = {"policy": ("better", GOOD), "base": ("worse", BAD), None: ("undecided", PALE)}


def training_picture(run: History, folder: Path) -> Image.Image:
    """The picture of a run as its events tell it; before the first validation, an empty chart."""
    from PIL import Image, ImageDraw

    from ..arr_core.grid import font_for

    images = (run.validations[-1].get("images") or [])[:ROWS] if run.validations else []
    font = font_for(" ".join(image["prompt"] for image in images))
    sheet = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(sheet)
    _chart(draw, run, font)
    _examples(sheet, draw, images, folder, font)
    return sheet


def _chart(draw: ImageDraw.ImageDraw, run: History, font) -> None:
    left, top, right, bottom = 52, 2 * GAP + 20, CHART - GAP, HEIGHT - 2 * GAP - 14
    total = max(1, run.total or 1)

    def place(update: float, share: float) -> tuple[float, float]:
        return left + (right - left) * update / total, bottom - (bottom - top) * share

    draw.text((GAP, GAP), "win rate against the base, held-out prompts", INK, font)
    points = [(event["update"], event["win_rate"], event["low"], event["high"]) for event in run.validations
              if event["win_rate"] is not None]
    if len(points) > 1:
        draw.polygon([place(at, low) for at, _, low, _ in points] + [place(at, high) for at, _, _, high in points[::-1]], BAND)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        draw.line([place(0, share), place(total, share)], PALE if share == 0.5 else GRID, 1)
        draw.text((left - 8, place(0, share)[1]), f"{share:.0%}", PALE, font, anchor="rm")
    for update in sorted({0, total // 2, total}):
        draw.text((place(update, 0)[0], bottom + 8), str(update), PALE, font, anchor="mt" if update < total else "rt")
    if not points:
        draw.text(((left + right) / 2, (top + bottom) / 2 - 24), "no validation yet", PALE, font, anchor="mm")
        return
    if len(points) > 1:
        draw.line([place(at, rate) for at, rate, _, _ in points], GOOD, 3)
    for at, rate, low, high in points:
        x, y = place(at, rate)
        if len(points) == 1:
            draw.line([place(at, low), place(at, high)], BAND, 4)
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), GOOD)


def _examples(sheet: Image.Image, draw: ImageDraw.ImageDraw, images: list[dict], folder: Path, font) -> None:
    from ..arr_core.data import open_image
    from ..arr_core.grid import wrapped

    columns = ["source", "base", "policy"] if images and images[0].get("source") else ["base", "policy"]
    names = {"source": "source", "base": "before", "policy": "after"}
    for at, name in enumerate(columns):
        draw.text((CHART + 2 * GAP + at * (SIDE + GAP), GAP), names[name], INK, font)
    for row, image in enumerate(images):
        y = 2 * GAP + 16 + row * (SIDE + GAP)
        for at, name in enumerate(columns):
            path = folder / str(image.get(name))
            if path.is_file():  # it may be a moment behind its event
                sheet.paste(fit(open_image(path), SIDE), (CHART + 2 * GAP + at * (SIDE + GAP), y))
        x = CHART + 2 * GAP + len(columns) * (SIDE + GAP)
        verdict, colour = VERDICTS[image.get("preferred")]
        draw.text((x, y), verdict, colour, font)
        for line, text in enumerate(wrapped(image["prompt"], font, WIDTH - x - GAP, lines=5)):
            draw.text((x, y + 20 + line * 18), text, PALE, font)
