"""One reverse step of a flow-matching sampler that adds noise, and the log-probability of the step that was taken.

| letter | meaning |
|---|---|
| t | noise level sigma in [0, 1]; 1 is noise |
| dt | t_next - t, negative |
| x | latents at t: x = (1 - t) x0 + t e |
| v | velocity, predicts e - x0 |
| x0, e | the picture and the noise that (x, v) point to: x - t v and x + (1 - t) v |
| s | diffusion coefficient of `dance` and `flow` |
| std | standard deviation of the noise that the step adds |

`dance` (DanceGRPO, arXiv 2505.07818) holds s constant; `flow` (Flow-GRPO, arXiv 2505.05470) scales it with
sqrt(t / (1 - t)); both keep the marginal of x. `cps` (FlowCPS) keeps the coefficients of x0 and noise instead.
Everything here is pure arithmetic: no device, no state, no files.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch

Sampler = Literal["dance", "flow", "cps"]


class Transition(NamedTuple):
    """The Gaussian of one step: mean [B, ...] in float32 (float64 for float64 latents) and a scalar std."""

    mean: torch.Tensor
    std: float


class Step(NamedTuple):
    """A step taken: the next latents [B, ...] in the dtype they are stored in, and their log-probability [B].

    ``rounding`` [B] is what storing them did, in the units of ``log_prob``: |x_next - std noise - mean|^2 / (2 std^2).
    """

    latents: torch.Tensor
    log_prob: torch.Tensor
    rounding: torch.Tensor


def diffusion(sampler: Sampler, eta: float, t: float, t_second: float) -> float:
    """The diffusion coefficient s at t; ``t_second`` is the schedule's second sigma, which keeps `flow` finite at 1."""
    if sampler == "dance":
        return eta
    if sampler == "flow":
        return eta * math.sqrt(t / (1 - (t_second if t == 1 else t)))
    raise ValueError(
        f"the sampler {sampler!r} has no diffusion coefficient; expected 'dance' or 'flow'"
    )


def transition(
    x: torch.Tensor,
    v: torch.Tensor,
    t: float,
    t_next: float,
    *,
    sampler: Sampler,
    eta: float,
    t_second: float,
) -> Transition:
    """The distribution of the next latents. With ``eta`` = 0 every sampler's mean is the Euler step x + v dt."""
    x, v = _precise(x), _precise(v)
    dt = t_next - t
    if sampler == "cps":
        std = t_next * math.sin(eta * math.pi / 2)
        x0, e = x - t * v, x + (1 - t) * v
        return Transition((1 - t_next) * x0 + math.sqrt(t_next**2 - std**2) * e, std)
    s = diffusion(sampler, eta, t, t_second)
    return Transition(x + (v + s**2 / (2 * t) * (x + (1 - t) * v)) * dt, s * math.sqrt(-dt))


def log_prob_mean(x_next: torch.Tensor, transition: Transition) -> torch.Tensor:
    """Gaussian log-density [B] of ``x_next``, averaged over the elements of each latent (the family's convention)."""
    mean, std = transition
    density = (
        -((_precise(x_next) - mean) ** 2) / (2 * std**2)
        - math.log(std)
        - 0.5 * math.log(2 * math.pi)
    )
    return density.flatten(1).mean(1)


def mean_shift(transition: Transition, other_mean: torch.Tensor) -> torch.Tensor:
    """|mean - other_mean|^2 / (2 std^2) [B], averaged over elements: the exact KL of two Gaussians of equal std.

    It is the KL to a reference, minus the bias of a log ratio of old samples, and what rounding did to a mean.
    """
    mean, std = transition
    return ((mean - other_mean) ** 2).flatten(1).mean(1) / (2 * std**2)


def step(
    x: torch.Tensor,
    v: torch.Tensor,
    t: float,
    t_next: float,
    *,
    sampler: Sampler,
    eta: float,
    t_second: float,
    noise: torch.Tensor | None,
) -> Step:
    """The step taken with ``noise`` (standard normal, the shape of x), or the mean itself where it is None.

    What is stored is what is scored: latents are rounded to the dtype of ``x`` first, so a replay under unchanged
    weights gives a ratio of exactly 1 in float32 and bfloat16 alike. The log-probability of a step without noise is 0.
    """
    distribution = transition(x, v, t, t_next, sampler=sampler, eta=eta, t_second=t_second)
    if noise is None or distribution.std == 0:
        zeros = distribution.mean.new_zeros(len(x))
        return Step(distribution.mean.to(x.dtype), zeros, zeros)
    mean, std = distribution
    x_next = (mean + std * _precise(noise)).to(x.dtype)
    rounding = mean_shift(distribution, _precise(x_next) - std * _precise(noise))
    return Step(x_next, log_prob_mean(x_next, distribution), rounding)


def denoised(x: torch.Tensor, v: torch.Tensor, t: float) -> torch.Tensor:
    """The picture's latents x0 that (x, v) point to: what is decoded for the judge after the last step."""
    return (_precise(x) - t * _precise(v)).to(x.dtype)


def _precise(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
