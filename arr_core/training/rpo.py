"""Rubric Policy Optimization: pairwise verdicts into advantages, and the clipped objective with an exact KL.

| letter | meaning |
|---|---|
| A | advantage of a picture, from its pair's verdict |
| ratio | probability of a stored step under the current adapter over that under the one that sampled it |
| beta | KL coefficient |

Sources: arXiv 2605.08354 (ARR + RPO); the guard ratio is GRPO-Guard's, arXiv 2510.22319. Pure arithmetic.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from .sde import Transition


class RPOLoss(NamedTuple):
    """The loss [B] of each transition, and what one wants to know about it."""

    loss: torch.Tensor
    kl: torch.Tensor
    ratio: torch.Tensor
    clipped_high: torch.Tensor
    clipped_low: torch.Tensor


def advantages(
    preferred: list[int | None],
    *,
    mode: Literal["raw", "centred"],
    reward_preferred: float = 1.0,
    reward_dispreferred: float = -0.1,
) -> torch.Tensor:
    """Advantages [P, 2] of P pairs: ``preferred`` holds 0, 1, or None for a pair without a verdict, which gets zeros.

    ``raw`` uses the rewards as they are; ``centred`` subtracts the pair's mean, which keeps the expected gradient
    and loses 40 % of its second moment at the published rewards.
    """
    result = torch.zeros(len(preferred), 2)
    for pair, winner in zip(result, preferred, strict=True):
        if winner is not None:
            pair[winner], pair[1 - winner] = reward_preferred, reward_dispreferred
            if mode == "centred":
                pair -= pair.mean()
    return result


def kl_mean(policy: Transition, reference: Transition) -> torch.Tensor:
    """Exact KL [B] of two Gaussians of equal std, averaged over elements: |mean - mean_ref|^2 / (2 std^2)."""
    return ((policy.mean - reference.mean) ** 2).flatten(1).mean(1) / (2 * policy.std**2)


def guard_shift(new: Transition, old_mean: torch.Tensor) -> torch.Tensor:
    """|mean - mean_old|^2 / (2 std^2) [B], averaged over elements: the bias that a log ratio of old samples has."""
    return ((new.mean - old_mean) ** 2).flatten(1).mean(1) / (2 * new.std**2)


def log_ratio(
    log_prob: torch.Tensor, old_log_prob: torch.Tensor, shift: torch.Tensor | None = None
) -> torch.Tensor:
    """log(new / old) [B]; the guard ratio adds ``shift``, from ``guard_shift``, which centres it at 0."""
    difference = log_prob - old_log_prob
    return difference if shift is None else difference + shift


def loss(
    log_ratio: torch.Tensor,
    advantage: torch.Tensor,
    kl: torch.Tensor,
    *,
    clip_range: float,
    kl_coefficient: float,
) -> RPOLoss:
    """max(-A ratio, -A clip(ratio)) + beta KL, per transition [B]; the caller averages, by a divisor of its own."""
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    surrogate = torch.maximum(-advantage * ratio, -advantage * clipped)
    return RPOLoss(
        surrogate + kl_coefficient * kl, kl, ratio, ratio > 1 + clip_range, ratio < 1 - clip_range
    )
