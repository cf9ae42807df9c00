"""The embedded models are refused where they would load wrongly."""

from __future__ import annotations

import pytest

from arr_core import miniature
from arr_core.config import load_config
from arr_core.judging import JudgeError
from arr_core.miniature.judge import MiniatureClient
from arr_core.policies.loading import PolicyError, load_policy


@pytest.mark.parametrize(
    "installed, refused", [("4.57.6", True), ("5.0.0", False), ("5.23.0", False), ("10.1", False)]
)
def test_transformers_4_is_refused_before_anything_loads(monkeypatch, tmp_path, installed, refused):
    monkeypatch.setattr(miniature, "version", lambda name: installed)
    assert bool(miniature.transformers_fault()) == refused
    if refused:
        with pytest.raises(PolicyError, match=f"needs transformers 5 or newer, found {installed}"):
            load_policy(load_config("miniature").policy, tmp_path)
        with pytest.raises(JudgeError, match="ARR_PYTHON"):
            MiniatureClient()


def test_other_bases_load_with_any_transformers(monkeypatch, tmp_path, saved_pipeline):
    monkeypatch.setattr(miniature, "version", lambda name: "4.57.6")
    config = load_config("miniature", ["--policy.base", str(saved_pipeline("flux"))])
    assert load_policy(config.policy, tmp_path).family == "flux"
