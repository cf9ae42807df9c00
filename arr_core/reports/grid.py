"""A grid of pictures to look at: a row a prompt, a caption above each row, a title above each column."""

from __future__ import annotations

import contextlib
import math
import textwrap
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
    """A caption, and the image files below it from left to right."""

    caption: str
    files: Sequence[Path]


def draw_grid(rows: Sequence[Row], titles: Sequence[str], summary: str) -> Image.Image:
    """The grid. Small pictures are enlarged by a whole factor without blurring, large ones are made smaller."""
    font = font_for("".join([*(row.caption for row in rows), *titles, summary]))
    line = sum(font.getmetrics())
    pictures = [[scaled(open_image(file)) for file in row.files] for row in rows]
    cell = GAP + max(picture.width for row in pictures for picture in row)
    inner = max(len(titles) * cell, 2 * SMALLEST + GAP)

    def text(words: str, colour: str = INK, width: int = inner, lines: int = LINES) -> Image.Image:
        broken = wrapped(words, font, width - GAP, lines)
        block = Image.new("RGB", (width, len(broken) * line), PAPER)
        for at, part in enumerate(broken):
            ImageDraw.Draw(block).text((0, at * line), part, colour, font)
        return block

    def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
        height = max(image.height for image in images)
        block = Image.new("RGB", (inner, height + GAP), PAPER)
        for at, image in enumerate(images):
            block.paste(image, (at * cell, 0))
        return block

    blocks = [side_by_side([text(title, width=cell, lines=1) for title in titles])]
    for row, images in zip(rows, pictures, strict=True):
        blocks += [text(row.caption), side_by_side(images)]
    blocks.append(text(summary, PALE))
    height = sum(block.height for block in blocks)
    sheet = Image.new("RGB", (inner + GAP, height + 2 * GAP), PAPER)
    y = GAP
    for block in blocks:
        sheet.paste(block, (GAP, y))
        y += block.height
    return sheet


def scaled(picture: Image.Image) -> Image.Image:
    """The picture as it is shown."""
    if min(picture.size) < SMALLEST:
        factor = min(math.ceil(SMALLEST / min(picture.size)), 2 * LARGEST // max(picture.size))
        width, height = (side * max(1, factor) for side in picture.size)
        return picture.resize((width, height), Resampling.NEAREST)
    picture.thumbnail((LARGEST, LARGEST), Resampling.LANCZOS)
    return picture


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
    text = " ".join(text[: lines * width].split())
    for letters in range(width // 3, len("..."), -1):  # no letter in use is narrower
        broken = textwrap.wrap(text, letters, max_lines=lines, placeholder="...")
        if all(font.getlength(line) <= width for line in broken):
            return broken or [""]
    return [""]
