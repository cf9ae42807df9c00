"""The sampler's arithmetic: schedules, known transitions, what is preserved, and what is scored."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from arr_core.policies.base import static_sigmas
from arr_core.training import sde

SAMPLERS = {"dance": 0.3, "flow": 0.7, "cps": 0.8}  # with the usual eta
SCHEDULE = [1, 0.954545, 0.9, 0.833333, 0.75, 0.642857, 0.5, 0.3, 0]
LEVELS = static_sigmas(8, 3.0).tolist()
STEPS = list(zip(LEVELS, LEVELS[1:], strict=False))


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def coefficients(
    t: float, t_next: float, sampler: str, eta: float, t_second: float = 0.9
) -> tuple[float, float, float]:
    """What a step multiplies x and v with, and its std: the mean is linear in both."""
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    settings = dict(sampler=sampler, eta=eta, t_second=t_second)
    of_x = sde.transition(one, zero, t, t_next, **settings)
    of_v = sde.transition(zero, one, t, t_next, **settings)
    return of_x.mean.item(), of_v.mean.item(), of_x.std


# ---------------------------------------------------------------------- schedules


def test_static_shift_3_of_8_steps_is_the_published_schedule():
    assert LEVELS == pytest.approx(SCHEDULE, abs=1e-6)
    assert static_sigmas(8, 3.0).dtype == torch.float64


def test_shift_1_is_evenly_spaced_and_every_schedule_falls_from_exactly_1_to_exactly_0():
    assert static_sigmas(4, 1.0).tolist() == [1, 0.75, 0.5, 0.25, 0]
    shifts = (1e-6, 0.1, 0.3, 0.47, 0.5, 1.0, 1.15, 3.0, 7.0, 1e6)
    for steps, shift in itertools.product((1, 2, 10, 1000), shifts):
        levels = static_sigmas(steps, shift)
        assert (
            levels[0] == 1
            and levels[-1] == 0
            and (levels.diff() < 0).all()
            and len(levels) == steps + 1
        )


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_schedule_is_the_one_of_diffusers_scheduler_with_a_static_shift(shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift, use_dynamic_shifting=False)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 8, 8).tolist())
    assert scheduler.sigmas.tolist() == pytest.approx(static_sigmas(8, shift).tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("sampler", "std"),
    [
        ("dance", [0.0640, 0.0701, 0.0775, 0.0866, 0.0982, 0.1134, 0.1342, 0.1643]),
        ("flow", [0.7, 0.7492, 0.5422, 0.4518, 0.3969, 0.355, 0.313, 0.251]),
    ],
)
def test_std_on_the_published_schedule(sampler, std):
    """These are s sqrt(|dt|), the noise that a step adds."""
    eta = SAMPLERS[sampler]
    given = [coefficients(t, t_next, sampler, eta, LEVELS[1])[2] for t, t_next in STEPS]
    assert given == pytest.approx(std, abs=5e-4 if sampler == "flow" else 5e-5)


def test_flow_at_t_1_takes_the_second_sigma_in_its_denominator():
    assert sde.diffusion("flow", 0.7, 1.0, LEVELS[1]) == pytest.approx(0.7 * math.sqrt(22))
    assert sde.diffusion("flow", 0.7, 0.5, LEVELS[1]) == pytest.approx(0.7)


def test_only_samplers_with_a_diffusion_coefficient_have_one():
    with pytest.raises(ValueError, match="'cps' has no diffusion coefficient"):
        sde.diffusion("cps", 0.8, 0.5, 0.9)


# ---------------------------------------------------------------------- the known transition, t = .6 -> .45


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [("flow", (0.908125, -0.18675, 0.3320392)), ("dance", (0.98875, -0.1545, 0.1161895))],
)
def test_a_known_transition(sampler, expected):
    given = coefficients(0.6, 0.45, sampler, SAMPLERS[sampler])
    assert given == pytest.approx(expected, abs=1e-7)


def test_cps_from_0_6_to_0_45():
    """mean = .55 (x - .6 v) + .1390576 (x + .4 v)."""
    of_x, of_v, std = coefficients(0.6, 0.45, "cps", 0.8)
    assert std == pytest.approx(0.4279754, abs=1e-7)
    assert of_x - 0.55 == pytest.approx(0.1390576, abs=1e-7)
    assert of_v == pytest.approx(-0.6 * 0.55 + 0.4 * 0.1390576, abs=1e-7)


@pytest.mark.parametrize(("sampler", "expected"), [("flow", 0.1835638), ("dance", 1.2335943)])
@pytest.mark.parametrize("elements", [1, 7, 4096])
def test_log_prob_at_the_mean_is_per_dimension_whatever_the_number_of_elements(
    sampler, expected, elements
):
    """The convention of the family: a mean over elements, not a sum."""
    x = rand(2, elements)
    distribution = sde.transition(
        x,
        rand(2, elements, seed=1),
        0.6,
        0.45,
        sampler=sampler,
        eta=SAMPLERS[sampler],
        t_second=0.9,
    )
    assert sde.log_prob_mean(distribution.mean, distribution).tolist() == pytest.approx(
        [expected] * 2, abs=1e-7
    )


def test_log_prob_is_torchs_normal_density_averaged_over_each_latent():
    mean, x_next = rand(3, 5, 4), rand(3, 5, 4, seed=1)
    expected = torch.distributions.Normal(mean, 0.3).log_prob(x_next).mean((1, 2))
    torch.testing.assert_close(
        sde.log_prob_mean(x_next, sde.Transition(mean, 0.3)), expected, rtol=0, atol=1e-12
    )


# ---------------------------------------------------------------------- identities


def gaussian_velocity(x: torch.Tensor, t: float, mean: float, variance: float) -> torch.Tensor:
    """E[e - x0 | x_t = x] for x0 ~ N(mean, variance): exact, linear in x."""
    total = (1 - t) ** 2 * variance + t**2
    return -mean + (t - (1 - t) * variance) / total * (x - (1 - t) * mean)


@pytest.mark.parametrize("t", [0.999, 0.9, 0.6, 0.3, 0.05])
def test_the_score_in_the_drift_is_the_marginals_score(t):
    """-(x + (1 - t) v) / t = grad log N(x; (1 - t) m, (1 - t)^2 V + t^2), read out of the step itself."""
    x = rand(1000)[:, None] * 2
    v = gaussian_velocity(x, t, 0.7, 0.25)
    exact = -(x - (1 - t) * 0.7) / ((1 - t) ** 2 * 0.25 + t**2)
    torch.testing.assert_close(-(x + (1 - t) * v) / t, exact, rtol=1e-12, atol=1e-12)
    s, t_next = 1.3, t / 2
    mean, _ = sde.transition(x, v, t, t_next, sampler="dance", eta=s, t_second=0.9)
    score = (v - (mean - x) / (t_next - t)) * 2 / s**2
    torch.testing.assert_close(score, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("t", "t_next"), STEPS)
def test_with_eta_0_every_sampler_takes_the_euler_step(sampler, t, t_next):
    x, v = rand(2, 6), rand(2, 6, seed=1)
    taken = sde.step(
        x, v, t, t_next, sampler=sampler, eta=0.0, t_second=LEVELS[1], noise=rand(2, 6, seed=2)
    )
    torch.testing.assert_close(taken.latents, x + v * (t_next - t), rtol=0, atol=1e-14)
    assert taken.log_prob.tolist() == [0, 0]


@pytest.mark.parametrize(("t", "t_next"), STEPS)
def test_cps_keeps_the_coefficients_of_x0_and_noise(t, t_next):
    """From x = (1 - t) x0 + t e with its true velocity: mean (1 - t') x0 + sqrt(t'^2 - std^2) e, so t' e in all."""
    x0, e = rand(2, 6), rand(2, 6, seed=1)
    mean, std = sde.transition(
        (1 - t) * x0 + t * e, e - x0, t, t_next, sampler="cps", eta=0.8, t_second=LEVELS[1]
    )
    torch.testing.assert_close(
        mean, (1 - t_next) * x0 + math.sqrt(t_next**2 - std**2) * e, rtol=0, atol=1e-14
    )
    assert std == pytest.approx(t_next * math.sin(0.4 * math.pi))


