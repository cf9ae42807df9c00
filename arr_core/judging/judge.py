"""The pairwise judge: both orders, abstention, and a loop of its own so that nobody waits while there is work.

A ``Client`` answers questions about one order of a pair; ``Judge`` asks it, remembers opinions, and makes verdicts.
"""
from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from PIL import Image

from ..rubrics import Rubric
from .store import VerdictStore
from .verdict import JudgeError, Opinion, Verdict, combine


@dataclass(frozen=True)
class Pair:
    """Two images made for one prompt, and for an edit the source that both started from."""

    prompt: str
    image_a: Image.Image
    image_b: Image.Image
    source: Image.Image | None = None


@dataclass(frozen=True)
class Question:
    """One order of a pair under a rubric: which of ``first`` and ``second`` is better?"""

    prompt: str
    first: Image.Image
    second: Image.Image
    source: Image.Image | None
    rubric: Rubric


class Client(Protocol):
    """A model that answers questions. ``identity`` names the model and every setting that may change an answer."""

    identity: str

    async def ask(self, questions: Sequence[Question]) -> list[Opinion]:
        """One opinion a question, in order. A failed one is an opinion with a ``failure``; JudgeError ends the run."""


class Judge:
    """Compares pairs under one rubric. Use as a context manager, or call ``close``."""

    def __init__(self, client: Client, rubric: Rubric, *, both_orders: bool = True, store: str | Path = ":memory:",
                 flip_rate: float = 0.0, position_bias: float = 0.0):
        """``flip_rate`` and ``position_bias`` plant errors for benchmarks: the same question errs in the same way."""
        self.client, self.rubric, self.both_orders = client, rubric, both_orders
        self.flip_rate, self.position_bias = flip_rate, position_bias
        self.store = VerdictStore(store)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
        self._thread.start()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is in flight, end the loop, close the store."""
        async def shut():
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if hasattr(self.client, "close"):
                await self.client.close()

        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(shut(), self._loop).result(timeout=10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self.store.close()

    def compare(self, prompt: str, image_a: Image.Image, image_b: Image.Image,
                source: Image.Image | None = None) -> Verdict:
        """The verdict on one pair. Raises JudgeError where the judge cannot answer anything."""
        return self.submit([Pair(prompt, image_a, image_b, source)]).result()[0]

    def submit(self, pairs: Sequence[Pair]) -> Future[list[Verdict]]:
        """A future of the verdicts on ``pairs``, in order; the judge works while the caller goes on."""
        return asyncio.run_coroutine_threadsafe(self._compare(list(pairs)), self._loop)

    async def _compare(self, pairs: list[Pair]) -> list[Verdict]:
        orders = [False, True] if self.both_orders else [False]
        questions = [self._question(pair, swapped) for pair in pairs for swapped in orders]
        keys = [self._key(question) for question in questions]
        opinions = [self.store.get(key) for key in keys]
        unanswered = {key: i for i, key in enumerate(keys) if opinions[i] is None}
        answers = await self.client.ask([questions[i] for i in unanswered.values()]) if unanswered else []
        if len(answers) != len(unanswered):
            raise JudgeError(f"the client {self.client.identity} gave {len(answers)} answers to {len(unanswered)} "
                             "questions")
        fresh = dict(zip(unanswered, answers, strict=True))
        for key, opinion in fresh.items():
            if not opinion.failure:
                self.store.put(key, questions[unanswered[key]].prompt, opinion)
        for i, key in enumerate(keys):
            if opinions[i] is None:
                opinions[i] = fresh[key] if unanswered[key] == i else replace(fresh[key], cached=True)
            opinions[i] = self._biased(key, opinions[i])
        width = len(orders)
        return [self._flipped(keys[at], combine(tuple(opinions[at:at + width]))) for at in range(0, len(keys), width)]

    def _question(self, pair: Pair, swapped: bool) -> Question:
        images = (pair.image_b, pair.image_a) if swapped else (pair.image_a, pair.image_b)
        return Question(pair.prompt, *images, pair.source, self.rubric)

    def _key(self, question: Question) -> str:
        digest = hashlib.sha256(repr((self.client.identity, self.rubric.content_hash, question.prompt)).encode())
        for image in (question.first, question.second, question.source):
            # As the judge sees it: the bytes of a palette image say nothing without its palette.
            digest.update(b"none" if image is None else repr(image.size).encode() + image.convert("RGB").tobytes())
        return digest.hexdigest()

    def _biased(self, key: str, opinion: Opinion) -> Opinion:
        if opinion.failure or random.Random(f"bias {key}").random() >= self.position_bias:
            return opinion
        return replace(opinion, preferred=0, reason="planted position bias")

    def _flipped(self, key: str, verdict: Verdict) -> Verdict:
        if not verdict.decided or random.Random(f"flip {key}").random() >= self.flip_rate:
            return verdict
        return replace(verdict, preferred="ba"["ab".index(verdict.preferred)])
