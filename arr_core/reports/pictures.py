"""Pictures of a run as data URIs, drawn anew, so that nothing but pixels reaches the page."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

SMALL = 160  # pixels; a picture below this is shown enlarged, its pixels as squares
LARGE = 448  # pixels; a picture above this is scaled down
FORMATS = ("PNG", "JPEG", "WEBP")


def picture(folder: Path, name: Any, alt: str, largest: int = LARGE) -> str:
    """An <img> of a picture inside the run's folder, or a frame that says why there is none."""
    try:
        image = _open(folder, name)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return f'<span class="missing" role="img" aria-label="{escape(alt)}">picture missing</span>'
    crisp = " crisp" if max(image.size) < SMALL else ""
    image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    width, height = image.size
    return (
        f'<img class="picture{crisp}" src="{_data_uri(image)}" alt="{escape(alt)}" width="{width}" '
        f'height="{height}" loading="lazy">'
    )


def _open(folder: Path, name: Any) -> Image.Image:
    """The picture in RGB. Raises ValueError for a name that leaves the folder, by dots, a root or a link."""
    if not isinstance(name, str):
        raise ValueError("expected a file name")
    root = folder.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise ValueError(f"{name}: expected a picture inside of the run's folder")
    with Image.open(path, formats=FORMATS) as image:
        return image.convert("RGB")


def _data_uri(image: Image.Image) -> str:
    """PNG where pixels are few and must be exact, else JPEG."""
    buffer, exact = io.BytesIO(), max(image.size) <= 256
    image.save(buffer, "PNG", optimize=True) if exact else image.save(buffer, "JPEG", quality=90)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{'png' if exact else 'jpeg'};base64,{encoded}"
