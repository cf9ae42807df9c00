"""An OpenAI-compatible server that answers as it is told: real HTTP on 127.0.0.1, in threads of this process.

It counts and keeps what it is asked, replays scripted replies, and can fail in the ways of a server on a network.
"""

from __future__ import annotations

import base64
import io
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image, ImageStat


@dataclass(frozen=True)
class Request:
    """One call as it came in: path, headers (their names in title case) and the decoded body."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @cached_property
    def parts(self) -> list[dict]:
        """The content parts of the question, in order; a repair question comes after it."""
        return next(
            message["content"] for message in self.body["messages"] if message["role"] == "user"
        )

    @property
    def text(self) -> str:
        """Every text of every message."""
        return "\n".join(
            part["text"]
            for message in self.body["messages"]
            for part in (
                [{"text": message["content"]}]
                if isinstance(message["content"], str)
                else message["content"]
            )
            if "text" in part
        )

    @cached_property
    def pictures(self) -> dict[str, Image.Image]:
        """The pictures by the first word of the text before each: BASE, FIRST, SECOND."""
        labels = [
            part["text"].replace(":", " ").split()[0]
            for part in self.parts[:-1]
            if part["type"] == "text"
        ][1:]
        urls = [part["image_url"]["url"] for part in self.parts if part["type"] == "image_url"]
        return {
            label: Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
            for label, url in zip(labels, urls, strict=True)
        }


@dataclass(frozen=True)
class Reply:
    """What goes back: a completion with this content, or what ``status``, ``body`` and the faults make of it."""

    content: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None  # in place of a completion
    delay_s: float = 0.0
    close: bool = False  # the connection, without a word
    cut: bool = False  # the connection, in the middle of the body
    drip_s: float = 0.0  # a byte now and then, for so long
    tokens: Any = 7
    finish: str | None = "stop"
    message: dict[str, Any] = field(default_factory=dict)  # more fields of the message, or others
    refusal: str | None = None
    top: dict[str, float] | None = None  # log-probabilities of candidates for the first token


def verdict(preferred: str, reason: str = "as scripted") -> str:
    """A reply in the judge's own form."""
    finding = {"criterion": 1, "first": "seen in the first", "second": "seen in the second"}
    return json.dumps({"findings": [finding], "reason": reason, "preferred": preferred})


