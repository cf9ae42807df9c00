"""Two adapters, or one and the base, on the same prompts and seeds: how often a judge prefers the first.

An evaluation's folder: ``result.json``, ``events.jsonl`` (``progress`` with stage, done and total; at last ``validation``, as
a run's, and ``finished``), ``verdicts.sqlite``, ``samples/``, ``report.html``.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from . import __version__
from .adapters import Adapter, base_id, inject
from .data import open_image
from .judging import Judge, Pair, Verdict
from .policies.base import Policy
from .policies.loading import load_policy
from .reports.charts import interval
from .reports.page import fill
from .reports.pictures import picture
from .reports.words import percent, plural, section, text
from .sampling import Plan, describe, png_text, scaled
from .training.events import (
    EventLog,
    FinishedEvent,
    ProgressEvent,
    ValidationEvent,
    ValidationImage,
)
from .training.rollout import sample_batches
from .training.validation import Score

NAMES = ("first", "second")
SHOWN = 24  # pairs whose images the report shows


@dataclass(frozen=True)
class Contest:
    """What is compared: the plan's adapter with ``other``, or with the base where there is none. Names are for people."""

    plan: Plan
    other: Adapter | None
    name: str
    other_name: str

    @property
    def jobs(self) -> list[tuple[int, int]]:
        """The pairs: a prompt's number and a seed."""
        return [
            (number, seed) for number in range(len(self.plan.examples)) for seed in self.plan.seeds
        ]


def evaluate(contest: Contest, judge: Judge, log: EventLog) -> Score:
    """The score of the first against the second, after the folder has been written. Raises as ``generate`` does, and
    JudgeError. A batch is judged while the next one is sampled, and images that an evaluation which was stopped left in the
    folder are not made again."""
    plan = contest.plan
    with contextlib.ExitStack() as stack:
        cache = plan.encodings or Path(
            stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        )
        policy = load_policy(plan.settings, cache)
        keys = policy.encode(
            plan.examples,
            lambda done, total: log.emit(ProgressEvent(stage="prompts", done=done, total=total)),
        )
        sides = [Side(contest, policy, keys, name) for name in NAMES]
        inject(scaled(plan.adapter, plan.strength), policy.transformer, dtype=torch.float32)
        for _ in sides[0].draw(log):
            pass
        if contest.other is None:
            stack.enter_context(policy.reference())
        else:
            policy.transformer.delete_adapters("default")
            inject(scaled(contest.other, plan.strength), policy.transformer, dtype=torch.float32)
        asked = [
            (places, judge.submit([_pair(contest, policy, sides, at) for at in places]))
            for places in sides[1].draw(log)
        ]
    verdicts: dict[int, Verdict] = {}
    for places, future in asked:
        verdicts.update(zip(places, future.result(), strict=True))
        log.emit(ProgressEvent(stage="verdicts", done=len(verdicts), total=len(contest.jobs)))
    ordered = [verdicts[at] for at in range(len(contest.jobs))]
    wins, losses = (sum(verdict.preferred == side for verdict in ordered) for side in "ab")
    score = Score(wins, losses, len(ordered) - wins - losses)
    _record(contest, policy, score, sides, ordered, judge, log)
    return score


class Side:
    """The images of the first or of the second: a file for each job, which says what it was made of."""

    def __init__(self, contest: Contest, policy: Policy, keys: Sequence[str], name: str):
        self.plan, self.policy, self.name = contest.plan, policy, name
        adapter = contest.plan.adapter if name == "first" else contest.other
        plan = replace(contest.plan, adapter=adapter)
        self.keys, self.seeds = (
            [keys[number] for number, _ in contest.jobs],
            [seed for _, seed in contest.jobs],
        )
        self.files = [
            plan.output / "samples" / name / f"{at + 1:04d}.png" for at in range(len(contest.jobs))
        ]
        self.contents = [
            {
                **describe(plan, number, seed, "base" if adapter is None else "adapter"),
                "encoding": keys[number],
            }
            for number, seed in contest.jobs
        ]

    def draw(self, log: EventLog) -> Iterator[list[int]]:
        """The places of the jobs whose images are there: those of earlier first, then batch by batch."""
        width, stage, jobs = self.plan.micro_batch, f"{self.name} images", range(len(self.files))
        there = [at for at in jobs if self._is_there(at)]
        missing = [at for at in jobs if at not in set(there)]
        log.emit(ProgressEvent(stage=stage, done=len(there), total=len(jobs)))
        yield from (there[at : at + width] for at in range(0, len(there), width))
        done = len(there)
        for places, images in sample_batches(
            self.policy,
            [self.keys[at] for at in missing],
            [self.seeds[at] for at in missing],
            steps=self.plan.steps,
            shift=self.plan.shift,
            micro_batch=width,
        ):
            places = [missing[place] for place in places]
            for at, image in zip(places, images, strict=True):
                self._save(at, image)
            log.emit(ProgressEvent(stage=stage, done=(done := done + len(places)), total=len(jobs)))
            yield places

    def _is_there(self, at: int) -> bool:
        with (
            contextlib.suppress(OSError),
            Image.open(self.files[at]) as image,
        ):  # none there, or no picture
            return image.info == self.contents[at]
        return False

    def _save(self, at: int, image: Image.Image) -> None:
        self.files[at].parent.mkdir(parents=True, exist_ok=True)
        part = self.files[at].with_suffix(".part")
        image.save(part, "PNG", pnginfo=png_text(self.contents[at]))
        part.replace(self.files[at])


