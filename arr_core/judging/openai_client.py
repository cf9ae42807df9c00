"""The chat of every OpenAI-compatible server: vLLM, SGLang, Ollama, LM Studio, llama.cpp, hosted services."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import re
import time
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from .chat import Chat, Messages, Reply, RequestLimits, RequestOptions, merge_log_probs
from .fallback import RequestFields
from .pictures import EncodedImages, json_body
from .server_errors import ServerError, fatal_reason
from .verdict import JudgeError

if TYPE_CHECKING:
    from .profiles import Profile

LONGEST_PAUSE_S = 120.0  # the longest Retry-After that the openai package obeys
CONNECTIONS = 8  # of one pool, at most: for every request a pool looks at each of its connections
WHOLE = {
    "stop",
    "eos",
    "end_turn",
    "stop_sequence",
    "tool_calls",
    "tool_use",
    "function_call",
    "complete",
}
NO_KEY = "none"  # what is sent to a server that needs none


class OpenAIChat(Chat):
    """Completions of one model. A request that fails is a reply with a failure; one that can never succeed raises.

    No host but the profile's own is ever asked: a redirect is refused. Requests in flight have one connection each. A
    quarter more are made ready to take the next free one, and as many again have their pictures encoded meanwhile. A
    reply's latency counts from when its request was made ready.

    name: of the profile. Many servers call whatever they serve by one name ("default"), and their verdicts must not be mixed;
        a server that moves keeps its profile, and its verdicts.
    """

    def __init__(
        self,
        profile: Profile,
        limits: RequestLimits | None = None,
        *,
        api_key: str = NO_KEY,
        name: str = "",
    ):
        self.profile, self.limits = profile, limits or RequestLimits()
        self.url, self.model = _without_secrets(profile.url), profile.model
        template = {"chat_template_kwargs": profile.chat_template} if profile.chat_template else {}
        self.extra = {**template, **profile.extra}
        self.identity = f"openai:{self.model}:{profile.reply_settings}"
        if name:
            self.identity += f":profile={name}"
        if self.extra:
            self.identity += f":extra={hashlib.sha256(json.dumps(self.extra, sort_keys=True).encode()).hexdigest()[:8]}"
        concurrency, retries = self.limits.concurrency, self.limits.retries
        count = math.ceil(concurrency / CONNECTIONS)
        self._pools = [
            _Pool(profile.url, api_key, (concurrency + at) // count, self.limits)
            for at in range(count)
        ]
        self._key = api_key
        self._images = EncodedImages(profile.max_side, compress=not is_loopback(profile.url))
        self._free = asyncio.Semaphore(concurrency + concurrency // 4)
        self._ready = asyncio.Semaphore(2 * (concurrency + concurrency // 4))
        self._reached, self._answered, self._fatal, self._gave_log_probs = False, False, "", False
        # Every attempt has its own time-out; this one ends a server that goes on sending a little now and then. Waiting for
        # a connection counts, too, so that it leaves every attempt the time of another's that is there before it.
        self._limit_s = 2 * (retries + 1) * self.limits.timeout_s + retries * LONGEST_PAUSE_S
        # By kind of request: the fields that the server takes, and fields that it took once, after refusals that did
        # not say why.
        self._fields: dict[str, RequestFields] = {}
        self._guesses: dict[str, RequestFields] = {}

    async def close(self) -> None:
        for pool in self._pools:
            await pool.client.close()

    async def complete(self, messages: Messages, options: RequestOptions | None = None) -> Reply:
        options = (options or RequestOptions()).filled(self.profile)
        async with self._ready:
            self._stop_if_fatal()
            content = [await self._message(message) for message in messages]
            body = {"model": self.model, **self.extra, "messages": content}
            async with self._free:
                self._stop_if_fatal()
                start = time.monotonic()
                try:
                    reply = await self._reply(body, options)
                except JudgeError as error:
                    self._fatal = str(error)  # requests that wait need not hear it from the server
                    raise
        return replace(reply, latency_s=time.monotonic() - start)

    async def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        if isinstance(message["content"], str):
            return message
        parts = []
        for part in message["content"]:
            if part["type"] == "image":
                uri = await self._images.uri(part["image"], part.get("hash"))
                part = {"type": "image_url", "image_url": {"url": uri}}
            parts.append(part)
        return {**message, "content": parts}

    async def _reply(self, body: dict[str, Any], options: RequestOptions) -> Reply:
        """The reply; faults of the server and the network are failures, and most of its refusals too."""
        import openai

        try:
            content = await self._ask(body, options)
        except (openai.APITimeoutError, asyncio.TimeoutError):
            return Reply(failure=f"no reply within {self.limits.timeout_s:g} s")
        except openai.APIConnectionError as error:
            if not self._reached and type(error.__cause__).__name__ == "ConnectError":
                raise JudgeError(
                    f"no judge answers at {self.url}; start the server, or correct the profile's url"
                ) from error
            return Reply(failure="the connection was closed or refused")
        except openai.APIStatusError as error:
            self._reached, fault = True, self._server_error(error)
            if fatal := fatal_reason(
                fault,
                url=self.url,
                model=self.model,
                answered=self._answered,
                log_probs=options.log_probs,
            ):
                raise JudgeError(fatal) from None
            return Reply(failure=f"HTTP {fault.status}: {fault.message}"[:200])
        except (openai.APIError, ValueError, RecursionError) as error:  # a body that is no JSON
            return Reply(failure=f"a reply that is no chat completion ({type(error).__name__})")
        self._reached = True
        reply = self._read(content, options)
        self._answered |= not reply.failure
        if options.log_probs and not reply.failure and not reply.log_probs:
            if not self._gave_log_probs:
                raise JudgeError(
                    f"the judge at {self.url} gives no log-probabilities; set the profile's mode to reasons"
                )
            failure = "a reply without log-probabilities"
            return Reply(failure=failure, tokens=reply.tokens, cost=reply.cost)
        self._gave_log_probs |= bool(reply.log_probs)
        return reply

    async def _ask(self, body: dict[str, Any], options: RequestOptions) -> Any:
        """The completion with the first fields that the server takes; later requests of this kind begin with them.

        A refusal that names no field may be about this one question. What it led to is therefore kept only when it
        helped twice running; and where fields are known, only a refusal that names one of them leads to others.
        """
        import openai

        known = self._fields.get(options.kind)
        fields, guessed = known or RequestFields(), False
        while True:
            request = self._post({**body, **fields.body(options)})
            try:
                content = await asyncio.wait_for(request, self._limit_s)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                weaker, named = fields.fallback(options, error.message)
                of_images = self._server_error(error).of_images
                if weaker is None or of_images or (known and not named):
                    raise
                fields, guessed = weaker, guessed or not named
            else:
                if not guessed or self._guesses.get(options.kind) == fields:
                    # setdefault: one refused question must not weaken the others' requests
                    self._fields.setdefault(options.kind, fields)
                self._guesses[options.kind] = fields
                return content

    async def _post(self, body: dict[str, Any]) -> Any:
        """The completion as plain JSON: the package's typed one would be made of whatever comes."""
        pool = min(self._pools, key=lambda pool: pool.busy / pool.connections)
        pool.busy += 1
        try:
            return await pool.client.post(
                "/chat/completions", cast_to=object, content=json_body(body)
            )
        finally:
            pool.busy -= 1

    def _server_error(self, error) -> ServerError:
        return ServerError(
            error.status_code,
            self._safe(error.message),
            str(error.code or error.type or ""),
            _without_secrets(error.response.headers.get("location", "")),
        )

    def _read(self, content: Any, options: RequestOptions) -> Reply:
        """The reply in a completion, whatever came in its place."""
        content = _object(content)
        tokens, cost = self._spent(_object(content.get("usage")))
        choices = content.get("choices")
        choice = _object(choices[0]) if isinstance(choices, list) and choices else {}
        message, finish = choice.get("message"), choice.get("finish_reason")
        failure = ""
        if not isinstance(message, dict):
            fault = content.get("error") or choice.get("error")
            said = _object(fault).get("message", fault)
            failure = "a reply that is no chat completion"
            if isinstance(said, str):
                failure = f"the server says: {said}"
        elif isinstance(message.get("refusal"), str) and message["refusal"]:
            failure = f"refused: {message['refusal']}"
        elif finish == "content_filter":
            failure = "refused: the server's filter stopped the reply"
        if failure:
            return Reply(failure=self._safe(failure)[:200], tokens=tokens, cost=cost)
        return Reply(
            self._safe(_text(_object(message), finish)),
            tokens=tokens,
            cost=cost,
            cut=str(finish).lower() not in WHOLE,
            log_probs=first_token(choice.get("logprobs")) if options.log_probs else {},
        )

    def _spent(self, usage: dict[str, Any]) -> tuple[int, float]:
        asked, replied, total = (
            value if type(value := usage.get(name)) is int and value >= 0 else 0
            for name in ("prompt_tokens", "completion_tokens", "total_tokens")
        )
        total = max(total, asked + replied)
        price = self.profile.price_per_million_tokens
        reply_price = self.profile.price_per_million_reply_tokens
        reply_price = price if reply_price is None else reply_price
        return total, ((total - replied) * price + replied * reply_price) / 1e6

    def _stop_if_fatal(self) -> None:
        if self._fatal:
            raise JudgeError(self._fatal)

    def _safe(self, text: str) -> str:
        """The text without the key, should a server repeat it."""
        return text if self._key == NO_KEY else text.replace(self._key, "[key]")


