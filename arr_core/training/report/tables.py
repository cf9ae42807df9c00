"""The parts of the report that are read rather than looked at."""
from __future__ import annotations

from collections import Counter
from typing import Any

from ..events import Event, History
from .headline import interval, shower
from .words import duration, entries, figure, mapping, number, percent, plural, text, total

NAMES = ("criterion", "text", "theme", "name", "title", "question", "description")
UNSHOWN = (*NAMES, "task", "criteria", "themes", "tips")


def warnings(run: History) -> str:
    """The messages of warnings, each once."""
    counts = Counter(str(event.get("message")) for event in run.warnings)
    items = "".join(f"<li>{text(message)}{f' ({times} times)' if times > 1 else ''}</li>" for message, times in counts.items())
    return f'<section><h2>Warnings</h2><ul class="warnings">{items}</ul></section>' if items else ""


def measures(run: History) -> str:
    """Every measure as two intervals on one line, base and policy."""
    shown = "".join(filter(None, map(_measure, run.measures)))
    return ('<section><h2>Measured without the judge</h2><p class="lead">An exact count on held-out prompts that training never '
            f'saw. 95 % intervals.</p><div class="measures">{shown}</div></section>') if shown else ""


def _measure(event: Event) -> str:
    sides = {side: [number(mapping(event.get(side)).get(name)) for name in ("value", "low", "high")]
             for side in ("base", "policy")}
    if any(value is None for values in sides.values() for value in values):
        return ""
    show, rows = shower(event), []
    lowest, highest = min(values[1] for values in sides.values()), max(values[2] for values in sides.values())
    start, end = (0, 1) if show is percent else (lowest, highest if highest > lowest else lowest + 1)
    for side, (value, low, high) in sides.items():
        count = number(mapping(event.get(side)).get("count"))
        of = "" if count is None else f", of {figure(count)}"
        rows.append(f'<span class="who">{side}</span>{interval(value, low, high, start, end, role=side)}'
                    f'<span class="value">{text(f"{show(value)} ({show(low)} to {show(high)}{of})")}</span>')
    apart = sides["base"][2] < sides["policy"][1] or sides["policy"][2] < sides["base"][1]
    remark = "The intervals are apart." if apart else "The intervals overlap: no difference shown."
    return (f'<div><h3>{text(event.get("name"))}</h3><div class="measure">{"".join(rows)}</div>'
            f'<p class="remark">{remark}</p></div>')


def rubric(content: Any) -> str:
    """What the judge was asked to look at, as far as the rubric's file can be read."""
    loose = {"criteria": content} if isinstance(content, list) else mapping(content)
    criteria = "".join(map(_entry, entries(loose.get("criteria"))))
    themes = "".join(map(_entry, entries(loose.get("themes"))))
    if not criteria and not themes:
        return ""
    facts = "".join(f"<span>{text(name.replace('_', ' '))}: {text(value)}</span>" for name, value in loose.items()
                    if name not in UNSHOWN and isinstance(value, (str, int, float)))
    return (f'<section><h2>Rubric: {text(loose.get("name") or "without a name")}</h2><p class="lead">What the judge was asked '
            f'to decide by.</p>{f"""<p class="facts list">{facts}</p>""" if facts else ""}'
            f'{f"""<ol class="rubric">{criteria}</ol>""" if criteria else ""}'
            f'{f"""<ul class="rubric">{themes}</ul>""" if themes else ""}</section>')


def _entry(entry: Any) -> str:
    """A criterion or a theme, with its tips below it."""
    if not isinstance(entry, dict):
        return f'<li dir="auto">{text(entry)}</li>'
    words = [entry[name] for name in NAMES if isinstance(entry.get(name), str)]
    tips = "".join(f"<li>{text(tip)}</li>" for tip in entries(entry.get("tips")) if isinstance(tip, str))
    return f'<li dir="auto">{text(": ".join(words))}{f"<ul>{tips}</ul>" if tips else ""}</li>'


def cost(run: History) -> str:
    """Where the time went, and what the judge took."""
    if not run.updates:
        return ""
    parts = {"sampling": total(run.updates, "sampling_s"), "waiting for the judge": total(run.updates, "waiting_s"),
             "training": total(run.updates, "training_s")}
    parts["rest of the updates"] = max(0.0, total(run.updates, "seconds") - sum(parts.values()))
    parts["validation"], parts["encoding prompts"] = total(run.validations, "seconds"), total(run.encoded, "seconds")
    whole = sum(parts.values())
    rows = "".join(_row(name, duration(spent), percent(spent / whole) if whole else "") for name, spent in parts.items())
    repeated = ""
    if run.repeated:
        repeated = (f'<p class="remark">Not in these tables: {text(plural(len(run.repeated), "update"))} done again after a '
                    f'resume, {text(duration(total(run.repeated, "seconds")))} and '
                    f'{text(plural(total(run.repeated, "judge_calls"), "judge call"))}.</p>')
    return (f'<section><h2>Cost and time</h2><p class="lead">{text(duration(whole))} in all.</p><div class="side">'
            f'{_table(("time", "", "share"), rows + _row("all", duration(whole), "", kind="sum"))}'
            f'{_table(("judge, in training", ""), _judge_rows(run))}</div>{repeated}</section>')


def _judge_rows(run: History) -> str:
    sums = {name: total(run.updates, name) for name in
            ("pairs", "decided", "undecided", "failures", "judge_calls", "judge_tokens", "judge_cost")}
    shares = {name: f" ({percent(sums[name] / sums['pairs'])})" if sums["pairs"] else ""
              for name in ("decided", "undecided", "failures")}
    return "".join([
        _row("pairs", figure(sums["pairs"])), _row("decided", figure(sums["decided"]) + shares["decided"]),
        _row("undecided", figure(sums["undecided"]) + shares["undecided"]),
        _row("failed verdicts", figure(sums["failures"]) + shares["failures"]), _row("calls", figure(sums["judge_calls"])),
        _row("tokens", figure(sums["judge_tokens"])), _row("cost, as reported", f"{sums['judge_cost']:,.2f}")])


def _row(name: str, *cells: str, kind: str = "") -> str:
    return f'<tr class="{kind}"><th scope="row">{text(name)}</th>{"".join(f"<td>{text(cell)}</td>" for cell in cells)}</tr>'


def _table(heads: tuple[str, ...], rows: str) -> str:
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in heads)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def settings(yaml: str) -> str:
    """The configuration that ran, folded away."""
    return ('<section><h2>Settings</h2><details><summary>config.yaml</summary>'
            f'<pre tabindex="0">{text(yaml)}</pre></details></section>') if yaml else ""
