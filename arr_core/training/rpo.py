"""Rubric Policy Optimization, from rewards and stored log-probs to the gradient of the clipped objective.

| letter | meaning |
|---|---|
| A | advantage of an image, from its pair's rewards |
| ratio | probability of a stored step under the current adapter over that under the one that sampled it |
| beta | KL coefficient |

Sources: arXiv 2605.08354 (ARR + RPO); GRPO-Guard, arXiv 2510.22319, which regulates the clip in three ways: the log ratio
is centred at 0 and multiplied by the step's std, so that one clip range means the same at every step, and the loss of a
step is divided by |dt|, so that every noise level moves the velocity by as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

from ..common.randomness import normal
from ..policies.base import static_sigmas
from . import sde
from .context import UpdateContext
from .rollout import Sample
from .sde import Transition


class RPOLoss(NamedTuple):
    """The loss [B] of each transition, and its diagnostics [B]."""

    loss: torch.Tensor
    kl: torch.Tensor
    ratio: torch.Tensor
    clipped_high: torch.Tensor
    clipped_low: torch.Tensor


def advantages(rewards: torch.Tensor, mode: Literal["raw", "centred"]) -> torch.Tensor:
    """Advantages [P, 2] of the rewards of P pairs.

    ``raw`` uses the rewards as they are; ``centred`` subtracts the pair's mean, which keeps the expected gradient
    and loses 40 % of its second moment at the published rewards.
    """
    return rewards if mode == "raw" else rewards - rewards.mean(1, keepdim=True)


def guarded(log_ratio: torch.Tensor, shift: torch.Tensor, std: float) -> torch.Tensor:
    """GRPO-Guard's log ratio [B]. ``shift`` is ``sde.mean_shift`` of the new mean from the old one.

    It is <mean - mean_old, noise> averaged over elements: linear in both, whatever the step's std.
    """
    return (log_ratio + shift) * std


def loss(
    log_ratio: torch.Tensor,
    advantage: torch.Tensor,
    kl: torch.Tensor,
    *,
    clip_range: float,
    kl_coefficient: float,
    weight: float = 1.0,
) -> RPOLoss:
    """weight max(-A ratio, -A clip(ratio)) + beta KL, per transition [B]; the caller averages."""
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    surrogate = torch.maximum(-advantage * ratio, -advantage * clipped)
    return RPOLoss(
        weight * surrogate + kl_coefficient * kl,
        kl,
        ratio,
        ratio > 1 + clip_range,
        ratio < 1 - clip_range,
    )


def accumulate(
    context: UpdateContext, samples: Sequence[Sample], advantage: torch.Tensor, divisor: float
) -> dict[str, torch.Tensor]:
    """Add the gradient of one batch of samples with advantages [B]; returns the diagnostics [B] of the update's event.

    The loss is a mean over the trained transitions and a sum over samples, divided by ``divisor``, the number of images
    of the optimizer step. So batches of any size, with undecided pairs left out, add up to one large batch.
    """
    policy, rollout, objective = context.policy, context.config.rollout, context.config.objective
    batch = policy.batch([sample.key for sample in samples])
    levels = static_sigmas(rollout.steps, rollout.shift).tolist()
    trained = objective.trained_steps or range(rollout.steps - 1)
    trajectories = [sample.trajectory for sample in samples if sample.trajectory is not None]
    latents, log_probs, roundings = (
        torch.stack(tensors, dim=1) for tensors in zip(*trajectories, strict=True)
    )
    advantage = advantage.to(latents.device)
    losses = []
    for i in trained:
        x, x_next = latents[i], latents[i + 1]

        def transition(x=x, i=i) -> Transition:
            return sde.transition(
                x,
                policy.velocity(x, levels[i], batch),
                levels[i],
                levels[i + 1],
                sampler=rollout.sampler,
                eta=rollout.eta,
                t_second=levels[1],
            )

        reference = None
        if objective.kl_coefficient > 0:
            with torch.no_grad(), context.reference():
                reference = transition().mean
        new = transition()
        log_prob = sde.log_prob_mean(x_next, new)
        kl = torch.zeros_like(log_prob) if reference is None else sde.mean_shift(new, reference)
        log_ratio, weight = log_prob - log_probs[i], 1.0
        if objective.ratio == "guard":
            shape = (rollout.steps, *x.shape[1:])
            noise = torch.stack([normal(sample.step_seed, shape)[i] for sample in samples])
            # The old mean is rebuilt from what was stored. Its rounding must not count as a shift.
            old_mean = x_next.float() - new.std * noise.to(x.device)
            shift = sde.mean_shift(new, old_mean) - roundings[i]
            log_ratio, weight = guarded(log_ratio, shift, new.std), 1 / (levels[i] - levels[i + 1])
        out = loss(
            log_ratio,
            advantage,
            kl,
            clip_range=objective.clip_range,
            kl_coefficient=objective.kl_coefficient,
            weight=weight,
        )
        (out.loss.sum() / (divisor * len(trained))).backward()
        losses.append(out)
    names = ("loss", "kl", "ratio_mean", "clip_high", "clip_low")
    return {
        name: torch.stack(values).detach().float().mean(0)
        for name, values in zip(names, zip(*losses, strict=True), strict=True)
    }
