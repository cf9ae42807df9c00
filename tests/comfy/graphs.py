"""Parts of graphs that several tests send, and what the page would hear of them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from doubles import rubric_model
from doubles.openai_server import OpenAIServer
from PIL import Image

# Updates of a fraction of a second.
SMALL = """
rollout.prompts_per_update = 2   # the rest is the preset's
rollout.micro_batch = 4
rollout.steps: 2
run.save_every = 2
validation.every = 2
validation.count = 2
validation.images = 2
"""


def training(server, **inputs) -> dict:
    """A training of three small updates."""
    small = {"run_name": "small", "updates": 3, "settings": SMALL}
    return server.node("ARRTrainRPO", **{**small, **inputs})


def judge(server, profile: str, check: bool = False, **inputs) -> dict:
    return server.node("ARRJudge", profile=profile, check=check, **{"timeout": 10.0, **inputs})


def write_profiles(server, **profiles) -> None:
    """Fill the judges file of the server's user."""
    (server.base / "judges.yaml").write_text(json.dumps(profiles))


@contextlib.contextmanager
def judge_server(server, answer, profile: str = "box", **fields) -> Iterator[OpenAIServer]:
    """A judge on the network, which the user's judges file describes as ``profile``."""
    with OpenAIServer(answer, key=fields.pop("key", None)) as running:
        write_profiles(server, **{profile: {"url": running.url, "model": profile, **fields}})
        yield running


def rubric_writer(request) -> str:
    """The reply of the rubric double to a request over HTTP."""
    sees = "image_url" in json.dumps(request.body)
    return rubric_model.answer(request.text, request.pictures if sees else {})


def write_pairs(server, name: str, preferred: str = "dark", thing: str = "cup") -> list[dict]:
    """Twenty pairs in ComfyUI's input folder, of which people liked the dark or the bright one."""
    (server.base / "input/pairs").mkdir(exist_ok=True)
    records = []
    for number in range(20):
        names = [f"{number}-{light}.png" for light in ("dark", "bright")]
        for file, level in zip(names, (30 + number, 220 + number), strict=True):
            Image.new("RGB", (32, 32), (level,) * 3).save(server.base / "input/pairs" / file)
        rank = [1, 2] if preferred == "dark" else [2, 1]
        records.append(
            {"prompt": f"a {thing}, number {number}", "images": names, "label_rank": rank}
        )
    (server.base / "input/pairs" / name).write_text(json.dumps(records))
    return records


@contextlib.contextmanager
def listening(server) -> Iterator[Callable[[bytes], re.Match]]:
    """``heard(pattern)`` waits for what the server tells the page of the client "tests" over its web socket."""
    address = urlsplit(server.url)
    key = base64.b64encode(os.urandom(16)).decode()
    received = b""
    with socket.create_connection((address.hostname, address.port), timeout=200) as stream:
        stream.sendall(
            f"GET /ws?clientId=tests HTTP/1.1\r\nHost: {address.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

        def heard(pattern: bytes) -> re.Match:
            nonlocal received
            while (found := re.search(pattern, received)) is None:
                part = stream.recv(65536)
                assert part, "the server hung up"
                received += part
            return found

        heard(rb"HTTP/1\.1 101 ")
        yield heard


def until(what: Callable[[], object], timeout: float = 200) -> None:
    """Wait until ``what()`` is true."""
    end = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
