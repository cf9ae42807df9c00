"""What both objectives are given beside samples and their scores."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ..config.schema import TrainConfig
from ..policies.base import Policy

Weights = Callable[[], AbstractContextManager]


@dataclass(frozen=True)
class UpdateContext:
    """One pass of the optimizer over the samples of an update.

    ``reference`` and ``old`` are contexts in which the policy computes with the weights of the KL's reference and, for
    nft, of v_old; without ``old`` the current adapter is v_old.
    """

    policy: Policy
    config: TrainConfig
    reference: Weights
    old: Weights | None = None
    update: int = 1
    epoch: int = 0
