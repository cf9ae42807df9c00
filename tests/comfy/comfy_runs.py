"""Small trainings as parts of a graph."""
from __future__ import annotations

import time

# Updates of a fraction of a second.
SMALL = """
rollout.prompts_per_update = 2   # the rest is the preset's
rollout.micro_batch = 4
rollout.steps: 2
run.save_every = 2
validation.every = 2
validation.count = 2
validation.images = 2
"""


def node(**inputs) -> dict:
    return {"class_type": "ARRTrainRPO", "inputs": {
        "preset": "miniature", "run_name": "small", "updates": 3, "prompts": "", "prompts_file": "(none)",
        "start_adapter": "(none)", "base": "", "run_seed": 0, "settings": SMALL, **inputs}}


def until(what, timeout: float = 60) -> None:
    """Wait until ``what()`` is true."""
    end = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
