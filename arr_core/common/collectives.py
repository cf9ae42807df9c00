"""Collective operations: what every process of a run calls together. With one process each returns its argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Item = TypeVar("Item")
Result = TypeVar("Result")


def rank() -> int:
    return dist.get_rank() if _distributed() else 0


def world_size() -> int:
    return dist.get_world_size() if _distributed() else 1


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Add the gradients of all processes, in place, in one message. A parameter without gradient counts as zero."""
    if not _distributed():
        return
    parameters = list(parameters)
    flat = torch.cat(
        [(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters]
    )
    dist.all_reduce(flat)
    gradients = flat.split([p.numel() for p in parameters])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.view_as(parameter).clone()


def gather(item: Item) -> list[Item]:
    """The items of all processes, in the order of their ranks."""
    if not _distributed():
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


def pad_to_max_rank(items: Sequence[Item], dummy: Callable[[], object]) -> Iterator[Item]:
    """Each item; then ``dummy`` is called until this process has made as many steps as the one with the most items.

    Where each process holds a part of a model, every call of the model is a call of all processes.
    """
    rounds = max(gather(len(items)))
    yield from items
    for _ in range(rounds - len(items)):
        dummy()


def raise_on_all_ranks(work: Callable[[], Result], error_class: type[Exception]) -> Result:
    """What ``work`` returns. Where it raises ``error_class`` in one process, all of them raise it and none waits."""
    if not _distributed():
        return work()
    result, message = None, None
    try:
        result = work()
    except error_class as error:
        message = str(error)
    for said in gather(message):
        if said is not None:
            raise error_class(said)
    return result  # pyright: ignore[reportReturnType] (no process failed, so there is a result)


def any_rank(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return any(gather(flag))
