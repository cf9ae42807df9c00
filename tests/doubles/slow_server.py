"""A chat server that takes its time, in a process of its own so that it costs the client no time but its delay.

``python slow_server.py SECONDS`` prints its port and serves until its standard input ends: every reply comes so many
seconds after its request and prefers the first image.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VERDICT = json.dumps({"findings": [], "reason": "as always", "preferred": "first"})
COMPLETION = json.dumps(
    {
        "choices": [{"message": {"content": VERDICT}, "finish_reason": "stop"}],
        "usage": {"total_tokens": 7},
    }
).encode()
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(COMPLETION),
    COMPLETION,
)


@contextmanager
def slow_server(seconds: float) -> Iterator[str]:
    """The base URL of a server in another process."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.communicate()


async def _serve(seconds: float) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                await asyncio.sleep(seconds)
                writer.write(RESPONSE)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=2**20, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)  # open connections are no reason to say goodbye at length


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
