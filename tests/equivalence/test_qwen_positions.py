"""Qwen-Image-Edit prompts get three-dimensional positions: those of the Qwen2-VL paper, computed here by hand."""

from __future__ import annotations

import contextlib

import pytest
import torch

from arr_core.data import Example
from arr_core.policies.qwen_image_edit import image_token_types


@pytest.fixture(scope="module", params=["qwen", "qwen-plus"])
def policy(request, make_policy):
    """The text encoder sees images at 56 x 112 pixels: 4 x 2 tokens of 28 pixels, so that height and width differ."""
    fields = {"policy.height": 64, "policy.width": 96, "policy.condition_area": 56 * 112}
    return make_policy(request.param, **fields)[0]


@pytest.fixture(scope="module")
def pipeline(policy):
    return policy.source.load(without=("transformer",))


@pytest.fixture
def calls(pipeline):
    """What the text encoder is called with, newest last."""
    made = []
    hook = pipeline.text_encoder.register_forward_pre_hook(
        lambda _, args, kwargs: made.append(kwargs), with_kwargs=True
    )
    yield made
    hook.remove()


def positions_by_hand(input_ids: list[int], image_token: int, grid: list[int]) -> torch.Tensor:
    """[3, T] positions in time, height and width of one prompt with one picture of ``grid`` patches.

    Text counts up in all three alike. The picture starts where the text before it ended, its tokens (2 x 2 patches)
    at row and column from there, and the text after it goes on past the longer side.
    """
    rows, columns = grid[1] // 2, grid[2] // 2
    start = input_ids.index(image_token)
    result = [[at] * 3 for at in range(start)]
    result += [
        [start, start + row, start + column] for row in range(rows) for column in range(columns)
    ]
    after = start + max(rows, columns)
    result += [[after + at] * 3 for at in range(len(input_ids) - len(result))]
    return torch.tensor(result).T


@pytest.mark.parametrize("size", [(112, 56), (56, 112)])
@torch.no_grad()
def test_the_embeddings_are_exactly_those_of_the_positions_by_hand(
    policy, pipeline, calls, source_image, size
):
    example = Example("make the circle green", source_image(*size))
    given = policy.encode_prompt(pipeline, example.prompt, example)["prompt_embeds"]
    call = {name: value for name, value in calls[-1].items() if name != "mm_token_type_ids"}
    grid = call["image_grid_thw"][0].tolist()
    assert grid[1] != grid[2] and (grid[1] < grid[2]) == (size[0] > size[1])
    encoder = pipeline.text_encoder
    positions = positions_by_hand(
        call["input_ids"][0].tolist(), encoder.config.image_token_id, grid
    )
    by_hand = encoder(**call, position_ids=positions[:, None]).hidden_states[-1][0]
    assert torch.equal(given, by_hand[pipeline.prompt_template_encode_start_idx :])
    one_dimensional = torch.arange(positions.shape[1]).expand(3, 1, -1)
    wrong = encoder(**call, position_ids=one_dimensional).hidden_states[-1][0]
    assert (wrong - by_hand).abs().max() > 1e-2


def test_token_types_that_are_given_are_kept_and_no_hook_is_left_behind(pipeline, calls):
    encoder, given = pipeline.text_encoder, torch.zeros(1, 3, dtype=torch.int)
    hooks = len(encoder._forward_pre_hooks)
    with (
        contextlib.suppress(TypeError, ValueError, RuntimeError, IndexError),
        image_token_types(encoder),
    ):
        encoder(
            input_ids=torch.tensor([[1, 2, 3]]),
            mm_token_type_ids=given,
            image_grid_thw=torch.tensor([[1, 4, 4]]),
        )
    assert calls[-1]["mm_token_type_ids"] is given
    assert len(encoder._forward_pre_hooks) == hooks


def test_an_encoder_that_knows_no_token_types_is_not_given_any():
    """transformers 4.57 finds the picture's tokens itself."""

    class Older(torch.nn.Module):
        def forward(self, input_ids, image_grid_thw):
            return input_ids

    older = Older()
    with image_token_types(older):
        assert not older._forward_pre_hooks
        older(input_ids=torch.tensor([[1]]), image_grid_thw=torch.tensor([[1, 2, 2]]))
