"""The clipped objective: advantages, the ratio and its clip, the exact KL, and what the first update looks like."""

from __future__ import annotations

import math

import pytest
import torch

from arr_core.judging import Verdict
from arr_core.training import rpo, sde
from arr_core.training.rewards import pair_rewards

STEP = dict(t=0.6, t_next=0.45, sampler="dance", eta=0.3, t_second=0.9)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------- advantages


@pytest.mark.parametrize(
    ("mode", "winner", "loser"), [("raw", 1.0, -0.1), ("centred", 0.55, -0.55)]
)
def test_advantages_are_the_published_rewards_or_these_less_their_mean(mode, winner, loser):
    verdicts = [Verdict(preferred, "") for preferred in ("a", "b", None)]
    rewards = pair_rewards(verdicts)
    advantages = rpo.advantages(rewards.values, mode)
    assert rewards.decided.tolist() == [True, True, False]
    assert advantages[0].tolist() == pytest.approx([winner, loser])
    assert advantages[1].tolist() == pytest.approx([loser, winner])
    assert advantages[2].tolist() == [0, 0]
    assert pair_rewards([]).values.shape == (0, 2)


def test_centring_loses_40_percent_of_the_second_moment():
    rewards = pair_rewards([Verdict("a", "")]).values
    raw, centred = (rpo.advantages(rewards, mode) for mode in ("raw", "centred"))
    assert (raw**2).sum().item() == pytest.approx(1.01)
    assert 1 - ((centred**2).sum() / (raw**2).sum()).item() == pytest.approx(0.4, abs=2e-3)


def test_rewards_can_be_others_and_swapped_ones_swap_the_advantages():
    verdict = [Verdict("a", "")]
    others = pair_rewards(verdict, preferred=2.0, dispreferred=-1.0).values
    assert rpo.advantages(others, "raw").tolist() == [[2, -1]]
    assert rpo.advantages(others, "centred").tolist() == [[1.5, -1.5]]
    swapped = pair_rewards(verdict, preferred=-0.1, dispreferred=1.0).values
    usual = rpo.advantages(pair_rewards(verdict).values, "centred")
    assert torch.equal(rpo.advantages(swapped, "centred"), -usual)


# ---------------------------------------------------------------------- the loss by hand


CASES = [  # ratio, advantage, loss
    (1.0, 1.0, -1.0),  # -A
    (1.5, 1.0, -1.2),  # better than the bound: clipped, max(-1.5, -1.2)
    (0.5, 1.0, -0.5),  # worse: not clipped, max(-.5, -.8)
    (1.5, -0.1, 0.15),  # worse: not clipped, max(.15, .12)
    (0.5, -0.1, 0.08),  # better than the bound: clipped, max(.05, .08)
    (1.1, -0.1, 0.11),  # inside
    (3.0, 0.0, 0.0),  # no verdict
]


@pytest.mark.parametrize("weight", [1, 1 / 0.3])
def test_the_surrogate_takes_the_worse_of_the_ratio_and_its_clip_and_the_kl_is_added(weight):
    """Per transition. The weight, 1 / |dt| for the guard, is that of the surrogate alone."""
    ratio, advantage, expected = torch.tensor(CASES).T
    kl = torch.linspace(0, 0.3, len(CASES))
    out = rpo.loss(ratio.log(), advantage, kl, clip_range=0.2, kl_coefficient=0.02, weight=weight)
    torch.testing.assert_close(out.loss, weight * expected + 0.02 * kl, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.ratio, ratio)


# ---------------------------------------------------------------------- the clip


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "gradient"),
    [
        (math.log(1.5), 1.0, 0.0),
        (math.log(1.5), -1.0, 1.5),
        (math.log(0.5), -1.0, 0.0),
        (math.log(0.5), 1.0, -0.5),
        (0.0, 1.0, -1.0),
    ],
)
def test_a_clipped_transition_has_no_gradient_and_any_other_has_minus_a_ratio(
    log_ratio, advantage, gradient
):
    given = torch.tensor([log_ratio], requires_grad=True)
    rpo.loss(
        given, torch.tensor([advantage]), torch.zeros(1), clip_range=0.2, kl_coefficient=0.0
    ).loss.sum().backward()
    assert given.grad.item() == pytest.approx(gradient, abs=1e-6)


def moved_log_ratios(
    elements: int, shift: float, samples: int, guard: bool = False
) -> torch.Tensor:
    """Log ratios of ``samples`` transitions of std 1 after the mean moved by ``shift`` (rms)."""
    old = sde.Transition(torch.zeros(samples, elements, dtype=torch.float64), 1.0)
    x_next, new = rand(samples, elements), sde.Transition(old.mean + shift, 1.0)
    ratios = sde.log_prob_mean(x_next, new) - sde.log_prob_mean(x_next, old)
    return rpo.guarded(ratios, sde.mean_shift(new, old.mean), 1.0) if guard else ratios


