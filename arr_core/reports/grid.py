"""A grid of pictures to look at: a row a prompt, a caption above each row, a title above each column."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Resampling
from PIL.ImageFont import FreeTypeFont

from ..common.images import open_image

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


class Row(NamedTuple):
    """A caption, and the image files below it from left to right; the last one sets the row's size."""

    caption: str
    files: Sequence[Path]


def draw_grid(rows: Sequence[Row], titles: Sequence[str], summary: str) -> Image.Image:
    """The grid. Small pictures are enlarged by a whole factor without blurring, large ones are made smaller."""
    font = font_for("".join([*(row.caption for row in rows), *titles, summary]))
    line = sum(font.getmetrics())
    sizes = [shown_size(open_image(row.files[-1]).size) for row in rows]
    cell = max(width for width, _ in sizes)
    inner = max(len(titles) * (cell + GAP) - GAP, 2 * SMALLEST)

    def text(words: str, colour: str = INK, width: int = inner, lines: int = LINES) -> Image.Image:
        broken = wrapped(words, font, width, lines)
        block = Image.new("RGB", (width, len(broken) * line), PAPER)
        for at, part in enumerate(broken):
            ImageDraw.Draw(block).text((0, at * line), part, colour, font)
        return block

    def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
        block = Image.new("RGB", (inner, images[0].height + GAP), PAPER)
        for at, image in enumerate(images):
            block.paste(image, (at * (cell + GAP), 0))
        return block

    blocks = [side_by_side([text(title, width=cell, lines=1) for title in titles])]
    for row, size in zip(rows, sizes, strict=True):
        pictures = [_shown(open_image(file), size) for file in row.files]
        blocks += [text(row.caption), side_by_side(pictures)]
    blocks.append(text(summary, PALE))
    height = sum(block.height for block in blocks)
    sheet = Image.new("RGB", (inner + 2 * GAP, height + 2 * GAP), PAPER)
    y = GAP
    for block in blocks:
        sheet.paste(block, (GAP, y))
        y += block.height
    return sheet


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height at which a picture is shown."""
    if min(size) < SMALLEST:
        factor = min(math.ceil(SMALLEST / min(size)), max(1, 2 * LARGEST // max(size)))
        return size[0] * factor, size[1] * factor
    factor = min(1.0, LARGEST / max(size))
    return round(size[0] * factor), round(size[1] * factor)


def _shown(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    enlarged = size[0] % picture.width == 0 and size[1] % picture.height == 0
    return picture.resize(size, Resampling.NEAREST if enlarged else Resampling.LANCZOS)


def font_for(text: str) -> FreeTypeFont:
    """A font that has the letters of ``text``, as far as this system has one."""
    if any(ord(character) > 0x24F for character in text):
        for name in FONTS:
            with contextlib.suppress(OSError):
                return ImageFont.truetype(name, TEXT)
    font = ImageFont.load_default(TEXT)
    assert isinstance(font, FreeTypeFont)  # Pillow has it wherever it was built with FreeType
    return font


def wrapped(text: str, font: FreeTypeFont, width: int, lines: int = LINES) -> list[str]:
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
