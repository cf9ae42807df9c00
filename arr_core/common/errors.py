"""What all of the project's refusals are, and how they put what was expected and what it got into one line."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


class ArrError(Exception):
    """Something cannot be done: one line that says what was expected, what it got and what to do next."""


def show(value: Any) -> str:
    """A value as JSON, of at most 80 characters."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError):  # a number of thousands of digits, for example
        return f"what is too large to show ({type(value).__name__})"
    return text if len(text) <= 80 else f"{text[:77]}..."


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """``; did you mean CHOICE?`` for the nearest choice, by its whole or by its part after the last dot; or nothing."""
    choices = list(choices)
    by_last = {choice.rpartition(".")[2]: choice for choice in reversed(choices)}
    near = (
        difflib.get_close_matches(word, choices, 1)
        or [choice for choice in choices if choice.startswith(word)]
        or [
            by_last[last]
            for last in difflib.get_close_matches(word.rpartition(".")[2], by_last, 1, 0.75)
        ]
    )
    return f"; did you mean {near[0]}?" if word and near else ""


def describe_validation_error(
    error: ValidationError,
    name: Callable[[str], str] = str,
    fields: Iterable[str] = (),
    *,
    values: bool = True,
) -> str:
    """One line with the first three faults: ``FIELD: expected ..., got ...``.

    name: what a dotted field is called where it was given; "" is the whole. fields: the known ones, to suggest the nearest.
    values: false where the input may hold a secret, so that nothing of it is repeated.
    """
    faults: dict[str, str] = {}
    for fault in error.errors():
        field = ".".join(map(str, fault["loc"]))
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] != "value_error":
            message = re.sub(
                r"^Input should be |,? (unable to|got|after validation)\b.*", "", message
            )
            message = re.sub(r"^(List|String) should have", r"a \1 with", message)
        if fault["type"] == "extra_forbidden":
            message = f"unknown field{did_you_mean(field, fields)}"
        elif fault["type"] == "missing":
            message = "expected a value, got nothing"
        elif field or fault["type"] != "value_error":
            if not message.startswith("expected"):
                message = f"expected {message}".replace("List", "list").replace("String", "text")
            message += f", got {show(fault['input'])}" if values else ""
        where = name(field)
        faults.setdefault(where, f"{where}: {message}" if where else message)
    more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    return "; ".join(list(faults.values())[:3]) + more
