"""The parts of the report that are read rather than looked at."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..training.events import History, MeasureEvent
from .charts import interval
from .words import (
    duration,
    entries,
    figure,
    mapping,
    percent,
    plural,
    row,
    section,
    shower,
    table,
    text,
    total,
)

NAMES = ("criterion", "text", "theme", "name", "title", "question", "description")
UNSHOWN = (*NAMES, "task", "criteria", "themes", "tips")


def warnings(run: History) -> str:
    """The messages of warnings, each once."""
    counts = Counter(event.message for event in run.warnings)
    lines = (
        f"{message} ({times} times)" if times > 1 else message for message, times in counts.items()
    )
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    body = f'<ul class="warnings" id="warnings">{items}</ul>'
    return section("Warnings", "What the trainer noticed on the way.", body) if items else ""


def measures(run: History) -> str:
    """Every measure as two intervals on one line, base and policy."""
    shown = "".join(filter(None, map(_measure, run.measures)))
    lead = "An exact count on held-out prompts, which training never sees. 95 % intervals."
    return (
        section("Measured without the judge", lead, f'<div class="measures">{shown}</div>')
        if shown
        else ""
    )


def _measure(event: MeasureEvent) -> str:
    sides = {
        side: (share.value, share.low, share.high, share.count)
        for side, share in (("base", event.base), ("policy", event.policy))
    }
    show, rows = shower(event.unit), []
    lowest, highest = (
        min(values[1] for values in sides.values()),
        max(values[2] for values in sides.values()),
    )
    start, end = (
        (0, 1) if show is percent else (lowest, highest if highest > lowest else lowest + 1)
    )
    for side, (value, low, high, count) in sides.items():
        of = f", of {figure(count)}"
        rows.append(
            f'<span class="who">{side}</span>{interval(value, low, high, start, end, role=side)}'
            f'<span class="value">{text(f"{show(value)} ({show(low)} to {show(high)}{of})")}</span>'
        )
    apart = sides["base"][2] < sides["policy"][1] or sides["policy"][2] < sides["base"][1]
    remark = "The intervals are apart." if apart else "The intervals overlap: no difference shown."
    return (
        f'<div><h3>{text(event.name)}</h3><div class="measure">{"".join(rows)}</div>'
        f'<p class="remark">{remark}</p></div>'
    )


def rubric(content: Any) -> str:
    """What the judge was asked to look at, as far as the rubric's file can be read."""
    loose = {"criteria": content} if isinstance(content, list) else mapping(content)
    criteria = "".join(map(_entry, entries(loose.get("criteria"))))
    themes = "".join(map(_entry, entries(loose.get("themes"))))
    if not criteria and not themes:
        return ""
    known = {**loose, **mapping(loose.get("provenance"))}
    facts = "".join(
        f"<span>{text(name.replace('_', ' '))}: {text(value)}</span>"
        for name, value in known.items()
        if name not in UNSHOWN and isinstance(value, (str, int, float))
    )
    lists = "".join(f'<ol class="rubric">{items}</ol>' for items in (criteria, themes) if items)
    return section(
        f"Rubric: {loose.get('name') or 'without a name'}",
        "What the judge was asked to decide by.",
        f'<p class="facts list">{facts}</p>{lists}' if facts else lists,
    )


def _entry(entry: Any) -> str:
    """A criterion or a theme, with its tips below it."""
    if not isinstance(entry, dict):
        return f'<li dir="auto">{text(entry)}</li>'
    words = [entry[name] for name in NAMES if isinstance(entry.get(name), str)]
    tips = "".join(
        f"<li>{text(tip)}</li>" for tip in entries(entry.get("tips")) if isinstance(tip, str)
    )
    return f'<li dir="auto">{text(": ".join(words))}{f"<ul>{tips}</ul>" if tips else ""}</li>'


def cost(run: History) -> str:
    """Where the time went, and what the judge took."""
    if not run.updates:
        return ""
    parts = {
        "sampling": total(run.updates, "sampling_s"),
        "waiting for the judge": total(run.updates, "waiting_s"),
        "training": total(run.updates, "training_s"),
    }
    parts["rest of the updates"] = max(0.0, total(run.updates, "seconds") - sum(parts.values()))
    parts["validation"], parts["encoding prompts"] = (
        total(run.validations, "seconds"),
        total(run.encoded, "seconds"),
    )
    whole = sum(parts.values())
    rows = [
        row(name, duration(spent), percent(round(spent / (whole or 1), 2)))
        for name, spent in parts.items()
    ]
    repeated = ""
    if run.repeated:
        remark = (
            f"Not counted here: {plural(len(run.repeated), 'update')} done again after a resume, "
            f"{duration(total(run.repeated, 'seconds'))} and "
            f"{plural(total(run.repeated, 'judge_calls'), 'judge call')}."
        )
        repeated = f'<p class="remark">{text(remark)}</p>'
    time = table(("time", "", "share"), [*rows, row("all", duration(whole), "", kind="sum")])
    judge = table(("judge, in training", ""), _judge_rows(run))
    return section(
        "Cost and time",
        "Where the time went, and what the judge took.",
        f'<div class="side">{time}{judge}</div>{repeated}',
    )


def _judge_rows(run: History) -> list[str]:
    sums = {
        name: total(run.updates, name)
        for name in (
            "pairs",
            "decided",
            "undecided",
            "failures",
            "judge_calls",
            "judge_tokens",
            "judge_cost",
        )
    }
    shares = {
        name: f" ({percent(sums[name] / sums['pairs'])})" if sums["pairs"] else ""
        for name in ("decided", "undecided", "failures")
    }
    return [
        row("pairs", figure(sums["pairs"])),
        row("decided", figure(sums["decided"]) + shares["decided"]),
        row("undecided", figure(sums["undecided"]) + shares["undecided"]),
        row("of these failed", figure(sums["failures"]) + shares["failures"]),
        row("calls", figure(sums["judge_calls"])),
        row("tokens", figure(sums["judge_tokens"])),
        row("cost, as reported", f"{sums['judge_cost']:,.2f}"),
    ]


def settings(yaml: str) -> str:
    """The configuration that ran, folded away."""
    body = f'<details><summary>config.yaml</summary><pre tabindex="0">{text(yaml)}</pre></details>'
    return section("Settings", "The whole configuration, as it ran.", body) if yaml else ""
