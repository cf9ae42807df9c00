"""Small trainings as parts of a graph, and what the page would show of them."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

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


def node(**inputs) -> dict:
    return {
        "class_type": "ARRTrainRPO",
        "inputs": {
            "preset": "miniature",
            "run_name": "small",
            "updates": 3,
            "prompts": "",
            "prompts_file": "(none)",
            "start_adapter": "(none)",
            "base": "",
            "run_seed": 0,
            "settings": SMALL,
            **inputs,
        },
    }


@contextlib.contextmanager
def listening(server) -> Iterator[Callable[[bytes], re.Match]]:
    """``heard(pattern)`` waits for what the server tells the page of the client "tests" over its web socket."""
    address = urlsplit(server.url)
    key = base64.b64encode(os.urandom(16)).decode()
    said = b""
    with socket.create_connection((address.hostname, address.port), timeout=60) as stream:
        stream.sendall(
            f"GET /ws?clientId=tests HTTP/1.1\r\nHost: {address.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

        def heard(pattern: bytes) -> re.Match:
            nonlocal said
            while (found := re.search(pattern, said)) is None:
                part = stream.recv(65536)
                assert part, "the server hung up"
                said += part
            return found

        heard(rb"HTTP/1\.1 101 ")
        yield heard


def until(what, timeout: float = 60) -> None:
    """Wait until ``what()`` is true."""
    end = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
