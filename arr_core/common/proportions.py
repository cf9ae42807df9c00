"""A counted share with its 95 % interval: every rate of this project is one of these."""

from __future__ import annotations

import math
from dataclasses import dataclass


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
        """(low, high) of Wilson's 95 % interval."""
        return wilson(self.count, self.total)

    def __str__(self) -> str:
        """The share as "84.2% (75.1-90.4)", or "-" of nothing."""
        if self.value is None:
            return "-"
        low, high = self.interval
        return f"{self.value:.1%} ({100 * low:.1f}-{100 * high:.1f})"


def wilson(count: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """(low, high) of Wilson's score interval of a share; (0, 1) when nothing was counted.

    Unlike the normal interval it stays inside [0, 1] and keeps a width at 0 and at 1. Source: Wilson, JASA 22 (1927).
    """
    if not 0 <= count <= total:
        raise ValueError(f"expected 0 <= count <= total, got {count} of {total}")
    if total == 0:
        return 0.0, 1.0
    share, weight = count / total, z * z / total
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    # Rounding must not put a share of 0 or 1 outside of its own interval.
    return 0.0 if count == 0 else low, 1.0 if count == total else high
