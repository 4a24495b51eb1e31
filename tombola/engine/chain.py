"""What of a model the kernels can do: a chain of fully connected layers with ReLU between them."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Linear:
    """One fully connected layer, y = W x + b: the names of its parameters, and its size."""

    weight: str
    bias: str
    inputs: int
    outputs: int


def chain(model: nn.Module) -> tuple[Linear, ...] | None:
    """The layers of `model` from the input on, or None where it is anything but (Flatten,) Linear (, ReLU, Linear)*.

    Whatever could make such a model compute something else - hooks, parametrizations, frozen or shared parameters,
    subclasses, other devices, mixed types - is None as well: the plain loop does those.

    >>> chain(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))[0]
    Linear(weight='1.weight', bias='1.bias', inputs=4, outputs=3)
    >>> chain(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))) is None
    True
    """
    if type(model) is not nn.Sequential or any(_altered(module) for module in model.modules()):
        return None
    parts = [(name, part) for name, part in model.named_children() if not _flattens(part)]
    linear = parts[::2]
    if len(parts) % 2 == 0 or any(type(part) is not nn.ReLU for _, part in parts[1::2]):
        return None
    if any(_flattens(part) for part in list(model)[1:]) or not all(_plain(part) for _, part in linear):
        return None
    parameters = list(model.parameters())
    named = list(model.named_parameters(remove_duplicate=False))
    kinds = {(value.dtype, value.device.type) for value in parameters}
    if len(parameters) != len(named) or len(kinds) != 1 or kinds - {(torch.float32, "cpu"), (torch.float64, "cpu")}:
        return None
    layers = tuple(
        Linear(f"{name}.weight", f"{name}.bias", part.in_features, part.out_features)
        for name, part in linear
        if isinstance(part, nn.Linear)
    )
    fits = all(before.outputs == after.inputs for before, after in pairwise(layers))
    return layers if fits else None


def _plain(part: nn.Module) -> bool:
    return type(part) is nn.Linear and part.bias is not None and all(value.requires_grad for value in part.parameters())


def _flattens(part: nn.Module) -> bool:
    return type(part) is nn.Flatten and (part.start_dim, part.end_dim) == (1, -1)


def _altered(module: nn.Module) -> bool:
    hooks: list[dict[Any, Any]] = [
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    ]
    return any(hooks) or "forward" in vars(module) or bool(list(module.buffers(recurse=False)))
