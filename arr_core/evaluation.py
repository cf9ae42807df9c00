"""Two adapters, or one and the base, on the same prompts and seeds: how often a judge prefers the first.

An evaluation's folder: ``result.json``, ``events.jsonl`` (``progress`` with stage, done and total; at last ``validation``, as
a run's, and ``finished``), ``verdicts.sqlite``, ``samples/``, ``report.html``.
"""
from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from . import __version__
from .adapters import Adapter, base_id, inject
from .data import open_image
from .generation import Plan, scaled
from .judging import Judge, Pair, Verdict
from .pages import fill
from .pages.charts import interval
from .pages.pictures import picture
from .pages.words import percent, plural, section, text
from .policies.loading import load_policy
from .policies.policy import Policy
from .training.events import EventLog
from .training.validation import Score, sample_images

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
        return [(number, seed) for number in range(len(self.plan.examples)) for seed in self.plan.seeds]


def evaluate(contest: Contest, judge: Judge, log: EventLog) -> Score:
    """The score of the first against the second, after the folder has been written. Raises as ``generate`` does, and
    JudgeError."""
    plan, jobs = contest.plan, contest.jobs
    with contextlib.ExitStack() as stack:
        cache = plan.encodings or Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        policy = load_policy(plan.settings, cache)
        keys = policy.encode(plan.examples)
        inject(scaled(plan.adapter, plan.strength), policy.transformer, dtype=torch.float32)
        first = _sample(policy, plan, keys, jobs, log, "first images")
        if contest.other is None:
            with policy.reference():
                second = _sample(policy, plan, keys, jobs, log, "second images")
        else:
            policy.transformer.delete_adapters("default")
            inject(scaled(contest.other, plan.strength), policy.transformer, dtype=torch.float32)
            second = _sample(policy, plan, keys, jobs, log, "second images")
    sources = [open_image(example.source) if example.source else None for example in plan.examples]
    pairs = [Pair(plan.examples[number].prompt, a, b, sources[number])
             for (number, _), a, b in zip(jobs, first, second, strict=True)]
    verdicts = _judge(judge, pairs, plan.micro_batch, log)
    wins, losses = (sum(verdict.preferred == side for verdict in verdicts) for side in "ab")
    score = Score(wins, losses, len(verdicts) - wins - losses)
    _record(contest, score, pairs, verdicts, judge, log)
    return score


def sentence(contest: Contest, score: Score) -> str:
    """The outcome in words, with its interval."""
    pairs = score.wins + score.losses + score.undecided
    if score.win_rate is None:
        return f"Of {pairs} pairs the judge decided none between {contest.name} and {contest.other_name}."
    low, high = score.interval
    return (f"{contest.name} beats {contest.other_name} in {score.win_rate:.0%} of {score.wins + score.losses} decided pairs "
            f"(95 % interval {low:.0%} to {high:.0%}; {score.undecided} of {pairs} undecided).")


def _sample(policy: Policy, plan: Plan, keys: Sequence[str], jobs: Sequence[tuple[int, int]], log: EventLog,
            stage: str) -> list[Image.Image]:
    """One image a job, in order; equal sizes share batches."""
    images: dict[int, Image.Image] = {}
    places = sorted(range(len(jobs)), key=lambda at: policy.size(keys[jobs[at][0]]))
    log.emit("progress", stage=stage, done=0, total=len(jobs))
    for start in range(0, len(places), plan.micro_batch):
        chosen = places[start:start + plan.micro_batch]
        made = sample_images(policy, [keys[jobs[at][0]] for at in chosen], [jobs[at][1] for at in chosen], steps=plan.steps,
                             shift=plan.shift, micro_batch=plan.micro_batch)
        images.update(zip(chosen, made, strict=True))
        log.emit("progress", stage=stage, done=len(images), total=len(jobs))
    return [images[at] for at in range(len(jobs))]


def _judge(judge: Judge, pairs: Sequence[Pair], width: int, log: EventLog) -> list[Verdict]:
    groups: list[Future[list[Verdict]]] = [judge.submit(pairs[at:at + width]) for at in range(0, len(pairs), width)]
    verdicts: list[Verdict] = []
    for group in groups:
        verdicts += group.result()
        log.emit("progress", stage="verdicts", done=len(verdicts), total=len(pairs))
    return verdicts


