"""A run learns what its judge prefers, on held-out prompts, by a measure that neither training nor judge ever sees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from arr_core.training.events import read_events

ROOT = Path(__file__).resolve().parents[2]


def measure(folder: Path, *words: str) -> dict:
    command = [
        sys.executable,
        "-m",
        "arr_core.train",
        "miniature",
        "--run.output_dir",
        str(folder),
        "--run.threads",
        "1",
        "--validation.every",
        "1000",
        "--validation.images",
        "0",
        "--run.save_every",
        "1000",
        *words,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=850
    )
    assert done.returncode == 0, done.stderr
    return next(
        event
        for event in read_events(folder / "miniature" / "events.jsonl")
        if event.event == "measure"
    )


@pytest.mark.timeout(900)
def test_the_share_of_exact_compositions_rises(tmp_path):
    found = measure(tmp_path, "--run.updates", "50")
    assert found.policy.low > found.base.high


@pytest.mark.timeout(900)
def test_with_the_rewards_swapped_it_falls(tmp_path):
    found = measure(
        tmp_path,
        "--run.updates",
        "25",
        "--objective.reward_preferred",
        "-0.1",
        "--objective.reward_dispreferred",
        "1.0",
        "--collapse.lost_level",
        "0",
    )
    assert found.policy.high < found.base.low
