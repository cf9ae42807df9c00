"""The top of the report: what came out, how sure it is, and what speaks against it."""

from __future__ import annotations

from ..training.events import Event, History
from .charts import interval
from .run_curves import moved
from .words import (
    duration,
    figure,
    mapping,
    number,
    percent,
    plural,
    shower,
    signed_percent,
    span,
    text,
    total,
)

STATES = {
    "finished": ("good", "finished"),
    "stopped": ("warn", "stopped"),
    "open": ("open", "not ended"),
}


def headline(run: History) -> str:
    """Name and facts of the run, its sentence, the verdict on it, and the numbers that matter."""
    started, last = run.started, run.validations[-1] if run.validations else None
    tone, state = STATES[run.state]
    if run.stopped:
        state += f" ({run.stopped.get('reason') or 'no reason given'}), can be resumed"
    task = {"t2i": "text to image", "edit": "image editing"}.get(
        started.get("task"), started.get("task")
    )
    facts = [
        task,
        started.get("algorithm"),
        _progress(run),
        started.get("device"),
        _date(started.get("time")),
    ]
    shown = "".join(f"<span>{text(fact)}</span>" for fact in facts if fact)
    if run.warnings:
        shown += f'<a href="#warnings">{text(plural(len(run.warnings), "warning"))}</a>'
    ended = mapping(run.finished)
    sentence = f'<p class="sentence">{text(ended["sentence"])}</p>' if ended.get("sentence") else ""
    alerts = "".join(f'<p class="alert">{text(alert)}</p>' for alert in _alerts(last))
    return (
        f'<header><p class="over">Training report</p><h1>{text(started.get("run") or "Run")}</h1>'
        f'<p class="facts"><span class="state {tone}">{text(state)}</span>{shown}</p>'
        f'{sentence}{_verdict(run, last)}{alerts}<div class="tiles">{_win_rate_tile(last)}{_measure_tiles(run)}'
        f"{_time_tile(run)}</div></header>"
    )


def _verdict(run: History, last: Event | None) -> str:
    """Whether the policy is better than its base, as far as the last validation can say."""
    low, high, rate = (number(mapping(last).get(name)) for name in ("low", "high", "win_rate"))
    if last is None:
        return _two_lines(
            "open",
            "Nothing to judge yet.",
            "The first validation against the base is still to come.",
        )
    counts = f"{figure(number(last.get('wins')))} times, the base {figure(number(last.get('losses')))} times"
    because = (
        f"On held-out prompts the judge preferred the policy {counts}; it could not decide "
        f"{figure(number(last.get('undecided')))} times."
    )
    kept = next((event for event in reversed(run.validations) if event.get("best") is True), last)
    if kept is not last:
        because += (
            f" The folder adapter-best/ holds the policy of update {kept['update']}, with "
            f"{percent(number(kept.get('win_rate')))} the best of {len(run.validations)} validations; "
            "having been picked, that number flatters."
        )
    if rate is None or low is None or high is None:
        return _two_lines("open", "Nothing to tell policy and base apart yet.", because)
    if low > 0.5:
        return _two_lines("good", "Better than its base, in the judge's eyes.", because)
    if high < 0.5:
        return _two_lines("bad", "Worse than its base, in the judge's eyes.", because)
    return _two_lines("warn", "No difference shown: the interval holds one half.", because)


def _two_lines(tone: str, verdict: str, because: str) -> str:
    return f'<p class="verdict {tone}">{text(verdict)}</p><p class="because">{text(because)}</p>'


def _alerts(last: Event | None) -> list[str]:
    changes = ", ".join(
        f"{label.lower()} {signed_percent(change)}" for label, change in moved(last).items()
    )
    return (
        [
            f"The look of the pictures has changed: {changes} against the base. A judge can be won by that alone; "
            "see the pictures before you believe the win rate."
        ]
        if changes
        else []
    )


def _win_rate_tile(last: Event | None) -> str:
    event = mapping(last)
    rate, low, high = (number(event.get(name)) for name in ("win_rate", "low", "high"))
    if rate is None or low is None or high is None:
        return _tile("Win rate against the base", "&ndash;", "no decided pair yet")
    judged = sum(number(event.get(name)) or 0 for name in ("wins", "losses"))
    return _tile(
        "Win rate against the base",
        percent(rate),
        f"95 % interval {span(low, high)}, of {plural(judged, 'decided pair')}",
        interval(rate, low, high, 0, 1, half=True),
    )


def _measure_tiles(run: History) -> str:
    tiles = []
    for event in run.measures:
        base, policy = (
            number(mapping(event.get(side)).get("value")) for side in ("base", "policy")
        )
        if base is not None and policy is not None:
            show = shower(event.get("unit"))
            big = f'<span class="before">{text(show(base))} &rarr;</span> {text(show(policy))}'
            tiles.append(
                _tile(str(event.get("name")), big, "base \u2192 policy, measured without the judge")
            )
    return "".join(tiles)


def _time_tile(run: History) -> str:
    spent = sum(total(events, "seconds") for events in (run.encoded, run.updates, run.validations))
    calls = total(run.updates, "judge_calls")
    return _tile("Time", text(duration(spent)), f"{_progress(run)}, {plural(calls, 'judge call')}")


def _tile(label: str, big: str, sub: str, below: str = "") -> str:
    return (
        f'<div class="tile"><p class="label">{text(label)}</p><p class="big">{big}</p>'
        f'<p class="sub">{text(sub)}</p>{below}</div>'
    )


def _progress(run: History) -> str:
    whole = number(run.total)
    return (
        f"{figure(run.update)} of {plural(whole, 'update')}"
        if whole
        else plural(run.update, "update")
    )


def _date(time: object) -> str:
    return str(time)[:16].replace("T", " ") + " UTC" if time else ""
