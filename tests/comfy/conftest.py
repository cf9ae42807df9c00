"""One server of each ComfyUI for all tests of this folder."""

from __future__ import annotations

import pytest
from real_comfyui.server import serving


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The newer ComfyUI, with a key that a judge's profile may name, and a shared file of verdicts."""
    base = tmp_path_factory.mktemp("comfy")
    key, shared = "sk-a-key-that-nobody-may-see", str(base / "shared.sqlite")
    with serving(base, ARR_TEST_KEY=key, ARR_VERDICTS=shared) as running:
        yield running


@pytest.fixture(scope="session")
def old_server(tmp_path_factory):
    """The oldest ComfyUI that the pack supports."""
    with serving(tmp_path_factory.mktemp("comfy-old"), "0.3.75") as running:
        yield running
