"""The judge by logits: one token a question, and the probability of "A" against "B" in it; swapping calibrates it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from .chat import Chat, RequestOptions, merge_log_probs
from .client import Client, Question
from .pairwise import spent
from .prompts import LETTER_VERSION, LETTERS, letter_messages
from .verdict import Opinion, confidence_of

# Servers write -9999 for what they did not count. Nobody is surer than one in a billion, and one order must not drown the
# other in their mean.
MOST = 20.0
LEAST_SHARE = 0.2  # probability of both letters together, below which they are no answer but noise


class LogitsClient(Client):
    """Asks a chat for one letter and reads how likely each was.

    Its opinions carry log-odds. In a verdict over both orders their mean decides: a preference for a place or a letter
    adds the same amount to both orders and cancels, where words could only disagree. ``threshold`` is the probability
    below which nothing is decided (0.5: every difference decides).
    """

    def __init__(self, chat: Chat, *, threshold: float = 0.0):
        self.chat: Chat = chat
        self.threshold = threshold
        self.identity = f"{chat.identity}:logits={LETTER_VERSION}:threshold={threshold}"

    async def answer(self, question: Question) -> Opinion:
        reply = await self.chat.complete(letter_messages(question), RequestOptions(log_probs=True))
        opinion = Opinion(None, reply=reply.text, threshold=self.threshold, **spent(reply))
        log_odds = letter_log_odds(reply.log_probs)
        if reply.failure:
            return replace(opinion, failure=reply.failure)
        if log_odds is None:
            failure = "neither A nor B is among the likeliest first tokens"
            return replace(opinion, failure=failure)
        if letter_share(reply.log_probs) < LEAST_SHARE:
            failure = (
                "the model begins with something other than a letter; turn its thinking off, or set "
                "the profile's mode to reasons"
            )
            return replace(opinion, failure=failure)
        confidence, share = confidence_of(log_odds), 1 / (1 + math.exp(-log_odds))
        undecided = confidence < self.threshold or log_odds == 0
        return replace(
            opinion,
            preferred=None if undecided else 0 if log_odds > 0 else 1,
            reason=f"A {share:.0%}, B {1 - share:.0%}",
            confidence=confidence,
            log_odds=log_odds,
        )


def letter_share(log_probs: Mapping[str, float]) -> float:
    """P(A) + P(B) of a first token."""
    return sum(math.exp(value) for token, value in log_probs.items() if token.strip() in LETTERS)


def letter_log_odds(log_probs: Mapping[str, float]) -> float | None:
    """log P(A) / P(B) of a first token, "A" and " A" taken together; None where neither is known.

    A letter that is not among the candidates is at most as likely as the least of them, and is taken to be so: that errs
    on the side of doubt.
    """
    merged = merge_log_probs([(token.strip(), value) for token, value in log_probs.items()])
    if not merged.keys() & LETTERS:
        return None
    least = min(log_probs.values())
    first, second = (merged.get(letter, least) for letter in LETTERS)
    return max(-MOST, min(MOST, first - second))
