"""The seam to a chat model: messages with images in, a reply out. Judges and rubric writers share it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .outage import Outage
    from .profiles import Profile

Messages = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class RequestOptions:
    """What a reply should be. None leaves a setting as the profile has it.

    schema: JSON schema of the reply, enforced where the model's server can and left out where it cannot.
    log_probs: one token is asked for, with the log-probabilities of its likeliest candidates.
    """

    schema: dict[str, Any] | None = field(default=None, hash=False)
    temperature: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    log_probs: bool = False

    def filled(self, profile: Profile) -> RequestOptions:
        """These options, with the profile's settings for those that are None."""
        return replace(
            self,
            temperature=profile.temperature if self.temperature is None else self.temperature,
            max_tokens=1 if self.log_probs else self.max_tokens or profile.max_tokens,
        )

    @property
    def kind(self) -> str:
        """What requests of one kind share: a server that refuses one schema may take another."""
        return f"{self.log_probs} {json.dumps(self.schema, sort_keys=True)}"


@dataclass(frozen=True)
class RequestLimits:
    """How a model is asked: seconds for one attempt, further attempts after a failed one, requests in flight, and hours in
    which a model that answered before is waited for."""

    timeout_s: float = 60.0
    retries: int = 3
    concurrency: int = 16
    outage_hours: float = 0.0


@dataclass(frozen=True)
class Reply:
    """What came back. ``failure`` says why there is no text (time-out, refused connection); a failed reply has none.

    log_probs: the log-probabilities of candidates for the first token, where they were asked for and are known.
    """

    text: str = ""
    failure: str = ""
    cut: bool = False  # the reply ended at the token limit
    tokens: int = 0
    cost: float = 0.0
    latency_s: float = 0.0
    log_probs: dict[str, float] = field(default_factory=dict)


class Chat:
    """A vision-language model behind a server or in this process.

    identity: names the model and every setting that may change a reply; it holds no key and no URL with a secret.
    """

    identity: str

    @property
    def outage(self) -> Outage | None:
        """What it waits for, where it answered before and does not any more."""
        return None

    async def complete(self, messages: Messages, options: RequestOptions | None = None) -> Reply:
        """The reply to chat messages.

        messages: ``{"role", "content"}``; content is text or parts ``{"type": "text", "text": str}`` and
        ``{"type": "image", "image": PIL.Image}``, with the ``"hash"`` of the image where the caller knows it.
        Raises JudgeError where no reply can ever come (no server, wrong key, unknown model, a model that cannot see).
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Give back what is held: connections, the model's memory."""


def merge_log_probs(candidates: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Log-probabilities by text; the probabilities of equal texts are added. Values that are no log-probability are left out."""
    merged: dict[str, float] = {}
    for text, value in candidates:
        if isinstance(text, str) and value <= 0.01:  # servers round up a little; NaN fails this too
            before = merged.get(text, -math.inf)
            high = max(before, value, -1e4)
            total = math.exp(before - high) + math.exp(max(value, -1e4) - high)
            merged[text] = high + math.log(total)
    return merged
