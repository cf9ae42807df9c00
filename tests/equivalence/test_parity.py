"""A noise-free rollout is the stock pipeline: the same picture for the same seed and schedule, in every family."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
)
from PIL import Image

from arr_core.data import Example
from arr_core.policies.base import static_sigmas
from arr_core.policies.qwen_image_edit import image_token_types
from arr_core.sampling import denoise

STEPS, SHIFT = 4, 3.0
PIPELINES = {
    "flux": FluxPipeline,
    "qwen": QwenImageEditPipeline,
    "qwen-plus": QwenImageEditPlusPipeline,
}
# Stock edit pipelines round both sides to multiples of 32; these sizes are such multiples.
SIZES = {"square": (32, 32), "landscape": (64, 32), "portrait": (32, 64)}
CONDITION = 64 * 64  # the source's area as the text encoder of Plus sees it
PROMPT, NEGATIVE = "a red circle above a blue square", "green"


@pytest.fixture(scope="module")
def stock(saved_pipeline):
    """``stock(name)`` is the whole pipeline, with a scheduler that takes the given sigmas as they are."""
    pipelines = {}

    def load(name: str):
        if name not in pipelines:
            pipelines[name] = PIPELINES[name].from_pretrained(saved_pipeline(name))
            pipelines[name].scheduler = FlowMatchEulerDiscreteScheduler(
                shift=1.0, use_dynamic_shifting=False
            )
            pipelines[name].set_progress_bar_config(disable=True)
        return pipelines[name]

    return load


def ours(policy, example: Example, seeds: list[int]):
    """Latents and images of a noise-free rollout, one picture a seed."""
    batch = policy.batch(policy.encode([example]) * len(seeds))
    x0 = denoise(policy, batch, seeds, static_sigmas(STEPS, SHIFT))
    return x0, policy.decode(x0, batch)


def theirs(pipeline, policy, seed: int, **call):
    """Latents and image of the stock pipeline at its ``__call__``."""
    latents = []

    def keep(_, step, t, tensors):
        latents.append(tensors["latents"])
        return {}

    image = pipeline(
        **call,
        sigmas=static_sigmas(STEPS, SHIFT)[:-1].tolist(),
        callback_on_step_end=keep,
        generator=[torch.Generator().manual_seed(seed)],
    ).images[0]
    return latents[-1], image


def assert_same(given: tuple, expected: tuple) -> None:
    latents, image = given
    assert (latents - expected[0]).abs().max() < 1e-4
    assert image.size == expected[1].size
    assert np.asarray(image).std() > 1  # neither is blank
    assert largest_difference(image, expected[1]) <= 1


def largest_difference(image: Image.Image, other: Image.Image) -> int:
    """In steps of 8-bit pixels."""
    return abs(np.asarray(image).astype(int) - np.asarray(other).astype(int)).max()


def pair(result: tuple, at: int) -> tuple:
    return result[0][at : at + 1], result[1][at]


# ---------------------------------------------------------------------- FLUX


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (32, 48)])
def test_flux_makes_the_stock_image(make_policy, stock, size):
    width, height = size
    policy, config = make_policy("flux", **{"policy.height": height, "policy.width": width})
    result = ours(policy, Example(PROMPT), [3, 4])
    for at, seed in enumerate((3, 4)):
        expected = theirs(
            stock("flux"),
            policy,
            seed,
            prompt=PROMPT,
            height=height,
            width=width,
            guidance_scale=config.policy.guidance_scale,
            max_sequence_length=config.policy.max_sequence_length,
        )
        assert_same(pair(result, at), expected)
    assert (result[0][0] - result[0][1]).abs().max() > 0.1


def test_flux_makes_the_stock_image_by_the_stock_schedule(make_policy, saved_pipeline):
    """The base's own scheduler, with its static shift of 3, takes our steps without being given any."""
    policy, config = make_policy("flux")
    pipeline = FluxPipeline.from_pretrained(saved_pipeline("flux"))
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        PROMPT,
        height=32,
        width=32,
        num_inference_steps=STEPS,
        max_sequence_length=config.policy.max_sequence_length,
        guidance_scale=config.policy.guidance_scale,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    image = ours(policy, Example(PROMPT), [3])[1][0]
    assert largest_difference(image, expected) <= 1


def test_flux_with_a_negative_prompt_makes_the_stock_image(make_policy, stock):
    policy, config = make_policy(
        "flux", **{"policy.true_cfg_scale": 3.0, "policy.negative_prompt": NEGATIVE}
    )
    expected = theirs(
        stock("flux"),
        policy,
        3,
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        true_cfg_scale=3.0,
        height=32,
        width=32,
        guidance_scale=config.policy.guidance_scale,
        max_sequence_length=config.policy.max_sequence_length,
    )
    result = ours(policy, Example(PROMPT), [3])
    assert_same(pair(result, 0), expected)
    plain, _ = make_policy("flux")
    assert (ours(plain, Example(PROMPT), [3])[0] - expected[0]).abs().max() > 1e-2


