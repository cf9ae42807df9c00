"""Sampling pairs: both candidates of several prompts in one batch, handed to the judge while the next batch is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image

from ..common import collectives as distributed
from ..common.randomness import normal, seed_of
from ..policies.base import Batch, Policy
from ..sampling import batches
from . import sde


class Trajectory(NamedTuple):
    """Latents [steps + 1, B, L, C] as stored, log-probs [steps, B] of the steps taken and what rounding did to them
    (see ``sde.Step``), and the denoised end [B, L, C]."""

    latents: torch.Tensor
    log_probs: torch.Tensor
    roundings: torch.Tensor
    picture: torch.Tensor


@dataclass(frozen=True)
class Candidate:
    """One sampled image of a pair: what training needs to know of it. Latents are [steps + 1, L, C] or None."""

    pair: int
    side: int
    key: str
    step_seed: int | None
    latents: torch.Tensor | None
    log_probs: torch.Tensor | None
    roundings: torch.Tensor | None
    picture: torch.Tensor


@dataclass(frozen=True)
class Group:
    """Pairs sampled in one batch: their indices, candidates (a, b, a, b, ...) and images in the same order."""

    pairs: list[int]
    candidates: list[Candidate]
    images: list[Image.Image]


@torch.no_grad()
def sample(
    policy: Policy,
    batch: Batch,
    noise_seeds: Sequence[int],
    sigmas: torch.Tensor,
    *,
    sampler: sde.Sampler = "dance",
    eta: float = 0.0,
    step_seeds: Sequence[int] | None = None,
) -> Trajectory:
    """A trajectory from noise to picture; without ``step_seeds`` the noise-free Euler path of the stock pipeline."""
    levels = sigmas.tolist()
    x = policy.initial_noise(batch, noise_seeds)
    latents, log_probs, roundings, noise = [x], [], [], None
    if step_seeds is not None:
        shape = (len(levels) - 1, *x.shape[1:])
        noise = torch.stack([normal(seed, shape) for seed in step_seeds], dim=1)
    for i, (t, t_next) in enumerate(zip(levels, levels[1:], strict=False)):
        v = policy.velocity(x, t, batch)
        if t_next == 0:
            picture = sde.denoised(x, v, t)
        taken = sde.step(
            x,
            v,
            t,
            t_next,
            sampler=sampler,
            eta=eta if noise is not None else 0.0,
            t_second=levels[1],
            noise=None if noise is None else noise[i].to(x.device),
        )
        x = taken.latents
        latents.append(x)
        log_probs.append(taken.log_prob)
        roundings.append(taken.rounding)
    return Trajectory(torch.stack(latents), torch.stack(log_probs), torch.stack(roundings), picture)


def sample_pairs(
    policy: Policy,
    keys: Sequence[str],
    indices: Sequence[int],
    settings,
    *,
    seed: int,
    update: int,
    with_noise: bool,
) -> Iterator[Group]:
    """Groups of sampled pairs, at most ``settings.micro_batch`` images a group (never less than one pair).

    ``keys`` are the prompts' conditionings and ``indices`` the pairs' numbers within the update, over all processes:
    seeds are made from them. Pairs of one size are sampled together.
    """
    sigmas = policy.sigmas(settings.steps, settings.shift)
    groups = batches(policy, keys, max(1, settings.micro_batch // 2))
    for chosen, own in distributed.in_step(groups, groups[0], needed=policy.sharded):
        both = [(indices[at], side, keys[at]) for at in chosen for side in (0, 1)]
        batch = policy.batch([key for _, _, key in both])
        noise_seeds = [
            seed_of(seed, "noise", update, pair, 0 if settings.shared_noise else side)
            for pair, side, _ in both
        ]
        step_seeds = (
            [seed_of(seed, "steps", update, pair, side) for pair, side, _ in both]
            if with_noise
            else None
        )
        path = sample(
            policy,
            batch,
            noise_seeds,
            sigmas,
            sampler=settings.sampler,
            eta=settings.eta,
            step_seeds=step_seeds,
        )
        if not own:
            continue
        images = policy.decode(path.picture, batch)
        candidates = [
            Candidate(
                pair,
                side,
                key,
                *(
                    (
                        step_seeds[at],
                        path.latents[:, at],
                        path.log_probs[:, at],
                        path.roundings[:, at],
                    )
                    if with_noise
                    else [None] * 4
                ),
                path.picture[at],
            )
            for at, (pair, side, key) in enumerate(both)
        ]
        yield Group([indices[at] for at in chosen], candidates, images)
