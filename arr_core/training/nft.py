"""The forward-process objective (DiffusionNFT, arXiv 2509.16117), driven by the same verdicts.

| letter | meaning |
|---|---|
| r | 1 for the preferred image of a pair, 0 for the other, 1/2 where there is no verdict |
| b | how far the implicit positive and negative policies stand from the old one |
| u | the velocity that was true: noise - x0 |
| v, v_old, v_ref | predicted velocity: current adapter, its slow average, adapter off |

It needs no SDE, no stored trajectory and no ratio: images come from ordinary ODE sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..common.randomness import normal, seed_of
from ..policies.base import shifted
from .context import UpdateContext
from .rollout import Sample


class NFTLoss(NamedTuple):
    """The loss [B] of each noised image; ``kl`` is the mean squared velocity change against the reference."""

    loss: torch.Tensor
    kl: torch.Tensor
    shift: torch.Tensor


def optimality(rewards: torch.Tensor) -> torch.Tensor:
    """r [P, 2] of the rewards of P pairs: 1 for the higher, 0 for the lower, 1/2 where they are equal."""
    return 0.5 + 0.5 * (rewards - rewards.flip(1)).sign()


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
    """r |v+ - u|^2 + (1 - r) |v- - u|^2 + beta |v - v_ref|^2, means over elements, per image [B].

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


def accumulate(
    context: UpdateContext, samples: Sequence[Sample], r: torch.Tensor, divisor: float
) -> dict[str, torch.Tensor]:
    """Add the gradient of one batch of samples with r [B]; returns the diagnostics [B] of the update's event.

    The loss is a mean over ``nft_times`` draws of noise and level, which the two images of a pair share, and a sum over
    samples, divided by ``divisor`` as in ``rpo.accumulate``.
    """
    policy, objective = context.policy, context.config.objective
    batch = policy.batch([sample.key for sample in samples])
    x0 = torch.stack([sample.x0 for sample in samples])
    r = r.to(x0.device)
    losses = []
    for time in range(objective.nft_times):
        draw = ("nft", context.update, context.epoch)
        seeds = [seed_of(context.config.run.seed, *draw, s.pair, time) for s in samples]
        noise = torch.stack([normal(s, x0.shape[1:]) for s in seeds]).to(x0.device)
        uniform = torch.tensor(
            [torch.rand((), generator=torch.Generator().manual_seed(s + 1)) for s in seeds]
        )
        t = shifted(uniform, context.config.rollout.shift).clamp_min(1e-3).to(x0.device)
        x_t = noised(x0.float(), noise, t).to(x0.dtype)
        v_old = v_ref = None
        with torch.no_grad():
            if context.old is not None:
                with context.old():
                    v_old = policy.velocity(x_t, t, batch)
            if objective.kl_coefficient > 0:
                with context.reference():
                    v_ref = policy.velocity(x_t, t, batch)
        v = policy.velocity(x_t, t, batch)
        out = loss(
            v,
            v.detach() if v_old is None else v_old,
            noise - x0.float(),
            r,
            b=objective.nft_beta,
            kl_coefficient=objective.kl_coefficient,
            v_ref=v_ref,
        )
        (out.loss.sum() / (divisor * objective.nft_times)).backward()
        losses.append(out)
    return {
        name: torch.stack(values).detach().mean(0)
        for name, values in zip(NFTLoss._fields, zip(*losses, strict=True), strict=True)
    }
