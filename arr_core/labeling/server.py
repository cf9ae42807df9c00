"""The labeling queue as a page on 127.0.0.1, which nobody can see or answer who does not know its address.

The address holds a random token. Beside it the Host must name this machine, so that no other site can reach the page
under its own name (DNS rebinding), and an answer must come from the page itself (Origin), so that no other page of the
same browser can give one.
"""

from __future__ import annotations

import io
import json
import re
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from jinja2 import Template
from pydantic import BaseModel, StrictInt, ValidationError

from ..judging.verdict import JudgeError, Place
from .queue import LabelingQueue

PAGE = Path(__file__).with_name("page.html.jinja")
LOCAL_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?")  # it may be forwarded
POLL_S = 25.0  # a request for news is answered after this, news or not


class LabelingServer(ThreadingHTTPServer):
    """Serves a queue on its own thread until ``close``. Raises JudgeError for a port that is taken."""

    daemon_threads, block_on_close = True, False

    def __init__(self, queue: LabelingQueue, port: int = 0):
        self.queue, self.token = queue, secrets.token_urlsafe(24)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            raise JudgeError(
                f"expected a free port for the page of the human judge, got {port}; {error}"
            ) from error
        nonce = secrets.token_urlsafe(12)
        page = Template(PAGE.read_text(encoding="utf-8"), autoescape=True).render(nonce=nonce)
        self.page = page.encode()
        self.headers = {
            "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; img-src 'self' data:; "
            f"connect-src 'self'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        self.url = f"http://127.0.0.1:{self.server_address[1]}/{self.token}/"
        self._thread = threading.Thread(target=self.serve_forever, args=[0.1], daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more requests; those that are being answered may end."""
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request, client_address) -> None:
        """Nothing: a browser that closes its connection is no error."""


class _Answer(BaseModel):
    number: StrictInt
    side: Place | None


class _Refused(Exception):
    """A request that is answered with (HTTP status, reason)."""


class _Handler(BaseHTTPRequestHandler):
    # Connections stay open, so that the last word reaches the page even when the server takes no new ones.
    protocol_version, timeout = "HTTP/1.1", 60
    server_version, sys_version = "labeling", ""
    server: LabelingServer

    def do_GET(self) -> None:
        try:
            respond = self._post if self.command == "POST" else self._get
            respond(self._path())
        except _Refused as refused:
            status, reason = refused.args
            # What was not read of this request must not be taken for the next one.
            self.close_connection = True
            self._send_json({"error": reason}, status)

    do_POST = do_GET

    def _path(self) -> str:
        """What is asked for below the token."""
        if not LOCAL_HOST.fullmatch(self.headers.get("Host", "")):
            raise _Refused(403, "this page is served to this machine alone")
        token, slash, path = self.path.lstrip("/").partition("/")
        known = secrets.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode())
        if not (slash and known):
            raise _Refused(404, "no such page; open the address that was printed, all of it")
        return path

    def _get(self, path: str) -> None:
        queue = self.server.queue
        if path == "":
            self._send(self.server.page, "text/html; charset=utf-8")
        elif match := re.fullmatch(r"state/(-?\d{1,9})", path):
            self._send_json(queue.state(int(match[1]), POLL_S))
        elif match := re.fullmatch(r"image/(\d{1,9})/(left|right|source)", path):
            image = queue.image(int(match[1]), match[2])
            if image is None:
                raise _Refused(404, "no such image")
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "PNG", compress_level=1)
            self._send(buffer.getvalue(), "image/png", cache="private, max-age=3600")
        else:
            raise _Refused(404, "no such page")

    def _post(self, path: str) -> None:
        if self.headers.get("Origin") != f"http://{self.headers.get('Host')}":
            raise _Refused(403, "expected an answer from the page itself")
        length, queue = self.headers.get("Content-Length", ""), self.server.queue
        if not re.fullmatch(r"\d{1,3}", length):
            raise _Refused(400, "expected a small JSON object")
        body = self.rfile.read(int(length))
        try:
            if path == "answer":
                answer = _Answer.model_validate_json(body)
                queue.answer(answer.number, answer.side)
            elif path == "undo":
                queue.undo()
            elif path == "finish":
                queue.finish()
            else:
                raise _Refused(404, "no such page; expected answer, undo or finish")
        except ValidationError as error:
            raise _Refused(400, "expected an answer: number, and side 0, 1 or null") from error
        except (OSError, ValueError) as error:  # the answer could not be written
            raise _Refused(500, str(error)) from error
        self._send_json(queue.state())

    def _send_json(self, content: dict, status: int = 200) -> None:
        self._send(json.dumps(content).encode(), "application/json", status)

    def _send(self, content: bytes, kind: str, status: int = 200, cache: str = "no-store") -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": cache,
        }
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in (headers | self.server.headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format, *args) -> None:
        """Nothing: the path holds the token."""
