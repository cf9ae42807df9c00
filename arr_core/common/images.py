"""Image files: read as RGB whatever they hold, and checked before anything is spent on them."""

from __future__ import annotations

import contextlib
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .files import open_file

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
SMALLEST_SIDE = 16  # pixels: latents of a smaller image would be empty
MAX_PIXELS = 2**26
MAX_ASPECT = (
    200  # of the longer side to the shorter: no vision-language model of the Qwen family takes more
)
MAX_BYTES = 2**28
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is refused


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """An image file of which no pixel is read. Raises OSError for one that would fill the memory."""
    with open_file(path, MAX_BYTES) as file, Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise OSError(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
        yield image


def open_image(path: str | Path) -> Image.Image:
    """The image as RGB, turned as its camera says, on white where it is transparent, 16 bits as 8."""
    with _opened(path) as image:
        image.load()
        upright = image
        with contextlib.suppress(
            SyntaxError, ValueError, TypeError, KeyError, struct.error
        ):  # what its camera says is damaged
            upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            levels = np.asarray(upright, dtype=np.int64)
            upright = Image.fromarray(
                (levels // 257 if levels.max(initial=0) > 255 else levels)
                .clip(0, 255)
                .astype(np.uint8)
            )
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        return upright.convert("RGB")


def image_fault(path: Path) -> str | None:
    """What is wrong with an image file, or None. Only reading it to the end finds a file that was cut off."""
    try:
        with _opened(path) as image:
            short, long = sorted(image.size)
            if short < SMALLEST_SIDE:
                return f"{image.width}x{image.height} pixels"
            if long > MAX_ASPECT * short:
                return f"{image.width}x{image.height} pixels, one side {MAX_ASPECT} times the other"
            if image.mode == "F":
                return "numbers with fractions, whose black and white it does not say"
            image.draft("RGB", (64, 64))
            image.load()
    except FileNotFoundError:
        return "no such file"
    except Image.UnidentifiedImageError:
        return "no image of these formats"
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
    return None
