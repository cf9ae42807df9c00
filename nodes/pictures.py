"""Between ComfyUI's IMAGE tensors and pictures, and the picture of a verdict."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from ..arr_core.judging import Pair, Verdict

SIDE, GAP = 384, 14  # pixels of an image within the picture of a verdict, and around everything
PAPER, INK, PALE, GOOD, DOUBT = "#1e1f24", "#f2f2f2", "#a0a4ad", "#38b26b", "#d9a13b"
MOST_FINDINGS = 12


def to_pictures(images) -> list[Image.Image]:
    """The pictures of an IMAGE, [B, H, W, C] in 0..1."""
    from PIL import Image

    values = (images.detach().cpu().float().clamp(0, 1) * 255).round().byte().numpy()
    return [Image.fromarray(value[..., :3] if value.shape[-1] > 3 else value) for value in values]


def to_image(picture: Image.Image):
    """The IMAGE [1, H, W, 3] of a picture."""
    import numpy
    import torch

    return torch.from_numpy(numpy.asarray(picture.convert("RGB")).astype("float32") / 255)[None]


def shown(pictures: list[Image.Image], cls) -> dict[str, list]:
    """What a node returns as ``ui`` to show pictures of any sizes."""
    from comfy_api.latest import ui

    return {
        "images": [
            saved
            for picture in pictures
            for saved in ui.PreviewImage(to_image(picture), cls=cls).as_dict()["images"]
        ]
    }


def verdict_picture(pair: Pair, verdict: Verdict) -> Image.Image:
    """Source (if any), image A and image B side by side, the preferred one framed; below it what the judge said."""
    from PIL import Image, ImageDraw

    from ..arr_core.reports.grid import font_for, wrapped

    images = [("source", pair.source), ("A", pair.image_a), ("B", pair.image_b)][
        pair.source is None :
    ]
    findings = [f"{criterion}: {in_letters(finding)}" for criterion, finding in verdict.findings]
    font = font_for(" ".join([pair.prompt, verdict.reason, *findings]))
    width, line = len(images) * (SIDE + GAP) + GAP, sum(font.getmetrics()) + 3
    head = {"a": "A is preferred", "b": "B is preferred", None: "UNDECIDED"}[verdict.preferred]
    texts = [(part, INK) for part in wrapped(pair.prompt, font, width - 2 * GAP)]
    texts.append((head, GOOD if verdict.decided else DOUBT))
    texts += [(part, INK) for part in wrapped(verdict.reason, font, width - 2 * GAP)]
    for finding in findings[:MOST_FINDINGS]:
        texts += [(part, PALE) for part in wrapped(finding, font, width - 2 * GAP)]
    sheet = Image.new("RGB", (width, SIDE + 4 * GAP + line + len(texts) * line), PAPER)
    draw = ImageDraw.Draw(sheet)
    for at, (name, picture) in enumerate(images):
        x = GAP + at * (SIDE + GAP)
        preferred = name.lower() == verdict.preferred
        draw.text(
            (x, GAP), f"{name} · preferred" if preferred else name, GOOD if preferred else INK, font
        )
        fitted = fit(picture, SIDE)
        place = (x + (SIDE - fitted.width) // 2, 2 * GAP + line + (SIDE - fitted.height) // 2)
        sheet.paste(fitted, place)
        if preferred:
            draw.rectangle(
                (
                    place[0] - 4,
                    place[1] - 4,
                    place[0] + fitted.width + 3,
                    place[1] + fitted.height + 3,
                ),
                outline=GOOD,
                width=4,
            )
    for at, (part, colour) in enumerate(texts):
        draw.text((GAP, SIDE + 3 * GAP + line + at * line), part, colour, font)
    return sheet


def in_letters(finding: str) -> str:
    """A finding with the images called as the node calls them; in the judge's findings the first is always A."""
    return re.sub(r"^first(:?) (.*)([;,]) second\1 ", r"A\1 \2\3 B\1 ", finding, flags=re.DOTALL)


def fit(picture: Image.Image, side: int) -> Image.Image:
    """The picture with ``side`` as its longer side; a small one is enlarged without blurring."""
    from PIL import Image

    factor = side / max(picture.size)
    if factor >= 2:
        factor = int(factor)
    size = tuple(max(1, round(edge * factor)) for edge in picture.size)
    return picture.convert("RGB").resize(
        size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    )
