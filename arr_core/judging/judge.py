"""The pairwise judge: both orders, abstention, and an event loop of its own, so that the caller goes on working."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from ..common.async_runner import AsyncRunner
from ..rubrics import Rubric
from .client import Client, Question
from .outage import Outage
from .pictures import image_hash
from .store import Entry, VerdictStore, shared_file, thumbnail
from .verdict import Opinion, Verdict, combine

Sent = tuple[Client, Question]  # a question, and the client that it goes to
POLL_S = 1.0  # how often ``result`` looks for an outage
Hashes = tuple[bytes, bytes, bytes | None]  # of image a, image b and the source


@dataclass(frozen=True)
class Pair:
    """Two images made for one prompt, and for an edit the source that both started from."""

    prompt: str
    image_a: Image.Image
    image_b: Image.Image
    source: Image.Image | None = None

    @property
    def images(self) -> tuple[Image.Image, Image.Image, Image.Image | None]:
        """Image a, image b and the source."""
        return self.image_a, self.image_b, self.source


class Judge:
    """Compares pairs under one rubric. Use as a context manager, or call ``close``.

    ``submit`` returns at once: images are hashed, and thumbnails made, on the judge's own threads; a verdict does not wait
    for thumbnails. Every opinion is stored when it arrives. A question that is in flight is not asked again: whoever asks
    it too waits for the same answer.
    """

    def __init__(
        self,
        client: Client,
        rubric: Rubric,
        *,
        both_orders: bool = True,
        store: str | Path = ":memory:",
        shared: bool = True,
    ):
        """shared: whether to use the verdicts of other runs, where ARR_VERDICTS names their file."""
        self.client, self.rubric = client, rubric
        self.both_orders = both_orders and not client.hides_order
        self.store = VerdictStore(store, shared=shared_file() if shared else None)
        self.on_outage: Callable[[Outage], None] = lambda outage: None
        self._in_flight: dict[str, asyncio.Task[Opinion]] = {}
        self._workers = ThreadPoolExecutor(2, thread_name_prefix="judge-work")
        self._thumbnail_pool = ThreadPoolExecutor(1, thread_name_prefix="judge-thumbnails")
        self.runner = AsyncRunner("judge")

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is in flight, close the client, end the threads, close the store."""
        try:
            self.runner.close(self.client.close())
        finally:
            self._workers.shutdown()
            self._thumbnail_pool.shutdown()
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

        rubric: used in place of the judge's own.
        """
        return self.runner.submit(self._compare(list(pairs), rubric or self.rubric))

    def result(self, future: Future[list[Verdict]]) -> list[Verdict]:
        """What ``future`` gives. ``on_outage`` is called by this thread meanwhile, while the judge waits out an outage."""
        while not wait([future], POLL_S).done:
            if outage := self.client.outage:
                self.on_outage(outage)
        return future.result()

    async def _compare(self, pairs: list[Pair], rubric: Rubric) -> list[Verdict]:
        if not pairs:
            return []
        hashes = await self._work(hash_images, pairs)
        if self.store.keeps_trail:
            self._thumbnail_pool.submit(self._keep_thumbnails, pairs, hashes)
        asked = [self._questions(*each, rubric) for each in zip(pairs, hashes, strict=True)]
        questions = {key: sent for orders in asked for order in orders for key, sent in order}
        new = {key: sent for key, sent in questions.items() if key not in self._in_flight}
        if new:
            self._start(new)
        tasks = {key: self._in_flight[key] for key in questions}
        # All of them, even where one fails: what is answered is stored, and nothing is paid twice.
        await asyncio.wait(tasks.values())
        verdicts, unpaid = [], set(new)
        for orders in asked:
            opinions = []
            for order in orders:
                said = []
                for key, _ in order:  # an answer that serves twice was paid once
                    opinion = tasks[key].result()
                    said.append(opinion if key in unpaid else replace(opinion, cached=True))
                    unpaid.discard(key)
                opinions.append(self.client.join(said))
            verdicts.append(combine(tuple(opinions)))
        if self.store.keeps_trail:
            await self._work(self._record, pairs, hashes, verdicts, rubric)
        return verdicts

    def _questions(
        self, pair: Pair, hashes: Hashes, rubric: Rubric
    ) -> list[list[tuple[str, Sent]]]:
        """The question of each order, (a, b), then (b, a), with its key to each client that is to answer it."""
        a, b, source = hashes
        order = Question(pair.prompt, *pair.images, rubric, hashes)
        swapped = replace(order, first=order.second, second=order.first, hashes=(b, a, source))
        orders = [order, swapped] if self.both_orders else [order]
        clients = self.client.members or (self.client,)
        return [
            [(question.key(client.identity), (client, question)) for client in clients]
            for question in orders
        ]

    def _start(self, questions: Mapping[str, Sent]) -> None:
        """Enter a task for every question into ``_in_flight``, until its answer is stored."""
        lookup = asyncio.ensure_future(self._look_up(questions))
        for key in questions:
            task = asyncio.ensure_future(self._opinion(key, lookup))
            task.add_done_callback(lambda task, key=key: self._finished(key, task))
            self._in_flight[key] = task

    def _finished(self, key: str, task: asyncio.Task[Opinion]) -> None:
        del self._in_flight[key]
        if not task.cancelled():
            task.exception()  # seen, even where nobody waits any more: else asyncio prints a traceback

    async def _look_up(
        self, questions: Mapping[str, Sent]
    ) -> tuple[dict[str, Opinion], dict[str, asyncio.Future[Opinion]]]:
        """The stored opinions, and futures of the others, which the clients are asked for now."""
        stored = await self._work(self.store.get, list(questions))
        asked = {}
        for client in self.client.members or (self.client,):
            missing = {
                key: question
                for key, (to, question) in questions.items()
                if to is client and key not in stored
            }
            if missing:
                answers = client.ask(list(missing.values()))
                asked |= zip(missing, answers, strict=True)
        return stored, asked

    async def _opinion(self, key: str, lookup: asyncio.Future) -> Opinion:
        stored, asked = await lookup
        if key in stored:
            return stored[key]
        opinion = await asked[key]
        # What was paid for is stored even where nobody waits for it any more.
        storing = self._workers.submit(self.store.put, {key: opinion})
        await asyncio.shield(asyncio.wrap_future(storing))
        return opinion

    def _work(self, function, *arguments) -> asyncio.Future:
        """Run what takes time on a thread beside the loop."""
        return self.runner.loop.run_in_executor(self._workers, function, *arguments)

    def _keep_thumbnails(self, pairs: list[Pair], hashes: list[Hashes]) -> None:
        images = {
            key: image
            for pair, keys in zip(pairs, hashes, strict=True)
            for key, image in zip(keys, pair.images, strict=True)
            if key is not None and image is not None
        }
        missing = images.keys() - self.store.thumbnails(images).keys()
        self.store.put_thumbnails({key: thumbnail(images[key]) for key in missing})

    def _record(
        self, pairs: list[Pair], hashes: list[Hashes], verdicts: list[Verdict], rubric: Rubric
    ) -> None:
        asked = rubric.content_hash, self.client.identity
        entries = [
            Entry(pair.prompt, *shown, *asked, verdict.preferred, verdict.reason, verdict.opinions)
            for pair, shown, verdict in zip(pairs, hashes, verdicts, strict=True)
        ]
        self.store.put_rubric(rubric.content_hash, rubric.name, rubric.text)
        self.store.put_verdicts(entries)


def hash_images(pairs: Sequence[Pair]) -> list[Hashes]:
    """The hashes of a, b and the source of each pair; every object is hashed once."""
    images = {id(image): image for pair in pairs for image in pair.images if image is not None}
    hashes = {key: image_hash(image) for key, image in images.items()}
    return [
        (hashes[id(pair.image_a)], hashes[id(pair.image_b)], hashes.get(id(pair.source)))
        for pair in pairs
    ]
