"""The desk as a page on 127.0.0.1, which nobody but who knows its address can see or answer.

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
from string import Template
from urllib.parse import parse_qs, urlsplit

from ..judging.verdict import JudgeError
from .queue import Desk

PAGE = Path(__file__).with_name("page.html")
HERE = ("127.0.0.1", "localhost", "[::1]")  # the port may differ: it may have been forwarded
POLL_S = 25.0  # a question for news is answered after this, news or not
LARGEST_BODY = 1000  # bytes
SIDES = {"1": 0, "2": 1, "0": None}


class DeskServer:
    """Serves a desk until ``close``. Raises JudgeError for a port that is taken."""

    def __init__(self, desk: Desk, port: int = 0):
        self.desk, self.token = desk, secrets.token_urlsafe(24)
        try:
            self._server = _Server(("127.0.0.1", port), _handler(self))
        except (OSError, OverflowError) as error:
            raise JudgeError(
                f"expected a free port for the page of the human judge, came {port}; {error}"
            ) from error
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/{self.token}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.1},
            daemon=True,
            name="desk-server",
        )
        self._thread.start()

    def close(self) -> None:
        """Take no more requests; those that are being answered may end."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close = True, False

    def handle_error(self, request, client_address) -> None:
        """A browser that goes away in the middle is nobody's error."""


def _handler(server: DeskServer) -> type[BaseHTTPRequestHandler]:
    desk = server.desk

    class Handler(BaseHTTPRequestHandler):
        protocol_version, timeout = "HTTP/1.1", 60
        server_version, sys_version = "desk", ""

        def do_GET(self) -> None:
            path = self._path()
            if path is None:
                return
            if path == "":
                nonce = secrets.token_urlsafe(12)
                page = Template(PAGE.read_text(encoding="utf-8")).substitute(nonce=nonce)
                self._send(200, page.encode(), "text/html; charset=utf-8", nonce)
            elif path == "state":
                seen = parse_qs(urlsplit(self.path).query).get("seen", ["-1"])[0]
                self._state(int(seen) if re.fullmatch(r"-?\d{1,9}", seen) else -1, POLL_S)
            elif match := re.fullmatch(r"picture/(\d{1,9})/(left|right|base)", path):
                self._picture(int(match[1]), match[2])
            else:
                self._refuse(404, "no such page")

        def do_POST(self) -> None:
            path = self._path()
            if path is None:
                return
            if self.headers.get("Origin") != f"http://{self.headers.get('Host')}":
                return self._refuse(403, "an answer is expected from the page itself")
            body = self._body()
            if body is None:
                return self._refuse(400, "expected a small JSON object")
            try:
                if (
                    path == "answer"
                    and type(body.get("number")) is int
                    and body.get("choice") in SIDES
                ):
                    desk.answer(body["number"], SIDES[body["choice"]])
                elif path == "undo":
                    desk.undo()
                elif path == "finish":
                    desk.finish()
                else:
                    return self._refuse(
                        400, "expected an answer: number and choice 1, 2 or 0; or undo, or finish"
                    )
            except OSError as error:  # what keeps the answers could not write them
                return self._refuse(500, str(error))
            self._state(-1, 0.0)

        def _path(self) -> str | None:
            """What is asked for below the token, or None where the request was refused."""
            host = self.headers.get("Host", "")
            if re.sub(r":\d+$", "", host) not in HERE:
                return self._refuse(403, "this page is served to this machine alone")
            token, slash, path = urlsplit(self.path).path.lstrip("/").partition("/")
            if not (
                slash
                and secrets.compare_digest(token.encode("utf-8", "replace"), server.token.encode())
            ):
                return self._refuse(
                    404, "no such page; open the address that was printed, all of it"
                )
            return path

        def _body(self) -> dict | None:
            length = self.headers.get("Content-Length", "")
            if not (length.isdigit() and int(length) <= LARGEST_BODY):
                return None
            try:
                body = json.loads(self.rfile.read(int(length)))
            except (ValueError, RecursionError):
                return None
            return body if isinstance(body, dict) else None

        def _state(self, seen: int, timeout_s: float) -> None:
            content = json.dumps(desk.state(seen, timeout_s)).encode()
            self._send(200, content, "application/json")

        def _picture(self, number: int, side: str) -> None:
            image = desk.picture(number, side)
            if image is None:
                return self._refuse(404, "no such picture")
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "PNG", compress_level=1)
            self._send(200, buffer.getvalue(), "image/png", kept="private, max-age=3600")

        def _refuse(self, status: int, why: str) -> None:
            self.close_connection = (
                True  # what was not read of the request must not be taken for the next one
            )
            self._send(status, json.dumps({"error": why}).encode(), "application/json")

        def _send(
            self, status: int, content: bytes, kind: str, nonce: str = "", kept: str = "no-store"
        ) -> None:
            allowed = f"; img-src 'self' data:; connect-src 'self'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'"
            self.send_response(status)
            for name, value in {
                "Content-Type": kind,
                "Content-Length": str(len(content)),
                "Cache-Control": kept,
                "Content-Security-Policy": f"default-src 'none'; frame-ancestors 'none'{allowed if nonce else ''}",
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                "Cross-Origin-Resource-Policy": "same-origin",
                **({"Connection": "close"} if self.close_connection else {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_) -> None:
            """Says nothing: the path holds the token."""

    return Handler
