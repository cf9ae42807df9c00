"""The model that writes rubrics: criteria of labelled pairs, written with the label and verified without it, or a
description's."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ..common.proportions import Proportion
from ..judging.chat import Chat, RequestOptions
from ..judging.judge import Pair
from ..judging.pictures import image_hash
from ..judging.prompts import once_more
from ..judging.store import VerdictStore
from ..judging.verdict import Verdict
from . import prompts
from .prompts import Assignment
from .provenance import with_provenance
from .rubric import Rubric, RubricError, Theme

TRIES = 2  # of a question whose reply cannot be read
REFINEMENTS = 5

Value = TypeVar("Value")
Ending = Literal["kept", "refined", "discarded", "failed"]
Compare = Callable[[Pair, Rubric], Awaitable[Verdict]]


class ChatError(Exception):
    """A question that got no readable reply. It says why; the job goes on with its other questions."""


class CachedChat:
    """A chat model whose readable replies are kept in a verdict store: a job that was killed pays nothing twice."""

    def __init__(self, chat: Chat, store: VerdictStore):
        self.chat, self.store = chat, store
        self.calls = self.tokens = self.cached = 0
        self.cost = 0.0

    async def ask(
        self,
        messages: Sequence[dict[str, Any]],
        schema: dict[str, Any],
        read: Callable[[str], Value],
        *,
        seed: int = 0,
    ) -> Value:
        """What ``read`` makes of the reply; it raises ValueError for a reply that says nothing. Raises ChatError."""
        # On threads: hashing a large image takes some milliseconds, in which the loop has replies to take.
        key = await asyncio.to_thread(question_key, self.chat.identity, messages, seed)
        kept = await asyncio.to_thread(self.store.get_reply, key)
        if kept is not None:
            with contextlib.suppress(ValueError):
                value = read(kept)
                self.cached += 1
                return value
        reason, asked = "", list(messages)
        for attempt in range(TRIES):
            options = RequestOptions(schema, seed=seed + 1000 * attempt)
            reply = await self.chat.complete(asked, options)
            self.calls += 1
            self.tokens += reply.tokens
            self.cost += reply.cost
            if reply.failure:
                raise ChatError(reply.failure)  # the chat itself has tried often enough
            try:
                if reply.cut:  # what can be mended of it may be half of what was meant
                    raise ValueError("a reply that was cut off at the token limit")
                value = read(reply.text)
            except ValueError as error:
                reason = str(error)
                asked = [*messages, *once_more(reply.text, reason)]
            else:
                # At once, so that no cancellation comes between what was paid and what is kept.
                self.store.put_reply(key, reply.text)
                return value
        raise ChatError(reason)


def question_key(identity: str, messages: Sequence[dict[str, Any]], seed: int) -> str:
    """A name of the question by its content: model, texts, pixels and seed."""

    def content(part: dict[str, Any]) -> object:
        return image_hash(part["image"]) if "image" in part else part["text"]

    said = [
        (
            message["role"],
            message["content"]
            if isinstance(message["content"], str)
            else [content(part) for part in message["content"]],
        )
        for message in messages
    ]
    return hashlib.sha256(repr((identity, seed, said)).encode()).hexdigest()


@dataclass(frozen=True)
class Attempt:
    """Criteria, and what spoke against them: nothing where they were verified."""

    criteria: tuple[str, ...]
    fault: str = ""  # a few words, for people
    critique: str = ""  # all that the writer is told
    alone: tuple[
        bool, ...
    ] = ()  # whether each criterion alone chose as people did, where the judge says


@dataclass(frozen=True)
class PairOutcome:
    """What became of a pair: ``kept`` at once or ``refined`` first; ``discarded``, or ``failed`` for want of replies."""

    ending: Ending
    attempts: tuple[Attempt, ...]
    reason: str = ""

    @property
    def criteria(self) -> tuple[str, ...]:
        """The verified criteria; none, where there are none."""
        return self.attempts[-1].criteria if self.ending in ("kept", "refined") else ()


def decisions(outcomes: Iterable[PairOutcome]) -> dict[str, Proportion]:
    """Of the pairs on which a criterion was verified, those on which it alone chose as people did, by criterion.

    Where a judge says nothing about single criteria, each has chosen as all of them together.
    """
    chosen: dict[str, list[bool]] = {}
    for outcome in outcomes:
        alone = outcome.attempts[-1].alone if outcome.criteria else ()
        for place, criterion in enumerate(outcome.criteria):
            chosen.setdefault(criterion, []).append(alone[place] if alone else True)
    return {criterion: Proportion(sum(right), len(right)) for criterion, right in chosen.items()}


@dataclass
class Writer:
    """Writes criteria with ``chat`` and verifies them with ``compare``, a judge that never sees the label."""

    chat: CachedChat
    compare: Compare
    assignment: Assignment

    async def criteria_of(self, pair: Pair, preferred: Literal[0, 1]) -> PairOutcome:
        """The outcome of a labelled pair after at most five refinements, the last one verified like all others.

        A call that fails ends this pair and no other. Raises JudgeError where no call can succeed.
        """
        images = _labelled(pair, preferred)
        attempts: list[Attempt] = []
        for number in range(REFINEMENTS + 1):
            failed = ""
            if attempts:
                failed = prompts.critique(attempts[-1].criteria, attempts[-1].critique)
            messages = prompts.write_messages(pair.prompt, images, self.assignment, failed)
            try:
                criteria = await self.chat.ask(
                    messages, prompts.CRITERIA_SCHEMA, prompts.read_criteria, seed=number
                )
            except ChatError as error:
                return PairOutcome("failed", tuple(attempts), f"no criteria: {error}")
            try:
                attempts.append(await self._verify(pair, preferred, criteria))
            except ChatError as error:
                attempts.append(Attempt(criteria))
                return PairOutcome("failed", tuple(attempts), f"not verified: {error}")
            if not attempts[-1].fault:
                return PairOutcome("refined" if number else "kept", tuple(attempts))
        return PairOutcome(
            "discarded", tuple(attempts), f"{attempts[-1].fault}, after {REFINEMENTS} refinements"
        )

    async def structure(self, criteria: Mapping[str, Proportion]) -> tuple[Theme, ...]:
        """Themes with tips, made of verified criteria and how often each decided. Raises ChatError."""
        messages = prompts.structure_messages(criteria, self.assignment)
        return await self.chat.ask(messages, prompts.THEMES_SCHEMA, prompts.read_themes)

    async def _verify(
        self, pair: Pair, preferred: Literal[0, 1], criteria: tuple[str, ...]
    ) -> Attempt:
        """The attempt with its fault, if it has one. Raises ChatError where the judge gave no answer."""
        comparing = [
            f'Criterion {number} compares ("{words}"); it must be about one image alone.'
            for number, line in enumerate(criteria, 1)
            if (words := prompts.comparison(line))
        ]
        if comparing:
            return Attempt(criteria, "criteria that compare the two images", "\n".join(comparing))
        rubric = Rubric(name="criteria of one pair", task=self.assignment.task, criteria=criteria)
        verdict = await self.compare(pair, rubric)
        if verdict.failed:
            raise ChatError(next(one.failure for one in verdict.opinions if one.failure))
        if verdict.winner == preferred:
            own = [verdict.of_criterion(str(place)).winner for place in range(1, len(criteria) + 1)]
            told = any(winner is not None for winner in own)
            return Attempt(criteria, alone=tuple(one == preferred for one in own) if told else ())
        why = verdict.reason.removeprefix("undecided: ")
        fault = (
            "the verifier chose the other image"
            if verdict.decided
            else f"the verifier could not decide ({why})"
        )
        return Attempt(criteria, fault, _critique(verdict, preferred))


def _critique(verdict: Verdict, preferred: Literal[0, 1]) -> str:
    """What the verifier said in each order, with the names under which the writer knows the images."""
    lines = []
    for swapped, opinion in enumerate(verdict.opinions):
        names = ["PREFERRED", "OTHER"] if preferred == swapped else ["OTHER", "PREFERRED"]
        choice = "neither" if opinion.preferred is None else names[opinion.preferred]
        lines.append(
            f"A verifier who does not know the choice of people, shown {names[0]} as FIRST and {names[1]} as "
            f"SECOND, chose {choice}. {opinion.reason}".rstrip()
        )
        lines += [f"  criterion {one.criterion}: {one.seen}" for one in opinion.findings]
    return "\n".join(lines)


def _labelled(pair: Pair, preferred: Literal[0, 1]) -> list[tuple[str, Any]]:
    """The images with their labels. Which comes first is drawn from the prompt: the writer may have its own bias."""
    images = pair.image_a, pair.image_b
    both = [("PREFERRED", images[preferred]), ("OTHER", images[1 - preferred])]
    if hashlib.sha256(pair.prompt.encode("utf-8", "backslashreplace")).digest()[0] % 2:
        both.reverse()
    return [("BASE", pair.source), *both] if pair.source is not None else both


async def from_description(text: str, chat: Chat, assignment: Assignment) -> Rubric:
    """The rubric that a chat model writes from a task description or a prompt alone; nothing has verified it.

    Raises RubricError, JudgeError.
    """
    text = text.strip()
    if not text:
        raise RubricError("expected a task description or a prompt, got nothing")
    messages = prompts.describe_messages(text, assignment)
    with contextlib.closing(VerdictStore(":memory:")) as store:
        try:
            themes = await CachedChat(chat, store).ask(
                messages, prompts.THEMES_SCHEMA, prompts.read_themes
            )
        except ChatError as error:
            raise RubricError(
                f"expected a rubric from {chat.identity}, got none: {error}; try again"
            ) from None
    name = " ".join(text.split())
    name = name if len(name) <= 60 else f"{name[:57]}..."
    return with_provenance(
        Rubric(name=name, task=assignment.task, language=assignment.language, themes=themes),
        "a description",
        model=chat.identity,
        examples=len(assignment.examples),
        description=text[:2000],
    )
