"""Verdicts into rewards. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..judging import Verdict


class PairRewards(NamedTuple):
    """Rewards [P, 2] of the images a and b of P pairs, and a mask [P] of the decided ones. Undecided rows are zero."""

    values: torch.Tensor
    decided: torch.Tensor


def pair_rewards(
    verdicts: Sequence[Verdict], *, preferred: float = 1.0, dispreferred: float = -0.1
) -> PairRewards:
    """The rewards of the preferred and the other image by each verdict. The defaults are the paper's."""
    rows = {"a": (preferred, dispreferred), "b": (dispreferred, preferred), None: (0.0, 0.0)}
    return PairRewards(
        torch.tensor([rows[verdict.preferred] for verdict in verdicts]).view(-1, 2),
        torch.tensor([verdict.decided for verdict in verdicts], dtype=torch.bool),
    )
