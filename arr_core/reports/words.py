"""Values of events as words and numbers to read. What an event holds is not trusted: wrong types read as unknown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

UNKNOWN = "unknown"
SPACE = "\u202f"  # narrow and unbreakable, between a number and its unit


def number(value: Any) -> float | None:
    """The value as a finite float of a sane size, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < 1e30 else None  # false for NaN too


def mapping(value: Any) -> dict:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def entries(value: Any) -> list:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def total(events: Iterable[Any], name: str) -> float:
    """Sum of a field over events, where it is known."""
    return sum(number(getattr(event, name)) or 0.0 for event in events)


def percent(share: float | None) -> str:
    """A share as "81 %"; below 10 % two digits that tell something, such as "0.12 %"."""
    if share is None:
        return UNKNOWN
    return f"{100 * share:{'.2g' if abs(share) < 0.0995 else '.0f'}}{SPACE}%"


def signed_percent(change: float) -> str:
    """A relative change as "+31 %", with a real minus, or "0 %" where it rounds to nothing."""
    whole = round(100 * change)
    return f"{whole:+}{SPACE}%".replace("-", "\u2212") if whole else f"0{SPACE}%"


def figure(value: float | None) -> str:
    """A number in three significant digits; whole numbers in full, with commas."""
    if value is None:
        return UNKNOWN
    text = f"{value:,.0f}" if value == round(value) and abs(value) < 1e12 else f"{value:.3g}"
    return text.replace("-", "\u2212")


def duration(seconds: float | None) -> str:
    """Seconds as "9.4 s", "9 min 40 s" or "2 h 03 min"."""
    if seconds is None:
        return UNKNOWN
    if seconds < 59.5:
        return f"{seconds:.1f}{SPACE}s" if seconds < 9.95 else f"{seconds:.0f}{SPACE}s"
    minutes, rest = divmod(math.floor(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}{SPACE}h {minutes:02}{SPACE}min"
        if hours
        else f"{minutes}{SPACE}min {rest:02}{SPACE}s"
    )


def span(low: float, high: float) -> str:
    """An interval of a share as "71–88"."""
    return f"{100 * low:.0f}\u2013{100 * high:.0f}"


def plural(count: float, noun: str) -> str:
    """ "1 pair", "2 pairs"."""
    return f"{figure(count)} {noun}{'' if count == 1 else 's'}"


def shower(unit: Any) -> Callable[[float], str]:
    """How the values of a measure are written: shares as percent, others as numbers with their unit."""
    if str(unit).lower() in ("share", "rate", "fraction"):
        return percent
    return lambda value: f"{figure(value)} {unit or ''}".rstrip()


def text(value: Any) -> str:
    """Any value as text that is safe in HTML, between tags and inside of quotes."""
    return "" if value is None else escape(str(value))


def section(title: str, lead: str, body: str) -> str:
    """A section of the page. ``body`` is HTML, the others are plain text."""
    return f'<section><h2>{text(title)}</h2><p class="lead">{text(lead)}</p>{body}</section>'


def table(heads: Iterable[str], rows: Iterable[str]) -> str:
    """A table of rows that ``row`` made, which scrolls where the page is narrow."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in heads)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def row(name: str, *cells: str, kind: str = "") -> str:
    """A row of a table: its head and its cells, all plain text."""
    data = "".join(f"<td>{text(cell)}</td>" for cell in cells)
    return f'<tr class="{kind}"><th scope="row">{text(name)}</th>{data}</tr>'
