"""Encodings: made once, found again by the content of what shaped them, without a text encoder in memory."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

from arr_core.data import Example
from arr_core.policies import cache as module
from arr_core.policies.base import Policy
from arr_core.policies.cache import Conditioning, EncodingCache, content_key
from arr_core.policies.loading import PipelineSource, load_policy

PROMPTS = [Example("a red circle"), Example("a blue square"), Example("a red circle")]


@pytest.fixture
def policy(run_config, tmp_path):
    """``policy(name, **fields)`` is a policy whose encodings lie in ``tmp_path / "encodings"``."""
    return lambda name, **fields: load_policy(
        run_config(name, **fields).policy, tmp_path / "encodings"
    )


@pytest.fixture
def cache(tmp_path):
    return EncodingCache(tmp_path / "encodings")


@pytest.fixture
def loads(monkeypatch):
    """The parts that were left out at each load of a pipeline, in order."""
    calls, real = [], PipelineSource.load

    def load(source, without=()):
        calls.append(without)
        return real(source, without)

    monkeypatch.setattr(PipelineSource, "load", load)
    return calls


@pytest.fixture
def encoded(monkeypatch):
    """The prompts that went through a text encoder, in order."""
    prompts, real = [], Policy._encode

    def encode(self, pipeline, example):
        prompts.append(example.prompt)
        return real(self, pipeline, example)

    monkeypatch.setattr(Policy, "_encode", encode)
    return prompts


def conditioning(value: float = 0.0, tokens: int = 4) -> Conditioning:
    tensors = {
        "prompt_embeds": torch.full((tokens, 2), value),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    return Conditioning(tensors, (32, 48))


def assert_same(one: Conditioning, other: Conditioning) -> None:
    """Bit for bit."""
    assert one.size == other.size and one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[name])
        assert tensor.dtype == other.tensors[name].dtype


# ---------------------------------------------------------------------- once


def test_a_prompt_is_encoded_once_and_a_second_run_loads_no_text_encoder(
    policy, cache, loads, encoded
):
    first = policy("flux")
    keys = first.encode(PROMPTS)
    assert encoded == ["a red circle", "a blue square"] and keys[0] == keys[2] != keys[1]
    files = {path.name for path in cache.folder.iterdir()}
    assert files == {f"{key}.safetensors" for key in keys}
    second = policy("flux")
    assert first.encode(PROMPTS) == second.encode(PROMPTS) == keys and len(encoded) == 2
    batch = second.batch(keys)
    second.velocity(second.initial_noise(batch, [1, 2, 3]), 1.0, batch)
    assert loads == [("transformer",), second.encoder_parts]
    assert second.pipeline.text_encoder is None and second.pipeline.text_encoder_2 is None


def test_encoding_loads_no_transformer_and_leaves_no_encoder_behind(policy, loads, source_image):
    edits = policy("qwen")
    edits.encode([Example("make it blue", source_image(32, 32))])
    assert loads == [("transformer",)] and edits._pipeline is None
    assert edits.pipeline.text_encoder is None and edits.pipeline.processor is None


def test_an_encoding_that_is_not_whole_is_made_again(policy, cache, encoded):
    [key] = policy("flux").encode(PROMPTS[:1])
    before, file = cache.get(key), cache.folder / f"{key}.safetensors"
    half = file.read_bytes()[:300]
    file.unlink()  # what was read of it is still mapped
    file.write_bytes(half)
    assert policy("flux").encode(PROMPTS[:1]) == [key] and len(encoded) == 2
    assert_same(EncodingCache(cache.folder).get(key), before)


def test_the_source_of_an_edit_has_the_size_of_what_is_made_of_it(policy, source_image):
    edits = policy("qwen", **{"policy.height": 64, "policy.width": 64})
    for size in ((512, 256), (64, 64), (96, 160)):
        example = Example("make it blue", source_image(*size))
        [key] = edits.encode([example])
        assert edits.source_picture(example).size == edits.size(key)[::-1]
    assert policy("flux").source_picture(Example("a cup")) is None


# ---------------------------------------------------------------------- by content


@pytest.mark.parametrize(
    ("field", "value", "shapes_it"),
    [
        ("policy.height", 64, True),
        ("policy.width", 64, True),
        ("policy.true_cfg_scale", 2.0, True),
        ("policy.negative_prompt", "blurry", True),
        ("policy.max_sequence_length", 32, True),
        ("policy.condition_area", 4096, True),
        ("policy.dtype", "bfloat16", True),
        ("policy.guidance_scale", 1.0, False),
        ("policy.gradient_checkpointing", True, False),
        ("run.seed", 9, False),
    ],
)
def test_a_setting_changes_the_key_where_it_shapes_an_encoding(run_config, field, value, shapes_it):
    one, other = (
        content_key("base", run_config("flux", **fields).policy, PROMPTS[0])
        for fields in ({}, {field: value})
    )
    assert (one != other) == shapes_it


def test_a_prompt_and_a_source_count_by_their_content(run_config, source_image, tmp_path):
    settings = run_config("qwen").policy
    path, copy = tmp_path / "a.png", tmp_path / "b.png"
    for target in (path, copy):
        shutil.copy(source_image(32, 32), target)

    def key(prompt: str, source=None, **more) -> str:
        return content_key("base", settings, Example(prompt, source, **more))

    assert key("red") != key("red ") and key("red") == key("red", tags={"kind": "colour"})
    before = key("edit", path)
    assert key("edit") != before == key("edit", copy)
    shutil.copy(source_image(32, 32, seed=1), path)
    assert key("edit", path) != before


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
    one, other = (content_key(name, settings, PROMPTS[0]) for name in ("a@main", "a@v2"))
    assert one != other


def test_a_negative_prompt_is_encoded_only_where_guidance_asks_for_it(policy):
    names = {"prompt_embeds", "pooled_prompt_embeds"}
    for scale, expected in ((1.0, names), (2.0, names | {f"negative_{name}" for name in names})):
        flux = policy("flux", **{"policy.true_cfg_scale": scale})
        keys = flux.encode(PROMPTS[:1])
        assert set(flux.cache.get(keys[0]).tensors) == expected
        assert (flux.batch(keys).negative is None) == (scale == 1.0)


# ---------------------------------------------------------------------- the files


def test_a_file_appears_whole_or_not_at_all(cache, monkeypatch):
    def save_half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    given = conditioning(0.1)
    with monkeypatch.context() as full, pytest.raises(OSError, match="No space left"):
        full.setattr(module, "save_file", save_half)
        cache.put("k", given)
    assert "k" not in cache
    cache.put("k", given)
    assert_same(cache.get("k"), given)


def test_memory_is_bounded_and_what_was_used_last_stays(cache, monkeypatch):
    for name in "abc":
        cache.put(name, conditioning(tokens=100))
    monkeypatch.setattr(module, "MEMORY_LIMIT", 2 * conditioning(tokens=100).bytes)
    a, b = cache.get("a"), cache.get("b")
    assert cache.get("a") is a
    cache.get("c")
    assert cache.get("a") is a and cache.get("b") is not b
    monkeypatch.setattr(module, "MEMORY_LIMIT", 1)  # one that is larger is still served
    assert_same(cache.get("c"), conditioning(tokens=100))
