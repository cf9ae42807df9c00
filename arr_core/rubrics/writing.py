"""One labelled pair's criteria: written with the label, verified without it, refined with what the verifier said."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..judging.judge import Pair
from ..judging.verdict import Verdict
from .asking import Asker, NoAnswer
from .prompts import CRITERIA_SCHEMA, as_rubric, comparison, critique, read_criteria, write_messages
from .rubric import Task
from .verifying import compare

REFINEMENTS = 5

Ending = Literal["kept", "refined", "discarded", "failed"]


@dataclass(frozen=True)
class Attempt:
    """Criteria, and what spoke against them: nothing where they were verified."""

    criteria: tuple[str, ...]
    fault: str = ""  # a few words, for people
    critique: str = ""  # all that the writer is told


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


async def write_criteria(
    asker: Asker,
    pair: Pair,
    preferred: Literal[0, 1],
    *,
    task: Task,
    language: str,
    examples: Sequence[Any] = (),
) -> PairOutcome:
    """The outcome of a labelled pair after at most five refinements, the last one verified like all others.

    A call that fails ends this pair and no other. Raises JudgeError where no call can succeed.
    """
    images = _labelled(pair, preferred)
    attempts: list[Attempt] = []
    for number in range(REFINEMENTS + 1):
        failed = critique(attempts[-1].criteria, attempts[-1].critique) if attempts else ""
        messages = write_messages(
            pair.prompt, images, task=task, language=language, examples=examples, failed=failed
        )
        try:
            criteria = await asker.ask(messages, CRITERIA_SCHEMA, read_criteria, seed=number)
        except NoAnswer as error:
            return PairOutcome("failed", tuple(attempts), f"no criteria came: {error}")
        attempt, failure = await _verified(asker, pair, preferred, criteria, task, language)
        attempts.append(attempt)
        if failure:
            return PairOutcome("failed", tuple(attempts), f"they could not be verified: {failure}")
        if not attempt.fault:
            return PairOutcome("refined" if number else "kept", tuple(attempts))
    return PairOutcome(
        "discarded", tuple(attempts), f"{attempts[-1].fault}, after {REFINEMENTS} refinements"
    )


async def _verified(
    asker: Asker,
    pair: Pair,
    preferred: Literal[0, 1],
    criteria: tuple[str, ...],
    task: Task,
    language: str,
) -> tuple[Attempt, str]:
    """The attempt with its fault if it has one, and why it could not be verified, if it could not."""
    comparing = {
        number: words for number, line in enumerate(criteria, 1) if (words := comparison(line))
    }
    if comparing:
        said = "\n".join(
            f'Criterion {number} compares ("{words}"); it must be about one image alone.'
            for number, words in comparing.items()
        )
        return Attempt(criteria, "criteria that compare the two images", said), ""
    verdict = await compare(asker, pair, as_rubric(criteria, task, language))
    if verdict.failed:
        return Attempt(criteria), next(
            opinion.failure for opinion in verdict.opinions if opinion.failure
        )
    if verdict.winner == preferred:
        return Attempt(criteria), ""
    why = verdict.reason.removeprefix("undecided: ")
    fault = (
        "the verifier chose the other image"
        if verdict.decided
        else f"the verifier could not decide ({why})"
    )
    return Attempt(criteria, fault, _told(verdict, preferred)), ""


def _told(verdict: Verdict, preferred: Literal[0, 1]) -> str:
    """What the verifier said in each order, with the names under which the writer knows the images."""
    lines = []
    for swapped, opinion in enumerate(verdict.opinions):
        names = ["PREFERRED", "OTHER"] if preferred == swapped else ["OTHER", "PREFERRED"]
        choice = "neither" if opinion.preferred is None else names[opinion.preferred]
        lines.append(
            f"A verifier who does not know the choice of people, shown {names[0]} as FIRST and {names[1]} as "
            f"SECOND, chose {choice}. {opinion.reason}".rstrip()
        )
        lines += [f"  criterion {criterion}: {seen}" for criterion, seen in opinion.findings]
    return "\n".join(lines)


def _labelled(pair: Pair, preferred: Literal[0, 1]) -> list[tuple[str, Any]]:
    """The pictures with their labels. Which comes first is drawn from the prompt: the writer may have its own bias."""
    both = [
        ("PREFERRED", (pair.image_a, pair.image_b)[preferred]),
        ("OTHER", (pair.image_b, pair.image_a)[preferred]),
    ]
    if hashlib.sha256(pair.prompt.encode("utf-8", "backslashreplace")).digest()[0] % 2:
        both.reverse()
    return [("BASE", pair.source), *both] if pair.source is not None else both
