"""What a job will about cost, before it makes a call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from ..data import PreferencePair
from .writing import REFINEMENTS

# Of the published run 87 of 100 pairs passed at once and 4 were discarded (arXiv 2605.08354). With one and a half
# refinements for each of those between, a pair is refined so often on average:
REFINED = 0.04 * REFINEMENTS + 0.09 * 1.5
PATCH = 28  # pixels a side of what Qwen2.5-VL counts as one token; others count alike or less
ASKED, ANSWERED = (
    700,
    350,
)  # tokens of a question's text and of a reply, as seen with our own questions


@dataclass(frozen=True)
class Estimate:
    """Calls and tokens: what is to be expected, and calls at the least and at the most."""

    least: int
    expected: int
    most: int
    prompt_tokens: int
    reply_tokens: int
    cost: float | None  # None where the profile has no price

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
    *,
    price: float = 0.0,
    reply_price: float | None = None,
    side: int = 1024,
    example_characters: int = 0,
) -> Estimate:
    """The estimate for seed and held-out pairs; prices are per million tokens. Sizes are read from the files' headers.

    Every pair is written for once and verified in two orders, as often again as it is refined; the rubric is structured
    in one call; held-out pairs are judged in two orders with the rubric and without.
    """
    images = _image_tokens(seeds, side) * 3 * (1 + REFINED) + _image_tokens(held_out, side) * 4
    expected = math.ceil(3 * len(seeds) * (1 + REFINED)) + 1 + 4 * len(held_out)
    prompt = round(images + ASKED * expected + example_characters / 4 * len(seeds))
    replies = ANSWERED * expected
    cost = (prompt * price + replies * (price if reply_price is None else reply_price)) / 1e6
    return Estimate(
        3 * len(seeds) + 1 + 4 * len(held_out),
        expected,
        3 * len(seeds) * (1 + REFINEMENTS) + 1 + 4 * len(held_out),
        prompt,
        replies,
        cost if price or reply_price else None,
    )


def _image_tokens(pairs: Sequence[PreferencePair], side: int) -> int:
    """Tokens of all images of all pairs, each shown once."""
    count = 0
    for pair in pairs:
        for path in (*pair.images, *([pair.source] if pair.source else [])):
            with Image.open(path) as image:
                scale = min(1.0, side / max(image.size))
                count += math.prod(math.ceil(length * scale / PATCH) for length in image.size)
    return count


def _rounded(number: float) -> str:
    """Two digits are all that an estimate knows: 1,234,567 as "1.2 million"."""
    if number >= 1e6:
        return f"{number / 1e6:.2g} million" if number < 1e8 else f"{number / 1e6:.0f} million"
    return f"{float(f'{number:.2g}'):,.0f}"
