"""A base in 4 bits: the real bitsandbytes and PEFT on a CPU, with diffusers' demand for a GPU set aside."""

from __future__ import annotations

import bitsandbytes
import pytest
import torch

from arr_core.data import Example
from arr_core.policies import loading
from arr_core.policies.loading import PolicyError


@pytest.fixture
def without_a_gpu(monkeypatch):
    from diffusers.quantizers.bitsandbytes.bnb_quantizer import (
        BnB4BitDiffusersQuantizer as Quantizer,
    )

    monkeypatch.setattr(Quantizer, "validate_environment", lambda self, **_: None)
    monkeypatch.setattr(Quantizer, "update_device_map", lambda self, _: {"": "cpu"})
    # The packed CPU kernel wants widths in multiples of 64, which the small models have not.
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: False)


@pytest.mark.parametrize("name", ["flux", "qwen"])
def test_an_adapter_trains_on_a_base_in_four_bits(make_policy, source_image, without_a_gpu, name):
    source = source_image(32, 32) if name == "qwen" else None
    velocities = {}
    for quantization in (None, "nf4"):
        policy, config = make_policy(name, **{"policy.quantization": quantization})
        keys = policy.encode([Example("a red circle", source)])
        parameters = policy.add_adapter(config.adapter)
        batch = policy.batch(keys)
        latents = policy.initial_noise(batch, [1])
        velocity = velocities[quantization] = policy.velocity(latents, 0.7, batch)
    velocity.square().mean().backward()
    trained = {
        module
        for module, p in parameters.items()
        if "lora_B" in module and p.grad is not None and p.grad.any()
    }
    assert trained == {
        module for module in parameters if "lora_B" in module and not policy.unreachable(module)
    }
    assert {
        type(m).__name__ for n, m in policy.transformer.named_modules() if n.endswith("attn.to_q")
    } == {"Linear4bit"}
    assert {p.dtype for p in parameters.values()} == {torch.float32}
    full, small = velocities.values()
    assert 0.01 < (small - full).norm() / full.norm() < 0.3  # NF4 errs by about a tenth


def test_nf4_without_its_package_is_refused_before_anything_loads(make_policy, monkeypatch):
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        PolicyError, match="policy.quantization: nf4 needs the package bitsandbytes"
    ):
        make_policy("flux", **{"policy.quantization": "nf4"})
