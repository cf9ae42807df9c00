"""Pictures for a server: made smaller once, encoded once, and never another picture's bytes."""

from __future__ import annotations

import asyncio
import base64
import io
import json

import pytest
from PIL import Image

from arr_core.judging import pictures
from arr_core.judging.openai_client import is_loopback
from arr_core.judging.pictures import EncodedImages, data_uri, json_body


@pytest.fixture
def made(monkeypatch):
    """The pictures that were encoded, in order."""
    encoded = []

    def counted(image, max_side, **how):
        encoded.append(image)
        return data_uri(image, max_side, **how)

    monkeypatch.setattr(pictures, "data_uri", counted)
    return encoded


def shown(uri: bytes) -> Image.Image:
    head, _, body = json.loads(uri).partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    return Image.effect_noise((width, height), 60).convert(mode)


@pytest.mark.parametrize(
    "size, expected",
    [
        ((300, 100), (64, 21)),
        ((64, 64), (64, 64)),
        ((5, 3), (5, 3)),
        ((10, 640), (1, 64)),
    ],
)
def test_a_picture_fits_and_is_never_made_larger(size, expected):
    assert shown(data_uri(noise(*size), 64)).size == expected


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "I;16"])
def test_every_kind_of_picture_is_shown_in_rgb(mode):
    assert shown(data_uri(Image.new(mode, (4, 4)), 64)).mode == "RGB"


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("size", [(40, 30), (1, 1), (64, 1), (1, 64)])
def test_a_picture_that_fits_is_shown_bit_for_bit(size, compress):
    image = Image.merge("RGB", [noise(*size, "L") for _ in range(3)])
    assert shown(data_uri(image, 64, compress=compress)).tobytes() == image.tobytes()


@pytest.mark.parametrize(
    "compress, side, large", [(True, 64, False), (False, 64, True), (False, 600, False)]
)
def test_only_small_pictures_for_this_machine_are_sent_as_they_are(compress, side, large):
    async def ask():
        return await EncodedImages(1024, compress=compress).uri(Image.new("RGB", (side, side)))

    assert (len(asyncio.run(ask())) > 3 * side**2) == large


@pytest.mark.parametrize(
    "url, expected",
    [
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://127.example.com/v1", False),
        ("http://10.0.0.1:8000/v1", False),
    ],
)
def test_this_machine_is_told_from_others(url, expected):
    assert is_loopback(url) == expected


def test_a_request_is_the_json_that_it_would_be_with_texts():
    text = 'said "so", \\ é \ud800'
    body = {"text": text, "parts": [{"url": b'"data:a"'}, {"url": b'"data:b"'}], "no": None}
    plain = {"text": text, "parts": [{"url": "data:a"}, {"url": "data:b"}], "no": None}
    assert json.loads(json_body(body)) == plain
    assert json.loads(json_body(plain)) == plain


def asked(images) -> list[bytes]:
    """The data URIs of images that are asked for at the same time."""

    async def ask():
        held = EncodedImages(64)
        return await asyncio.gather(*map(held.uri, images))

    return asyncio.run(ask())


def test_many_questions_about_a_picture_encode_it_once(made):
    a, b = noise(30, 30), noise(30, 30)
    uris = asked((a, b) * 20 + (a.copy(),))  # a copy shows the same
    assert len(made) == 2 and len(set(uris)) == 2 and uris[0] == uris[-1]


def test_a_picture_that_was_drawn_into_is_another_picture(made):
    image = noise(30, 30)

    async def ask():
        held = EncodedImages(64)
        before = await held.uri(image)
        image.paste("red", (0, 0, 5, 5))
        return before, await held.uri(image)

    before, after = asyncio.run(ask())
    assert before != after and shown(after).getpixel((0, 0)) == (255, 0, 0)


def test_equal_bytes_of_another_shape_are_another_picture():
    sizes = [(8, 2), (2, 8), (4, 4)]
    uris = asked([Image.new("RGB", size, "red") for size in sizes])
    assert [shown(uri).size for uri in uris] == sizes


def test_the_oldest_leave_when_the_memory_is_full(made):
    a, b, c = (noise(20, 20) for _ in range(3))

    async def ask():
        held = EncodedImages(64, limit=int(2.5 * len(data_uri(a, 64))))
        for image in (a, b, a, c, a, b):  # c drives out b, which was not asked for since
            await held.uri(image)

    asyncio.run(ask())
    assert made == [a, b, c, b]


def test_a_question_that_is_cancelled_leaves_the_picture_to_the_others():
    image = noise(400, 400)

    async def ask():
        held = EncodedImages(400)
        first, second = (asyncio.create_task(held.uri(image)) for _ in range(2))
        while not held._tasks:
            await asyncio.sleep(0)
        first.cancel()
        return shown(await second).size

    assert asyncio.run(ask()) == (400, 400)
