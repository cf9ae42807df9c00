"""Which adapter weights a picture teaches, that checkpointing changes nothing, and what switches the adapter off."""

from __future__ import annotations

import pytest
import torch

from arr_core.adapters import extract, inject
from arr_core.config.presets import ATTENTION, FEED_FORWARD
from arr_core.data import Example
from arr_core.policies.loading import PolicyError

QWEN_MLP = ["img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"]
TARGETS = {
    "flux": ATTENTION + FEED_FORWARD,
    "qwen": ATTENTION + QWEN_MLP,
    "qwen-plus": ATTENTION + QWEN_MLP,
}
NAMES = list(TARGETS)


class Ready:
    """A policy with an adapter, a batch of two, and the noise that they start from."""

    def __init__(self, make_policy, source_image, name: str, add=None, **fields):
        self.policy, self.config = make_policy(
            name,
            **{"adapter.targets": TARGETS[name], "adapter.rank": 4, "adapter.alpha": 8, **fields},
        )
        source = None if name == "flux" else source_image(32, 32)
        self.batch = self.policy.batch(
            self.policy.encode([Example(text, source) for text in ("red", "a blue square")])
        )
        self.x = self.policy.initial_noise(self.batch, [1, 2])
        with torch.no_grad():
            self.base = self.policy.velocity(self.x, 0.6, self.batch)
        add = add or (lambda policy, settings: policy.add_adapter(settings))
        self.parameters = add(self.policy, self.config.adapter)

    def velocity(self) -> torch.Tensor:
        return self.policy.velocity(self.x, 0.6, self.batch)

    def loss(self) -> torch.Tensor:
        target = torch.randn(self.x.shape, generator=torch.Generator().manual_seed(3))
        return ((self.velocity().float() - target) ** 2).mean()

    def gradient(self) -> dict[str, torch.Tensor | None]:
        for parameter in self.parameters.values():
            parameter.grad = None
        self.loss().backward()
        return {name: parameter.grad for name, parameter in self.parameters.items()}


@pytest.fixture
def ready(make_policy, source_image, add_adapter):
    """``ready(name)`` has a new adapter, ``ready(name, moved=True)`` one whose ``lora_B`` is random too."""

    def make(name: str, moved: bool = False, add=None, **fields) -> Ready:
        return Ready(
            make_policy, source_image, name, add or (add_adapter if moved else None), **fields
        )

    return make


def without_gradient(gradients: dict) -> set[str]:
    return {name for name, gradient in gradients.items() if gradient is None or not gradient.any()}


@pytest.mark.parametrize("name", NAMES)
def test_every_lora_b_learns_but_those_that_the_policy_names_and_those_really_cannot(ready, name):
    """Of a new adapter, as the trainer checks it at the first update."""
    made = ready(name)
    still = {module for module in without_gradient(made.gradient()) if "lora_B" in module}
    assert still == {
        module
        for module in made.parameters
        if "lora_B" in module and made.policy.unreachable(module)
    }


@pytest.mark.parametrize("name", NAMES)
def test_of_an_adapter_that_has_moved_lora_a_learns_in_the_same_places(ready, name):
    made = ready(name, moved=True)
    unreachable = {module for module in made.parameters if made.policy.unreachable(module)}
    assert without_gradient(made.gradient()) == unreachable


@pytest.mark.parametrize("name", ["qwen", "qwen-plus"])
def test_of_qwen_the_last_blocks_text_stream_is_unreachable_and_nothing_else(ready, name):
    """Its keys and values still shape the picture; its query, its output and its MLP do not."""
    made = ready(name)
    modules = {
        module.split(".lora_")[0] for module in made.parameters if made.policy.unreachable(module)
    }
    last = len(made.policy.transformer.transformer_blocks) - 1
    assert modules == {
        f"transformer_blocks.{last}.{part}"
        for part in ("attn.add_q_proj", "attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")
    }


@pytest.mark.parametrize("name", NAMES)
def test_changing_an_unreachable_weight_changes_no_velocity(ready, name):
    made = ready(name, moved=True)
    before = made.velocity().detach()
    with torch.no_grad():
        for module, parameter in made.parameters.items():
            if made.policy.unreachable(module):
                parameter += 1.0
    assert torch.equal(made.velocity(), before)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_adapter_is_trained_and_it_is_in_float32(ready, name):
    made = ready(name, **{"policy.dtype": "bfloat16"})
    made.loss().backward()
    trained = {
        name
        for name, parameter in made.policy.transformer.named_parameters()
        if parameter.requires_grad
    }
    assert trained == set(made.parameters) and all("lora_" in name for name in trained)
    assert {parameter.dtype for parameter in made.parameters.values()} == {torch.float32}
    assert {
        parameter.dtype
        for module, parameter in made.policy.transformer.named_parameters()
        if "lora_" not in module
    } == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in made.policy.pipeline.vae.parameters())
    assert made.velocity().dtype == torch.bfloat16


