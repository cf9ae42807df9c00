"""A counted share with its 95 % interval: every rate of this project is one of these."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z = 1.96  # standard deviations of 95 %


@dataclass(frozen=True)
class Proportion:
    """``count`` of ``total``."""

    count: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.count <= self.total:
            raise ValueError(f"expected 0 <= count <= total, got {self.count} of {self.total}")

    @property
    def value(self) -> float | None:
        """The share; None of nothing."""
        return self.count / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high) of Wilson's 95 % score interval; (0, 1) of nothing.

        Unlike the normal interval it stays inside [0, 1] and keeps a width at 0 and at 1. Source: Wilson, JASA 22 (1927).
        """
        if self.value is None:
            return 0.0, 1.0
        weight = Z * Z / self.total
        centre = (self.value + weight / 2) / (1 + weight)
        variance = self.value * (1 - self.value) / self.total + weight / (4 * self.total)
        half = Z / (1 + weight) * math.sqrt(variance)
        # Rounding must not put a share of 0 or 1 outside of its own interval.
        low = 0.0 if self.count == 0 else centre - half
        return low, 1.0 if self.count == self.total else centre + half

    @property
    def by_chance(self) -> float:
        """How often a fair coin falls so low or lower: the p-value of the exact one-sided binomial test."""
        return sum(math.comb(self.total, k) for k in range(self.count + 1)) / 2**self.total

    @property
    def kappa(self) -> str:
        """Cohen's kappa with its interval, as "0.70 (0.52 to 0.82)", where this is how often two raters agree on pairs.

        Which image of a pair is called a means nothing. So each pair counts in both orders, chance agrees on half of
        them, and kappa is 2 p - 1.
        """
        if self.value is None:
            return "-"
        low, high = (2 * end - 1 for end in self.interval)
        return f"{2 * self.value - 1:.2f} ({low:.2f} to {high:.2f})"

    def __str__(self) -> str:
        """The share as "84.2% (75.1-90.4)", or "-" of nothing."""
        if self.value is None:
            return "-"
        low, high = self.interval
        return f"{self.value:.1%} ({100 * low:.1f}-{100 * high:.1f})"
