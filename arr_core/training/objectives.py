"""The two objectives applied to sampled candidates: gradients of one chunk, accumulated into the adapter.

Both divide by a number that is fixed before sampling, so chunks of any size, and pairs that the judge left undecided,
add up to the gradient of one large batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch

from ..common import collectives as distributed
from ..common.randomness import normal, seed_of
from ..policies.base import Policy
from . import nft, rpo, sde
from .rollout import Candidate

Weights = Callable[[], contextlib.AbstractContextManager]


class Statistics:
    """Sums over what was trained, kept on the device until they are asked for, and their means by name."""

    def __init__(self):
        self.sums: dict[str, torch.Tensor] = {}
        self.count = 0

    def add(self, count: int, **sums: torch.Tensor) -> None:
        self.count += count
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()

    def means(self) -> dict[str, float]:
        """The means over what all processes trained."""
        parts = distributed.gather(
            ({name: float(value) for name, value in self.sums.items()}, self.count)
        )
        count = sum(part[1] for part in parts)
        return {
            name: sum(part[0].get(name, 0.0) for part in parts) / count
            for name in dict.fromkeys(name for part in parts for name in part[0])
        }


def accumulate_rpo(
    policy: Policy,
    chunk: Sequence[Candidate],
    advantages: torch.Tensor,
    divisor: int,
    *,
    settings,
    objective,
    reference: Weights,
    statistics: Statistics,
) -> None:
    """Add the gradient of the clipped objective over the chunk's trained transitions. ``advantages`` are [B].

    ``divisor`` is the number of images of the optimizer step; the number of trained transitions divides besides.
    """
    batch = policy.batch([candidate.key for candidate in chunk])
    levels = policy.sigmas(settings.steps, settings.shift).tolist()
    trained = objective.trained_steps or range(settings.steps - 1)
    advantages = advantages.to(chunk[0].picture.device)
    for i in trained:
        step = dict(
            t=levels[i],
            t_next=levels[i + 1],
            sampler=settings.sampler,
            eta=settings.eta,
            t_second=levels[1],
        )
        x, x_next = (
            torch.stack([candidate.latents[at] for candidate in chunk]) for at in (i, i + 1)
        )
        old_log_prob = torch.stack([candidate.log_probs[i] for candidate in chunk])
        reference_step = None
        if objective.kl_coefficient > 0:
            with torch.no_grad(), reference():
                reference_step = sde.transition(x, policy.velocity(x, levels[i], batch), **step)
        new_step = sde.transition(x, policy.velocity(x, levels[i], batch), **step)
        log_prob = sde.log_prob_mean(x_next, new_step)
        kl = (
            torch.zeros_like(log_prob)
            if reference_step is None
            else rpo.kl_mean(new_step, reference_step)
        )
        shift = None
        if objective.ratio == "guard":
            noise = torch.stack(
                [
                    normal(candidate.step_seed, (settings.steps, *x.shape[1:]))[i]
                    for candidate in chunk
                ]
            )
            # The old mean is rebuilt from what was stored; what rounding did to it must not pass for a shift.
            shift = rpo.guard_shift(new_step, x_next.float() - new_step.std * noise.to(x.device))
            shift = shift - torch.stack([candidate.roundings[i] for candidate in chunk])
        out = rpo.loss(
            rpo.log_ratio(log_prob, old_log_prob, shift),
            advantages,
            kl,
            clip_range=objective.clip_range,
            kl_coefficient=objective.kl_coefficient,
        )
        (out.loss.sum() / (divisor * len(trained))).backward()
        statistics.add(
            len(chunk),
            loss=out.loss.sum(),
            kl=out.kl.sum(),
            ratio_mean=out.ratio.sum(),
            clip_high=out.clipped_high.sum(),
            clip_low=out.clipped_low.sum(),
        )


def accumulate_nft(
    policy: Policy,
    chunk: Sequence[Candidate],
    optimality: torch.Tensor,
    divisor: int,
    *,
    settings,
    objective,
    reference: Weights,
    old: Weights | None,
    seed: int,
    update: int,
    statistics: Statistics,
) -> None:
    """Add the gradient of the forward-process objective over the chunk at ``nft_times`` noise levels. r is [B].

    ``old`` switches to the average that is v_old; None takes the current adapter itself.
    """
    batch = policy.batch([candidate.key for candidate in chunk])
    x0 = torch.stack([candidate.picture for candidate in chunk])
    r = optimality.to(x0.device)
    for time in range(objective.nft_times):
        seeds = [
            seed_of(seed, "nft", update, candidate.pair, candidate.side, time)
            for candidate in chunk
        ]
        noise = torch.stack([normal(s, x0.shape[1:]) for s in seeds]).to(x0.device)
        uniform = torch.tensor(
            [torch.rand((), generator=torch.Generator().manual_seed(s + 1)) for s in seeds]
        )
        t = (
            (settings.shift * uniform / (1 + (settings.shift - 1) * uniform))
            .clamp_min(1e-3)
            .to(x0.device)
        )
        x_t = nft.noised(x0.float(), noise, t).to(x0.dtype)
        v_old = v_ref = None
        with torch.no_grad():
            if old is not None:
                with old():
                    v_old = policy.velocity(x_t, t, batch)
            if objective.kl_coefficient > 0:
                with reference():
                    v_ref = policy.velocity(x_t, t, batch)
        v = policy.velocity(x_t, t, batch)
        out = nft.loss(
            v,
            v.detach() if v_old is None else v_old,
            noise - x0.float(),
            r,
            b=objective.nft_beta,
            kl_coefficient=objective.kl_coefficient,
            v_ref=v_ref,
        )
        (out.loss.sum() / (divisor * objective.nft_times)).backward()
        statistics.add(len(chunk), loss=out.loss.sum(), kl=out.kl.sum(), shift=out.shift.sum())