def test_the_denoised_end_is_x0_where_the_velocity_is_true():
    x0, e = rand(2, 6), rand(2, 6, seed=1)
    torch.testing.assert_close(
        sde.denoised(0.4 * x0 + 0.6 * e, e - x0, 0.6), x0, rtol=0, atol=1e-14
    )
    assert sde.denoised(x0.bfloat16(), e.bfloat16(), 0.6).dtype == torch.bfloat16


def test_without_noise_the_mean_is_taken():
    x, v = rand(2, 6), rand(2, 6, seed=1)
    taken = sde.step(x, v, 0.6, 0.45, sampler="dance", eta=0.3, t_second=0.9, noise=None)
    assert torch.equal(
        taken.latents, sde.transition(x, v, 0.6, 0.45, sampler="dance", eta=0.3, t_second=0.9).mean
    )


# ---------------------------------------------------------------------- marginals, x0 ~ N(.7, .25)


def end_of(sampler: str, eta: float, steps: int) -> tuple[float, float]:
    """Mean and variance at t = 0, propagated exactly: under a linear velocity a step is x' = a x + b + std noise."""
    levels = static_sigmas(steps, 3.0).tolist()
    mean, variance = 0.0, 1.0
    for t, t_next in zip(levels, levels[1:], strict=False):
        points = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        taken = sde.transition(
            points,
            gaussian_velocity(points, t, 0.7, 0.25),
            t,
            t_next,
            sampler=sampler,
            eta=eta,
            t_second=levels[1],
        )
        b, a = taken.mean[0].item(), (taken.mean[1] - taken.mean[0]).item()
        mean, variance = a * mean + b, a**2 * variance + taken.std**2
    return mean, variance