class _Pool:
    """A client of the openai package with ``connections`` of its own; ``busy`` requests hold one or wait for one."""

    def __init__(self, url: str, api_key: str, connections: int, limits: RequestLimits):
        import openai

        newer = getattr(openai, "DefaultAsyncHttpx2Client", None)
        http, make = (
            (import_module("httpx2"), newer)
            if newer
            else (import_module("httpx"), openai.DefaultAsyncHttpxClient)
        )
        # It tells every request's URL, with the query in it, at a level that ComfyUI's log shows.
        log = logging.getLogger(http.__name__)
        log.setLevel(max(log.level, logging.WARNING))
        self.connections, self.busy = connections, 0
        parts = urlsplit(url)
        user = (unquote(parts.username or ""), unquote(parts.password or ""))
        self.client = openai.AsyncOpenAI(
            base_url=parts._replace(netloc=_host(parts)).geturl(),
            api_key=api_key,
            max_retries=limits.retries,
            timeout=http.Timeout(limits.timeout_s, pool=None),
            http_client=make(
                auth=user if any(user) else None,
                follow_redirects=False,
                limits=http.Limits(
                    max_connections=connections, max_keepalive_connections=connections
                ),
            ),
        )
        # The package takes these from OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS: another account's business.
        self.client.organization = self.client.project = None
        self.client._custom_headers = {}