@pytest.mark.parametrize(
    ("ratios", "clip_range", "fires"),
    [
        (moved_log_ratios(16, 1.0, 1000, guard=True), 0.2, True),
        (moved_log_ratios(65_536, 0.5, 20), 0.2, False),
        (moved_log_ratios(65_536, 0.1, 200, guard=True), 1e-4, True),
    ],
)
def test_the_clip_of_0_2_fires_both_ways_for_few_elements_and_never_for_65536(
    ratios, clip_range, fires
):
    some = torch.ones(len(ratios))
    out = rpo.loss(ratios, some, some, clip_range=clip_range, kl_coefficient=0.0)
    for clipped in (out.clipped_high, out.clipped_low):
        assert clipped.double().mean() > 0.1 if fires else not clipped.any()


# ---------------------------------------------------------------------- the ratio and its guard


@pytest.mark.parametrize("std", [0.06, 0.7])
def test_the_guarded_log_ratio_is_linear_in_the_noise_whatever_the_std(std):
    """(log(new / old) + |d|^2 / (2 std^2)) std = <new - old, noise> / D, exactly."""
    old, noise, change = rand(2, 3, 5), rand(2, 3, 5, seed=1), 0.02 * rand(2, 3, 5, seed=2)
    x_next, new = old + std * noise, sde.Transition(old + change, std)
    plain = sde.log_prob_mean(x_next, new) - sde.log_prob_mean(x_next, sde.Transition(old, std))
    torch.testing.assert_close(
        rpo.guarded(plain, sde.mean_shift(new, old), std),
        (change * noise).flatten(1).mean(1),
        rtol=1e-9,
        atol=1e-12,
    )


# ---------------------------------------------------------------------- the KL


def test_the_kl_is_torchs_averaged_over_elements():
    mean, reference = rand(2, 3, 5), rand(2, 3, 5, seed=1)
    expected = (
        torch.distributions.kl_divergence(
            torch.distributions.Normal(mean, 0.3), torch.distributions.Normal(reference, 0.3)
        )
        .flatten(1)
        .mean(1)
    )
    given = sde.mean_shift(sde.Transition(mean, 0.3), reference)
    torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-12)


def gradient_in_velocity(penalty, v: torch.Tensor, v_ref: torch.Tensor) -> torch.Tensor:
    """The gradient of a penalty of (policy's transition, reference's transition, x_next), in the policy's velocity."""
    x, v = rand(2, 6), v.clone().requires_grad_(True)
    reference = sde.transition(x, v_ref, **STEP)
    old = sde.transition(x, v.detach(), **STEP)
    x_next = old.mean + old.std * rand(2, 6, seed=9)
    penalty(sde.transition(x, v, **STEP), reference, x_next).sum().backward()
    return v.grad


def exact_kl(policy, reference, x_next):
    return sde.mean_shift(policy, reference.mean)


def test_the_gradient_of_the_kl_is_the_distance_of_the_means_over_the_variance():
    v, v_ref = rand(2, 6, seed=1), rand(2, 6, seed=2)
    x = rand(2, 6)
    policy, reference = (sde.transition(x, velocity, **STEP) for velocity in (v, v_ref))
    of_v = -0.1545  # the known transition's coefficient: d mean / d v
    expected = (policy.mean - reference.mean) / policy.std**2 / 6 * of_v
    torch.testing.assert_close(
        gradient_in_velocity(exact_kl, v, v_ref), expected, rtol=1e-10, atol=1e-12
    )


def test_the_gradient_of_the_kl_is_zero_where_the_policy_is_the_reference_and_changes_with_the_reference():
    v = rand(2, 6, seed=1)
    assert not gradient_in_velocity(exact_kl, v, v).any()
    one, other = (gradient_in_velocity(exact_kl, v, rand(2, 6, seed=seed)) for seed in (2, 3))
    assert (one - other).abs().max() > 0.01


# ---------------------------------------------------------------------- the first update


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sampler", ["dance", "flow", "cps"])
def test_before_the_first_update_the_ratio_is_exactly_1_the_kl_exactly_0_and_nothing_is_clipped(
    dtype, sampler
):
    x, v = rand(2, 8, 4).to(dtype), rand(2, 8, 4, seed=1).to(dtype)
    step = STEP | {"sampler": sampler}
    taken = sde.step(x, v, **step, noise=rand(2, 8, 4, seed=2).float())
    now = sde.transition(x, v, **step)
    advantage = torch.tensor([1.0, -0.1])
    log_ratio = sde.log_prob_mean(taken.latents, now) - taken.log_prob
    out = rpo.loss(
        log_ratio, advantage, sde.mean_shift(now, now.mean), clip_range=1e-6, kl_coefficient=0.01
    )
    assert out.ratio.tolist() == [1, 1] and out.kl.tolist() == [0, 0]
    assert not out.clipped_high.any() and not out.clipped_low.any()
    assert torch.equal(out.loss, -advantage)
