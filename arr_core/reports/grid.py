"""A grid of pictures to look at: a row a prompt, a caption above each row, a title above each column."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SMALLEST, LARGEST = 160, 512  # pixels of a picture's shorter and longer side, as shown
GAP, TEXT, LINES = 12, 15, 3
INK, PALE, PAPER = "#1a1a1a", "#6b6b6b", "white"
# Pillow's own font knows Latin letters; for others, whichever of these the system has.
FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "msyh.ttc",
    "PingFang.ttc",
    "Arial Unicode.ttf",
    "DejaVuSans.ttf",
)


@dataclass(frozen=True)
class Row:
    """A caption, and pictures from left to right, each opened when it is needed; the last one sets the row's size."""

    caption: str
    pictures: Sequence[Callable[[], Image.Image]]


def draw_grid(rows: Sequence[Row], titles: Sequence[str], summary: str) -> Image.Image:
    """The grid. Small pictures are enlarged by a whole factor without blurring, large ones are made smaller."""
    font = font_for("".join([*(row.caption for row in rows), *titles, summary]))
    sizes = [shown_size(row.pictures[-1]().size) for row in rows]
    cell = max(width for width, _ in sizes)
    inner = max(len(titles) * (cell + GAP) - GAP, 2 * SMALLEST)
    line = sum(font.getmetrics())
    captions = [wrapped(row.caption, font, inner) for row in rows]
    header, footer = line + GAP, wrapped(summary, font, inner)
    body = sum(
        len(caption) * line + size[1] + 2 * GAP
        for caption, size in zip(captions, sizes, strict=True)
    )
    sheet = Image.new(
        "RGB", (inner + 2 * GAP, GAP + header + body + len(footer) * line + GAP), PAPER
    )
    draw = ImageDraw.Draw(sheet)
    columns = [GAP + at * (cell + GAP) for at in range(len(titles))]
    for x, title in zip(columns, titles, strict=True):
        draw.text((x, GAP), wrapped(title, font, cell, lines=1)[0], INK, font)
    y = GAP + header
    for row, caption, size in zip(rows, captions, sizes, strict=True):
        for text in caption:
            draw.text((GAP, y), text, INK, font)
            y += line
        for x, picture in zip(columns, row.pictures, strict=True):
            sheet.paste(_shown(picture(), size), (x, y + GAP // 2))
        y += size[1] + 2 * GAP
    for text in footer:
        draw.text((GAP, y), text, PALE, font)
        y += line
    return sheet


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height at which a picture is shown."""
    if min(size) < SMALLEST:
        factor = min(math.ceil(SMALLEST / min(size)), max(1, 2 * LARGEST // max(size)))
        return size[0] * factor, size[1] * factor
    factor = min(1.0, LARGEST / max(size))
    return round(size[0] * factor), round(size[1] * factor)


def _shown(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    grows = (
        picture.width <= size[0] and size[0] % picture.width == 0 and size[1] % picture.height == 0
    )
    return picture.resize(size, Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS)


def font_for(text: str) -> ImageFont.FreeTypeFont:
    if any(ord(character) > 0x24F for character in text):
        for name in FONTS:
            try:
                return ImageFont.truetype(name, TEXT)
            except OSError:
                continue
    return ImageFont.load_default(TEXT)


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int = LINES) -> list[str]:
    """The text in at most so many lines that fit, broken at spaces if there are some; three dots where it goes on."""
    text, broken = " ".join(text.split()), []
    while text and len(broken) < lines:
        fits = min(len(text), width // 3)  # no letter in use is narrower
        while fits > 1 and font.getlength(text[:fits]) > width:
            fits -= 1
        if fits < len(text) and " " in text[1 : fits + 1]:
            fits = text.rindex(" ", 1, fits + 1)
        broken.append(text[:fits])
        text = text[fits:].lstrip()
    if text:
        last = broken[-1]
        while last and font.getlength(f"{last}...") > width:
            last = last[:-1]
        broken[-1] = f"{last}..."
    return broken or [""]
