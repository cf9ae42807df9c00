"""Every odd style of reply through the real client: the worse image is never rewarded, and clear replies are read."""

from __future__ import annotations

import asyncio

from benchmarks.hostile import STYLES, measure


def test_no_style_rewards_the_worse_image_and_clear_ones_are_read():
    counts = asyncio.run(measure(2 * len(STYLES)))  # the better image stands first, then second
    assert {name for name, count in counts.items() if count["wrong"]} == set()
    unread = {name for name, count in counts.items() if STYLES[name][0] and count["right"] < 2}
    assert len(unread) < 0.03 * sum(clear for clear, _ in STYLES.values()), unread
