"""Sampling pairs: both images of several prompts in one batch, handed to the judge while the next batch is sampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..common.randomness import normal, seed_of
from ..config.schema import Rollout
from ..data import Example
from ..judging import Pair
from ..policies.base import Batch, Policy, static_sigmas
from ..sampling import batches, denoise
from . import sde


@dataclass(frozen=True)
class Prompt:
    """A prompt of an update: the number of its pair within the update, over all processes, and its conditioning's key."""

    pair: int
    key: str
    example: Example


class Trajectory(NamedTuple):
    """A sampled path as rpo needs it: latents [T + 1, ...] as stored; log-probs and roundings [T, ...], see ``sde.Step``.

    The dots are [B, L, C] and [B] of a batch, [L, C] and nothing of one sample.
    """

    latents: torch.Tensor
    log_probs: torch.Tensor
    roundings: torch.Tensor


@dataclass(frozen=True)
class Sample:
    """One image of a pair: its denoised latents x0 [L, C], and for rpo the path to it and the seed of the path's noise."""

    pair: int
    side: int
    key: str
    x0: torch.Tensor
    step_seed: int
    trajectory: Trajectory | None


@dataclass(frozen=True)
class SampledBatch:
    """Samples in the order a, b, a, b, ..., and the pairs for the judge."""

    samples: list[Sample]
    pairs: list[Pair]


@torch.no_grad()
def sample_trajectory(
    policy: Policy,
    batch: Batch,
    noise_seeds: Sequence[int],
    step_seeds: Sequence[int],
    sigmas: torch.Tensor,
    *,
    sampler: sde.Sampler,
    eta: float,
) -> tuple[Trajectory, torch.Tensor]:
    """The path from noise with the SDE's steps, and x0 [B, L, C]: what the last velocity points to."""
    levels = sigmas.tolist()
    x = x0 = policy.initial_noise(batch, noise_seeds)
    shape = (len(levels) - 1, *x.shape[1:])
    noise = torch.stack([normal(seed, shape) for seed in step_seeds], dim=1)
    latents, log_probs, roundings = [x], [], []
    for i, (t, t_next) in enumerate(zip(levels, levels[1:], strict=False)):
        v = policy.velocity(x, t, batch)
        x0 = sde.denoised(x, v, t)
        step = sde.step(
            x,
            v,
            t,
            t_next,
            sampler=sampler,
            eta=eta,
            t_second=levels[1],
            noise=noise[i].to(x.device),
        )
        x = step.latents
        latents.append(x)
        log_probs.append(step.log_prob)
        roundings.append(step.rounding)
    return Trajectory(*map(torch.stack, (latents, log_probs, roundings))), x0


def sample_pairs(
    policy: Policy,
    prompts: Sequence[Prompt],
    settings: Rollout,
    *,
    seed: int,
    update: int,
    stochastic: bool,
) -> Iterator[SampledBatch]:
    """Batches of at most ``settings.micro_batch`` images, never less than one pair. ``stochastic``: by the SDE, for rpo.

    Prompts of one image size are sampled together. An image depends on its seeds alone, not on its batch.
    """
    sigmas = static_sigmas(settings.steps, settings.shift)

    def sample_batch(places: Sequence[int]) -> tuple[list[Sample], Batch]:
        both = [(prompts[place], side) for place in places for side in (0, 1)]
        batch = policy.batch([prompt.key for prompt, _ in both])
        noise_seeds = [
            seed_of(seed, "noise", update, prompt.pair, 0 if settings.shared_noise else side)
            for prompt, side in both
        ]
        step_seeds = [seed_of(seed, "steps", update, prompt.pair, side) for prompt, side in both]
        if stochastic:
            path, x0 = sample_trajectory(
                policy,
                batch,
                noise_seeds,
                step_seeds,
                sigmas,
                sampler=settings.sampler,
                eta=settings.eta,
            )
        else:
            path, x0 = None, denoise(policy, batch, noise_seeds, sigmas)
        samples = [
            Sample(
                prompt.pair,
                side,
                prompt.key,
                x0[i],
                step_seeds[i],
                path and Trajectory(*(tensor[:, i] for tensor in path)),
            )
            for i, (prompt, side) in enumerate(both)
        ]
        return samples, batch

    groups = batches(policy, [prompt.key for prompt in prompts], max(1, settings.micro_batch // 2))
    for places in policy.in_step(groups, dummy=lambda: sample_batch(groups[0])):
        samples, batch = sample_batch(places)
        images = policy.decode(torch.stack([sample.x0 for sample in samples]), batch)
        examples = [prompts[place].example for place in places]
        pairs = [
            Pair(example.prompt, a, b, policy.source_picture(example))
            for example, a, b in zip(examples, images[::2], images[1::2], strict=True)
        ]
        yield SampledBatch(samples, pairs)
