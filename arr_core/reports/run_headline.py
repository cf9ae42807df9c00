"""The top of the report: what came out, how sure it is, and what speaks against it."""

from __future__ import annotations

from ..training.events import History, ValidationEvent
from .charts import interval
from .run_curves import moved
from .words import (
    duration,
    figure,
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
        state += f" ({run.stopped.reason}), can be resumed"
    facts = [_progress(run)]
    if started is not None:
        task = {"t2i": "text to image", "edit": "image editing"}.get(started.task, started.task)
        facts = [task, started.algorithm, *facts, started.device, _date(started.time)]
    shown = "".join(f"<span>{text(fact)}</span>" for fact in facts if fact)
    if run.warnings:
        shown += f'<a href="#warnings">{text(plural(len(run.warnings), "warning"))}</a>'
    ended = run.finished
    sentence = f'<p class="sentence">{text(ended.sentence)}</p>' if ended else ""
    alerts = "".join(f'<p class="alert">{text(alert)}</p>' for alert in _alerts(last))
    return (
        f'<header><p class="over">Training report</p><h1>{text(started.run if started else "Run")}</h1>'
        f'<p class="facts"><span class="state {tone}">{text(state)}</span>{shown}</p>'
        f'{sentence}{_verdict(run, last)}{alerts}<div class="tiles">{_win_rate_tile(last)}{_measure_tiles(run)}'
        f"{_time_tile(run)}</div></header>"
    )


def _verdict(run: History, last: ValidationEvent | None) -> str:
    """Whether the policy is better than its base, as far as the last validation can say."""
    if last is None:
        return _two_lines(
            "open",
            "Nothing to judge yet.",
            "The first validation against the base is still to come.",
        )
    counts = f"{figure(last.wins)} times, the base {figure(last.losses)} times"
    because = (
        f"On held-out prompts the judge preferred the policy {counts}; it could not decide "
        f"{figure(last.undecided)} times."
    )
    kept = next((event for event in reversed(run.validations) if event.best), last)
    if kept is not last:
        because += (
            f" The folder adapter-best/ holds the policy of update {kept.update}, with "
            f"{percent(kept.win_rate)} the best of {len(run.validations)} validations; "
            "having been picked, that number flatters."
        )
    if last.win_rate is None:
        return _two_lines("open", "Nothing to tell policy and base apart yet.", because)
    if last.low > 0.5:
        return _two_lines("good", "Better than its base, in the judge's eyes.", because)
    if last.high < 0.5:
        return _two_lines("bad", "Worse than its base, in the judge's eyes.", because)
    return _two_lines("warn", "No difference shown: the interval holds one half.", because)


def _two_lines(tone: str, verdict: str, because: str) -> str:
    return f'<p class="verdict {tone}">{text(verdict)}</p><p class="because">{text(because)}</p>'


def _alerts(last: ValidationEvent | None) -> list[str]:
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


def _win_rate_tile(last: ValidationEvent | None) -> str:
    if last is None or last.win_rate is None:
        return _tile("Win rate against the base", "&ndash;", "no decided pair yet")
    return _tile(
        "Win rate against the base",
        percent(last.win_rate),
        f"95 % interval {span(last.low, last.high)}, of {plural(last.wins + last.losses, 'decided pair')}",
        interval(last.win_rate, last.low, last.high, 0, 1, half=True),
    )


def _measure_tiles(run: History) -> str:
    tiles = []
    for event in run.measures:
        show = shower(event.unit)
        base, policy = show(event.base.value), show(event.policy.value)
        big = f'<span class="before">{text(base)} &rarr;</span> {text(policy)}'
        tiles.append(_tile(event.name, big, "base \u2192 policy, measured without the judge"))
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
