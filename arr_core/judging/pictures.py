"""Images as a server takes them: each is resized once and encoded once, however often it is asked about."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
from collections import OrderedDict

from PIL import Image


def image_hash(image: Image.Image) -> bytes:
    """Sixteen bytes that name what a judge sees: the size and the pixels, whatever the file or the palette."""
    content = repr(image.size).encode() + image.convert("RGB").tobytes()
    return hashlib.sha256(content).digest()[:16]


def smaller(image: Image.Image, max_side: int) -> Image.Image:
    """The image in RGB, at most ``max_side`` pixels wide and high."""
    image = image.convert("RGB")
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return image


def data_uri(image: Image.Image, max_side: int) -> str:
    """The image as a PNG data URI. PNG because a judge must see the image's artifacts, not those of JPEG."""
    buffer = io.BytesIO()
    smaller(image, max_side).save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


class EncodedImages:
    """Data URIs by the image's hash. They are made in threads, and the oldest leave past ``limit`` bytes."""

    def __init__(self, max_side: int, limit: int = 256 * 2**20):
        self.max_side, self.limit = max_side, limit
        self._uris: OrderedDict[bytes, str] = OrderedDict()
        self._tasks: dict[bytes, asyncio.Task[str]] = {}
        self._held = 0

    async def uri(self, image: Image.Image, known_hash: bytes | None = None) -> str:
        """The data URI. Both orders of a pair ask at the same time, and one of them makes it."""
        key = known_hash or await asyncio.to_thread(image_hash, image)
        if key in self._uris:
            self._uris.move_to_end(key)
            return self._uris[key]
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._encode(key, image))
        # A question that is cancelled leaves the others their image.
        return await asyncio.shield(self._tasks[key])

    async def _encode(self, key: bytes, image: Image.Image) -> str:
        try:
            uri = await asyncio.to_thread(data_uri, image, self.max_side)
        finally:
            del self._tasks[key]
        self._uris[key] = uri
        self._held += len(uri)
        while self._held > self.limit and len(self._uris) > 1:
            self._held -= len(self._uris.popitem(last=False)[1])
        return uri
