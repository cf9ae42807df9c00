"""Between ComfyUI's IMAGE tensors and PIL pictures, and the picture of a verdict."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from comfy_api.latest import io
    from PIL import Image

    from ..arr_core.judging import Pair, Verdict

SIDE, GAP = 384, 14  # pixels of an image within the picture of a verdict, and around everything
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

    def paste(self, picture: Image.Image, x: int, y: int, side: int, frame: str = "") -> None:
        """Show a picture in the middle of a square. A small one is enlarged without blurring."""
        from PIL import Image

        factor = side / max(picture.size)
        if factor >= 2:
            factor = int(factor)
        width, height = (max(1, round(edge * factor)) for edge in picture.size)
        method = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
        x, y = x + (side - width) // 2, y + (side - height) // 2
        if frame:
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
    """Source (if any), image A and image B side by side, the preferred one framed; below it what the judge said."""
    images = {"source": pair.source, "A": pair.image_a, "B": pair.image_b}
    images = {name: image for name, image in images.items() if image is not None}
    findings = [
        f"{criterion}: {finding_with_letters(finding)}"
        for criterion, finding in verdict.findings[:MOST_FINDINGS]
    ]
    width, line = len(images) * (SIDE + GAP) + GAP, 21
    texts = [pair.prompt, outcome, verdict.reason, *findings]
    colours = [TEXT, GOOD if verdict.decided else UNDECIDED, TEXT, *[DIM] * len(findings)]
    sheet = Sheet(width, 1, *texts)
    lines = [
        (part, colour)
        for text, colour in zip(texts, colours, strict=True)
        for part in sheet.wrap(text, width - 2 * GAP)
    ]
    sheet = Sheet(width, SIDE + 4 * GAP + (1 + len(lines)) * line, *texts)
    for column, (name, image) in enumerate(images.items()):
        x, title, frame = GAP + column * (SIDE + GAP), name, ""
        if name.lower() == verdict.preferred:
            title, frame = f"{name} · preferred", GOOD
        sheet.text(x, GAP, title, frame or TEXT)
        sheet.paste(image, x, 2 * GAP + line, SIDE, frame)
    for row, (text, colour) in enumerate(lines, 1):
        sheet.text(GAP, SIDE + 3 * GAP + row * line, text, colour)
    return sheet.image


def finding_with_letters(finding: str) -> str:
    """A finding with the images called as the node calls them; in the judge's findings the first is always A."""
    return re.sub(r"^first(:?) (.*)([;,]) second\1 ", r"A\1 \2\3 B\1 ", finding, flags=re.DOTALL)
