"""Qwen-Image-Edit prompts get three-dimensional positions: those of the Qwen2-VL paper, computed here by hand."""

from __future__ import annotations

import contextlib
import inspect

import pytest
import torch
from PIL import Image

from arr_core.policies.qwen_image_edit import encode_edits, image_token_types
from tools.miniature.models import qwen_edit_pipeline

INSTRUCTIONS = ["make the circle green", "remove it"]


@pytest.fixture(scope="module", params=[False, True], ids=["edit", "plus"])
def pipeline(request):
    return qwen_edit_pipeline(plus=request.param)


@pytest.fixture(scope="module")
def images(source_image):
    """Not square: 112x56 is 4 x 2 picture tokens of 28 pixels, so that height and width cannot be confused."""
    return [Image.open(source_image(112, 56)), Image.open(source_image(56, 112, seed=1))]


@pytest.fixture
def seen(pipeline):
    """What the text encoder was called with, and the positions that reached its text model, newest last."""
    calls, positions = [], []
    encoder = pipeline.text_encoder
    hooks = [
        encoder.register_forward_pre_hook(
            lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True
        ),
        encoder.model.language_model.register_forward_pre_hook(
            lambda _, args, kwargs: positions.append(kwargs["position_ids"]), with_kwargs=True
        ),
    ]
    yield calls, positions
    for hook in hooks:
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


@torch.no_grad()
def test_the_text_model_gets_the_positions_of_the_paper(pipeline, images, seen):
    calls, positions = seen
    for instruction, image in zip(INSTRUCTIONS, images, strict=True):
        encode_edits(pipeline, [instruction], [image])
        grid = calls[-1]["image_grid_thw"][0].tolist()
        assert sorted(grid[1:]) == [4, 8]
        input_ids = calls[-1]["input_ids"][0].tolist()
        expected = positions_by_hand(input_ids, pipeline.text_encoder.config.image_token_id, grid)
        assert torch.equal(positions[-1][-3:, 0], expected)
        assert (expected[1] != expected[2]).any() and expected.max() + 1 < expected.shape[
            1
        ]  # not one-dimensional


@torch.no_grad()
def test_the_embeddings_are_exactly_those_of_the_positions_by_hand(pipeline, images, seen):
    calls, _ = seen
    given, mask = encode_edits(pipeline, INSTRUCTIONS[:1], images[:1])
    call = {name: value for name, value in calls[-1].items() if name != "mm_token_type_ids"}
    positions = positions_by_hand(
        call["input_ids"][0].tolist(),
        pipeline.text_encoder.config.image_token_id,
        call["image_grid_thw"][0].tolist(),
    )
    by_hand = pipeline.text_encoder(**call, position_ids=positions[:, None]).hidden_states[-1]
    assert (given - by_hand[:, pipeline.prompt_template_encode_start_idx :]).abs().max() == 0.0
    assert mask.all()


@pytest.mark.skipif(
    "mm_token_type_ids"
    not in inspect.signature(qwen_edit_pipeline().text_encoder.forward).parameters,
    reason="transformers 4 needs no token types",
)
class TestWithoutOurSeam:
    """What diffusers 0.42 does alone under transformers 5."""

    @torch.no_grad()
    def test_pictures_get_one_dimensional_positions_and_other_embeddings(
        self, pipeline, images, seen
    ):
        _, positions = seen
        right, _ = encode_edits(pipeline, INSTRUCTIONS[:1], images[:1])
        positions.clear()
        wrong, _ = pipeline._get_qwen_prompt_embeds(INSTRUCTIONS[:1], images[:1])
        one_dimensional = positions[0] is None or (positions[0][0] == positions[0][-1]).all()
        if not one_dimensional:
            pytest.skip("this diffusers gives the token types itself")
        assert wrong.shape == right.shape and (wrong - right).abs().max() > 1e-2

    def test_token_types_that_are_given_are_kept(self, pipeline, seen):
        calls, _ = seen
        given = torch.zeros(1, 3, dtype=torch.int)
        with (
            image_token_types(pipeline.text_encoder),
            contextlib.suppress(ValueError, RuntimeError, IndexError),
        ):
            pipeline.text_encoder(
                input_ids=torch.tensor([[1, 2, 3]]),
                mm_token_type_ids=given,
                image_grid_thw=torch.tensor([[1, 4, 4]]),
            )
        assert calls[-1]["mm_token_type_ids"] is given


@torch.no_grad()
def test_edits_encoded_together_are_those_encoded_alone(pipeline, images):
    """Instructions and pictures of different lengths are padded at the end, and the mask tells."""
    together, mask = encode_edits(pipeline, INSTRUCTIONS, images)
    assert mask.shape == together.shape[:2]
    for at, (instruction, image) in enumerate(zip(INSTRUCTIONS, images, strict=True)):
        alone, _ = encode_edits(pipeline, [instruction], [image])
        length = alone.shape[1]
        assert mask[at].tolist() == [1] * length + [0] * (together.shape[1] - length)
        torch.testing.assert_close(together[at, :length], alone[0], rtol=0, atol=2e-5)


@torch.no_grad()
def test_the_context_leaves_nothing_behind(pipeline, images):
    hooks = len(pipeline.text_encoder._forward_pre_hooks)
    encode_edits(pipeline, INSTRUCTIONS[:1], images[:1])
    with pytest.raises(KeyError), image_token_types(pipeline.text_encoder):
        assert len(pipeline.text_encoder._forward_pre_hooks) >= hooks
        raise KeyError
    assert len(pipeline.text_encoder._forward_pre_hooks) == hooks


def test_an_encoder_that_knows_no_token_types_is_not_given_any():
    """transformers 4.57 finds the picture's tokens itself."""

    class Older(torch.nn.Module):
        def forward(self, input_ids, image_grid_thw):
            return input_ids

    older = Older()
    with image_token_types(older):
        assert not older._forward_pre_hooks
        older(input_ids=torch.tensor([[1]]), image_grid_thw=torch.tensor([[1, 2, 2]]))
