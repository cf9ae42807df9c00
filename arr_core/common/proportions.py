"""Intervals of counted shares."""

from __future__ import annotations

import math


def wilson(successes: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """(low, high) of Wilson's score interval of a share; (0, 1) when nothing was counted.

    Unlike the normal interval it stays inside [0, 1] and keeps a width at 0 and at 1. Source: Wilson, JASA 22 (1927).
    """
    if not 0 <= successes <= total:
        raise ValueError(f"expected 0 <= successes <= total, came {successes} of {total}")
    if total == 0:
        return 0.0, 1.0
    share, weight = successes / total, z * z / total
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    # The ends are exact: rounding must not say that a share of 0 or 1 lies outside of its own interval.
    return 0.0 if successes == 0 else low, 1.0 if successes == total else high