def test_the_base_is_loaded_in_its_dtype_by_every_diffusers():
    """Pipelines before 0.40 know only ``torch_dtype``, and silently load in float32 when given ``dtype``."""
    from arr_core.policies.loading import _takes_dtype

    class Older:
        @classmethod
        def from_pretrained(cls, path, **kwargs):
            torch_dtype = kwargs.pop("torch_dtype", None)
            dtype = torch_dtype
            return dtype

    class Newer:
        @classmethod
        def from_pretrained(cls, path, **kwargs):
            return kwargs.pop("dtype", kwargs.pop("torch_dtype", None))

    assert not _takes_dtype(Older) and _takes_dtype(Newer)


@pytest.mark.parametrize("name", ["flux", "qwen"])
def test_the_gradient_is_the_slope_of_the_loss(ready, name):
    made = ready(name, moved=True)
    gradient = made.gradient()
    direction = {
        module: torch.randn(p.shape, generator=torch.Generator().manual_seed(at))
        for at, (module, p) in enumerate(made.parameters.items())
    }
    slope = sum(
        (gradient[module] * along).sum().item()
        for module, along in direction.items()
        if gradient[module] is not None
    )
    losses = []
    with torch.no_grad():
        for step in (1e-3, -2e-3):
            for module, parameter in made.parameters.items():
                parameter += step * direction[module]
            losses.append(made.loss().item())
    assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(slope, rel=0.02, abs=1e-4)


@pytest.mark.parametrize("name", ["flux", "qwen"])
def test_gradient_checkpointing_changes_memory_and_not_the_gradient(ready, name):
    plain = ready(name, moved=True, **{"policy.gradient_checkpointing": False})
    saving = ready(name, moved=True, **{"policy.gradient_checkpointing": True})
    assert (
        saving.policy.transformer.gradient_checkpointing
        and not plain.policy.transformer.gradient_checkpointing
    )
    given, expected = saving.gradient(), plain.gradient()
    for module, gradient in expected.items():
        assert (given[module] is None) == (gradient is None)
        if gradient is not None:
            torch.testing.assert_close(given[module], gradient, rtol=1e-5, atol=1e-8)


def test_an_adapter_to_start_from_computes_its_activations_again_too(ready):
    adapter = extract(ready("flux").policy.transformer, base="base")

    def start(policy, settings):
        inject(adapter, policy.transformer)
        return policy.adapter_parameters()

    assert ready(
        "flux", add=start, **{"policy.gradient_checkpointing": True}
    ).policy.transformer.gradient_checkpointing


def test_a_target_that_names_nothing_is_refused_by_its_name(ready):
    with pytest.raises(PolicyError, match="attn.to_outt.0"):
        ready("flux", **{"adapter.targets": ["attn.to_q", "attn.to_outt.0"]})


# ---------------------------------------------------------------------- the reference


@pytest.mark.parametrize("name", NAMES)
def test_a_new_adapter_is_the_base_and_the_reference_is_the_base_whatever_the_adapter_learned(
    ready, name
):
    assert torch.equal(ready(name).velocity(), (made := ready(name, moved=True)).base)
    assert (made.velocity() - made.base).abs().max() > 1e-3
    with torch.no_grad(), made.policy.reference():
        assert torch.equal(made.velocity(), made.base)
    assert (made.velocity() - made.base).abs().max() > 1e-3


def test_the_adapter_comes_back_trainable_even_after_an_error(ready):
    made = ready("flux", moved=True)
    moved = made.velocity().detach()
    with pytest.raises(KeyError), made.policy.reference():
        raise KeyError
    assert torch.equal(made.velocity(), moved)
    assert all(parameter.requires_grad for parameter in made.parameters.values())
    assert without_gradient(made.gradient()) == set()


def test_swapped_weights_compute_and_the_trained_ones_come_back(ready):
    from arr_core.training.weights import snapshot, swapped

    made = ready("flux")
    zero = snapshot(made.parameters)
    with torch.no_grad():
        for module, parameter in made.parameters.items():
            parameter += 0.05 * ("lora_B" in module)
    moved = made.velocity().detach()
    with torch.no_grad(), swapped(made.parameters, zero):
        assert torch.equal(made.velocity(), made.base)
    assert torch.equal(made.velocity(), moved) and (moved - made.base).abs().max() > 1e-3


# ---------------------------------------------------------------------- dropout


def test_dropout_is_for_training_alone_so_that_sampling_depends_on_seeds_only(ready):
    made, plain = (
        ready("flux", moved=True, **{"adapter.dropout": dropout}) for dropout in (0.5, 0.0)
    )
    with torch.no_grad():
        expected = plain.velocity()
        assert torch.equal(made.velocity(), expected) and torch.equal(made.velocity(), expected)
    assert not torch.equal(made.velocity(), made.velocity())
    with torch.no_grad():
        assert torch.equal(made.velocity(), expected)
