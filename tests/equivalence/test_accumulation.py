"""Accumulated gradients are those of one large batch; pairs without a verdict change neither them nor the divisor."""

from __future__ import annotations

import pytest
import torch

from arr_core.data import Example
from arr_core.judging import Verdict
from arr_core.training import nft, rpo
from arr_core.training.context import UpdateContext
from arr_core.training.learner import Learner
from arr_core.training.rewards import pair_rewards
from arr_core.training.rollout import Prompt, sample_pairs
from arr_core.training.weights import copy_into, snapshot, swapped

# Of different lengths, so that an edit's batch is padded and one alone is not.
PROMPTS = ["red", "a blue square", "a tall green triangle left of a yellow circle", "two circles"]
WINNERS = [0, 1, 1, 0]
RPO = {
    "objective.algorithm": "rpo",
    "objective.kl_coefficient": 0.1,
    "rollout.eta": 0.3,
    "objective.advantage": "raw",
}
NFT = {"objective.algorithm": "nft", "objective.kl_coefficient": 0.1, "objective.nft_beta": 0.5}
OBJECTIVES = {"rpo": RPO, "rpo-guard": {**RPO, "objective.ratio": "guard"}, "nft": NFT}


def verdicts_of(winners: list[int | None]) -> list[Verdict]:
    return [Verdict(None if winner is None else "ab"[winner], "") for winner in winners]


class World:
    """A policy whose adapter has moved since the samples were made, and what both objectives need."""

    def __init__(self, make_policy, add_adapter, source_image, name: str, objective: str, **fields):
        self.policy, self.config = make_policy(
            name,
            **{
                "rollout.steps": 3,
                "rollout.prompts_per_update": 4,
                "rollout.micro_batch": 8,
                "adapter.rank": 4,
                **OBJECTIVES[objective],
                **fields,
            },
        )
        source = None if name == "flux" else source_image(32, 32)
        examples = [Example(prompt, source) for prompt in PROMPTS]
        keys = self.policy.encode(examples)
        self.prompts = [Prompt(at, keys[at], example) for at, example in enumerate(examples)]
        self.parameters = add_adapter(self.policy, self.config.adapter)
        self.rpo = self.config.objective.algorithm == "rpo"
        self.samples = self.sample()
        self.old_weights = snapshot(self.parameters)
        for at, parameter in enumerate(self.parameters.values()):
            with torch.no_grad():
                parameter += 0.01 * torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(at)
                )

    def sample(self, **rollout) -> list:
        """The samples of all prompts in the order of their pairs."""
        settings = self.config.rollout.model_copy(update=rollout)
        batches = list(
            sample_pairs(self.policy, self.prompts, settings, seed=0, update=1, stochastic=self.rpo)
        )
        assert all(len(batch.samples) == 2 * len(batch.pairs) for batch in batches)
        return [sample for batch in batches for sample in batch.samples]

    def gradient(
        self, micro_batch: int, winners=WINNERS, divisor: float = 8, leave_out=frozenset()
    ) -> dict:
        """The adapter's gradient over all samples in batches, but for the pairs that are left out."""
        for parameter in self.parameters.values():
            parameter.grad = None
        objective, parts = self.config.objective, []
        rewards = pair_rewards(verdicts_of(winners)).values
        scores = (
            rpo.advantages(rewards, objective.advantage) if self.rpo else nft.optimality(rewards)
        ).flatten()
        places = [at for at, sample in enumerate(self.samples) if sample.pair not in leave_out]
        old = (lambda: swapped(self.parameters, self.old_weights)) if objective.nft_decay else None
        context = UpdateContext(self.policy, self.config, self.policy.reference, old)
        accumulate = rpo.accumulate if self.rpo else nft.accumulate
        for start in range(0, len(places), micro_batch):
            chosen = places[start : start + micro_batch]
            samples, score = [self.samples[at] for at in chosen], scores[chosen]
            parts.append(accumulate(context, samples, score, divisor))
        self.statistics = {
            name: torch.cat([part[name] for part in parts]).mean().item() for name in parts[0]
        }
        return {
            name: parameter.grad.clone()
            for name, parameter in self.parameters.items()
            if parameter.grad is not None
        }