def _record(contest: Contest, score: Score, pairs: Sequence[Pair], verdicts: Sequence[Verdict], judge: Judge,
            log: EventLog) -> None:
    plan, folder = contest.plan, contest.plan.output
    shown = [_save(folder, at, pair, verdict) for at, (pair, verdict) in enumerate(zip(pairs, verdicts, strict=True))]
    low, high = score.interval
    counts = {"wins": score.wins, "losses": score.losses, "undecided": score.undecided, "win_rate": score.win_rate,
              "low": low, "high": high}
    result = {
        **counts, "sentence": sentence(contest, score), "name": contest.name, "adapter": plan.adapter.content_hash,
        "against": contest.other_name, "against_adapter": contest.other.content_hash if contest.other else None,
        "base": base_id(plan.settings.base), "strength": plan.strength, "prompts": len(plan.examples),
        "seeds": list(plan.seeds), "steps": plan.steps, "shift": plan.shift, "rubric": judge.rubric.name,
        "rubric_hash": judge.rubric.content_hash, "failures": sum(verdict.failed for verdict in verdicts),
        "judge_calls": sum(verdict.calls for verdict in verdicts), "judge_cost": sum(verdict.cost for verdict in verdicts),
        "version": __version__}
    (folder / "result.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _write_report(contest, result, shown)
    log.emit("validation", update=0, **counts, images=shown)
    log.emit("finished", sentence=result["sentence"], report="report.html", result="result.json")


def _save(folder: Path, at: int, pair: Pair, verdict: Verdict) -> dict:
    """The images of a pair, written, and its entry in the event of the validation."""
    images = {"policy": pair.image_a, "base": pair.image_b, "source": pair.source}
    entry = {"prompt": pair.prompt, "preferred": {"a": "policy", "b": "base", None: None}[verdict.preferred],
             "reason": verdict.reason}
    for name, image in images.items():
        path = folder / "samples" / {"policy": "first", "base": "second", "source": "source"}[name] / f"{at + 1:04d}.png"
        if image is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        entry[name] = path.relative_to(folder).as_posix() if image is not None else None
    return entry


def _write_report(contest: Contest, result: dict, shown: Sequence[dict]) -> None:
    """One page that needs no other file. Decided pairs are shown first."""
    folder, rate = contest.plan.output, result["win_rate"]
    tile = ""
    if rate is not None:
        bar = interval(rate, result["low"], result["high"], 0, 1, half=True)
        tile = (f'<div class="tiles"><div class="tile"><p class="label">Win rate</p><p class="big">{percent(rate)}</p>'
                f'<p class="sub">95 % interval {percent(result["low"])} to {percent(result["high"])}</p>{bar}</div></div>')
    facts = [plural(result["prompts"], "prompt"), f"{plural(len(result['seeds']), 'seed')} each", f"{result['steps']} steps",
             f"base {result['base']}", f"rubric {result['rubric']}"]
    cards = "".join(_card(entry, contest, folder)
                    for entry in sorted(shown, key=lambda entry: entry["preferred"] is None)[:SHOWN])
    body = (f'<header><p class="over">Win rate</p><h1>{text(contest.name)} against {text(contest.other_name)}</h1>'
            f'<p class="facts">{"".join(f"<span>{text(fact)}</span>" for fact in facts)}</p>'
            f'<p class="sentence">{text(result["sentence"])}</p>{tile}</header>'
            + section("Pairs", "Same prompt, same seed. What the judge preferred is framed.",
                      f'<div class="cards">{cards}</div>'))
    page = fill(f"{text(contest.name)} &middot; win rate", body)
    (folder / "report.html").write_text(page, encoding="utf-8", errors="replace")


def _card(entry: dict, contest: Contest, folder: Path) -> str:
    names = {"source": "source", "policy": contest.name, "base": contest.other_name}
    sides = "".join(
        f'<figure{" class=preferred" * (entry["preferred"] == side)}>{picture(folder, entry[side], entry["prompt"])}'
        f'<figcaption>{text(name)}</figcaption></figure>' for side, name in names.items() if entry[side])
    return (f'<article class="card"><h3 class="prompt" dir="auto">{text(entry["prompt"])}</h3>'
            f'<div><div class="row">{sides}</div><p class="reason" dir="auto">{text(entry["reason"])}</p></div></article>')

