"""The client of every OpenAI-compatible server: vLLM, SGLang, Ollama, LM Studio, llama.cpp, hosted services."""
from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from .judge import Question
from .parsing import read_reply
from .prompts import SCHEMA, messages
from .verdict import JudgeError, Opinion


class OpenAIClient:
    """Asks one chat completion a question. A failed request becomes an opinion with a failure, never a preference."""

    def __init__(self, *, url: str, model: str, api_key: str, timeout_s: float = 60.0, retries: int = 3,
                 concurrency: int = 16, temperature: float = 0.0, max_tokens: int = 1024,
                 price_per_million_tokens: float = 0.0):
        from openai import AsyncOpenAI

        self.url, self.model, self.temperature, self.max_tokens = url, model, temperature, max_tokens
        self.price, self.timeout_s = price_per_million_tokens, timeout_s
        self.identity = f"openai:{model}:temperature={temperature}:max_tokens={max_tokens}"
        self._client = AsyncOpenAI(base_url=url, api_key=api_key, timeout=timeout_s, max_retries=retries)
        self._free = asyncio.Semaphore(concurrency)
        self._structured = True

    async def close(self) -> None:
        await self._client.close()

    async def ask(self, questions: Sequence[Question]) -> list[Opinion]:
        return await asyncio.gather(*(self._ask(question) for question in questions))

    async def _ask(self, question: Question) -> Opinion:
        import openai

        async with self._free:
            start = time.monotonic()
            try:
                response = await self._complete(messages(question))
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise JudgeError(f"the judge at {self.url} refuses the key (HTTP {error.status_code}); set the environment "
                                 "variable that the profile names") from error
            except openai.NotFoundError as error:
                raise JudgeError(f"the judge at {self.url} knows no model {self.model!r} (HTTP 404); correct the profile's "
                                 "model or url") from error
            except openai.APITimeoutError:
                return Opinion(None, failure=f"no reply within {self.timeout_s:g} s", latency_s=time.monotonic() - start)
            except openai.APIStatusError as error:
                return Opinion(None, failure=f"HTTP {error.status_code}", latency_s=time.monotonic() - start)
            except openai.APIError as error:  # connection refused or closed, a reply that is no completion
                return Opinion(None, failure=f"{type(error).__name__}: {error}"[:200], latency_s=time.monotonic() - start)
        return self._read(response, time.monotonic() - start)

    async def _complete(self, chat: list[dict]):
        import openai

        request = dict(model=self.model, messages=chat, temperature=self.temperature, max_tokens=self.max_tokens)
        if self._structured:
            form = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA}}
            try:
                return await self._client.chat.completions.create(**request, response_format=form)
            except openai.BadRequestError:
                self._structured = False  # an older server: ask without a schema from now on
        return await self._client.chat.completions.create(**request)

    def _read(self, response, latency_s: float) -> Opinion:
        from dataclasses import replace

        choices = getattr(response, "choices", None)
        message = choices[0].message if choices else None
        opinion = read_reply(message.content if message is not None else None)
        usage = getattr(response, "usage", None)
        tokens = (usage.total_tokens or 0) if usage is not None else 0
        return replace(opinion, tokens=tokens, cost=tokens * self.price / 1e6, latency_s=latency_s)
