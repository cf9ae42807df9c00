"""What a job will about cost, before it makes a call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    """Calls and tokens: what is to be expected, and calls at the least and at the most."""

    least: int
    expected: int
    most: int
    prompt_tokens: int
    reply_tokens: int
    cost: float | None  # None where no profile has a price

    @property
    def text(self) -> str:
        """A sentence."""
        tokens = f"{_rounded(self.prompt_tokens)} prompt tokens and {_rounded(self.reply_tokens)} reply tokens"
        money = (
            "the profile has no price"
            if self.cost is None
            else f"about {self.cost:.2f} at the profile's price"
        )
        return f"about {self.expected} calls ({self.least} to {self.most}), {tokens}; {money}"


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
    in one call; held-out pairs are judged in two orders with the rubric and without. Members of a panel and votes each
    make their own calls.
    """
    written = len(seeds) * (1 + REFINED)
    checked = 4 * len(held_out)
    images = _image_tokens(seeds, writer.max_side) * (1 + REFINED)
    text = ASKED * (written + 1) + example_characters / 4 * len(seeds)
    prompts, replies = images + text, ANSWERED * (written + 1)
    cost = _cost(writer, prompts, replies)
    per_question = 0
    for member in [load_profile(name) for name in judge.members] or [judge]:
        calls = member.votes if member.kind in ("openai", "local") else 0
        shown = _image_tokens(seeds, member.max_side) * 2 * (1 + REFINED)
        shown += _image_tokens(held_out, member.max_side) * 4
        answered = 1 if member.mode == "logits" else ANSWERED
        asked = calls * (shown + ASKED * (2 * written + checked))
        said = calls * answered * (2 * written + checked)
        per_question, prompts, replies = per_question + calls, prompts + asked, replies + said
        cost += _cost(member, asked, said)

    def calls_for(rounds: float) -> int:
        return math.ceil(rounds * (1 + 2 * per_question)) + 1 + checked * per_question

    return Estimate(
        calls_for(len(seeds)),
        calls_for(written),
        calls_for(len(seeds) * (1 + REFINEMENTS)),
        round(prompts),
        round(replies),
        cost or None,
    )


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
