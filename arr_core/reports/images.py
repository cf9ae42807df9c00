"""Images as data URIs, drawn anew, so that nothing but pixels reaches a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..common.images import open_image

LARGEST = 448  # pixels; a larger image is scaled down
CRISP_BELOW = 160  # pixels; a smaller image is shown enlarged, its pixels as squares
LOSSLESS = 256  # pixels up to which PNG is used


@dataclass(frozen=True)
class EmbeddedImage:
    """What an <img> needs."""

    uri: str
    width: int
    height: int
    crisp: bool


def embed_inside(folder: Path, name: str, largest: int = LARGEST) -> EmbeddedImage | None:
    """The image of this name in the folder. None for a name that leaves the folder, and for what is no image."""
    try:
        path = (folder / name).resolve()
        inside = path.is_relative_to(folder.resolve())
    except (OSError, ValueError):  # no name for a file
        return None
    return embed(path, largest) if inside else None


def embed(path: Path, largest: int = LARGEST) -> EmbeddedImage | None:
    """The image in RGB, scaled down to ``largest`` pixels a side; None for what is no image."""
    try:
        image = open_image(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    crisp = max(image.size) < CRISP_BELOW
    image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    kind = "png" if max(image.size) <= LOSSLESS else "jpeg"
    image.save(buffer, kind, optimize=True, quality=90)
    return EmbeddedImage(data_uri(buffer.getvalue(), kind), *image.size, crisp)


def data_uri(content: bytes, kind: str) -> str:
    """The content of an image file of this kind as a URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
