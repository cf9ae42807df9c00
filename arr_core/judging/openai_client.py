"""The chat of every OpenAI-compatible server: vLLM, SGLang, Ollama, LM Studio, llama.cpp, hosted services."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from .chat import Reply, together
from .forms import Form, Wishes
from .pictures import Pictures
from .refusals import Refusal, advice
from .verdict import JudgeError

LONGEST_PAUSE_S = 120.0  # the longest Retry-After that the openai package obeys
CONNECTIONS = (
    8  # of one pool, at most: for every request a pool looks at every connection of its own
)
NO_KEY = "none"  # what is sent to a server that needs none


class OpenAIChat:
    """Completions of one model. A request that fails is a reply with a failure; one that can never succeed raises.

    url: base URL with /v1. No other host is ever asked: a redirect is refused.
    timeout_s: for one attempt; ``retries`` follow it, later and later, or when a server's Retry-After says.
    concurrency: requests in flight, one a connection. A quarter more are made ready to take the next free one, and as many
        again have their pictures encoded meanwhile. A reply's latency counts from when its request was made ready.
    extra: fields of the request's body beyond those of the protocol.
    name: of the profile. Many servers call whatever they serve by one name ("default"), and their verdicts must not be mixed;
        a server that moves keeps its profile, and its verdicts.
    """

    def __init__(
        self,
        *,
        url: str,
        model: str,
        api_key: str = NO_KEY,
        timeout_s: float = 60.0,
        retries: int = 3,
        concurrency: int = 16,
        temperature: float = 0.0,
        max_tokens: int = 1024,
        max_side: int = 1024,
        price: float = 0.0,
        reply_price: float | None = None,
        extra: dict[str, Any] | None = None,
        name: str = "",
    ):
        self.url, self.model = _without_secrets(url), model
        self.temperature, self.max_tokens, self.timeout_s = temperature, max_tokens, timeout_s
        self.price, self.reply_price = price, price if reply_price is None else reply_price
        self.extra = extra or {}
        self.identity = (
            f"openai:{model}:temperature={temperature}:max_tokens={max_tokens}:max_side={max_side}"
        )
        if name:
            self.identity += f":profile={name}"
        if self.extra:
            self.identity += f":extra={hashlib.sha256(json.dumps(self.extra, sort_keys=True).encode()).hexdigest()[:8]}"
        count = math.ceil(concurrency / CONNECTIONS)
        self._pools = [
            _Pool(url, api_key, (concurrency + at) // count, timeout_s, retries)
            for at in range(count)
        ]
        self._key, self._pictures = api_key, Pictures(max_side)
        self._free = asyncio.Semaphore(concurrency + concurrency // 4)
        self._ready = asyncio.Semaphore(2 * (concurrency + concurrency // 4))
        self._reached, self._answered, self._fatal, self._gave_log_probs = False, False, None, False
        # Every attempt has its own time-out; this one ends a server that goes on sending a little now and then. Waiting for
        # a connection counts, too, so that it leaves every attempt the time of another's that is there before it.
        self._limit_s = 2 * (retries + 1) * timeout_s + retries * LONGEST_PAUSE_S
        self._forms: dict[
            str, Form
        ] = {}  # by kind of request: the form in which the server takes it
        self._guesses: dict[
            str, Form
        ] = {}  # and one that it took once, after refusals that did not say why

    async def close(self) -> None:
        for pool in self._pools:
            await pool.client.close()

    async def complete(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        schema: dict[str, Any] | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        max_tokens: int | None = None,
        log_probs: bool = False,
    ) -> Reply:
        """The reply, as ``Chat`` says."""
        body = {"model": self.model, **self.extra}
        wishes = Wishes(
            self.temperature if temperature is None else temperature,
            1 if log_probs else max_tokens or self.max_tokens,
            schema,
            seed,
            log_probs,
        )
        async with self._ready:
            self._stop_if_fatal()
            body["messages"] = [await self._message(message) for message in messages]
            async with self._free:
                self._stop_if_fatal()
                start = time.monotonic()
                try:
                    reply = await self._reply(body, wishes)
                except JudgeError as error:
                    self._fatal = str(
                        error
                    )  # what waits need not hear the same from the server once more
                    raise
        return replace(reply, latency_s=time.monotonic() - start)

    async def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        if isinstance(message["content"], str):
            return message
        return {
            **message,
            "content": [
                {
                    "type": "image_url",
                    "image_url": {
                        "url": await self._pictures.uri(part["image"], part.get("digest"))
                    },
                }
                if part["type"] == "image"
                else part
                for part in message["content"]
            ],
        }

    async def _reply(self, body: dict[str, Any], wishes: Wishes) -> Reply:
        """What became of the request; faults of the server and the network are failures, most of its refusals too."""
        import openai

        try:
            content = await self._ask(body, wishes)
        except (openai.APITimeoutError, asyncio.TimeoutError):
            return Reply(failure=f"no reply within {self.timeout_s:g} s")
        except openai.APIConnectionError as error:
            if not self._reached and type(error.__cause__).__name__ == "ConnectError":
                raise JudgeError(
                    f"no judge answers at {self.url}; start the server, or correct the profile's url"
                ) from error
            return Reply(failure="the connection was closed or refused")
        except openai.APIStatusError as error:
            self._reached, refusal = True, self._refusal(error)
            if final := advice(
                refusal,
                url=self.url,
                model=self.model,
                answered=self._answered,
                log_probs=wishes.log_probs,
            ):
                raise JudgeError(final) from None
            return Reply(failure=f"HTTP {refusal.status}: {refusal.said}"[:200])
        except (openai.APIError, ValueError, RecursionError) as error:  # a body that is no JSON
            return Reply(failure=f"a reply that is no chat completion ({type(error).__name__})")
        self._reached = True
        reply = self._read(content, wishes)
        self._answered |= not reply.failure
        if wishes.log_probs and not reply.failure and not reply.log_probs:
            if not self._gave_log_probs:
                raise JudgeError(
                    f"the judge at {self.url} gives no log-probabilities; set the profile's mode to reasons"
                )
            return Reply(
                failure="a reply without log-probabilities", tokens=reply.tokens, cost=reply.cost
            )
        self._gave_log_probs |= bool(reply.log_probs)
        return reply

    async def _ask(self, body: dict[str, Any], wishes: Wishes) -> Any:
        """The completion in the first form that the server takes; it is asked in that form from then on.

        A refusal that names no field may be about this one question: what it led to is kept when it helped twice running, and
        where a form is known, only a refusal that names a field leads to another.
        """
        import openai

        known = self._forms.get(wishes.kind)
        form, guessed = known or Form(), False
        while True:
            try:
                content = await asyncio.wait_for(
                    self._post({**body, **form.fields(wishes)}), self._limit_s
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                weaker, named = form.weaker(wishes, error.message)
                if weaker is None or self._refusal(error).of_images or (known and not named):
                    raise
                form, guessed = weaker, guessed or not named
            else:
                if not guessed or self._guesses.get(wishes.kind) == form:
                    self._forms.setdefault(
                        wishes.kind, form
                    )  # one refused question must not weaken what others are asked in
                self._guesses[wishes.kind] = form
                return content

    async def _post(self, body: dict[str, Any]) -> Any:
        """What the server completes; plain JSON, checked where it is read: the typed one would be made of whatever comes."""
        pool = min(self._pools, key=lambda pool: pool.busy / pool.connections)
        pool.busy += 1
        try:
            return await pool.client.post("/chat/completions", cast_to=object, body=body)
        finally:
            pool.busy -= 1

    def _refusal(self, error) -> Refusal:
        return Refusal(
            error.status_code,
            self._safe(error.message),
            str(error.code or error.type or ""),
            _without_secrets(error.response.headers.get("location", "")),
        )

    def _read(self, content: Any, wishes: Wishes) -> Reply:
        content = content if isinstance(content, dict) else {}
        tokens, cost = self._spent(content.get("usage"))
        choices = content.get("choices")
        choice = (
            choices[0]
            if isinstance(choices, list) and choices and isinstance(choices[0], dict)
            else None
        )
        message = choice.get("message") if choice else None
        if not isinstance(message, dict):
            fault = content.get("error") or (choice or {}).get("error")
            said = fault.get("message") if isinstance(fault, dict) else fault
            failure = (
                f"the server says: {said}"
                if isinstance(said, str)
                else "a reply that is no chat completion"
            )
            return Reply(failure=self._safe(failure)[:200], tokens=tokens, cost=cost)
        if isinstance(message.get("refusal"), str) and message["refusal"]:
            return Reply(
                failure=self._safe(f"refused: {message['refusal']}")[:200], tokens=tokens, cost=cost
            )
        if choice.get("finish_reason") == "content_filter":
            return Reply(
                failure="refused: the server's filter stopped the reply", tokens=tokens, cost=cost
            )
        return Reply(
            self._safe(_text(message, choice.get("finish_reason"))),
            tokens=tokens,
            cost=cost,
            cut=choice.get("finish_reason") == "length",
            log_probs=first_token(choice.get("logprobs")) if wishes.log_probs else {},
        )

    def _spent(self, usage: Any) -> tuple[int, float]:
        usage = usage if isinstance(usage, dict) else {}
        asked, replied, total = (
            value if type(value := usage.get(name)) is int and value >= 0 else 0
            for name in ("prompt_tokens", "completion_tokens", "total_tokens")
        )
        total = max(total, asked + replied)
        return total, ((total - replied) * self.price + replied * self.reply_price) / 1e6

    def _stop_if_fatal(self) -> None:
        if self._fatal:
            raise JudgeError(self._fatal)

    def _safe(self, text: str) -> str:
        """The text without the key, should a server repeat it."""
        return text if self._key == NO_KEY else text.replace(self._key, "[key]")


class _Pool:
    """A client of the openai package with ``connections`` of its own; ``busy`` requests hold one or wait for one."""

    def __init__(self, url: str, api_key: str, connections: int, timeout_s: float, retries: int):
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
            max_retries=retries,
            timeout=http.Timeout(timeout_s, pool=None),
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


def _text(message: dict[str, Any], finish_reason: Any) -> str:
    """What a message says: a text, or its parts. vLLM's reasoning parsers may file a whole reply under thoughts: an object
    that stands there alone is one."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(
            part["text"]
            for part in content
            if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    if isinstance(content, str) and content:
        return content
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    whole = (
        isinstance(thoughts, str) and finish_reason == "stop" and thoughts.strip().startswith("{")
    )
    return thoughts if whole else ""


def first_token(log_probs: Any) -> dict[str, float]:
    """The first token's candidates in a choice's ``logprobs``; tokens that read the same are taken together."""
    try:
        listed = [
            (item["token"], float(item["logprob"]))
            for item in log_probs["content"][0]["top_logprobs"]
        ]
    except (TypeError, KeyError, IndexError, ValueError, AttributeError):
        return {}
    return together(listed)


def _without_secrets(url: str) -> str:
    """The URL as it may be shown: no user, password or query."""
    parts = urlsplit(url)
    return parts._replace(netloc=_host(parts), query="", fragment="").geturl()


def _host(parts: SplitResult) -> str:
    """The host, with its port and without a user."""
    return parts.netloc.rpartition("@")[2]