@pytest.mark.parametrize(
    ("sampler", "eta"), [*SAMPLERS.items(), ("dance", 0.0), ("dance", 0.9), ("cps", 1.0)]
)
@pytest.mark.parametrize("steps", [2, 8, 50])
def test_the_mean_of_the_data_is_reached_by_every_sampler_in_any_number_of_steps(
    sampler, eta, steps
):
    assert end_of(sampler, eta, steps)[0] == pytest.approx(0.7, abs=1e-12)


@pytest.mark.parametrize(
    ("sampler", "steps", "order", "last"),
    [
        ("dance", [50, 100, 200, 400, 800], 1.9, 2e-3),
        ("flow", [16, 32, 64, 128, 256, 512], 1.85, 1e-3),
    ],
)
def test_the_variance_error_falls_like_1_over_the_steps(sampler, steps, order, last):
    """Flow's beyond 1,000 steps falls slower: its first step's noise is eta for any number of steps."""
    eta = SAMPLERS[sampler]
    errors = [abs(end_of(sampler, eta, count)[1] - 0.25) for count in steps]
    assert all(coarse / fine > order for coarse, fine in zip(errors, errors[1:], strict=False))
    assert errors[-1] < last


def test_sampled_steps_have_the_moments_that_the_propagation_assumes():
    x, v, noise = (
        rand(1).expand(200_000, 1),
        rand(1, seed=1).expand(200_000, 1),
        rand(200_000, 1, seed=2),
    )
    distribution = sde.transition(x, v, 0.6, 0.45, sampler="flow", eta=0.7, t_second=0.9)
    taken = sde.step(x, v, 0.6, 0.45, sampler="flow", eta=0.7, t_second=0.9, noise=noise)
    assert taken.latents.mean().item() == pytest.approx(distribution.mean[0].item(), abs=4e-3)
    assert taken.latents.std().item() == pytest.approx(0.3320392, abs=3e-3)


# ---------------------------------------------------------------------- what is stored is what is scored


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_replay_under_unchanged_weights_has_a_log_ratio_of_exactly_0(dtype, sampler):
    x, v, noise = (
        rand(2, 64, 16, dtype=dtype),
        rand(2, 64, 16, seed=1, dtype=dtype),
        rand(2, 64, 16, seed=2).float(),
    )
    settings = dict(sampler=sampler, eta=SAMPLERS[sampler], t_second=LEVELS[1])
    for t, t_next in STEPS[:-1]:
        taken = sde.step(x, v, t, t_next, noise=noise, **settings)
        assert taken.latents.dtype == dtype and taken.log_prob.dtype == torch.float32
        replayed = sde.log_prob_mean(taken.latents, sde.transition(x, v, t, t_next, **settings))
        assert torch.equal(replayed, taken.log_prob)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-10), (torch.bfloat16, 1e-3)])
def test_rounding_is_what_rebuilding_the_mean_from_latents_and_noise_is_wrong_by(dtype, most):
    x, v, noise = (
        rand(2, 64, 16, dtype=dtype),
        rand(2, 64, 16, seed=1, dtype=dtype),
        rand(2, 64, 16, seed=2).float(),
    )
    settings = dict(sampler="dance", eta=0.3, t_second=LEVELS[1])
    taken, (mean, std) = (
        sde.step(x, v, *STEPS[0], noise=noise, **settings),
        sde.transition(x, v, *STEPS[0], **settings),
    )
    wrong = (mean - (taken.latents.float() - std * noise)) ** 2
    assert torch.equal(taken.rounding, wrong.flatten(1).mean(1) / (2 * std**2))
    assert taken.rounding.max() < most


def test_arithmetic_is_float32_for_bfloat16_latents_and_float64_for_float64_ones():
    settings = dict(sampler="dance", eta=0.3, t_second=0.9)
    for given, expected in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64,) * 2,
    ):
        x = rand(1, 4, dtype=given)
        assert sde.transition(x, x, 0.6, 0.45, **settings).mean.dtype == expected
