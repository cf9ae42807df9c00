"""Between ComfyUI's IMAGE tensors and PIL pictures, and the picture of a verdict."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy
import torch
from comfy_api.latest import io, ui
from PIL import Image, ImageDraw, ImageOps

from ..arr_core.reports.grid import font_for, wrapped

if TYPE_CHECKING:
    from ..arr_core.judging import Pair, Verdict

GAP, LINE = 14, 20  # pixels around everything, and from line to line
MOST_LINES = 5  # of a text
CARD_SIDE, CARD_TEXT, CARD_HEIGHT = 384, 400, 1600  # of the picture of a verdict
PAPER, TEXT, DIM = "#1e1f24", "#f2f2f2", "#a0a4ad"
GOOD, BAD, UNDECIDED = "#38b26b", "#d05a4e", "#d9a13b"
MOST_FINDINGS = 12
OUTCOMES = {"a": "A is preferred", "b": "B is preferred", None: "undecided"}


class Sheet:
    """A dark picture to draw on."""

    def __init__(self, width: int, height: int):
        self.image = Image.new("RGB", (width, height), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, text: str, colour: str = DIM, anchor: str = "la") -> None:
        """Write a line."""
        self.draw.text((x, y), text, colour, font_for(text), anchor=anchor)

    def rows(
        self,
        x: int,
        side: int,
        titles: list[str],
        rows: list[tuple[list[Image.Image | None], list[tuple[str, str]]]],
        framed: str = "",
    ) -> int:
        """Draw rows of pictures in squares below titles, each with its texts of (text, colour) beside it.

        The pictures below the title ``framed`` have a frame. Returns where the drawing ends.
        """
        step, top = side + GAP, 2 * GAP + LINE
        for column, title in enumerate(titles):
            left = x + column * step
            colour, frame = (GOOD, GOOD) if title == framed else (TEXT, PAPER)
            self.text(left, GAP, title[: side // 8], colour)
            for row, (pictures, _) in enumerate(rows):
                if picture := pictures[column]:
                    self._paste(picture, left, top + row * step, side, frame)
        beside, end = x + len(titles) * step, top
        room = self.image.width - GAP - beside
        for row, (_, texts) in enumerate(rows):
            y = top + row * step
            end = y + step
            for text, colour in texts:
                for line in wrapped(text, font_for(text), room, MOST_LINES):
                    self.text(beside, y, line, colour)
                    y += LINE
            end = max(end, y + GAP)
        return end

    def _paste(self, picture: Image.Image, x: int, y: int, side: int, frame: str) -> None:
        """A picture in the middle of a square. A small one is enlarged without blurring."""
        small = 2 * max(picture.size) <= side
        method = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
        fitted = ImageOps.contain(picture.convert("RGB"), (side, side), method)
        framed = ImageOps.expand(fitted, 4, frame)
        self.image.paste(framed, (x + (side - framed.width) // 2, y + (side - framed.height) // 2))


def to_pictures(images: torch.Tensor) -> list[Image.Image]:
    """The pictures of an IMAGE, [B, H, W, C] in 0..1."""
    values = (images.cpu().float().clamp(0, 1) * 255).round().byte().numpy()
    return [Image.fromarray(value[..., :3]) for value in values]


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """The IMAGE [1, H, W, 3] of a picture."""
    return torch.from_numpy(numpy.asarray(picture.convert("RGB")).astype("float32") / 255)[None]


def preview(pictures: list[Image.Image], node: type[io.ComfyNode]) -> dict[str, list]:
    """What a node returns as ``ui`` to show pictures of any sizes."""
    saved = (ui.PreviewImage(to_tensor(picture), cls=node).as_dict() for picture in pictures)
    return {"images": [image for one in saved for image in one["images"]]}


def verdict_picture(pair: Pair, verdict: Verdict) -> Image.Image:
    """Source (if any), image A and image B side by side, the preferred one framed; beside them what the judge said."""
    images = {"A": pair.image_a, "B": pair.image_b}
    if pair.source is not None:
        images = {"source": pair.source, **images}
    texts = [
        (pair.prompt, TEXT),
        (OUTCOMES[verdict.preferred], GOOD if verdict.decided else UNDECIDED),
        (verdict.reason, TEXT),
        *((finding, DIM) for finding in findings(verdict)[:MOST_FINDINGS]),
    ]
    width = GAP + len(images) * (CARD_SIDE + GAP) + CARD_TEXT
    sheet = Sheet(width, CARD_HEIGHT)
    preferred = (verdict.preferred or "").upper()
    height = sheet.rows(GAP, CARD_SIDE, [*images], [([*images.values()], texts)], preferred)
    return sheet.image.crop((0, 0, width, height))


def findings(verdict: Verdict) -> list[str]:
    """The findings, with the images called as the node calls them; in the judge's words the first is always A."""
    return [
        f"{criterion}: "
        + re.sub(r"^first(:?) (.*)([;,]) second\1 ", r"A\1 \2\3 B\1 ", finding, flags=re.DOTALL)
        for criterion, finding, _ in verdict.findings
    ]
