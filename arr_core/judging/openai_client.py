"""The chat of every OpenAI-compatible server: vLLM, SGLang, Ollama, LM Studio, llama.cpp, hosted services."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import random
import re
import socket
import time
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from .chat import Chat, Messages, Reply, RequestLimits, RequestOptions, merge_log_probs
from .fallback import RequestFields
from .outage import Outage, Patience
from .pictures import EncodedImages, json_body
from .server_errors import Fault, ServerError, fatal_reason, retry_after
from .verdict import JudgeError

if TYPE_CHECKING:
    from .profiles import Profile

FIRST_PAUSE_S, LONGEST_BACKOFF_S = 0.5, 8.0  # between the attempts of one request
LONGEST_PAUSE_S = 120.0  # the longest Retry-After that is obeyed
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

    No host but the profile's own is ever asked: a redirect is refused. Requests in flight have one connection each, and as
    many more have their pictures encoded meanwhile. Retries and waits are ours, not the openai package's, so that one
    attempt ends at its time-out, however a server drips.

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
        if profile.retries is not None:
            self.limits = replace(self.limits, retries=profile.retries)
        self.url, self.model = _without_secrets(profile.url), profile.model
        self.identity = f"openai:{self.model}:{profile.reply_settings}"
        if name:
            self.identity += f":profile={name}"
        if extra := profile.extra_fields:
            self.identity += f":extra={hashlib.sha256(json.dumps(extra, sort_keys=True).encode()).hexdigest()[:8]}"
        concurrency = self.limits.concurrency
        count = math.ceil(concurrency / CONNECTIONS)
        self._pools = [
            _Pool(profile.url, api_key, (concurrency + at) // count) for at in range(count)
        ]
        self._key = api_key
        self._images = EncodedImages(profile.max_side, compress=not is_loopback(profile.url))
        self._ready = asyncio.Semaphore(2 * concurrency)
        self._free = asyncio.Semaphore(concurrency)
        self._next_start = 0.0
        self._patience = Patience(self.limits.outage_hours)
        self._reached, self._fatal, self._gave_log_probs = False, "", False
        # The last request that was answered, and when: an outage is over when it is answered again.
        self._answered: tuple[dict[str, Any], RequestOptions] | None = None
        self._answered_at = -math.inf
        # By kind of request: the fields that the server takes, and fields that it took once, after refusals that did
        # not say why.
        self._fields: dict[str, RequestFields] = {}
        self._guesses: dict[str, RequestFields] = {}

    @property
    def outage(self) -> Outage | None:
        return self._patience.outage

    async def close(self) -> None:
        for pool in self._pools:
            await pool.client.close()

    async def complete(self, messages: Messages, options: RequestOptions | None = None) -> Reply:
        options = (options or RequestOptions()).filled(self.profile)
        async with self._ready:
            self._stop_if_fatal()
            content = [await self._message(message) for message in messages]
            body = {"model": self.model, **self.profile.extra_fields, "messages": content}
            try:
                return await self._reply(body, options)
            except JudgeError as error:
                self._fatal = str(error)  # requests that wait need not hear it from the server
                raise

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
        """The reply after as many attempts as it may take. Faults of the server and the network are failures.

        A judge that answered before and now answers nobody is waited for, if the limits allow it. Where others are
        answered meanwhile, or were after the wait, it is this question that fails.
        """
        attempts, first_fault = 0, math.inf
        while True:
            await self._patience.join()
            try:
                return await self._attempt(body, options)
            except Fault as fault:
                first_fault, attempts = min(first_fault, time.monotonic()), attempts + 1
                waits = self._answered is not None and self.limits.outage_hours > 0
                if fault.passes and attempts <= self.limits.retries:
                    backoff = min(FIRST_PAUSE_S * 2 ** (attempts - 1), LONGEST_BACKOFF_S)
                    after_s = min(fault.after_s, LONGEST_PAUSE_S)
                    await asyncio.sleep(max(after_s, backoff * random.uniform(0.75, 1)))
                elif fault.passes and waits and self._answered_at < first_fault:
                    await self._patience.wait(str(fault), self._ask_again)
                    first_fault = -math.inf
                elif fault.fatal and not waits:
                    raise JudgeError(fault.fatal) from None
                else:
                    return Reply(failure=str(fault))

    async def _ask_again(self) -> None:
        """Asks what was answered before. Raises Fault."""
        if self._answered is not None:
            await self._attempt(*self._answered)

    async def _attempt(self, body: dict[str, Any], options: RequestOptions) -> Reply:
        """The reply to one attempt. Raises Fault."""
        import openai

        try:
            content, latency_s = await self._ask(body, options)
        except (openai.APITimeoutError, asyncio.TimeoutError):
            raise Fault(f"no reply within {self.limits.timeout_s:g} s") from None
        except openai.APIConnectionError as error:
            nobody = not self._reached and type(error.__cause__).__name__ == "ConnectError"
            advice = (
                f"no judge answers at {self.url}; start the server, or correct the profile's url"
            )
            fault = Fault("the connection was closed or refused", fatal=advice if nobody else "")
            raise fault from error
        except openai.APIStatusError as error:
            self._reached = True
            raise self._fault(error, options) from None
        except (openai.APIError, ValueError, RecursionError) as error:  # a body that is no JSON
            raise Fault(f"a reply that is no chat completion ({type(error).__name__})") from None
        self._reached = True
        reply = replace(self._read(content, options), latency_s=latency_s)
        if options.log_probs and not reply.failure and not reply.log_probs:
            advice = f"the judge at {self.url} gives no log-probabilities; set the profile's mode to reasons"
            if not self._gave_log_probs:
                raise Fault("no log-probabilities", fatal=advice, passes=False)
            return replace(reply, text="", failure="a reply without log-probabilities")
        self._gave_log_probs |= bool(reply.log_probs)
        if not reply.failure:
            self._answered, self._answered_at = (body, options), time.monotonic()
        return reply

    async def _ask(self, body: dict[str, Any], options: RequestOptions) -> tuple[Any, float]:
        """The completion with the first fields that the server takes, and its latency; later requests begin with them.

        A refusal that names no field may be about this one question. What it led to is therefore kept only when it
        helped twice running; and where fields are known, only a refusal that names one of them leads to others.
        """
        import openai

        known = self._fields.get(options.kind)
        fields, guessed = known or RequestFields(), False
        while True:
            try:
                answer = await self._post({**body, **fields.body(options)})
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
                return answer

    async def _post(self, body: dict[str, Any]) -> tuple[Any, float]:
        """The completion as plain JSON (the package's typed one would be made of whatever comes), and its latency."""
        async with self._free:
            self._stop_if_fatal()
            await self._keep_pace()
            pool = min(self._pools, key=lambda pool: pool.busy / pool.connections)
            start = time.monotonic()
            content = json_body(body)
            request = pool.client.post("/chat/completions", cast_to=object, content=content)
            pool.busy += 1
            try:
                completion = await asyncio.wait_for(request, self.limits.timeout_s)
            finally:
                pool.busy -= 1
            return completion, time.monotonic() - start

    async def _keep_pace(self) -> None:
        """Wait until another request is within the profile's requests a minute."""
        if self.profile.requests_per_minute:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + 60 / self.profile.requests_per_minute
            await asyncio.sleep(start - now)

    def _server_error(self, error) -> ServerError:
        return ServerError(
            error.status_code,
            self._safe(error.message),
            str(error.code or error.type or ""),
            _without_secrets(error.response.headers.get("location", "")),
        )

    def _fault(self, error, options: RequestOptions) -> Fault:
        """What a response with the status of an error means: nearly any may pass where the judge answered before."""
        said, answered = self._server_error(error), self._answered is not None
        fatal = fatal_reason(
            said, url=self.url, model=self.model, answered=answered, log_probs=options.log_probs
        )
        return Fault(
            f"HTTP {said.status}: {said.message}",
            fatal=fatal,
            passes=said.busy and not fatal or answered and (bool(fatal) or said.status == 403),
            after_s=retry_after(error.response.headers.get("retry-after", "")),
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
    """A client of the openai package with ``connections`` of its own; ``busy`` requests hold one."""

    def __init__(self, url: str, api_key: str, connections: int):
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
            max_retries=0,
            timeout=None,
            http_client=make(
                auth=user if any(user) else None,
                follow_redirects=False,
                # A proxy of the environment would see the key, and cannot reach this machine anyway.
                mounts=dict.fromkeys(["all://", "http://", "https://"])
                if is_loopback(url)
                else None,
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
    host = (urlsplit(url).hostname or "").rstrip(".")
    name = socket.gethostname().lower()
    own = {"localhost", "::1", "0.0.0.0", name, name.partition(".")[0]}
    return host in own or bool(re.fullmatch(r".+\.localhost|127(\.\d+){3}", host))
