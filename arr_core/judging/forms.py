"""The form of a request: the best for a verdict first, then what older servers and reasoning models ask for instead."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal

# How a server that refuses a field speaks of it. What no message names is tried in this order.
_NAMES = {
    "format": (
        "response_format",
        "json_schema",
        "json_object",
        "schema",
        "grammar",
        "guided",
        "structured",
    ),
    "limit": ("max_tokens",),
    "temperature": ("temperature",),
    "seed": ("seed",),
    "top": ("logprobs",),
}


@dataclass(frozen=True)
class Wishes:
    """What a reply should be, whatever fields the server has for it."""

    temperature: float
    max_tokens: int
    schema: dict[str, Any] | None = field(default=None, hash=False)
    seed: int | None = None
    log_probs: bool = False

    @property
    def kind(self) -> str:
        """What requests of one kind share: a server that refuses one schema may take another."""
        return f"{self.log_probs} {json.dumps(self.schema, sort_keys=True)}"


@dataclass(frozen=True)
class Form:
    """The fields in which wishes are put to one server."""

    format: Literal["json_schema", "json_object", "none"] = "json_schema"
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: bool = True
    seed: bool = True
    top: int = 20  # candidates of which log-probabilities are asked for

    def fields(self, wishes: Wishes) -> dict[str, Any]:
        """The body's fields beside model and messages."""
        fields: dict[str, Any] = {self.limit: wishes.max_tokens}
        if wishes.schema and self.format == "json_schema":
            fields["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "reply", "strict": True, "schema": wishes.schema},
            }
        elif wishes.schema and self.format == "json_object":
            fields["response_format"] = {"type": "json_object"}
        if self.temperature:
            fields["temperature"] = wishes.temperature
        if self.seed and wishes.seed is not None:
            fields["seed"] = wishes.seed
        if wishes.log_probs:
            fields |= {"logprobs": True, "top_logprobs": self.top}
        return fields

    def weaker(self, wishes: Wishes, refusal: str) -> tuple[Form | None, bool]:
        """The next form after a refusal, None at the end, and whether its message calls for it; else it is the next in line."""
        steps: dict[str, Form] = {}
        if wishes.schema and self.format != "none":
            steps["format"] = replace(
                self, format="json_object" if self.format == "json_schema" else "none"
            )
        if self.limit == "max_tokens":
            steps["limit"] = replace(self, limit="max_completion_tokens")
        if self.temperature:
            steps["temperature"] = replace(self, temperature=False)
        if self.seed and wishes.seed is not None:
            steps["seed"] = replace(self, seed=False)
        if wishes.log_probs and self.top > 5:
            steps["top"] = replace(self, top=5)
        named = [name for name in steps if any(word in refusal.lower() for word in _NAMES[name])]
        return (steps[(named or list(steps))[0]] if steps else None), bool(named)
