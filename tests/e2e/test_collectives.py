"""Collective operations between two processes, without a model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A program of its own, so that the other process imports the package by its path and not by the folder's name.
PROGRAM = """
import json, sys
import torch.distributed as dist
from arr_core.common import collectives
from arr_core.judging import JudgeError

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)

def work():
    if rank == 1:
        raise JudgeError("the budget is spent")
    return "a verdict"

try:
    said = collectives.raise_on_all_ranks(work, JudgeError)
except JudgeError as error:
    said = f"JudgeError: {error}"
then = collectives.raise_on_all_ranks(lambda: "and on", JudgeError)
idle = []
items = list(collectives.pad_to_max_rank([[], ["a", "b"]][rank], lambda: idle.append("dummy")))
gathered = collectives.gather(rank)
with open(f"{folder}/{rank}", "w") as file:
    json.dump([said, then, items, idle, gathered, collectives.any_rank(rank == 1)], file)
dist.destroy_process_group()
"""


def test_two_processes_fail_alike_make_as_many_steps_and_hear_each_other(tmp_path):
    command = [sys.executable, "-c", PROGRAM]
    both = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]
    for process in both:
        assert process.wait(timeout=60) == 0, process.communicate()[1]
    first, second = (json.loads((tmp_path / name).read_text()) for name in "01")
    said = ["JudgeError: the budget is spent", "and on"]
    assert first == [*said, [], ["dummy", "dummy"], [0, 1], True]
    assert second == [*said, ["a", "b"], [], [0, 1], True]