@pytest.fixture(scope="module")
def world(make_policy, add_adapter, source_image):
    """``world(name, objective, **fields)``, made once: nothing here steps an optimizer."""
    worlds = {}

    def made(name: str, objective: str, **fields) -> World:
        key = (name, objective, *fields.items())
        if key not in worlds:
            worlds[key] = World(make_policy, add_adapter, source_image, name, objective, **fields)
        return worlds[key]

    return made


def relative_error(given: dict, expected: dict) -> float:
    assert given.keys() == expected.keys() and given
    flat = [
        torch.cat([tensors[name].double().flatten() for name in expected])
        for tensors in (given, expected)
    ]
    assert flat[1].norm() > 0
    return ((flat[0] - flat[1]).norm() / flat[1].norm()).item()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", ["flux", "qwen"])
def test_four_prompts_of_two_candidates_give_the_gradient_of_one_batch_of_8_in_any_chunks(
    world, name, objective
):
    made = world(name, objective)
    whole = made.gradient(8)
    means = made.statistics
    for micro_batch in (2, 3) if name == "qwen" else (2,):
        assert relative_error(made.gradient(micro_batch), whole) < 1e-5
        assert made.statistics == pytest.approx(means, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_divisor_divides(world, objective):
    """Half of the divisor is twice the gradient: it is the number of images of the update, whatever was decided."""
    made = world("flux", objective)
    doubled = made.gradient(8, divisor=4)
    assert (
        relative_error({name: gradient / 2 for name, gradient in doubled.items()}, made.gradient(8))
        < 1e-6
    )


def test_every_transition_but_the_last_is_trained_and_they_are_averaged(world):
    made, narrow = (
        world("flux", "rpo"),
        [world("flux", "rpo", **{"objective.trained_steps": (i,)}) for i in (0, 1)],
    )
    whole = made.gradient(8)
    parts = [one.gradient(8) for one in narrow]
    assert (
        relative_error({name: (parts[0][name] + parts[1][name]) / 2 for name in whole}, whole)
        < 1e-5
    )


@pytest.mark.parametrize("objective", ["rpo", "nft"])
def test_the_gradient_of_all_pairs_is_the_sum_of_the_pairs_gradients(world, objective):
    """Leaving a pair out takes away its own gradient and nothing else."""
    made = world("flux", objective)
    whole, without = made.gradient(8), made.gradient(2, leave_out={2})
    alone = made.gradient(2, leave_out={0, 1, 3})
    assert relative_error({name: without[name] + alone[name] for name in whole}, whole) < 1e-5


def test_where_nothing_has_moved_the_guard_is_the_plain_gradient_times_std_over_dt(world):
    for step, (t, t_next) in enumerate(((1, 6 / 7), (6 / 7, 0.6))):
        fields = {"objective.trained_steps": (step,), "objective.kl_coefficient": 0}
        plain, guard = (world("flux", name, **fields) for name in ("rpo", "rpo-guard"))
        for made in (plain, guard):
            copy_into(made.parameters, made.old_weights)
        factor = 0.3 / (t - t_next) ** 0.5
        expected = {name: factor * gradient for name, gradient in plain.gradient(8).items()}
        assert relative_error(guard.gradient(8), expected) < 1e-5


class TestLearner:
    """What the learner makes of verdicts: the same gradients, with the undecided pairs left out."""

    @staticmethod
    def gradient(made: World, micro_batch: int, winners: list[int | None]) -> dict:
        """The gradient of one optimizer step of ``Learner.step``, kept before the step is taken."""
        kept = {}
        learner = Learner.__new__(Learner)
        rollout = made.config.rollout.model_copy(update={"micro_batch": micro_batch})
        vars(learner).update(
            config=made.config.model_copy(update={"rollout": rollout}),
            policy=made.policy,
            parameters=made.parameters,
            optimizer=torch.optim.SGD(made.parameters.values()),
            auxiliary={},
        )
        if not made.rpo and made.config.objective.nft_decay:
            learner.auxiliary["old"] = {name: t.clone() for name, t in made.old_weights.items()}
        learner._optimizer_step = lambda any_decided: (
            kept.update(
                {name: p.grad.clone() for name, p in made.parameters.items() if p.grad is not None}
            )
            or 1.0
        )
        learner.step(1, made.samples, pair_rewards(verdicts_of(winners)))
        return kept

    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_its_gradient_is_the_objectives_own(self, world, objective):
        made = world("flux", objective)
        assert relative_error(self.gradient(made, 3, WINNERS), made.gradient(8)) < 1e-5

    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_an_undecided_pair_adds_nothing_and_the_others_keep_their_weight(
        self, world, objective
    ):
        made = world("flux", objective)
        expected = made.gradient(8, leave_out={1, 2})
        assert relative_error(self.gradient(made, 8, [0, None, None, 0]), expected) < 1e-5

    def test_no_verdict_at_all_is_no_gradient_at_all(self, world):
        assert self.gradient(world("flux", "rpo"), 8, [None] * 4) == {}


# ---------------------------------------------------------------------- sampling


def sampled(made: World, **rollout) -> list:
    """The samples of the world's prompts, made anew with the old adapter."""
    with torch.no_grad(), swapped(made.parameters, made.old_weights):
        return made.sample(**rollout)


@pytest.mark.parametrize("name", ["flux", "qwen"])
def test_a_sample_does_not_depend_on_the_batch_that_it_was_made_in(world, name):
    made = world(name, "rpo")
    both = zip(sampled(made, micro_batch=2), sampled(made, micro_batch=8), strict=True)
    for alone, together in both:
        for field in ("pair", "side", "step_seed"):
            assert getattr(alone, field) == getattr(together, field)
        for one, other in zip(alone.trajectory, together.trajectory, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_a_pair_starts_from_one_noise_if_it_is_shared_and_takes_two_paths_in_any_case(
    world, shared
):
    samples = sampled(world("flux", "rpo"), shared_noise=shared)
    latents = [sample.trajectory.latents for sample in samples]
    for a, b in ((0, 1), (2, 3), (4, 5), (6, 7)):
        assert [samples[at].side for at in (a, b)] == [0, 1] and samples[a].key == samples[b].key
        assert torch.equal(latents[a][0], latents[b][0]) == shared
        assert not torch.equal(latents[a][1], latents[b][1])
        assert not torch.equal(samples[a].x0, samples[b].x0)
    assert not torch.equal(latents[0][0], latents[2][0])


# ---------------------------------------------------------------------- the first update


@pytest.mark.parametrize("ratio", ["plain", "guard"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["flux", "qwen"])
def test_in_the_first_update_the_ratio_is_exactly_1_the_kl_exactly_0_and_nothing_is_clipped(
    make_policy, source_image, name, dtype, ratio
):
    """With a new adapter (``lora_B`` = 0), chunks as sampled, and a clip so narrow that any difference would show."""
    policy, config = make_policy(
        name,
        **{
            **RPO,
            "objective.ratio": ratio,
            "objective.clip_range": 1e-6,
            "policy.dtype": dtype,
            "rollout.steps": 3,
            "rollout.prompts_per_update": 2,
            "rollout.micro_batch": 4,
        },
    )
    source = None if name == "flux" else source_image(32, 32)
    examples = [Example(prompt, source) for prompt in PROMPTS[:2]]
    keys = policy.encode(examples)
    policy.add_adapter(config.adapter)
    prompts = [Prompt(at, keys[at], example) for at, example in enumerate(examples)]
    [batch] = sample_pairs(policy, prompts, config.rollout, seed=0, update=1, stochastic=True)
    values = rpo.accumulate(
        UpdateContext(policy, config, policy.reference),
        batch.samples,
        rpo.advantages(pair_rewards(verdicts_of([0, 1])).values, "raw").flatten(),
        4,
    )
    # Levels 1, .857, .6: the guard divides the steps by their lengths.
    weight = (7 + 1 / (6 / 7 - 0.6)) / 2 if ratio == "guard" else 1
    assert values["loss"].mean().item() == pytest.approx(-0.45 * weight)
    assert not values["kl"].any() and (values["ratio_mean"] == 1).all()
    assert not values["clip_high"].any() and not values["clip_low"].any()
