"""A noise-free rollout is the stock pipeline: the same picture for the same seed and schedule, in every family."""

from __future__ import annotations

import functools
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
PROMPT = "a red circle above a blue square"
GUIDED = {"policy.true_cfg_scale": 4.0, "policy.negative_prompt": "green"}
CONDITION = 64 * 64  # the source's area as the text encoder of Plus sees it


@pytest.fixture(scope="module")
def stock(saved_pipeline):
    """``stock(name)`` is the whole pipeline, with a scheduler that takes the given sigmas as they are."""

    @functools.cache
    def load(name: str):
        pipeline = PIPELINES[name].from_pretrained(saved_pipeline(name))
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return load


def ours(policy, example: Example, seeds: list[int]):
    """Latents and images of a noise-free rollout, one picture a seed."""
    batch = policy.batch(policy.encode([example]) * len(seeds))
    x0 = denoise(policy, batch, seeds, static_sigmas(STEPS, SHIFT))
    return x0, policy.decode(x0, batch)


def theirs(pipeline, policy, size: tuple[int, int], seed: int, **call):
    """Latents and image of the stock pipeline at its ``__call__``."""
    latents = []

    def keep(_, step, t, tensors):
        latents.append(tensors["latents"])
        return {}

    image = pipeline(
        prompt=PROMPT,
        negative_prompt=policy.settings.negative_prompt,
        true_cfg_scale=policy.settings.true_cfg_scale,
        width=size[0],
        height=size[1],
        sigmas=static_sigmas(STEPS, SHIFT)[:-1].tolist(),
        callback_on_step_end=keep,
        generator=[torch.Generator().manual_seed(seed)],
        **call,
    ).images[0]
    return latents[-1][0], image


def assert_same(given: tuple, expected: list[tuple]) -> None:
    """Latents and images of a rollout are those of the stock pipeline, seed by seed."""
    for latents, image, (other_latents, other) in zip(*given, expected, strict=True):
        assert (latents - other_latents).abs().max() < 1e-4
        assert image.size == other.size
        assert np.asarray(image).std() > 1  # neither is blank
        assert largest_difference(image, other) <= 1
    assert (given[0][0] - given[0][1]).abs().max() > 0.1


def largest_difference(image: Image.Image, other: Image.Image) -> int:
    """In steps of 8-bit pixels."""
    return abs(np.asarray(image).astype(int) - np.asarray(other).astype(int)).max()


# ---------------------------------------------------------------------- FLUX


@pytest.mark.parametrize(
    ("size", "fields"), [((32, 32), {}), ((64, 32), {}), ((32, 48), {}), ((32, 32), GUIDED)]
)
def test_flux_makes_the_stock_image(make_policy, stock, size, fields):
    shape = {"policy.width": size[0], "policy.height": size[1]}
    policy, config = make_policy("flux", **shape, **fields)
    call = config.policy.model_dump(include={"guidance_scale", "max_sequence_length"})
    result = ours(policy, Example(PROMPT), [3, 4])
    assert_same(result, [theirs(stock("flux"), policy, size, seed, **call) for seed in (3, 4)])
    if fields:
        plain, _ = make_policy("flux", **shape)
        assert (ours(plain, Example(PROMPT), [3, 4])[0] - result[0]).abs().max() > 1e-2


def test_flux_makes_the_stock_image_by_the_stock_schedule(make_policy, saved_pipeline):
    """The base's own scheduler, with its static shift of 3, takes our steps without being given any."""
    policy, config = make_policy("flux")
    pipeline = FluxPipeline.from_pretrained(saved_pipeline("flux"))
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        PROMPT,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(3),
        **config.policy.model_dump(
            include={"height", "width", "guidance_scale", "max_sequence_length"}
        ),
    ).images[0]
    image = ours(policy, Example(PROMPT), [3])[1][0]
    assert largest_difference(image, expected) <= 1


# ---------------------------------------------------------------------- Qwen-Image-Edit, and 2509 (Plus)


def edit_settings(name: str, size: tuple[int, int] = (64, 32)) -> dict:
    """A policy of the size's area, always given lying: an edit keeps its source's shape. Stock Edit shows the text
    encoder the resized source itself; Plus has a size of its own for it."""
    height, width = sorted(size)
    return {
        "policy.height": height,
        "policy.width": width,
        "policy.condition_area": CONDITION if name == "qwen-plus" else None,
    }


@pytest.fixture
def stock_edit(stock, monkeypatch):
    """``stock_edit(name, policy, size, seed, source)``: the stock pipeline, asked for small pictures and told which
    of its tokens are picture, but otherwise as it is."""

    def run(name: str, policy, size: tuple[int, int], seed: int, source):
        pipeline, area = stock(name), size[0] * size[1]
        module = importlib.import_module(type(pipeline).__module__)
        with image_token_types(pipeline.text_encoder), monkeypatch.context() as small:
            if name == "qwen-plus":
                small.setattr(module, "VAE_IMAGE_SIZE", area)
                small.setattr(module, "CONDITION_IMAGE_SIZE", CONDITION)
            else:
                dimensions = module.calculate_dimensions
                small.setattr(
                    module, "calculate_dimensions", lambda _, ratio: dimensions(area, ratio)
                )
            return theirs(pipeline, policy, size, seed, image=Image.open(source))

    return run


@pytest.mark.parametrize(
    ("source_size", "size", "fields"),
    [  # stock edit pipelines round both sides to multiples of 32; these sizes are such multiples
        ((32, 32), (32, 32), {}),
        ((64, 32), (64, 32), {}),
        ((32, 64), (32, 64), {}),
        ((150, 75), (64, 32), {}),
        ((64, 32), (64, 32), GUIDED),
    ],
)
@pytest.mark.parametrize("name", ["qwen", "qwen-plus"])
def test_an_edit_makes_the_stock_image(
    make_policy, stock_edit, source_image, name, source_size, size, fields
):
    policy, _ = make_policy(name, **edit_settings(name, size), **fields)
    source = source_image(*source_size)
    result = ours(policy, Example(PROMPT, source), [5, 6])
    assert_same(result, [stock_edit(name, policy, size, seed, source) for seed in (5, 6)])
    if fields:
        plain, _ = make_policy(name, **edit_settings(name, size))
        assert (ours(plain, Example(PROMPT, source), [5, 6])[0] - result[0]).abs().max() > 1e-2


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
