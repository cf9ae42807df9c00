"""What processes agree on: a fault in one of them is a fault in all, and none waits for another for ever."""

from __future__ import annotations

import json

import torch.distributed as dist
import torch.multiprocessing as processes

from arr_core.common import collectives as distributed
from arr_core.judging import JudgeError
from arr_core.policies.sharding import sharding_fault


def _ask(rank: int, address: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)

    def work():
        if rank == 1:
            raise JudgeError("the budget is spent")
        return "a verdict"

    try:
        said = distributed.together(work, JudgeError)
    except JudgeError as error:
        said = f"JudgeError: {error}"
    with open(f"{folder}/{rank}", "w") as file:
        file.write(said + " " + distributed.together(lambda: "and on", JudgeError))
    dist.destroy_process_group()


def test_a_judge_that_fails_in_one_process_ends_all_of_them_alike(tmp_path):
    processes.spawn(_ask, (f"file://{tmp_path}/meet", str(tmp_path)), nprocs=2)
    assert [(tmp_path / name).read_text() for name in "01"] == [
        "JudgeError: the budget is spent and on"
    ] * 2


def test_one_process_hears_its_own_fault():
    assert distributed.together(lambda: 1, JudgeError) == 1


def _walk(rank: int, address: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    items = [[], ["a", "b"]][rank]
    walked = [list(distributed.in_step(items, "spare", needed)) for needed in (True, False)]
    with open(f"{folder}/{rank}", "w") as file:
        json.dump(walked, file)
    dist.destroy_process_group()


def test_in_step_all_processes_take_as_many_steps_as_the_one_with_the_most(tmp_path):
    processes.spawn(_walk, (f"file://{tmp_path}/meet", str(tmp_path)), nprocs=2)
    idle, busy = (json.loads((tmp_path / name).read_text()) for name in "01")
    assert idle == [[["spare", False], ["spare", False]], []]
    assert busy == [[["a", True], ["b", True]]] * 2


def test_a_torch_that_cannot_leave_the_adapter_whole_is_named(monkeypatch):
    assert sharding_fault() == ""
    monkeypatch.setattr("torch.distributed.fsdp.fully_shard", lambda module, *, mesh=None: module)
    assert "install a newer one" in sharding_fault()