# ---------------------------------------------------------------------- Qwen-Image-Edit, and 2509 (Plus)


def edit_settings(name: str, shape: str = "landscape", **more) -> dict:
    """A policy of the shape's area, always given lying: an edit keeps its source's shape. Stock Edit shows the text
    encoder the resized source itself; Plus has a size of its own for it."""
    height, width = sorted(SIZES[shape])
    return {
        "policy.height": height,
        "policy.width": width,
        "policy.condition_area": CONDITION if name == "qwen-plus" else None,
        **more,
    }


@pytest.fixture
def stock_edit(stock, monkeypatch):
    """``stock_edit(name, policy, source, seed, **call)``: the stock pipeline, asked for small pictures and told which
    of its tokens are picture, but otherwise as it is."""

    def run(name: str, policy, source, seed: int, **call):
        pipeline = stock(name)
        module = importlib.import_module(type(pipeline).__module__)
        area = policy.settings.height * policy.settings.width
        image = Image.open(source)
        if name == "qwen-plus":
            monkeypatch.setattr(module, "VAE_IMAGE_SIZE", area)
            monkeypatch.setattr(module, "CONDITION_IMAGE_SIZE", CONDITION)
        else:
            dimensions = module.calculate_dimensions
            monkeypatch.setattr(
                module, "calculate_dimensions", lambda _, ratio: dimensions(area, ratio)
            )
        with image_token_types(pipeline.text_encoder):
            width, height = module.calculate_dimensions(area, image.width / image.height)[:2]
            result = theirs(pipeline, policy, seed, image=image, height=height, width=width, **call)
        monkeypatch.undo()
        return result

    return run


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("name", ["qwen", "qwen-plus"])
def test_an_edit_makes_the_stock_image(make_policy, stock_edit, source_image, name, shape):
    policy, _ = make_policy(name, **edit_settings(name, shape))
    source = source_image(*SIZES[shape])
    result = ours(policy, Example(PROMPT, source), [5, 6])
    assert result[1][0].size == SIZES[shape]
    for at, seed in enumerate((5, 6)):
        assert_same(
            pair(result, at),
            stock_edit(name, policy, source, seed, prompt=PROMPT, true_cfg_scale=1.0),
        )


@pytest.mark.parametrize("name", ["qwen", "qwen-plus"])
def test_a_larger_source_is_resized_as_the_stock_pipeline_does(
    make_policy, stock_edit, source_image, name
):
    policy, _ = make_policy(name, **edit_settings(name))
    source = source_image(150, 75)
    result = ours(policy, Example(PROMPT, source), [5])
    assert result[1][0].size == SIZES["landscape"]
    assert_same(
        pair(result, 0), stock_edit(name, policy, source, 5, prompt=PROMPT, true_cfg_scale=1.0)
    )


@pytest.mark.parametrize("name", ["qwen", "qwen-plus"])
def test_an_edit_with_a_negative_prompt_makes_the_stock_image(
    make_policy, stock_edit, source_image, name
):
    policy, _ = make_policy(
        name,
        **edit_settings(name, **{"policy.true_cfg_scale": 4.0, "policy.negative_prompt": NEGATIVE}),
    )
    source = source_image(*SIZES["landscape"])
    expected = stock_edit(
        name, policy, source, 5, prompt=PROMPT, negative_prompt=NEGATIVE, true_cfg_scale=4.0
    )
    result = ours(policy, Example(PROMPT, source), [5])
    assert_same(pair(result, 0), expected)
    plain, _ = make_policy(name, **edit_settings(name))
    assert (ours(plain, Example(PROMPT, source), [5])[0] - expected[0]).abs().max() > 1e-2


# ---------------------------------------------------------------------- batches


@pytest.mark.parametrize("name", ["flux", "qwen", "qwen-plus"])
def test_a_picture_does_not_depend_on_its_batch(make_policy, source_image, name):
    """Prompts of different lengths are padded to one; neither the padding nor the neighbours may be seen."""
    policy, _ = make_policy(name)
    source = None if name == "flux" else source_image(32, 32)
    examples = [
        Example("red", source),
        Example("a tall green triangle left of a small yellow circle", source),
    ]
    keys = policy.encode(examples)
    sigmas = static_sigmas(STEPS, SHIFT)
    together = denoise(policy, policy.batch(keys), [1, 2], sigmas)
    for at, key in enumerate(keys):
        alone = denoise(policy, policy.batch([key]), [1 + at], sigmas)
        assert (together[at] - alone[0]).abs().max() < 1e-4


def test_pictures_of_two_sizes_do_not_go_into_one_batch(make_policy, source_image):
    policy, _ = make_policy("qwen", **edit_settings("qwen"))
    keys = policy.encode([Example(PROMPT, source_image(*size)) for size in ((64, 32), (32, 64))])
    assert [policy.size(key) for key in keys] == [(32, 64), (64, 32)]
    with pytest.raises(ValueError, match="expected a batch of images of one size"):
        policy.batch(keys)
