"""A frozen transformer that no single card holds, split over the cards of all processes."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable
from typing import Any

import torch

# FLUX's single blocks return views; nothing writes into them.
VIEWS = "FSDP2-wrapped module .* returned a view tensor"


def sharding_fault() -> str:
    """Why the installed torch cannot split a base and leave the adapter whole, or nothing."""
    from torch.distributed import fsdp

    function = getattr(fsdp, "fully_shard", None)
    if function and "ignored_params" in inspect.signature(function).parameters:
        return ""
    return f"expected a torch whose fully_shard takes ignored_params, got torch {torch.__version__}; install a newer one"


def shard(transformer: Any, adapter: Iterable[torch.nn.Parameter], device: torch.device) -> None:
    """Split every parameter but the adapter's over all processes, block by block (FSDP2, ``fully_shard``).

    The transformer may lie on the CPU: one block at a time visits the device. From then on a call gathers each block from all
    processes and drops it again, forward and backward, so they must make the same number of calls. The adapter is small and
    stays whole in every process. Blocks are what diffusers itself would not split (``_no_split_modules``).
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    whole = set(adapter)
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    warnings.filterwarnings("ignore", VIEWS, UserWarning)
    blocks = [
        module
        for module in transformer.modules()
        if type(module).__name__ in transformer._no_split_modules
    ]
    for module in (*blocks, transformer):
        # The outermost too: were it kept whole, one process alone that reads the state dict, which drops it, would then be
        # the only one to gather it.
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
