"""The templates of the pages, and how pages write numbers. Each page is one HTML file that loads and runs nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

UNKNOWN = "unknown"
SPACE = "\u202f"  # narrow and unbreakable, between a number and its unit
MINUS = "\u2212"


def render(template: str, **data: Any) -> str:
    """The page of a template in ``templates/``. All text in ``data`` is escaped."""
    return _ENVIRONMENT.get_template(template).render(data)


def percent(share: float | None) -> str:
    """A share as "81 %"; below 10 % with two significant digits, such as "0.12 %"."""
    if share is None:
        return UNKNOWN
    return f"{100 * share:{'.2g' if abs(share) < 0.0995 else '.0f'}}{SPACE}%"


def signed_percent(change: float) -> str:
    """A relative change as "+31 %"; "0 %" where it rounds to nothing."""
    whole = round(100 * change)
    return f"{whole:+}{SPACE}%".replace("-", MINUS) if whole else f"0{SPACE}%"


def percent_range(low: float, high: float) -> str:
    """An interval of a share as "71–88"."""
    return f"{100 * low:.0f}\u2013{100 * high:.0f}"


def figure(value: float | None) -> str:
    """A number in three significant digits; whole numbers in full, with commas."""
    if value is None:
        return UNKNOWN
    whole = value == round(value) and abs(value) < 1e12
    return (f"{value:,.0f}" if whole else f"{value:.3g}").replace("-", MINUS)


def plural(count: float, noun: str) -> str:
    """ "1 pair", "2 pairs"."""
    return f"{figure(count)} {noun}{'' if count == 1 else 's'}"


def in_unit(value: float, unit: str) -> str:
    """A measured value: shares in percent, others as numbers with their unit."""
    if unit.lower() in ("share", "rate", "fraction"):
        return percent(value)
    return f"{figure(value)} {unit}".rstrip()


def duration(seconds: float) -> str:
    """Seconds as "9.4 s", "9 min 40 s" or "2 h 03 min"."""
    if seconds < 59.5:
        return f"{seconds:.{1 if seconds < 9.95 else 0}f}{SPACE}s"
    minutes, rest = divmod(math.floor(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}{SPACE}h {minutes:02}{SPACE}min"
    return f"{minutes}{SPACE}min {rest:02}{SPACE}s"


def position(value: float, start: float, end: float) -> float:
    """Where the value lies from ``start`` (0) to ``end`` (100), for a length in CSS; the middle where they are equal."""
    if start == end:
        return 50.0
    return round(100 * min(1.0, max(0.0, (value - start) / (end - start))), 1)


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=lambda value: "" if value is None else value,
)
_FORMATTERS = (
    percent,
    signed_percent,
    percent_range,
    figure,
    plural,
    in_unit,
    duration,
    position,
)
_ENVIRONMENT.filters |= {formatter.__name__: formatter for formatter in _FORMATTERS}
