"""The grid of images that ``generate`` draws: sizes, sharp enlargement, captions that always fit; and its file names."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from arr_core.generate import slug
from arr_core.reports.grid import Row, draw_grid, scaled


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((32, 32), (160, 160)),
        ((64, 48), (256, 192)),
        ((512, 512), (512, 512)),
        ((1024, 768), (512, 384)),
        ((160, 160), (160, 160)),
        ((24, 48), (168, 336)),
    ],
)
def test_small_images_are_enlarged_and_large_ones_made_smaller(size, shown):
    assert scaled(Image.new("RGB", size)).size == shown


def test_a_small_image_is_enlarged_without_blurring(tmp_path):
    board = (np.indices((32, 32)).sum(0) % 2 * 255).astype("uint8")
    Image.fromarray(board).save(tmp_path / "board.png")
    grid = np.asarray(draw_grid([Row("", [tmp_path / "board.png"])], ["a"], "").convert("L"))
    enlarged = board.repeat(5, 0).repeat(5, 1)
    assert any(np.array_equal(grid[y : y + 160, 12:172], enlarged) for y in range(len(grid) - 159))


@pytest.mark.parametrize(
    "caption",
    ["x" * 20_000, "word " * 5_000, "红色的圆" * 500, "\n\t", "\u202eright to left", "\U0001f600"],
    ids=lambda caption: ascii(caption[:8]),
)
def test_any_caption_fits(tmp_path, caption):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    grid = draw_grid([Row(caption, [tmp_path / "a.png"])] * 2, ["a long title " * 9], caption)
    assert grid.width == 2 * 160 + 24 and grid.height < 900


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red/blue \\ circle: *?", "a-red-blue-circle"),
        ("../../etc/passwd", "etc-passwd"),
        ("红色的圆", "image"),
        ("Äpfel & Öl", "apfel-ol"),
        ("", "image"),
        ("x" * 100, "x" * 40),
        ("a" * 30 + " " + "b" * 30, "a" * 30),
    ],
)
def test_a_file_name_is_safe(prompt, name):
    assert slug(prompt) == name
