"""Models saved by transformers 5 are refused under 4, which would load them wrongly."""

from __future__ import annotations

import pytest

from arr_core import miniature
from arr_core.config.load import load_config
from arr_core.judging import JudgeError
from arr_core.miniature.judge import MiniatureClient
from arr_core.policies import loading


@pytest.mark.parametrize(
    "installed, refused", [("4.57.6", True), ("5.0.0", False), ("5.23.0", False), ("10.1", False)]
)
def test_transformers_4_is_refused_before_anything_loads(monkeypatch, tmp_path, installed, refused):
    for module in (miniature, loading):
        monkeypatch.setattr(module, "version", lambda name: installed)
    settings = load_config("miniature").policy
    if not refused:
        assert isinstance(loading.load_policy(settings, tmp_path), loading.FluxPolicy)
        assert not miniature.transformers_fault()
        return
    with pytest.raises(
        loading.PolicyError, match=f"needs transformers 5 or newer, got {installed}"
    ):
        loading.load_policy(settings, tmp_path)
    with pytest.raises(JudgeError, match="ARR_PYTHON"):
        MiniatureClient()