def _object(value: Any) -> dict[str, Any]:
    """The value where it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def _text(message: dict[str, Any], finish_reason: Any) -> str:
    """What a message says: a text or its parts, and the arguments of the calls that it makes; no part of its thoughts.

    vLLM's reasoning parsers may file a whole reply under thoughts: an object that stands there alone is one.
    """
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    calls = message.get("tool_calls")
    said = [
        part.get("text")
        for part in map(_object, parts)
        if part.get("type", "text") in ("text", "output_text")
    ] + [
        _object(_object(call).get("function")).get("arguments")
        for call in (calls if isinstance(calls, list) else ())
    ]
    if text := "".join(part for part in said if isinstance(part, str)):
        return text
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thoughts, str) and finish_reason == "stop" and thoughts.strip().startswith("{"):
        return thoughts
    return ""


def first_token(log_probs: Any) -> dict[str, float]:
    """The first token's candidates in a choice's ``logprobs``; tokens that read the same are taken together."""
    try:
        listed = [
            (item["token"], float(item["logprob"]))
            for item in log_probs["content"][0]["top_logprobs"]
        ]
    except (TypeError, KeyError, IndexError, ValueError, AttributeError):
        return {}
    return merge_log_probs(listed)


def _without_secrets(url: str) -> str:
    """The URL as it may be shown: no user, password or query."""
    parts = urlsplit(url)
    return parts._replace(netloc=_host(parts), query="", fragment="").geturl()


def _host(parts: SplitResult) -> str:
    """The host, with its port and without a user."""
    return parts.netloc.rpartition("@")[2]


def is_loopback(url: str) -> bool:
    """Whether the URL is of this machine."""
    return bool(re.fullmatch(r"localhost|::1|127(\.\d+){3}", urlsplit(url).hostname or ""))
