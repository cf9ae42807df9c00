"""Wilson intervals by hand, and the image statistics of pictures whose numbers are known."""

import numpy as np
import pytest
from PIL import Image

from arr_core.common.proportions import Proportion
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
    found = Proportion(count, total).interval
    assert found == pytest.approx(interval, abs=5e-5)
    for end in (0.0, 1.0):
        assert (end in found) == (end in interval)  # exact at the ends


def test_kappa_is_cohens_with_each_pair_counted_in_both_orders():
    """Seven of ten alike. In both orders: 7 + 7 agree of 20, either rater says a in 10 of 20, chance agrees on half."""
    by_chance = 0.5 * 0.5 + 0.5 * 0.5
    low, high = ((end - by_chance) / (1 - by_chance) for end in Proportion(7, 10).interval)
    assert (
        Proportion(7, 10).kappa
        == f"{(0.7 - by_chance) / (1 - by_chance):.2f} ({low:.2f} to {high:.2f})"
    )
    assert (Proportion(5, 5).kappa[:4], Proportion(0, 0).kappa) == ("1.00", "-")


@pytest.mark.parametrize("successes, total", [(-1, 3), (4, 3), (0, -1)])
def test_impossible_counts_are_refused(successes, total):
    with pytest.raises(ValueError, match="expected 0 <= count <= total"):
        Proportion(successes, total)


BLACK, WHITE = [0] * 3, [255] * 3


@pytest.mark.parametrize(
    "pixels, expected",
    [
        ([[[10, 200, 30]] * 8] * 6, (0, 0, 0)),
        ([[[10, 200, 30]] * 5], (0, 0, 0)),
        # luminance 0 and 1 in equal parts: std 1/2, one bit of colour; one of three steps across has length 1
        ([[BLACK, BLACK, WHITE, WHITE]] * 4, (0.5, 1 / 3, 1.0)),
    ],
    ids=["flat", "one row", "half black, half white"],
)
def test_image_statistics_by_hand(pixels, expected):
    found = image_statistics([Image.fromarray(np.array(pixels, np.uint8))])
    names = ("contrast", "edge_energy", "colour_entropy")
    assert found == pytest.approx(dict(zip(names, expected, strict=True)), abs=1e-9)


def test_colours_of_one_level_are_one_colour():
    pixels = np.array([[[level] * 3 for level in (0, 31, 32, 63)]], np.uint8)
    assert image_statistics([Image.fromarray(pixels)])["colour_entropy"] == pytest.approx(1.0)


def test_each_image_counts_once_whatever_its_size():
    half = Image.fromarray(np.array([[BLACK] * 2, [WHITE] * 2], np.uint8))
    found = image_statistics([half, Image.new("RGB", (64, 64))])
    assert found["contrast"] == pytest.approx(0.25)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="at least one image"):
        image_statistics([])