def error(status: int, message: str = "scripted", **headers: str) -> Reply:
    """An error as such servers report it; ``Retry_After="0"`` becomes the header Retry-After."""
    body = json.dumps({"error": {"message": message, "type": "error", "code": status}}).encode()
    return Reply(
        status=status,
        body=body,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


CLOSED = Reply(close=True)
HANG = Reply(delay_s=3600.0)


def brighter(request: Request) -> str:
    """The reply of a judge that prefers the brighter picture, whatever its place: it makes no mistake."""
    first, second = (
        ImageStat.Stat(request.pictures[name].convert("L")).mean for name in ("FIRST", "SECOND")
    )
    return verdict("tie" if first == second else "first" if first > second else "second")


def brighter_letter(request: Request) -> Reply:
    """The reply of a judge by letters: log-odds by brightness, and a liking of 3 for whatever is shown first."""
    a, b = (ImageStat.Stat(request.pictures[name].convert("L")).mean[0] for name in "AB")
    odds = (a - b) / 100 + 3
    return Reply(
        "A",
        top={
            "A": -math.log1p(math.exp(-odds)) - 0.1,
            " B": -math.log1p(math.exp(odds)) - 0.1,
            "The": -2.4,
        },
    )


Answer = Callable[[Request], Reply | str] | Sequence[Reply | str]
Refusal = Callable[[dict[str, Any]], str | None]


def vllm(body: dict[str, Any]) -> str | None:
    """vLLM takes every field that we send, up to --max-logprobs candidates."""
    if body.get("top_logprobs", 0) > 20:
        return f"Requested sample logprobs of {body['top_logprobs']}, which is greater than max allowed: 20"
    return None


def reasoning(body: dict[str, Any]) -> str | None:
    """OpenAI's reasoning models: their words for each field that they do not take, and strict schemas."""
    if "max_tokens" in body:
        return (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
            "instead."
        )
    if body.get("temperature", 1) != 1:
        return "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) is supported."
    if "logprobs" in body:
        return "You are not allowed to request logprobs from this model"
    return strict(body.get("response_format", {}).get("json_schema", {}).get("schema", {}))


def json_mode_only(body: dict[str, Any]) -> str | None:
    """DeepSeek and others: JSON, without a schema."""
    known = body.get("response_format", {}).get("type") in (None, "text", "json_object")
    return None if known else "This response_format type is unavailable now"


def strict(schema: dict[str, Any]) -> str | None:
    """What OpenAI finds wrong with a strict schema: every object must name all of its properties and allow no others."""
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False or set(
            schema.get("required", ())
        ) != set(schema["properties"]):
            return f"Invalid schema for response_format 'reply': {sorted(schema['properties'])}"
        return next(filter(None, map(strict, schema["properties"].values())), None)
    return strict(schema["items"]) if schema.get("type") == "array" else None


class OpenAIServer:
    """The server, as a context manager. ``answer`` makes a reply of a request, or is replayed, its last item for ever.

    ``key`` is the one key that it takes (401), ``model`` the one model it knows (404), ``schema`` whether it knows
    response_format, ``refused`` the fields that it knows nothing of (400), ``refuses`` what it says against a body (400).
    """

    def __init__(
        self,
        answer: Answer = brighter,
        *,
        key: str | None = None,
        model: str | None = None,
        schema: bool = True,
        refused: Sequence[str] = (),
        refuses: Refusal = lambda body: None,
    ):
        self.key, self.model, self.refuses = key, model, refuses
        self.refused = {*refused, *([] if schema else ["response_format"])}
        self.requests: list[Request] = []
        self.in_flight = self.most_in_flight = 0
        self._answer, self._lock, self._ended = answer, threading.Lock(), threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def calls(self) -> int:
        return len(self.requests)

    def __enter__(self) -> OpenAIServer:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def reply(self, request: Request) -> Reply:
        """The reply to a request, which is kept and counted."""
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
        if request.path != "/v1/chat/completions":
            return error(404, f"no such route: {request.path}")
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return error(401, f"Incorrect API key provided: {request.headers.get('Authorization')}")
        if self.model is not None and request.body["model"] != self.model:
            return error(404, f"The model {request.body['model']} does not exist")
        if unknown := self.refused & set(request.body):
            return error(400, f"Unsupported parameter: {sorted(unknown)[0]}")
        if refusal := self.refuses(request.body):
            return error(400, refusal)
        said = (
            self._answer(request)
            if callable(self._answer)
            else self._answer[min(number, len(self._answer) - 1)]
        )
        return said if isinstance(said, Reply) else Reply(said)

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def pause(self, seconds: float) -> None:
        """Waits, unless the server ends before."""
        self._ended.wait(seconds)

    def entered(self, step: int) -> None:
        with self._lock:
            self.in_flight += step
            self.most_in_flight = max(self.most_in_flight, self.in_flight)


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close, request_queue_size = True, False, 256

    def handle_error(self, request, client_address) -> None:
        """A client that went away is what some tests are about."""


def _handler(server: OpenAIServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

        def do_POST(self) -> None:
            server.entered(1)
            try:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                headers = {name.title(): value for name, value in self.headers.items()}
                reply = server.reply(Request(self.path, headers, body))
                if reply.delay_s:
                    server.pause(reply.delay_s)
            finally:
                server.entered(-1)
            if reply.close or server.ended:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self._send(reply, _completion(reply) if reply.body is None else reply.body)

        def _send(self, reply: Reply, payload: bytes) -> None:
            self.send_response(reply.status)
            length = len(payload) + 100_000 * (reply.drip_s > 0)
            headers = {
                "Content-Type": "application/json",
                "Content-Length": str(length),
                **reply.headers,
            }
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            end = time.monotonic() + reply.drip_s
            while time.monotonic() < end:
                self.wfile.write(b" ")  # JSON may begin with any number of these
                server.pause(0.05)
            self.close_connection = reply.cut or reply.drip_s > 0
            self.wfile.write(payload[: len(payload) // 2] if reply.cut else payload)

        def log_message(self, *_) -> None:
            """Says nothing."""

    return Handler


def _completion(reply: Reply) -> bytes:
    message = {"role": "assistant", "content": reply.content, "refusal": reply.refusal}
    message |= reply.message
    top = [
        {"token": token, "logprob": value, "bytes": list(token.encode())}
        for token, value in (reply.top or {}).items()
    ]
    log_probs = {"content": [{**top[0], "top_logprobs": top}]} if top else None
    return json.dumps(
        {
            "id": "scripted",
            "object": "chat.completion",
            "created": 0,
            "model": "scripted",
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "finish_reason": reply.finish,
                    "logprobs": log_probs,
                }
            ],
            "usage": {
                "prompt_tokens": reply.tokens,
                "completion_tokens": 0,
                "total_tokens": reply.tokens,
            },
        }
    ).encode()
