"""The forward-process objective (DiffusionNFT, arXiv 2509.16117), driven by the same verdicts. Pure arithmetic.

| letter | meaning |
|---|---|
| r | 1 for the preferred picture of a pair, 0 for the other, 1/2 where there is no verdict |
| b | how far the implicit positive and negative policies stand from the old one |
| u | the velocity that was true: noise - picture |
| v, v_old, v_ref | predicted velocity: current adapter, its slow average, adapter off |

It needs no SDE, no stored trajectory and no ratio: pictures come from ordinary ODE sampling.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class NFTLoss(NamedTuple):
    """The loss [B] of each noised picture; ``kl`` is the mean squared velocity change against the reference."""

    loss: torch.Tensor
    kl: torch.Tensor
    shift: torch.Tensor


def optimality(preferred: list[int | None]) -> torch.Tensor:
    """r [P, 2] of P pairs: 1 and 0 by the verdict, 1/2 and 1/2 without one."""
    result = torch.full((len(preferred), 2), 0.5)
    for pair, winner in zip(result, preferred, strict=True):
        if winner is not None:
            pair[winner], pair[1 - winner] = 1.0, 0.0
    return result


def noised(x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x_t = (1 - t) x0 + t e for levels t [B]."""
    t = t.view(-1, *[1] * (x0.dim() - 1))
    return (1 - t) * x0 + t * noise


def loss(
    v: torch.Tensor,
    v_old: torch.Tensor,
    u: torch.Tensor,
    r: torch.Tensor,
    *,
    b: float,
    kl_coefficient: float,
    v_ref: torch.Tensor | None,
) -> NFTLoss:
    """r |v+ - u|^2 + (1 - r) |v- - u|^2 + beta |v - v_ref|^2, means over elements, per picture [B].

    v+ = (1 - b) v_old + b v and v- = (1 + b) v_old - b v. At v = v_old the gradient in v is 2 b (2 r - 1) (v_old - u):
    exactly zero for a pair without a verdict.
    """
    v, v_old, u = v.float(), v_old.float(), u.float()

    def mean_square(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor**2).flatten(1).mean(1)

    positive = mean_square((1 - b) * v_old + b * v - u)
    negative = mean_square((1 + b) * v_old - b * v - u)
    kl = mean_square(v - v_ref.float()) if v_ref is not None else v.new_zeros(len(v))
    return NFTLoss(
        r * positive + (1 - r) * negative + kl_coefficient * kl, kl, mean_square(v.detach() - v_old)
    )
