"""Adapter weights beside the trained ones: a moving average, the old policy, the start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch

Parameters = Mapping[str, torch.nn.Parameter]
Tensors = dict[str, torch.Tensor]


def snapshot(parameters: Parameters) -> Tensors:
    """A copy of the weights by name."""
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def warmed_up(decay: float, update: int) -> float:
    """``decay``, or less in the first updates, so that an average does not hold on to the weights before them."""
    return min(decay, (1 + update) / (10 + update))


@torch.no_grad()
def average_into(average: Tensors, parameters: Parameters, decay: float) -> None:
    """average = decay * average + (1 - decay) * weights, in place."""
    for name, tensor in average.items():
        tensor.lerp_(parameters[name].detach(), 1 - decay)


@torch.no_grad()
def copy_into(parameters: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
    """Overwrite the parameters with weights of the same names."""
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])


@contextlib.contextmanager
def swapped(parameters: Parameters, weights: Tensors) -> Iterator[None]:
    """A context in which the model computes with other weights. For forward passes without gradient only."""
    trained = {name: parameter.data for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.data = weights[name]
    try:
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = trained[name]
