"""Statistics of pictures that betray a policy which pleases its judge by harsher contrast, edges or colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # Rec. 709
LEVELS = 8  # of each channel, so that a colour falls into one of 512 boxes


def image_statistics(images: Sequence[Image.Image]) -> dict[str, float]:
    """{"contrast", "edge_energy", "colour_entropy"}, each the mean over images, which may differ in size.

    contrast: standard deviation of the luminance, which is in [0, 1]. edge_energy: mean length of its gradient, per
    pixel. colour_entropy: bits, 0 for one flat colour and at most 9.
    """
    if not images:
        raise ValueError("expected at least one image, got none")
    rows = [_statistics(np.asarray(image.convert("RGB"))) for image in images]
    means = np.mean(rows, axis=0)
    return {
        name: float(mean)
        for name, mean in zip(("contrast", "edge_energy", "colour_entropy"), means, strict=True)
    }


def _statistics(pixels: np.ndarray) -> tuple[float, float, float]:
    """Contrast, edge energy and colour entropy of pixels [H, W, 3] in uint8."""
    luminance = pixels / 255 @ LUMINANCE
    across, down = np.diff(luminance, axis=1)[:-1], np.diff(luminance, axis=0)[:, :-1]
    edges = np.hypot(across, down)
    red, green, blue = np.moveaxis(pixels.astype(np.int64) * LEVELS // 256, -1, 0)
    counts = np.bincount(((red * LEVELS + green) * LEVELS + blue).ravel(), minlength=LEVELS**3)
    shares = counts[counts > 0] / counts.sum()
    return (
        float(luminance.std()),
        float(edges.mean()) if edges.size else 0.0,
        float(-(shares * np.log2(shares)).sum()),
    )
