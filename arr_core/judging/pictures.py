"""Images as a server takes them: each is resized once and encoded once, however often it is asked about."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import secrets
import struct
import zlib
from collections import OrderedDict
from itertools import chain
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image

UNCOMPRESSED = 2**18  # pixels at most of an image that a server of this machine gets uncompressed
MARK = secrets.token_hex(16)  # in place of a picture while JSON is written; no prompt can hold it


def image_hash(image: Image.Image) -> bytes:
    """Sixteen bytes that name what a judge sees: the size and the pixels, whatever the file or the palette."""
    content = repr(image.size).encode() + image.convert("RGB").tobytes()
    return hashlib.sha256(content).digest()[:16]


def smaller(
    image: Image.Image, max_side: int, how: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """The image in RGB, at most ``max_side`` pixels wide and high."""
    image = image.convert("RGB")
    image.thumbnail((max_side, max_side), how)
    return image


def png(image: Image.Image, *, compress: bool = True) -> bytes:
    """The image, in RGB, as a PNG file: the same pixels, for less time than Pillow takes to try five filters on every row.

    Every row is stored less the one above it (filter 2 of the PNG specification), and of what is left only runs and
    frequent bytes are made shorter; without ``compress`` nothing is.
    """
    width, height = image.size
    pixels = np.asarray(image).reshape(height, 3 * width)
    rows = np.full((height, 1 + 3 * width), 2, np.uint8)  # a byte for the filter, then the row
    rows[0, 1:] = pixels[0]
    rows[1:, 1:] = pixels[1:] - pixels[:-1]
    packer = zlib.compressobj(int(compress), zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    packed = packer.compress(rows.data) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = [(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc32(data, crc32(name)))
        for name, data in chunks
    )


def data_uri(image: Image.Image, max_side: int, *, compress: bool = True) -> bytes:
    """The image as a PNG data URI in quotes, as it stands in JSON. PNG because a judge must see the image's artifacts, not
    those of JPEG, and because every server reads it."""
    encoded = base64.b64encode(png(smaller(image, max_side), compress=compress))
    return b'"data:image/png;base64,%s"' % encoded


def json_body(content: Any) -> bytes:
    """The content as JSON. Bytes in it are JSON already and are put in as they are: a picture is long, and json would look
    at its every letter."""
    encoded: list[bytes] = []

    def keep(value: bytes) -> str:
        encoded.append(value)
        return MARK

    parts = json.dumps(content, default=keep).encode().split(f'"{MARK}"'.encode())
    return b"".join(chain.from_iterable(zip(parts, [*encoded, b""], strict=True)))


class EncodedImages:
    """Data URIs by the image's hash. They are made in threads, and the oldest leave past ``limit`` bytes.

    compress: whether it pays to make files smaller. To a server of this machine it does not, unless they are large.
    """

    def __init__(self, max_side: int, *, compress: bool = True, limit: int = 256 * 2**20):
        self.max_side, self.compress, self.limit = max_side, compress, limit
        self._uris: OrderedDict[bytes, bytes] = OrderedDict()
        self._tasks: dict[bytes, asyncio.Task[bytes]] = {}
        self._held = 0

    async def uri(self, image: Image.Image, known_hash: bytes | None = None) -> bytes:
        """The data URI. Both orders of a pair ask at the same time, and one of them makes it."""
        key = known_hash or await asyncio.to_thread(image_hash, image)
        if key in self._uris:
            self._uris.move_to_end(key)
            return self._uris[key]
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._encode(key, image))
        # A question that is cancelled leaves the others their image.
        return await asyncio.shield(self._tasks[key])

    async def _encode(self, key: bytes, image: Image.Image) -> bytes:
        compress = self.compress or math.prod(image.size) > UNCOMPRESSED
        try:
            uri = await asyncio.to_thread(data_uri, image, self.max_side, compress=compress)
        finally:
            del self._tasks[key]
        self._uris[key] = uri
        self._held += len(uri)
        while self._held > self.limit and len(self._uris) > 1:
            self._held -= len(self._uris.popitem(last=False)[1])
        return uri
