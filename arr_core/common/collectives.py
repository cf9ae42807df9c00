"""The few words that processes exchange. With one process every function returns its argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

Item = TypeVar("Item")
Result = TypeVar("Result")


def rank() -> int:
    return dist.get_rank() if _several() else 0


def world_size() -> int:
    return dist.get_world_size() if _several() else 1


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Add the gradients of all processes, in place, in one message. A parameter without gradient counts as zero."""
    if not _several():
        return
    parameters = list(parameters)
    flat = torch.cat(
        [(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters]
    )
    dist.all_reduce(flat)
    for parameter, gradient in zip(
        parameters, flat.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.grad = gradient.view_as(parameter).clone()


def gather(item):
    """The items of all processes, in the order of their ranks."""
    if not _several():
        return [item]
    items = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


def in_step(items: Sequence[Item], spare: Item, needed: bool) -> Iterator[tuple[Item, bool]]:
    """Each item with True; then, where ``needed``, ``spare`` with False for as long as another process still has items.

    Where every call of the model is a call of all processes, because each holds a part of it, one that has nothing left to do
    must do something all the same.
    """
    rounds = max(gather(len(items))) if needed else len(items)
    for at in range(rounds):
        yield (items[at], True) if at < len(items) else (spare, False)


def together(work: Callable[[], Result], fault: type[Exception]) -> Result:
    """What ``work`` returns; where it raises ``fault`` in one process all of them raise it, and none waits for another."""
    if not _several():
        return work()
    found, said = None, None
    try:
        found = work()
    except fault as error:
        said = str(error)
    said = next((one for one in gather(said) if one is not None), None)
    if said is not None:
        raise fault(said)
    return found


def any_true(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return any(gather(flag))
