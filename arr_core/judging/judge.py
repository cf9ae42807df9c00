"""The pairwise judge: both orders, abstention, and a loop of its own so that nobody waits while there is work.

A ``Client`` answers questions about one order of a pair; ``Judge`` asks it, remembers opinions, and makes verdicts.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from PIL import Image

from ..rubrics import Rubric
from .pictures import image_hash
from .store import Entry, VerdictStore, shared_file, thumbnail
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
    digests: tuple[bytes | None, bytes | None, bytes | None] = (
        None,
        None,
        None,
    )  # of first, second, source, where known


class Client(Protocol):
    """A model that answers questions. ``identity`` names the model and every setting that may change an answer.

    A client with a true ``hides_order`` shows the images in an order of its own; it is asked once, not in both orders.
    """

    identity: str

    async def ask(self, questions: Sequence[Question]) -> list[Opinion]:
        """One opinion a question, in order. A failed one is an opinion with a ``failure``; JudgeError ends the run."""


@dataclass(frozen=True)
class _Asked:
    """A pair as it is asked about: the hashes of a, b and source, and a question with its key for each order."""

    hashes: tuple[bytes, bytes, bytes | None]
    orders: tuple[tuple[str, Question], ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(key for key, _ in self.orders)


class Judge:
    """Compares pairs under one rubric. Use as a context manager, or call ``close``.

    ``submit`` returns at once: images are hashed, and thumbnails made, on threads of the judge's own; a verdict does not
    wait for thumbnails. A question that is in flight already is not asked again; whoever asks it too gets its answer.
    """

    def __init__(
        self,
        client: Client,
        rubric: Rubric,
        *,
        both_orders: bool = True,
        store: str | Path = ":memory:",
        shared: bool = True,
        flip_rate: float = 0.0,
        position_bias: float = 0.0,
    ):
        """``flip_rate`` and ``position_bias`` plant errors for benchmarks: the same question errs in the same way.

        shared: whether what other runs heard is known too, where ARR_VERDICTS names it.
        """
        self.client, self.rubric = client, rubric
        self.both_orders = both_orders and not getattr(client, "hides_order", False)
        self.flip_rate, self.position_bias = flip_rate, position_bias
        self.store = VerdictStore(store, shared=shared_file() if shared else None)
        self._pending: dict[str, asyncio.Future[Opinion | None]] = {}
        self._workers = ThreadPoolExecutor(2, thread_name_prefix="judge-work")
        self._photographer = ThreadPoolExecutor(
            1, thread_name_prefix="judge-thumbnails"
        )  # so that nobody waits for it
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
            try:
                asyncio.run_coroutine_threadsafe(shut(), self._loop).result(timeout=10)
            finally:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()
                self._workers.shutdown()
                self._photographer.shutdown()
                self.store.close()

    def compare(
        self,
        prompt: str,
        image_a: Image.Image,
        image_b: Image.Image,
        source: Image.Image | None = None,
    ) -> Verdict:
        """The verdict on one pair. Raises JudgeError where the judge cannot answer anything."""
        return self.submit([Pair(prompt, image_a, image_b, source)]).result()[0]

    def submit(
        self, pairs: Sequence[Pair], *, rubric: Rubric | None = None
    ) -> Future[list[Verdict]]:
        """A future of the verdicts on ``pairs``, in order; the judge works while the caller goes on.

        ``rubric`` takes the place of the judge's own.
        """
        return asyncio.run_coroutine_threadsafe(
            self._compare(list(pairs), rubric or self.rubric), self._loop
        )

    async def _compare(self, pairs: list[Pair], rubric: Rubric) -> list[Verdict]:
        asked, images = await self._work(self._prepare, pairs, rubric)
        if self.store.keeps_trail:
            self._photographer.submit(self._keep_thumbnails, images)
        claims: dict[str, asyncio.Future[Opinion | None]] = {}
        try:
            answers = await self._answers(
                {key: question for pair in asked for key, question in pair.orders}, claims
            )
            verdicts, paid = (
                [],
                set(),
            )  # an answer that serves twice, as of two equal images, was paid once
            for pair in asked:
                opinions = []
                for key in pair.keys:
                    opinions.append(
                        replace(answers[key], cached=True) if key in paid else answers[key]
                    )
                    paid.add(key)
                verdicts.append(self._verdict(pair.keys, opinions))
            await self._work(self._record, asked, verdicts, answers, rubric)
            return verdicts
        finally:
            # Only now, when the answer is stored, may the next one who asks look for it there. Who waits for an answer
            # that never came asks for himself.
            for key, claim in claims.items():
                del self._pending[key]
                if not claim.done():
                    claim.set_result(None)

    async def _answers(
        self, questions: Mapping[str, Question], claims: dict[str, asyncio.Future]
    ) -> dict[str, Opinion]:
        """The opinion under each key: remembered, in flight for another, or asked for now and entered in ``claims``."""
        answers: dict[str, Opinion] = {}
        while missing := [key for key in questions if key not in answers]:
            others = {key: self._pending[key] for key in missing if key in self._pending}
            mine = [key for key in missing if key not in others]
            for key in mine:
                self._pending[key] = claims[key] = self._loop.create_future()
            found = await self._work(self.store.get, mine)
            for key, opinion in found.items():
                claims[key].set_result(opinion)
            unknown = [key for key in mine if key not in found]
            said = await self._ask(unknown, questions) if unknown else []
            if len(said) != len(unknown):
                raise JudgeError(
                    f"the client {self.client.identity} gave {len(said)} answers to {len(unknown)} questions"
                )
            for key, opinion in zip(unknown, said, strict=True):
                claims[key].set_result(opinion)
            answers |= found | dict(zip(unknown, said, strict=True))
            for key, claim in others.items():
                opinion = await asyncio.shield(claim)
                if opinion is not None:
                    answers[key] = replace(opinion, cached=True)
        return answers

    async def _ask(self, keys: list[str], questions: Mapping[str, Question]) -> list[Opinion]:
        """The client's answers. Where it gives up, what had been answered before is stored, so that nothing paid is lost."""
        try:
            return await self.client.ask([questions[key] for key in keys])
        except JudgeError as error:
            paid = {keys[at]: opinion for at, opinion in error.answered.items()}
            await self._work(self.store.put, paid)
            raise

    def _work(self, function, *arguments) -> asyncio.Future:
        """What takes its time, on a thread beside the loop."""
        return self._loop.run_in_executor(self._workers, function, *arguments)

    def _prepare(
        self, pairs: list[Pair], rubric: Rubric
    ) -> tuple[list[_Asked], dict[bytes, Image.Image]]:
        """The pairs as they are asked about, and all images by their hashes."""
        known: dict[int, bytes] = {}
        images: dict[bytes, Image.Image] = {}

        def named(image: Image.Image | None) -> bytes | None:
            if image is None:
                return None
            if id(image) not in known:
                known[id(image)] = image_hash(image)
                images[known[id(image)]] = image
            return known[id(image)]

        asked = []
        for pair in pairs:
            a, b, source = named(pair.image_a), named(pair.image_b), named(pair.source)
            orders = []
            for swapped in (False, True) if self.both_orders else (False,):
                shown = (pair.image_b, pair.image_a) if swapped else (pair.image_a, pair.image_b)
                digests = (b, a) if swapped else (a, b)
                content = (self.client.identity, rubric.content_hash, pair.prompt, digests, source)
                key = hashlib.sha256(repr(content).encode()).hexdigest()
                orders.append(
                    (key, Question(pair.prompt, *shown, pair.source, rubric, (*digests, source)))
                )
            asked.append(_Asked((a, b, source), tuple(orders)))
        return asked, images

    def _keep_thumbnails(self, images: Mapping[bytes, Image.Image]) -> None:
        missing = self.store.without_thumbnail(images)
        self.store.put_thumbnails({key: thumbnail(images[key]) for key in missing})

    def _record(
        self,
        asked: list[_Asked],
        verdicts: list[Verdict],
        answers: Mapping[str, Opinion],
        rubric: Rubric,
    ) -> None:
        self.store.put({key: opinion for key, opinion in answers.items() if not opinion.cached})
        if self.store.keeps_trail:
            entries = [
                Entry(
                    pair.orders[0][1].prompt,
                    *pair.hashes,
                    rubric.content_hash,
                    self.client.identity,
                    verdict.preferred,
                    verdict.reason,
                    tuple(answers[key] for key in pair.keys),
                )
                for pair, verdict in zip(asked, verdicts, strict=True)
            ]
            self.store.put_verdicts(entries, [(rubric.content_hash, rubric.name, rubric.text)])

    def _verdict(self, keys: Sequence[str], opinions: Sequence[Opinion]) -> Verdict:
        """The verdict of the orders of one pair, with the errors that are planted."""
        biased = tuple(
            self._biased(key, opinion) for key, opinion in zip(keys, opinions, strict=True)
        )
        return self._flipped(keys[0], combine(biased))

    def _biased(self, key: str, opinion: Opinion) -> Opinion:
        if opinion.failure or random.Random(f"bias {key}").random() >= self.position_bias:
            return opinion
        return opinion.saying(0, "planted position bias")

    def _flipped(self, key: str, verdict: Verdict) -> Verdict:
        if not verdict.decided or random.Random(f"flip {key}").random() >= self.flip_rate:
            return verdict
        return replace(verdict, preferred="ba"["ab".index(verdict.preferred)])
