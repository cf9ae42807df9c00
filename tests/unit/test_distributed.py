"""Collective operations of one process, and what splitting a base needs of torch."""

from __future__ import annotations

from arr_core.common import collectives
from arr_core.judging import JudgeError
from arr_core.policies.sharding import sharding_fault


def test_one_process_hears_itself():
    assert collectives.raise_on_all_ranks(lambda: 1, JudgeError) == 1
    assert list(collectives.pad_to_max_rank([1, 2], lambda: None)) == [1, 2]


def test_a_torch_that_cannot_leave_the_adapter_whole_is_named(monkeypatch):
    assert sharding_fault() == ""
    monkeypatch.setattr("torch.distributed.fsdp.fully_shard", lambda module, *, mesh=None: module)
    assert "install a newer one" in sharding_fault()
