"""Encodings: made once, found again by the content of what shaped them, without a text encoder in memory."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

from arr_core.data import Example
from arr_core.policies import cache as module
from arr_core.policies.cache import Conditioning, EncodingCache, content_key
from arr_core.policies.loading import PipelineSource, load_policy

PROMPTS = [Example("a red circle"), Example("a blue square"), Example("a red circle")]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "encodings"


@pytest.fixture
def loads(monkeypatch):
    """The parts that were left out at each load of a pipeline, in order."""
    calls = []
    real = PipelineSource.load

    def load(source, without=()):
        calls.append(without)
        return real(source, without)

    monkeypatch.setattr(PipelineSource, "load", load)
    return calls


@pytest.fixture
def encoded(monkeypatch):
    """The prompts that went through a text encoder, in order."""
    from arr_core.policies.base import Policy

    prompts = []
    for policy in (Policy,):

        def encode(self, pipeline, example, real=policy._encode):
            prompts.append(example.prompt)
            return real(self, pipeline, example)

        monkeypatch.setattr(policy, "_encode", encode)
    return prompts


def conditioning(value: float = 0.0, size: int = 4) -> Conditioning:
    tensors = {
        "prompt_embeds": torch.full((size, 2), value),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    return Conditioning(tensors, 32, 48)


# ---------------------------------------------------------------------- once


def test_a_prompt_is_encoded_once_and_never_again(run_config, folder, loads, encoded):
    settings = run_config("flux").policy
    first = load_policy(settings, folder)
    keys = first.encode(PROMPTS)
    assert encoded == ["a red circle", "a blue square"] and keys[0] == keys[2] != keys[1]
    assert loads == [("transformer",)]
    assert first.encode(PROMPTS) == keys and load_policy(settings, folder).encode(PROMPTS) == keys
    assert len(encoded) == 2 and len(loads) == 1
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{key}.safetensors" for key in set(keys)
    )


def test_a_second_run_loads_no_text_encoder(run_config, folder, loads):
    settings = run_config("flux").policy
    keys = load_policy(settings, folder).encode(PROMPTS)
    loads.clear()
    policy = load_policy(settings, folder)
    policy.velocity(
        policy.initial_noise(batch := policy.batch(policy.encode(PROMPTS)), [1, 2, 3]), 1.0, batch
    )
    assert loads == [("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")]
    assert policy.pipeline.text_encoder is None and policy.pipeline.text_encoder_2 is None
    assert policy.pipeline.vae is not None and policy.encode(PROMPTS) == keys


def test_encoding_loads_no_transformer_and_leaves_no_encoder_behind(
    run_config, folder, loads, source_image
):
    policy = load_policy(run_config("qwen").policy, folder)
    policy.encode([Example("make it blue", source_image(32, 32))])
    assert loads == [("transformer",)] and policy._pipeline is None
    assert policy.pipeline.text_encoder is None and policy.pipeline.processor is None


def test_an_encoding_that_is_not_whole_is_made_again(run_config, folder, encoded):
    settings = run_config("flux").policy
    [key] = load_policy(settings, folder).encode(PROMPTS[:1])
    before, file = EncodingCache(folder).get(key), folder / f"{key}.safetensors"
    half = file.read_bytes()[:300]
    file.unlink()  # what was read of it is still mapped
    file.write_bytes(half)
    assert load_policy(settings, folder).encode(PROMPTS[:1]) == [key] and len(encoded) == 2
    for name, tensor in EncodingCache(folder).get(key).tensors.items():
        assert torch.equal(tensor, before.tensors[name])


def test_the_source_of_an_edit_has_the_size_of_what_is_made_of_it(run_config, folder, source_image):
    policy = load_policy(
        run_config("qwen", **{"policy.height": 64, "policy.width": 64}).policy, folder
    )
    for size in ((512, 256), (64, 64), (96, 160)):
        example = Example("make it blue", source_image(*size))
        [key] = policy.encode([example])
        assert policy.source_picture(example).size == policy.size(key)[::-1]
    assert load_policy(run_config("flux").policy, folder).source_picture(Example("a cup")) is None


# ---------------------------------------------------------------------- by content


def key(settings, example, identity="base"):
    return content_key(identity, settings, example)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("height", 64),
        ("width", 64),
        ("true_cfg_scale", 2.0),
        ("negative_prompt", "blurry"),
        ("max_sequence_length", 32),
        ("condition_area", 4096),
        ("dtype", "bfloat16"),
    ],
)
def test_a_setting_that_shapes_an_encoding_changes_the_key(run_config, source_image, field, value):
    example = Example("make it blue", source_image(32, 32))
    one, other = run_config("qwen").policy, run_config("qwen", **{f"policy.{field}": value}).policy
    assert key(one, example) != key(other, example)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("policy.guidance_scale", 1.0),
        ("policy.gradient_checkpointing", True),
        ("objective.kl_coefficient", 0.5),
        ("run.seed", 9),
    ],
)
def test_a_setting_that_does_not_shape_it_does_not(run_config, field, value):
    assert key(run_config("flux").policy, PROMPTS[0]) == key(
        run_config("flux", **{field: value}).policy, PROMPTS[0]
    )


def test_another_prompt_has_another_key_and_tags_change_nothing(run_config):
    settings = run_config("flux").policy
    assert key(settings, Example("red")) != key(settings, Example("red "))
    assert key(settings, Example("red")) == key(settings, Example("red", tags={"kind": "colour"}))


def test_a_source_counts_by_its_content_and_not_by_its_name(run_config, source_image, tmp_path):
    settings = run_config("qwen").policy
    path, copy = tmp_path / "a.png", tmp_path / "b.png"
    for target in (path, copy):
        shutil.copy(source_image(32, 32), target)
    before = key(settings, Example("edit", path))
    assert before == key(settings, Example("edit", copy))
    shutil.copy(source_image(32, 32, seed=1), path)
    assert before != key(settings, Example("edit", path))
    assert key(settings, Example("edit")) != before


def test_a_changed_source_is_encoded_again(run_config, folder, source_image, tmp_path, encoded):
    policy = load_policy(run_config("qwen").policy, folder)
    path = tmp_path / "a.png"
    shutil.copy(source_image(32, 32), path)
    [before] = policy.encode([Example("edit", path)])
    shutil.copy(source_image(32, 32, seed=1), path)
    [after] = policy.encode([Example("edit", path)])
    assert before != after and len(encoded) == 2
    latents = [policy.cache.get(name).tensors["source_latents"] for name in (before, after)]
    assert not torch.equal(*latents)


def test_another_base_and_a_changed_one_have_other_keys(run_config, saved_pipeline, tmp_path):
    settings = run_config("flux").policy
    copied = tmp_path / "base"
    shutil.copytree(saved_pipeline("flux"), copied)
    elsewhere = settings.model_copy(update={"base": str(copied)})
    before = PipelineSource(elsewhere).identity
    assert before == PipelineSource(elsewhere).identity != PipelineSource(settings).identity
    weights = next((copied / "text_encoder").glob("*.safetensors"))
    os.utime(weights, ns=(1, 1))
    assert PipelineSource(elsewhere).identity != before
    assert key(settings, PROMPTS[0], "a@main") != key(settings, PROMPTS[0], "a@v2")


def test_a_negative_prompt_is_encoded_beside_the_prompt_only_where_guidance_asks_for_it(
    run_config, folder
):
    plain = load_policy(run_config("flux").policy, folder)
    guided = load_policy(run_config("flux", **{"policy.true_cfg_scale": 2.0}).policy, folder)
    names = [
        set(policy.cache.get(policy.encode(PROMPTS[:1])[0]).tensors) for policy in (plain, guided)
    ]
    assert names[0] == {"prompt_embeds", "pooled_prompt_embeds"}
    assert names[1] == names[0] | {"negative_prompt_embeds", "negative_pooled_prompt_embeds"}
    assert plain.batch(plain.encode(PROMPTS[:1])).negative is None


# ---------------------------------------------------------------------- the files


def test_what_is_put_is_what_is_got_bit_for_bit(folder):
    given = conditioning(0.1)
    EncodingCache(folder).put("k", given)
    got = EncodingCache(folder).get("k")
    assert (got.height, got.width) == (32, 48) and got.tensors.keys() == given.tensors.keys()
    for name, tensor in given.tensors.items():
        assert torch.equal(got.tensors[name], tensor) and got.tensors[name].dtype == tensor.dtype


def test_a_file_appears_whole_or_not_at_all(folder, monkeypatch):
    def save_half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", save_half)
    cache = EncodingCache(folder)
    with pytest.raises(OSError, match="No space left"):
        cache.put("k", conditioning())
    assert "k" not in cache
    monkeypatch.undo()
    cache.put("k", conditioning(2.0))
    assert cache.get("k").tensors["prompt_embeds"][0, 0] == 2.0


def test_memory_is_bounded_and_what_was_used_last_stays(folder, monkeypatch):
    cache = EncodingCache(folder)
    for name in "abc":
        cache.put(name, conditioning(size=100))
    each = 100 * 2 * 4 + 2 * 2
    monkeypatch.setattr(module, "MEMORY_LIMIT", 2 * each)
    a, b = cache.get("a"), cache.get("b")
    assert cache.get("a") is a
    cache.get("c")
    assert cache.get("a") is a and cache.get("b") is not b
    assert len(cache._memory) == 2 and cache._bytes == 2 * each


def test_one_encoding_larger_than_the_bound_is_still_served(folder, monkeypatch):
    monkeypatch.setattr(module, "MEMORY_LIMIT", 1)
    cache = EncodingCache(folder)
    cache.put("a", conditioning(1.0)), cache.put("b", conditioning(2.0))
    assert [cache.get(name).tensors["prompt_embeds"][0, 0].item() for name in "abab"] == [
        1,
        2,
        1,
        2,
    ]
