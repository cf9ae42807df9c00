"""The forward-process objective: what r means, the implicit policies, gradients by hand, and what holds it."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from arr_core.config.load import make_config
from arr_core.training import nft
from arr_core.training.context import UpdateContext
from arr_core.training.rollout import Sample
from arr_core.training.weights import average_into, copy_into, snapshot, warmed_up

B, ELEMENTS = 4, 2 * 6


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


V, V_OLD, U, V_REF = (rand(B, 2, 6, seed=seed) for seed in range(4))
R = torch.tensor([1.0, 0.0, 0.5, 1.0])


def gradient(
    v: torch.Tensor,
    v_old: torch.Tensor,
    r: torch.Tensor = R,
    b: float = 1.0,
    kl_coefficient: float = 0.0,
    v_ref: torch.Tensor | None = None,
) -> torch.Tensor:
    v = v.clone().requires_grad_(True)
    nft.loss(v, v_old, U, r, b=b, kl_coefficient=kl_coefficient, v_ref=v_ref).loss.sum().backward()
    return v.grad


def mean_square(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor**2).flatten(1).mean(1)


def test_r_is_1_for_the_higher_reward_0_for_the_lower_and_a_half_without_a_verdict():
    rewards = torch.tensor([[1.0, -0.1], [-0.1, 1.0], [0.0, 0.0]])
    assert nft.optimality(rewards).tolist() == [[1, 0], [0, 1], [0.5, 0.5]]


def test_noised_pictures_lie_on_the_line_to_their_noise():
    """t = 0 is the picture, 1 the noise, and (x_t - x0) / t is the true velocity e - x0."""
    x0, noise = rand(3, 2, 6), rand(3, 2, 6, seed=1)
    x_t = nft.noised(x0, noise, torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(x_t[0], x0[0]) and torch.equal(x_t[1], noise[1])
    torch.testing.assert_close((x_t[2] - x0[2]) / 0.25, noise[2] - x0[2])


@pytest.mark.parametrize("b", [0.1, 0.5, 1.0, 2.0])
def test_the_loss_is_that_of_the_two_implicit_policies(b):
    """v+ = (1 - b) v_old + b v and v- = (1 + b) v_old - b v mirror each other in v_old."""
    positive, negative = (1 - b) * V_OLD + b * V, (1 + b) * V_OLD - b * V
    torch.testing.assert_close((positive + negative) / 2, V_OLD)
    torch.testing.assert_close(positive - V_OLD, b * (V - V_OLD))
    out = nft.loss(V, V_OLD, U, R, b=b, kl_coefficient=0.0, v_ref=None)
    torch.testing.assert_close(
        out.loss, R * mean_square(positive - U) + (1 - R) * mean_square(negative - U)
    )


@pytest.mark.parametrize("b", [0.5, 1.0, 2.0])
def test_at_v_old_the_gradient_is_2_b_2r_minus_1_times_the_error_over_the_number_of_elements(b):
    expected = 2 * b * (2 * R - 1).view(-1, 1, 1) * (V_OLD - U) / ELEMENTS
    torch.testing.assert_close(gradient(V_OLD, V_OLD, b=b), expected)


def test_away_from_v_old_a_pair_without_a_verdict_is_drawn_back_to_it():
    """2 b^2 (v - v_old) / D: no reward, but not nothing either, which is why the trainer leaves such pairs out."""
    torch.testing.assert_close(gradient(V, V_OLD, b=0.5)[2], 2 * 0.25 * (V - V_OLD)[2] / ELEMENTS)


def test_the_kl_is_the_mean_squared_change_of_velocity():
    out = nft.loss(V, V_OLD, U, R, b=1.0, kl_coefficient=0.3, v_ref=V_REF)
    free = nft.loss(V, V_OLD, U, R, b=1.0, kl_coefficient=0.3, v_ref=None)
    torch.testing.assert_close(out.kl, mean_square(V - V_REF))
    torch.testing.assert_close(out.loss, free.loss + 0.3 * mean_square(V - V_REF))


def test_the_gradient_of_the_kl_points_from_the_reference_and_is_0_at_it():
    with_kl = gradient(V, V_OLD, kl_coefficient=0.3, v_ref=V_REF)
    torch.testing.assert_close(with_kl - gradient(V, V_OLD), 0.3 * 2 * (V - V_REF) / ELEMENTS)
    at_reference = gradient(V, V_OLD, kl_coefficient=0.3, v_ref=V)
    assert torch.equal(at_reference, gradient(V, V_OLD))


def test_before_the_first_update_kl_and_shift_are_exactly_0():
    out = nft.loss(V, V.clone(), U, R, b=1.0, kl_coefficient=0.3, v_ref=V.clone())
    assert not out.kl.any() and not out.shift.any()
    torch.testing.assert_close(out.loss, mean_square(V - U))


def test_bfloat16_velocities_are_compared_in_float32():
    half = [tensor.bfloat16() for tensor in (V, V_OLD, U)]
    out = nft.loss(*half, R, b=1.0, kl_coefficient=0.1, v_ref=V_REF.bfloat16())
    precise = nft.loss(
        *(tensor.float() for tensor in half),
        R,
        b=1.0,
        kl_coefficient=0.1,
        v_ref=V_REF.bfloat16().float(),
    )
    assert out.loss.dtype == torch.float32 and torch.equal(out.loss, precise.loss)


# ---------------------------------------------------------------------- noise and levels


class Recording:
    """A policy that keeps what its velocity is trained on."""

    def __init__(self):
        self.asked = []

    def batch(self, keys):
        return None

    def velocity(self, x_t, t, batch):
        if torch.is_grad_enabled():
            self.asked += zip(x_t.tolist(), t.tolist(), strict=True)
        return x_t.clone().requires_grad_(True)


def draws(**context) -> list:
    """(x_t, t) of pairs (0, 0, 1, 1) at two levels, one after another; x0 is zero, so x_t is t times the noise."""
    policy, zero = Recording(), torch.zeros(2, 6)
    samples = [Sample(pair, side, "", zero, 0, None) for pair in (0, 1) for side in (0, 1)]
    config = make_config("recommended", {"data": {"train": "p.txt"}, "judge": {"profile": "p"}})
    nft.accumulate(UpdateContext(policy, config, nullcontext, **context), samples, R, 4)
    return policy.asked


def test_the_images_of_a_pair_share_noise_and_level_and_nothing_else_does():
    asked = draws()
    assert [asked.index(one) for one in asked] == [0, 0, 2, 2, 4, 4, 6, 6]
    assert draws() == asked
    for others in (draws(epoch=1), draws(update=2)):
        assert not any(one in asked for one in others)


# ---------------------------------------------------------------------- v_old's weights


def test_the_old_policy_is_a_moving_average_of_the_weights():
    """.9 * 1 + .1 * 3 = 1.2, then .9 * 1.2 + .1 * 3 = 1.38; a decay of 0 takes the weights themselves."""
    parameters = {"w": torch.nn.Parameter(torch.full((2,), 3.0))}
    average = {"w": torch.ones(2)}
    average_into(average, parameters, 0.9)
    assert average["w"].tolist() == pytest.approx([1.2, 1.2])
    average_into(average, parameters, 0.9)
    assert average["w"].tolist() == pytest.approx([1.38, 1.38])
    average_into(average, parameters, 0.0)
    assert average["w"].tolist() == [3, 3] and parameters["w"].tolist() == [3, 3]
    assert [warmed_up(0.9, update) for update in (1, 8, 80, 81)] == [2 / 11, 0.5, 0.9, 0.9]


def test_a_snapshot_is_a_copy_that_can_be_copied_back():
    parameters = {"w": torch.nn.Parameter(torch.full((2,), 3.0))}
    before = snapshot(parameters)
    with torch.no_grad():
        parameters["w"].zero_()
    assert before["w"].tolist() == [3, 3] and not before["w"].requires_grad
    copy_into(parameters, before)
    assert parameters["w"].tolist() == [3, 3] and parameters["w"].requires_grad
