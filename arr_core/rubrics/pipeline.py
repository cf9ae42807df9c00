"""A rubric from labelled pairs: write, verify, refine, select, structure, and keep it if it is shown to be better."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..common.files import JsonLines
from ..common.images import open_image
from ..common.progress import ReportProgress, no_progress
from ..common.proportions import Proportion
from ..data import PreferencePair, task_of
from ..judging.chat import Chat, RequestLimits
from ..judging.judge import Judge, Pair
from ..judging.profiles import default_rubric, make_chat, make_client
from ..judging.verdict import Verdict
from .comparison import Comparison, compare_judges
from .prompts import Assignment
from .provenance import data_hash, with_provenance
from .rubric import Rubric, RubricError, Task
from .selection import select
from .splitting import HELD_OUT, split
from .writer import CachedChat, ChatError, PairOutcome, Writer, decisions

MOST_CRITERIA = 60  # that are structured; of more, a selection
AT_ONCE = 16  # pairs in work; the chat has its own limit of requests
MAX_SIDE = 1024  # pixels; larger images are made smaller once, when they are read

Value = TypeVar("Value")


@dataclass(frozen=True)
class Outcome:
    """What came of a job. ``rubric`` is None where there is none to be trusted; ``candidate`` is what was checked."""

    rubric: Rubric | None
    candidate: Rubric | None
    sentence: str
    pairs: Sequence[PreferencePair]
    held_out: Sequence[PreferencePair]
    outcomes: Sequence[PairOutcome]  # of the pairs, in order
    selected: Mapping[str, Proportion]  # criteria that were structured, and how often each decided
    comparison: Comparison | None
    calls: int
    cached: int  # replies that an earlier start had paid for
    tokens: int
    cost: float

    @property
    def endings(self) -> Counter[str]:
        """How many pairs were kept, refined, discarded, failed."""
        return Counter(outcome.ending for outcome in self.outcomes)


@contextmanager
def open_judge_and_writer(
    profile: str, folder: str | Path, *, task: Task, writer: str = "", concurrency: int = 16
) -> Iterator[tuple[Judge, Chat]]:
    """The judge of a profile under its default rubric, and the chat that writes: of ``writer``, or of the same profile.

    With one profile they share one chat, and so its limits. What is answered is kept in the folder, which is made.
    The chat may only be used on the judge's loop, ``judge.runner``. Raises JudgeError, RubricError.
    """
    limits = RequestLimits(concurrency=concurrency)
    chat = make_chat(writer or profile, limits)
    shared = writer in ("", profile)
    client = make_client(profile, limits, chat=chat if shared else None)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RubricError(
            f"{folder}: expected a folder that can be written; {error.strerror}"
        ) from error
    with Judge(
        client, default_rubric(profile, task), store=Path(folder) / "verdicts.sqlite"
    ) as judge:
        try:
            yield judge, chat
        finally:
            if not shared:
                judge.runner.run(chat.close())


async def from_pairs(
    pairs: Sequence[PreferencePair],
    judge: Judge,
    writer: Chat,
    assignment: Assignment,
    *,
    folder: str | Path,
    held_out: float | Sequence[PreferencePair] = HELD_OUT,
    most_criteria: int = MOST_CRITERIA,
    at_once: int = AT_ONCE,
    name: str = "rubric from pairs",
    report_progress: ReportProgress = no_progress,
    notes: Counter[str] | None = None,
) -> Outcome:
    """What comes of labelled pairs. Run it on the judge's loop: ``judge.runner.run(from_pairs(...))``.

    The judge verifies criteria, and compares the rubric with its own on held-out pairs; it should be the one that will train. The writer's replies
    are kept in the judge's store: a job that ended early goes on when it is called again, and asks no answered question
    twice.
    folder: where ``pairs.jsonl`` is written, what became of each pair, for people to read.
    held_out: a share of the pairs, or other pairs, on which the rubric must be shown to be better than the judge's own.
    report_progress: its stages are "writing", "structuring" and "checking".
    notes: counts what becomes of pairs, beside the progress.
    Raises RubricError for pairs that cannot be used or an image that is missing, DataError for pairs of another task, and
    JudgeError where no call can succeed. A single call that fails costs its pair and nothing else.
    """
    seeds, held = split(pairs, held_out)
    for part in (seeds, held):
        task_of(part, "the labelled pairs", assignment.task)
    chat = CachedChat(writer, judge.store)
    job = _Job(judge, at_once, report_progress, Counter() if notes is None else notes)
    author = Writer(chat, job.compare, assignment)
    outcomes = await job.write(author, seeds, Path(folder) / "pairs.jsonl")
    verified = decisions(outcomes)
    selected = {line: verified[line] for line in select([*verified], most_criteria)}
    candidate, comparison = None, None
    if not selected:
        sentence = f"None of the {len(seeds)} pairs gave criteria that a verifier could choose by; there is no rubric."
    else:
        try:
            report_progress("structuring", 0, 1)
            themes = await author.structure(selected)
            report_progress("structuring", 1, 1)
        except ChatError as error:
            sentence = f"The {len(selected)} verified criteria could not be put in order: {error}. Run the command again."
        else:
            candidate = Rubric(
                name=name, task=assignment.task, language=assignment.language, themes=themes
            )
            comparison = await job.check(held, candidate)
            sentence = comparison.sentence(judge.rubric.name)
            candidate = with_provenance(
                candidate,
                "labelled pairs",
                model=writer.identity,
                examples=len(assignment.examples),
                judge=judge.client.identity,
                baseline=judge.rubric.name,
                **_facts(seeds, outcomes, len(selected), comparison),
            )
    return Outcome(
        candidate if comparison and comparison.better else None,
        candidate,
        sentence,
        seeds,
        held,
        outcomes,
        selected,
        comparison,
        calls=chat.calls + sum(verdict.calls for verdict in job.verdicts),
        cached=chat.cached
        + sum(one.cached for verdict in job.verdicts for one in verdict.opinions),
        tokens=chat.tokens + sum(verdict.tokens for verdict in job.verdicts),
        cost=chat.cost + sum(verdict.cost for verdict in job.verdicts),
    )


def _facts(
    seeds: Sequence[PreferencePair],
    outcomes: Sequence[PairOutcome],
    structured: int,
    comparison: Comparison,
) -> dict[str, Any]:
    """What the provenance says about the pairs, and how the judge did with the rubric on held-out pairs."""
    endings = Counter(outcome.ending for outcome in outcomes)
    facts: dict[str, Any] = {"seed_pairs": len(seeds), "seed_data_hash": data_hash(seeds)}
    for ending in ("kept", "refined", "discarded", "failed"):
        facts[f"pairs_{ending}"] = endings[ending]
    facts |= {"criteria_structured": structured, "held_out_pairs": comparison.with_rubric.pairs}
    sides = {"": comparison.with_rubric, "_baseline": comparison.baseline}
    for suffix, side in sides.items():
        facts[f"held_out_accuracy{suffix}"] = side.accuracy.value
        facts[f"held_out_coverage{suffix}"] = side.coverage.value
        facts[f"flip_rate{suffix}"] = side.flip_rate.value
    return facts | {
        "shown_to_be_better": comparison.better,
        "p_value": comparison.p_value,
    }


@dataclass
class _Job:
    """The stages, each over all of its pairs."""

    judge: Judge
    at_once: int
    report_progress: ReportProgress
    notes: Counter[str]
    verdicts: list[Verdict] = field(default_factory=list)

    async def compare(self, pair: Pair, rubric: Rubric) -> Verdict:
        """The judge's verdict on a pair under a rubric."""
        [verdict] = await asyncio.wrap_future(self.judge.submit([pair], rubric=rubric))
        self.verdicts.append(verdict)
        return verdict

    async def write(
        self, writer: Writer, pairs: Sequence[PreferencePair], record: Path
    ) -> list[PairOutcome]:
        """The outcome of each pair; finished ones are written down as they come."""
        # What was finished before comes again from the store, at once.
        record.unlink(missing_ok=True)
        with closing(JsonLines(record)) as lines:

            async def one(pair: PreferencePair) -> PairOutcome:
                if pair.preferred is None:
                    raise RubricError(f"pair {pair.prompt[:60]!r}: expected a label, got none")
                outcome = await writer.criteria_of(await _opened(pair), pair.preferred)
                self.notes[outcome.ending] += 1
                shown = {
                    "prompt": pair.prompt,
                    "images": list(map(str, pair.images)),
                    "preferred": pair.preferred,
                }
                lines.append(shown | asdict(outcome))
                return outcome

            return await self._each("writing", pairs, one)

    async def check(self, pairs: Sequence[PreferencePair], rubric: Rubric) -> Comparison:
        """The judge under the rubric against the judge under its own."""

        async def one(pair: PreferencePair) -> tuple[Verdict, Verdict]:
            images = await _opened(pair)
            both = await asyncio.gather(
                self.compare(images, rubric), self.compare(images, self.judge.rubric)
            )
            if any(verdict.failed for verdict in both):
                self.notes["failed"] += 1
            return both

        verdicts = await self._each("checking", pairs, one)
        return compare_judges(pairs, [one for one, _ in verdicts], [other for _, other in verdicts])

    async def _each(
        self,
        stage: str,
        pairs: Sequence[PreferencePair],
        work: Callable[[PreferencePair], Awaitable[Value]],
    ) -> list[Value]:
        """The work's results in order. An error cancels the rest."""
        free, done = asyncio.Semaphore(self.at_once), 0

        async def one(pair: PreferencePair) -> Value:
            nonlocal done
            async with free:
                value = await work(pair)
            done += 1
            self.report_progress(stage, done, len(pairs))
            return value

        self.report_progress(stage, 0, len(pairs))
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
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        return image

    def read_all() -> Pair:
        first, second = map(read, pair.images)
        return Pair(pair.prompt, first, second, read(pair.source) if pair.source else None)

    try:
        return await asyncio.to_thread(read_all)
    except OSError as error:
        raise RubricError(
            f"pair {pair.prompt[:60]!r}: expected its images where they were; {error}"
        ) from error
