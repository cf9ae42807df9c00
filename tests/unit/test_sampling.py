"""One sampler: its arithmetic is that of training without noise; files say what they are; verdicts are counted."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from arr_core.adapters import Adapter, LoraPair
from arr_core.sampling import ImageFiles, denoise, scaled
from arr_core.training import sde
from arr_core.training.validation import Score


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sampling_is_the_training_step_without_noise_bit_for_bit(dtype):
    policy = SimpleNamespace(
        initial_noise=lambda batch, seeds: torch.randn(2, 5, 3).to(dtype),
        velocity=lambda x, t, batch: torch.sin(7 * x + t).to(dtype),
    )
    levels = torch.tensor([1.0, 0.9, 0.55, 0.1, 0.0], dtype=torch.float64)
    torch.manual_seed(0)
    sampled = denoise(policy, None, [1, 2], levels)
    torch.manual_seed(0)
    x = policy.initial_noise(None, None)
    for t, t_next in itertools.pairwise(levels.tolist()):
        v = policy.velocity(x, t, None)
        x0 = sde.denoised(x, v, t)
        x = sde.step(x, v, t, t_next, sampler="dance", eta=0.0, t_second=0.9, noise=None).latents
    assert torch.equal(sampled, x) and torch.equal(sampled, x0)


def test_a_file_that_was_made_otherwise_or_is_no_image_counts_as_missing(tmp_path):
    files = [tmp_path / f"{name}.png" for name in "abcd"]
    images = ImageFiles(files, [{"prompt": "红色的圆 —", "seed": "7"}] * 4)
    for place in range(3):
        images[place] = Image.new("RGB", (4, 4), "red")
    files[1].write_bytes(files[1].read_bytes()[:20])
    images.texts = [*images.texts[:2], {"prompt": "another"}, {}]
    assert [place in images for place in range(4)] == [True, False, False, False]
    assert images[0].getpixel((0, 0)) == (255, 0, 0)
    assert len(list(tmp_path.iterdir())) == 3  # nothing half-written beside them


def test_strength_scales_what_the_adapter_adds():
    pair = LoraPair(torch.ones(2, 4), torch.ones(4, 2), 8.0, 4.0)
    half = scaled(Adapter({"module": pair}, "base", False), 0.5).modules["module"]
    assert (half.scale, half.alpha) == (2.0, 4.0) and half.B is pair.B


@pytest.mark.parametrize(
    ("preferred", "score", "margin", "said"),
    [
        ("aab-", Score(2, 1, 1), 0.25, "A beats B in 67% of 3 decided pairs"),
        ("bb", Score(0, 2, 0), -1, "A beats B in 0% of 2 decided pairs (95 % interval 0% to 66%"),
        ("--", Score(0, 0, 2), 0, "the judge decided none of 2 pairs between A and B"),
        ("", Score(0, 0, 0), 0, "the judge decided none of 0 pairs"),
    ],
)
def test_a_score_counts_verdicts_and_says_them(preferred, score, margin, said):
    sides = {"a": "a", "b": "b", "-": None}
    verdicts = [SimpleNamespace(preferred=sides[letter]) for letter in preferred]
    assert Score.of(verdicts) == score and score.margin == margin
    assert score.sentence("A", "B").startswith(said)
