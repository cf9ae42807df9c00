"""Seeds as a function of what they are for: no generator's state has to be saved, moved or agreed upon.

The noise of an image depends on the run's seed, the update, the pair and the candidate, never on which process or
batch it was made in; so a resumed run, a larger batch and a second GPU draw the same numbers.
"""

from __future__ import annotations

import hashlib

import torch


def seed_of(*parts: object) -> int:
    """A seed of 63 bits, the same for the same parts on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def normal(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal numbers of a shape, float32 on the CPU."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