def sentence(contest: Contest, score: Score) -> str:
    """The outcome in words, with its interval."""
    pairs = score.wins + score.losses + score.undecided
    if score.win_rate is None:
        return f"Of {pairs} pairs the judge decided none between {contest.name} and {contest.other_name}."
    low, high = score.interval
    return (
        f"{contest.name} beats {contest.other_name} in {score.win_rate:.0%} of {score.wins + score.losses} decided pairs "
        f"(95 % interval {low:.0%} to {high:.0%}; {score.undecided} of {pairs} undecided)."
    )


def _pair(contest: Contest, policy: Policy, sides: Sequence[Side], at: int) -> Pair:
    example = contest.plan.examples[contest.jobs[at][0]]
    return Pair(
        example.prompt,
        *(open_image(side.files[at]) for side in sides),
        policy.source_picture(example),
    )


def _record(
    contest: Contest,
    policy: Policy,
    score: Score,
    sides: Sequence[Side],
    verdicts: Sequence[Verdict],
    judge: Judge,
    log: EventLog,
) -> None:
    plan, folder = contest.plan, contest.plan.output
    shown = [_entry(contest, policy, sides, at, verdict) for at, verdict in enumerate(verdicts)]
    low, high = score.interval
    counts = {
        "wins": score.wins,
        "losses": score.losses,
        "undecided": score.undecided,
        "win_rate": score.win_rate,
        "low": low,
        "high": high,
    }
    result = {
        **counts,
        "sentence": sentence(contest, score),
        "name": contest.name,
        "adapter": plan.adapter.content_hash,
        "against": contest.other_name,
        "against_adapter": contest.other.content_hash if contest.other else None,
        "base": base_id(plan.settings.base),
        "strength": plan.strength,
        "prompts": len(plan.examples),
        "seeds": list(plan.seeds),
        "steps": plan.steps,
        "shift": plan.shift,
        "rubric": judge.rubric.name,
        "rubric_hash": judge.rubric.content_hash,
        "failures": sum(verdict.failed for verdict in verdicts),
        "judge_calls": sum(verdict.calls for verdict in verdicts),
        "judge_cost": sum(verdict.cost for verdict in verdicts),
        "version": __version__,
    }
    (folder / "result.json").write_text(
        json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    _write_report(contest, result, shown)
    log.emit(ValidationEvent(update=0, **counts, images=tuple(shown)))
    log.emit(FinishedEvent(sentence=result["sentence"], report="report.html", result="result.json"))


def _entry(
    contest: Contest, policy: Policy, sides: Sequence[Side], at: int, verdict: Verdict
) -> ValidationImage:
    """A pair in the event of the validation. A source is written once."""
    number, folder = contest.jobs[at][0], contest.plan.output
    example, source = (
        contest.plan.examples[number],
        folder / "samples" / "source" / f"{number + 1:04d}.png",
    )
    if example.source and not source.exists():
        source.parent.mkdir(parents=True, exist_ok=True)
        policy.source_picture(example).save(source)
    policy, base = (side.files[at].relative_to(folder).as_posix() for side in sides)
    return ValidationImage(
        prompt=example.prompt,
        preferred={"a": "policy", "b": "base", None: None}[verdict.preferred],
        reason=verdict.reason,
        policy=policy,
        base=base,
        source=source.relative_to(folder).as_posix() if example.source else None,
    )


def _write_report(contest: Contest, result: dict, shown: Sequence[ValidationImage]) -> None:
    """One page that needs no other file. Decided pairs are shown first."""
    folder, rate = contest.plan.output, result["win_rate"]
    tile = ""
    if rate is not None:
        bar = interval(rate, result["low"], result["high"], 0, 1, half=True)
        tile = (
            f'<div class="tiles"><div class="tile"><p class="label">Win rate</p><p class="big">{percent(rate)}</p>'
            f'<p class="sub">95 % interval {percent(result["low"])} to {percent(result["high"])}</p>{bar}</div></div>'
        )
    facts = [
        plural(result["prompts"], "prompt"),
        f"{plural(len(result['seeds']), 'seed')} each",
        f"{result['steps']} steps",
        f"base {result['base']}",
        f"rubric {result['rubric']}",
    ]
    cards = "".join(
        _card(entry, contest, folder)
        for entry in sorted(shown, key=lambda entry: entry.preferred is None)[:SHOWN]
    )
    body = (
        f'<header><p class="over">Win rate</p><h1>{text(contest.name)} against {text(contest.other_name)}</h1>'
        f'<p class="facts">{"".join(f"<span>{text(fact)}</span>" for fact in facts)}</p>'
        f'<p class="sentence">{text(result["sentence"])}</p>{tile}</header>'
        + section(
            "Pairs",
            "Same prompt, same seed. What the judge preferred is framed.",
            f'<div class="cards">{cards}</div>',
        )
    )
    page = fill(f"{text(contest.name)} &middot; win rate", body)
    (folder / "report.html").write_text(page, encoding="utf-8", errors="replace")


def _card(entry: ValidationImage, contest: Contest, folder: Path) -> str:
    names = {"source": "source", "policy": contest.name, "base": contest.other_name}
    sides = "".join(
        f"<figure{' class=preferred' * (entry['preferred'] == side)}>{picture(folder, getattr(entry, side), entry.prompt)}"
        f"<figcaption>{text(name)}</figcaption></figure>"
        for side, name in names.items()
        if getattr(entry, side)
    )
    return (
        f'<article class="card"><h3 class="prompt" dir="auto">{text(entry.prompt)}</h3>'
        f'<div><div class="row">{sides}</div><p class="reason" dir="auto">{text(entry.reason)}</p></div></article>'
    )
