"""The fields of a request: the best for a verdict first, then what older servers and reasoning models accept instead."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from .chat import RequestOptions

# Words by which a server's refusal names a field. Where a refusal names none, the fallbacks are tried in this order.
_NAMES = {
    "format": (
        *("response_format", "json_schema", "json_object"),
        *("schema", "grammar", "guided", "structured"),
    ),
    "limit": ("max_tokens",),
    "temperature": ("temperature",),
    "seed": ("seed",),
    "top": ("logprobs",),
}


@dataclass(frozen=True)
class RequestFields:
    """The names and kinds of fields by which one server takes request options."""

    format: Literal["json_schema", "json_object", "none"] = "json_schema"
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: bool = True
    seed: bool = True
    top: int = 20  # candidates of which log-probabilities are asked for

    def body(self, options: RequestOptions) -> dict[str, Any]:
        """The fields of the request's body beside model and messages."""
        fields: dict[str, Any] = {self.limit: options.max_tokens}
        if options.schema and self.format == "json_schema":
            schema = {"name": "reply", "strict": True, "schema": options.schema}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif options.schema and self.format == "json_object":
            fields["response_format"] = {"type": "json_object"}
        if self.temperature:
            fields["temperature"] = options.temperature
        if self.seed and options.seed is not None:
            fields["seed"] = options.seed
        if options.log_probs:
            fields |= {"logprobs": True, "top_logprobs": self.top}
        return fields

    def fallback(self, options: RequestOptions, refusal: str) -> tuple[RequestFields | None, bool]:
        """The fields to try after a refusal, None at the end, and whether its message names the field that changes."""
        steps: dict[str, RequestFields] = {}
        if options.schema and self.format != "none":
            weaker = "json_object" if self.format == "json_schema" else "none"
            steps["format"] = replace(self, format=weaker)
        if self.limit == "max_tokens":
            steps["limit"] = replace(self, limit="max_completion_tokens")
        if self.temperature:
            steps["temperature"] = replace(self, temperature=False)
        if self.seed and options.seed is not None:
            steps["seed"] = replace(self, seed=False)
        if options.log_probs and self.top > 5:
            steps["top"] = replace(self, top=5)
        named = [name for name in steps if any(word in refusal.lower() for word in _NAMES[name])]
        return (steps[(named or list(steps))[0]] if steps else None), bool(named)
