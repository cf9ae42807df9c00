"""One server of each ComfyUI for all tests of this folder."""

from __future__ import annotations

import pytest
from real_comfyui.server import serving


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The newer ComfyUI; the variable is one that a judge's profile may name."""
    with serving(
        tmp_path_factory.mktemp("comfy"), ARR_TEST_KEY="sk-a-key-that-nobody-may-see"
    ) as running:
        yield running


@pytest.fixture(scope="session")
def old_server(tmp_path_factory):
    """The oldest ComfyUI that the pack supports."""
    with serving(tmp_path_factory.mktemp("comfy-old"), "0.3.75") as running:
        yield running
