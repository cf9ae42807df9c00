"""Between ComfyUI's IMAGE tensors and PIL pictures, and the picture of a verdict."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from comfy_api.latest import io
    from PIL import Image

    from ..arr_core.judging import Pair, Verdict

GAP, LINE = 14, 20  # pixels around everything, and from line to line
CARD_SIDE, CARD_TEXT, CARD_HEIGHT = 384, 400, 1400  # of the picture of a verdict
PAPER, TEXT, DIM = "#1e1f24", "#f2f2f2", "#a0a4ad"
GOOD, BAD, UNDECIDED = "#38b26b", "#d05a4e", "#d9a13b"
MOST_FINDINGS = 12


class Sheet:
    """A dark picture to draw on, with a font that knows the letters of ``texts``."""

    def __init__(self, width: int, height: int, *texts: str):
        from PIL import Image, ImageDraw

        from ..arr_core.reports.grid import font_for

        self.font = font_for(" ".join(texts))
        self.image = Image.new("RGB", (width, height), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def text(
        self, x: float, y: float, text: str, colour: str = DIM, anchor: str = "la", size: int = 0
    ) -> None:
        """Write a line; in Pillow's own font where a size is given."""
        from PIL import ImageFont

        font = ImageFont.load_default(size) if size else self.font
        self.draw.text((x, y), text, colour, font, anchor=anchor)

    def wrap(self, text: str, width: int, lines: int = 3) -> list[str]:
        """The text in lines that fit."""
        from ..arr_core.reports.grid import wrapped

        return wrapped(text, self.font, width, lines)

    def rows(
        self,
        x: int,
        side: int,
        titles: list[str],
        rows: list[tuple[list[Image.Image | None], list[tuple[str, str]]]],
        framed: str = "",
    ) -> None:
        """Rows of pictures in squares below titles, each with its lines of (text, colour) beside it.

        The pictures below the title ``framed`` have a frame.
        """
        beside = x + len(titles) * (side + GAP)
        for row, (pictures, lines) in enumerate(rows):
            y = 2 * GAP + LINE + row * (side + GAP)
            for column, (title, picture) in enumerate(zip(titles, pictures, strict=True)):
                if picture is not None:
                    frame = GOOD if title == framed else PAPER
                    self._paste(picture, x + column * (side + GAP), y, side, frame)
            for number, (text, colour) in enumerate(lines):
                self.text(beside, y + number * LINE, text, colour)
        for column, title in enumerate(titles):
            colour = GOOD if title == framed else TEXT
            self.text(x + column * (side + GAP), GAP, title[: side // 8], colour)

    def _paste(self, picture: Image.Image, x: int, y: int, side: int, frame: str) -> None:
        """A picture in the middle of a square. A small one is enlarged without blurring."""
        from PIL import Image

        factor = side / max(picture.size)
        if factor >= 2:
            factor = int(factor)
        width, height = (max(1, round(edge * factor)) for edge in picture.size)
        method = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
        x, y = x + (side - width) // 2, y + (side - height) // 2
        self.draw.rectangle((x - 4, y - 4, x + width + 3, y + height + 3), frame)
        self.image.paste(picture.convert("RGB").resize((width, height), method), (x, y))


def to_pictures(images: torch.Tensor) -> list[Image.Image]:
    """The pictures of an IMAGE, [B, H, W, C] in 0..1."""
    from PIL import Image

    values = (images.detach().cpu().float().clamp(0, 1) * 255).round().byte().numpy()
    return [Image.fromarray(value[..., :3]) for value in values]


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """The IMAGE [1, H, W, 3] of a picture."""
    import numpy
    import torch

    return torch.from_numpy(numpy.asarray(picture.convert("RGB")).astype("float32") / 255)[None]


def preview(pictures: list[Image.Image], node: type[io.ComfyNode]) -> dict[str, list]:
    """What a node returns as ``ui`` to show pictures of any sizes."""
    from comfy_api.latest import ui

    saved = [ui.PreviewImage(to_tensor(picture), cls=node).as_dict() for picture in pictures]
    return {"images": [image for one in saved for image in one["images"]]}


def verdict_picture(pair: Pair, verdict: Verdict, outcome: str) -> Image.Image:
    """Source (if any), image A and image B side by side, the preferred one framed; beside them what the judge said."""
    images = {"source": pair.source, "A": pair.image_a, "B": pair.image_b}
    images = {name: image for name, image in images.items() if image is not None}
    texts = [
        (pair.prompt, TEXT),
        (outcome, GOOD if verdict.decided else UNDECIDED),
        (verdict.reason, TEXT),
    ]
    for criterion, finding in verdict.findings[:MOST_FINDINGS]:
        texts.append((f"{criterion}: {finding_with_letters(finding)}", DIM))
    width = GAP + len(images) * (CARD_SIDE + GAP) + CARD_TEXT
    sheet = Sheet(width, CARD_HEIGHT, *(text for text, _ in texts))
    lines = [(line, colour) for text, colour in texts for line in sheet.wrap(text, CARD_TEXT - GAP)]
    preferred = (verdict.preferred or "").upper()
    sheet.rows(GAP, CARD_SIDE, [*images], [([*images.values()], lines)], preferred)
    height = 3 * GAP + LINE + max(CARD_SIDE, len(lines) * LINE)
    return sheet.image.crop((0, 0, width, height))


def finding_with_letters(finding: str) -> str:
    """A finding with the images called as the node calls them; in the judge's findings the first is always A."""
    return re.sub(r"^first(:?) (.*)([;,]) second\1 ", r"A\1 \2\3 B\1 ", finding, flags=re.DOTALL)
