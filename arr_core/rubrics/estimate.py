"""What a job will about cost, before it makes a call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from ..data import PreferencePair
from ..judging.profiles import Profile, load_profile
from .writer import REFINEMENTS

# Of the published run 87 of 100 pairs passed at once and 4 were discarded (arXiv 2605.08354). With one and a half
# refinements for each of those between, a pair is refined so often on average:
REFINED = 0.04 * REFINEMENTS + 0.09 * 1.5
PATCH = 28  # pixels a side of what Qwen2.5-VL counts as one token; others count alike or less
# Tokens of a question's text and of a reply, as seen with our own questions.
ASKED, ANSWERED = 700, 350


@dataclass(frozen=True)
class Estimate:
    """Calls, pictures and tokens: what is to be expected, and calls at the least and at the most."""

    least: int
    expected: int
    most: int
    pictures: int
    prompt_tokens: int
    reply_tokens: int
    cost: float | None  # None where no profile has a price

    @property
    def text(self) -> str:
        """A sentence."""
        calls = f"about {self.expected} calls ({self.least} to {self.most})"
        if self.least == self.most:
            calls = f"{self.expected} calls"
        tokens = f"{_rounded(self.prompt_tokens)} prompt tokens and {_rounded(self.reply_tokens)} reply tokens"
        money = (
            "the profile has no price"
            if self.cost is None
            else f"about {self.cost:.2f} at the profile's price"
        )
        return f"{calls} with {self.pictures} pictures, {tokens}; {money}"


def estimate(
    seeds: Sequence[PreferencePair],
    held_out: Sequence[PreferencePair],
    writer: Profile,
    judge: Profile,
    *,
    example_characters: int = 0,
) -> Estimate:
    """The estimate for seed and held-out pairs. The sizes of images are read from the files' headers.

    Every pair is written for once and verified in two orders, as often again as it is refined; the rubric is structured
    in one call; held-out pairs are judged in two orders under two rubrics.
    """
    written = len(seeds) * (1 + REFINED)
    shown = sum(len(pair.files) for pair in seeds) * (1 + REFINED)
    tokens = _image_tokens(seeds, writer.max_side) * (1 + REFINED)
    prompts = tokens + ASKED * (written + 1) + example_characters / 4 * len(seeds)
    replies = ANSWERED * (written + 1)
    judged = _judged(judge, [(seeds, 2 * (1 + REFINED)), (held_out, 4)])
    checked = 4 * len(held_out)

    def calls_for(rounds: float) -> int:
        return math.ceil(rounds * (1 + 2 * judged.each)) + 1 + checked * judged.each

    return Estimate(
        calls_for(len(seeds)),
        calls_for(written),
        calls_for(len(seeds) * (1 + REFINEMENTS)),
        round(shown + judged.pictures),
        round(prompts + judged.prompts),
        round(replies + judged.replies),
        (_cost(writer, prompts, replies) + judged.cost) or None,
    )


def estimate_evaluation(
    pairs: Sequence[PreferencePair], judge: Profile, questions: int
) -> Estimate:
    """The estimate for so many questions about each labelled pair. Repair questions and what is stored are not counted."""
    judged = _judged(judge, [(pairs, questions)])
    calls = len(pairs) * questions * judged.each
    pictures, prompts, replies = map(round, (judged.pictures, judged.prompts, judged.replies))
    return Estimate(calls, calls, calls, pictures, prompts, replies, judged.cost or None)


class _Judged(NamedTuple):
    each: int  # calls for a question: members of a panel and votes make their own
    pictures: float
    prompts: float  # tokens
    replies: float
    cost: float


def _judged(judge: Profile, asked: Sequence[tuple[Sequence[PreferencePair], float]]) -> _Judged:
    """What a judge takes for pairs, each with how many questions are asked about it."""
    questions = sum(len(pairs) * times for pairs, times in asked)
    shown = sum(len(pair.files) * times for pairs, times in asked for pair in pairs)
    each, pictures, prompts, replies, cost = 0, 0.0, 0.0, 0.0, 0.0
    for member in [load_profile(name) for name in judge.members] or [judge]:
        calls = member.votes if member.kind in ("openai", "local") else 0
        tokens = sum(_image_tokens(pairs, member.max_side) * times for pairs, times in asked)
        asking = calls * (tokens + ASKED * questions)
        saying = calls * questions * (1 if member.mode == "logits" else ANSWERED)
        each, pictures = each + calls, pictures + calls * shown
        prompts, replies = prompts + asking, replies + saying
        cost += _cost(member, asking, saying)
    return _Judged(each, pictures, prompts, replies, cost)


def _cost(profile: Profile, prompts: float, replies: float) -> float:
    price, reply_price = profile.price_per_million_tokens, profile.price_per_million_reply_tokens
    return (prompts * price + replies * (price if reply_price is None else reply_price)) / 1e6


def _image_tokens(pairs: Sequence[PreferencePair], max_side: int) -> int:
    """Tokens of all images of all pairs, each shown once."""
    count = 0
    for pair in pairs:
        for path in pair.files:
            with Image.open(path) as image:
                scale = min(1.0, max_side / max(image.size))
                count += math.prod(math.ceil(length * scale / PATCH) for length in image.size)
    return count


def _rounded(number: float) -> str:
    """Two digits are all that an estimate knows: 1,234,567 as "1.2 million"."""
    if number >= 1e6:
        return f"{number / 1e6:.2g} million" if number < 1e8 else f"{number / 1e6:.0f} million"
    return f"{float(f'{number:.2g}'):,.0f}"
