"""Pictures as a server takes them: each is made smaller once and encoded once, however often it is asked about."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
from collections import OrderedDict

from PIL import Image

SMALL = 256 * 256  # pixels up to which a digest is made faster than a thread is reached


def image_hash(image: Image.Image) -> bytes:
    """Sixteen bytes that name what a judge sees: the size and the pixels, whatever the file or the palette."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    digest = hashlib.sha256(repr(image.size).encode())
    digest.update(rgb.tobytes())
    return digest.digest()[:16]


def smaller(image: Image.Image, max_side: int) -> Image.Image:
    """The picture in RGB, at most ``max_side`` pixels wide and high."""
    image = image.convert("RGB")
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return image


def data_uri(image: Image.Image, max_side: int) -> str:
    """The picture as a PNG data URI. PNG because a judge must see the picture's artifacts, not those of JPEG."""
    buffer = io.BytesIO()
    smaller(image, max_side).save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


class Pictures:
    """Data URIs by the picture's content. The work is done in threads, and the oldest URIs leave past ``limit`` bytes."""

    def __init__(self, max_side: int, limit: int = 256 * 2**20):
        self.max_side, self.limit = max_side, limit
        self._made: OrderedDict[bytes, str] = OrderedDict()
        self._making: dict[bytes, asyncio.Task[str]] = {}
        self._held = 0

    async def uri(self, image: Image.Image, digest: bytes | None = None) -> str:
        """The data URI; both orders of a pair ask at the same time, and one of them makes it.

        digest: what names the picture's content, where the caller knows it.
        """
        small = image.width * image.height <= SMALL
        key = digest or (image_hash(image) if small else await asyncio.to_thread(image_hash, image))
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        if key not in self._making:
            self._making[key] = asyncio.create_task(self._make(key, image))
        return await asyncio.shield(
            self._making[key]
        )  # one question that is cancelled leaves the others their picture

    async def _make(self, key: bytes, image: Image.Image) -> str:
        try:
            uri = await asyncio.to_thread(data_uri, image, self.max_side)
        finally:
            del self._making[key]
        self._made[key] = uri
        self._held += len(uri)
        while self._held > self.limit and len(self._made) > 1:
            self._held -= len(self._made.popitem(last=False)[1])
        return uri
