"""The client of every OpenAI-compatible server: vLLM, SGLang, Ollama, LM Studio, llama.cpp, hosted services."""
from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from .judge import Question
from .parsing import read_reply
from .prompts import SCHEMA, messages
from .verdict import JudgeError, Opinion

LONGEST_PAUSE_S = 60.0  # the longest Retry-After that the openai package obeys
NO_KEY = "none"  # what is sent to a server that needs none


class OpenAIClient:
    """Asks one chat completion a question. A failed request becomes an opinion with a failure, never a preference."""

    def __init__(self, *, url: str, model: str, api_key: str = NO_KEY, timeout_s: float = 60.0, retries: int = 3,
                 concurrency: int = 16, temperature: float = 0.0, max_tokens: int = 1024,
                 price_per_million_tokens: float = 0.0):
        from openai import AsyncOpenAI

        self.url, self.model, self.max_tokens = _without_secrets(url), model, max_tokens
        self.price, self.timeout_s = price_per_million_tokens, timeout_s
        self.identity = f"openai:{model}:temperature={temperature}:max_tokens={max_tokens}"
        self._client = AsyncOpenAI(base_url=url, api_key=api_key, timeout=timeout_s, max_retries=retries)
        self._key = api_key
        self._free = asyncio.Semaphore(concurrency)
        self._reached = False
        # Every attempt has its own time-out; this one ends a server that goes on sending a little now and then.
        self._limit_s = (retries + 1) * timeout_s + retries * LONGEST_PAUSE_S
        schema = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA}}
        # From what is best to what some servers need: older ones know no schema, reasoning models no temperature.
        self._forms = [{"response_format": schema, "temperature": temperature, "max_tokens": max_tokens},
                       {"temperature": temperature, "max_tokens": max_tokens},
                       {"response_format": schema, "max_completion_tokens": max_tokens}]

    async def close(self) -> None:
        await self._client.close()

    async def ask(self, questions: Sequence[Question]) -> list[Opinion]:
        return await asyncio.gather(*(self._ask(question) for question in questions))

    async def _ask(self, question: Question) -> Opinion:
        async with self._free:
            chat = await asyncio.to_thread(messages, question)
            start = time.monotonic()
            opinion = await self._answer(chat)
        return replace(opinion, latency_s=time.monotonic() - start)

    async def _answer(self, chat: list[dict]) -> Opinion:
        import openai

        try:
            response = await asyncio.wait_for(self._complete(chat), self._limit_s)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise JudgeError(f"the judge at {self.url} refuses the key (HTTP {error.status_code}); set the environment "
                             "variable that the profile names") from error
        except openai.NotFoundError as error:
            raise JudgeError(f"the judge at {self.url} knows no model {self.model!r} (HTTP 404); correct the profile's "
                             "model or url") from error
        except (openai.APITimeoutError, asyncio.TimeoutError):
            return Opinion(None, failure=f"no reply within {self.timeout_s:g} s")
        except openai.APIConnectionError as error:
            if not self._reached and type(error.__cause__).__name__ == "ConnectError":
                raise JudgeError(f"no judge answers at {self.url}; start the server, or correct the profile's url"
                                 ) from error
            return Opinion(None, failure="the connection was closed or refused")
        except openai.APIStatusError as error:
            self._reached = True
            return Opinion(None, failure=self._safe(f"HTTP {error.status_code}: {error.message}")[:200])
        except (openai.APIError, ValueError, RecursionError) as error:  # a body that is no completion
            return Opinion(None, failure=f"a reply that is no chat completion ({type(error).__name__})")
        self._reached = True
        return self._read(response)

    async def _complete(self, chat: list[dict]):
        """The completion in the first form that the server takes; it is asked in that form from then on."""
        import openai

        forms = self._forms
        for form in forms:
            try:
                response = await self._client.chat.completions.create(model=self.model, messages=chat, **form)
            except (openai.BadRequestError, openai.UnprocessableEntityError):
                if form is forms[-1]:
                    raise
            else:
                self._forms = [form]
                return response

    def _read(self, response) -> Opinion:
        choice = _first(getattr(response, "choices", None))
        content = getattr(getattr(choice, "message", None), "content", None)
        opinion = read_reply(self._safe(content) if isinstance(content, str) else None)
        if opinion.failure and getattr(choice, "finish_reason", None) == "length":
            opinion = replace(opinion, failure=f"{opinion.failure}, cut off at {self.max_tokens} tokens")
        tokens = getattr(getattr(response, "usage", None), "total_tokens", None)
        tokens = tokens if isinstance(tokens, int) else 0
        return replace(opinion, tokens=tokens, cost=tokens * self.price / 1e6)

    def _safe(self, text: str) -> str:
        """The text without the key, should a server repeat it."""
        return text if self._key == NO_KEY else text.replace(self._key, "[key]")


def _first(choices):
    return choices[0] if isinstance(choices, list) and choices else None


def _without_secrets(url: str) -> str:
    """The URL as it may be shown: no user, password or query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
