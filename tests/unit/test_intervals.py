"""Wilson intervals by hand, and the image statistics of pictures whose numbers are known."""

import numpy as np
import pytest
from PIL import Image

from arr_core.common.proportions import wilson
from arr_core.training.image_statistics import image_statistics


@pytest.mark.parametrize(
    "count, total, interval",
    [
        # z^2 = 3.8416; half = 1.96 / 1.38416 * sqrt(0.025 + 3.8416 / 400) = 0.263411
        (5, 10, (0.236589, 0.763411)),
        # Newcombe, Statistics in Medicine 17 (1998), table I
        (81, 263, (0.2553, 0.3662)),
        # none of n: high = z^2 / (n + z^2)
        (0, 10, (0.0, 3.8416 / 13.8416)),
        (10, 10, (1 - 3.8416 / 13.8416, 1.0)),
        (0, 0, (0.0, 1.0)),
    ],
)
def test_wilson_by_hand_and_as_published(count, total, interval):
    low, high = wilson(count, total)
    assert (low, high) == pytest.approx(interval, abs=5e-5)
    assert (low == 0.0, high == 1.0) == (
        interval[0] == 0.0,
        interval[1] == 1.0,
    )  # exact at the ends


@pytest.mark.parametrize("successes, total", [(-1, 3), (4, 3), (0, -1)])
def test_impossible_counts_are_refused(successes, total):
    with pytest.raises(ValueError, match="expected 0 <= count <= total"):
        wilson(successes, total)


@pytest.mark.parametrize("size", [(8, 6), (5, 1)])
def test_a_flat_picture_has_no_contrast_no_edges_and_one_colour(size):
    assert image_statistics([Image.new("RGB", size, (10, 200, 30))]) == pytest.approx(
        {"contrast": 0, "edge_energy": 0, "colour_entropy": 0}, abs=1e-9
    )


def test_half_black_half_white_by_hand():
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:, 2:] = 255
    # luminance 0 and 1 in equal parts: std 1/2, one bit of colour; one of three steps across has length 1
    assert image_statistics([Image.fromarray(pixels)]) == pytest.approx(
        {"contrast": 0.5, "edge_energy": 1 / 3, "colour_entropy": 1.0}
    )


def test_colours_of_one_level_are_one_colour():
    pixels = np.array([[[0, 0, 0], [31, 31, 31], [32, 32, 32], [63, 63, 63]]], np.uint8)
    assert image_statistics([Image.fromarray(pixels)])["colour_entropy"] == pytest.approx(1.0)


def test_each_image_counts_once_whatever_its_size():
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0] = 255
    assert image_statistics([Image.fromarray(pixels), Image.new("RGB", (64, 64))])[
        "contrast"
    ] == pytest.approx(0.25)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="at least one image"):
        image_statistics([])
