"""The seam to a model that can be talked to: messages with pictures in, a reply out. Judges and rubric writers share it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Reply:
    """What came back. ``failure`` says why there is no text (time-out, refused connection); a failed reply has none.

    ``log_probs`` holds the log-probabilities of candidates for the first token, where they were asked for and are known.
    """

    text: str = ""
    failure: str = ""
    cut: bool = False  # the reply ended at the token limit
    tokens: int = 0
    cost: float = 0.0
    latency_s: float = 0.0
    log_probs: dict[str, float] = field(default_factory=dict)


class Chat(Protocol):
    """A vision-language model behind a server or in this process.

    ``identity`` names the model and every setting that may change a reply; it holds no key and no URL with a secret.
    """

    identity: str

    async def complete(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        schema: dict[str, Any] | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        max_tokens: int | None = None,
        log_probs: bool = False,
    ) -> Reply:
        """The reply to chat messages; None leaves a setting as the profile has it.

        messages: ``{"role", "content"}``; content is text or parts ``{"type": "text", "text": str}`` and
        ``{"type": "image", "image": PIL.Image}``, with the ``"digest"`` of its content where the caller knows it.
        schema: JSON schema of the reply, enforced where the model's server can and left out where it cannot.
        log_probs: one token is asked for, with the log-probabilities of its likeliest candidates.
        Raises JudgeError where no reply can ever come (no server, wrong key, unknown model, a model that cannot see).
        """

    async def close(self) -> None:
        """Give back what is held: connections, the model's memory."""


def together(listed: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Log-probabilities by text, those of equal texts added up as probabilities; what is no log-probability is left out."""
    found: dict[str, float] = {}
    for text, value in listed:
        if isinstance(text, str) and value <= 0.01:  # servers round up a little; NaN fails this too
            before = found.get(text, -math.inf)
            high = max(before, value, -1e4)
            found[text] = high + math.log(
                math.exp(before - high) + math.exp(max(value, -1e4) - high)
            )
    return found
