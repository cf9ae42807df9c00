"""A rubric from labelled pairs: write, verify, refine, select, structure, and keep what beats the judge without one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..data import Exemplar, PreferencePair, open_image
from ..judging.chat import Chat
from ..judging.judge import Pair
from ..judging.verdict import Verdict
from .asking import Asker, NoAnswer, append_line
from .blocking import blocking
from .built_in import NO_RUBRIC
from .held_out import Comparison, compare_judges
from .prompts import THEMES_SCHEMA, read_themes, structure_messages
from .provenance import of_pairs, sentence
from .rubric import Rubric, RubricError, Task
from .selection import select
from .splitting import HELD_OUT, check, split, without
from .verifying import compare
from .writing import PairOutcome, write_criteria

MOST_CRITERIA = 60  # that are structured; of more, a selection
AT_ONCE = 16  # pairs in work; the chat has its own limit of requests
SIDE = 1024  # pixels; larger images are made smaller once, when they are read

Value = TypeVar("Value")


@dataclass(frozen=True)
class Step:
    """How far a job is: ``done`` of ``total`` pairs of a stage, which is "writing", "structuring" or "checking"."""

    stage: str
    done: int
    total: int
    note: str = ""  # what became of the last pair


@dataclass(frozen=True)
class Outcome:
    """What came of a job. ``rubric`` is None where there is none to be trusted; ``candidate`` is what was checked."""

    rubric: Rubric | None
    candidate: Rubric | None
    sentence: str
    pairs: tuple[PreferencePair, ...]
    held_out: tuple[PreferencePair, ...]
    outcomes: tuple[PairOutcome, ...]  # of the pairs, in order
    selected: tuple[str, ...]
    comparison: Comparison | None
    calls: int
    remembered: int
    tokens: int
    cost: float

    @property
    def endings(self) -> Counter:
        """How many pairs were kept, refined, discarded, failed."""
        return Counter(outcome.ending for outcome in self.outcomes)


Observer = Callable[[Step], object]


def from_pairs(
    pairs: Sequence[PreferencePair],
    chat: Chat,
    *,
    task: Task,
    folder: str | Path,
    observer: Observer | None = None,
    **options: Any,
) -> Outcome:
    """What comes of labelled pairs; the options are those of ``from_pairs_async``. Blocks, and closes the chat."""
    return blocking(
        chat, from_pairs_async(pairs, chat, task=task, folder=folder, observer=observer, **options)
    )


async def from_pairs_async(
    pairs: Sequence[PreferencePair],
    chat: Chat,
    *,
    task: Task,
    folder: str | Path,
    observer: Observer | None = None,
    language: str = "en",
    examples: Sequence[Exemplar] = (),
    held_out: float | Sequence[PreferencePair] = HELD_OUT,
    most_criteria: int = MOST_CRITERIA,
    at_once: int = AT_ONCE,
    name: str = "rubric from pairs",
) -> Outcome:
    """What comes of labelled pairs, for a caller with a loop of its own; the chat stays open.

    folder: where replies (``replies.jsonl``) and finished pairs (``pairs.jsonl``) are kept. A job that ended early goes
    on when it is called again, and asks no answered question twice.
    held_out: a share of the pairs, or other pairs, on which the rubric must beat the judge without one.
    Raises RubricError for pairs that cannot be used, DataError for an image that went missing, and JudgeError where no
    call can succeed. A single call that fails costs its pair and nothing else.
    """
    check(pairs, task)
    if isinstance(held_out, float):
        seeds, held = split(pairs, held_out)
    else:
        check(held_out, task)
        seeds, held = without(pairs, held_out), list(held_out)
    asker = Asker(chat, _folder(folder) / "replies.jsonl")
    job = _Job(asker, task, language, examples, at_once, observer or (lambda step: None))
    outcomes = await job.write(seeds, Path(folder) / "pairs.jsonl")
    verified = [line for outcome in outcomes for line in outcome.criteria]
    selected = select(verified, most_criteria)
    candidate, comparison, fault = None, None, ""
    if not selected:
        fault = f"None of the {len(seeds)} pairs gave criteria that a verifier could choose by; there is no rubric."
    else:
        try:
            themes = await job.structure(selected)
        except NoAnswer as error:
            fault = f"The {len(selected)} verified criteria could not be put in order: {error}. Run the command again."
        else:
            candidate = Rubric(name=name, task=task, language=language, themes=themes)
            comparison = await job.check(held, candidate)
            candidate = candidate.model_copy(
                update={
                    "provenance": of_pairs(
                        candidate,
                        chat.identity,
                        seeds,
                        outcomes,
                        len(selected),
                        comparison,
                        len(examples),
                    )
                }
            )
    better = comparison is not None and comparison.better
    return Outcome(
        candidate if better else None,
        candidate,
        fault or sentence(comparison),
        tuple(seeds),
        tuple(held),
        tuple(outcomes),
        tuple(selected),
        comparison,
        asker.calls,
        asker.remembered,
        asker.tokens,
        asker.cost,
    )


@dataclass
class _Job:
    """The stages, each over all of its pairs."""

    asker: Asker
    task: Task
    language: str
    examples: Sequence[Exemplar]
    at_once: int
    observer: Observer

    async def write(self, pairs: Sequence[PreferencePair], record: Path) -> list[PairOutcome]:
        """The outcome of each pair; finished ones are written down as they come."""
        record.write_bytes(b"")  # what was finished before comes again from the replies, at once

        async def one(pair: PreferencePair) -> PairOutcome:
            outcome = await write_criteria(
                self.asker,
                await _opened(pair),
                pair.preferred,
                task=self.task,
                language=self.language,
                examples=self.examples,
            )
            append_line(
                record,
                {
                    "prompt": pair.prompt,
                    "images": list(map(str, pair.images)),
                    "preferred": pair.preferred,
                    "ending": outcome.ending,
                    "reason": outcome.reason,
                    "attempts": [
                        {
                            "criteria": list(attempt.criteria),
                            "fault": attempt.fault,
                            "critique": attempt.critique,
                        }
                        for attempt in outcome.attempts
                    ],
                },
            )
            return outcome

        return await self._each("writing", pairs, one, lambda outcome: outcome.ending)

    async def structure(self, criteria: Sequence[str]):
        self.observer(Step("structuring", 0, 1))
        themes = await self.asker.ask(
            structure_messages(criteria, task=self.task, language=self.language),
            THEMES_SCHEMA,
            read_themes,
        )
        self.observer(Step("structuring", 1, 1))
        return themes

    async def check(self, pairs: Sequence[PreferencePair], rubric: Rubric) -> Comparison:
        async def one(pair: PreferencePair) -> tuple[Verdict, Verdict]:
            images = await _opened(pair)
            return tuple(
                await asyncio.gather(
                    *(
                        compare(self.asker, images, under)
                        for under in (rubric, NO_RUBRIC[self.task])
                    )
                )
            )

        verdicts = await self._each(
            "checking",
            pairs,
            one,
            lambda both: "failed" if both[0].failed or both[1].failed else "",
        )
        return compare_judges(pairs, [one for one, _ in verdicts], [other for _, other in verdicts])

    async def _each(
        self,
        stage: str,
        pairs: Sequence[PreferencePair],
        work: Callable[[PreferencePair], Awaitable[Value]],
        note: Callable[[Value], str],
    ) -> list[Value]:
        """The work's results in order. What cannot go on ends what has begun."""
        free, done = asyncio.Semaphore(self.at_once), 0

        async def one(pair: PreferencePair) -> Value:
            nonlocal done
            async with free:
                value = await work(pair)
            done += 1
            self.observer(Step(stage, done, len(pairs), note(value)))
            return value

        self.observer(Step(stage, 0, len(pairs)))
        tasks = [asyncio.ensure_future(one(pair)) for pair in pairs]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _opened(pair: PreferencePair) -> Pair:
    """The pair with its images in memory, read on a thread."""

    def read(path: Path):
        image = open_image(path)
        image.thumbnail((SIDE, SIDE))
        return image

    def all_images() -> Pair:
        return Pair(
            pair.prompt, *map(read, pair.images), read(pair.source) if pair.source else None
        )

    try:
        return await asyncio.to_thread(all_images)
    except OSError as error:
        raise RubricError(
            f"pair {pair.prompt[:60]!r}: expected its images where they were, came {error}"
        ) from error


def _folder(folder: str | Path) -> Path:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RubricError(
            f"{folder}: expected a folder that can be written; {error.strerror}"
        ) from error
    return Path(folder)
