"""Layers of torch made smaller in place: other numbers in them, and what they say about their own sizes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

TENSORS = ("weight", "bias", "running_mean", "running_var")


def put(module: Any, name: str, values: Tensor) -> None:
    """Give a module other values of the same type, on the same device; what was frozen stays so.

    >>> layer = nn.Linear(3, 2)
    >>> put(layer, "weight", torch.ones(1, 3))
    >>> layer.weight.shape
    torch.Size([1, 3])
    """
    old = getattr(module, name)
    like = module.weight if old is None else old
    values = values.to(like)
    parameter = name not in module._buffers
    setattr(module, name, nn.Parameter(values.contiguous(), like.requires_grad) if parameter else values)


def pick(module: Any, stays: Tensor) -> None:
    """Leave a module that treats each channel by itself only those that stay, [channels]; a linear layer its rows."""
    for name in TENSORS:
        value = getattr(module, name, None)
        if value is not None:
            put(module, name, value.detach()[stays.to(value.device)])
    tell_sizes(module)


def reshape(module: Any, shapes: Mapping[str, torch.Size]) -> None:
    """Give a module as many units and inputs as `shapes` have; another kind of layer is not made of it."""
    for name, shape in shapes.items():
        old = getattr(module, name)
        fits = old is None or (old.dim() == len(shape) and old.shape[2:] == shape[2:])
        if fits and (old is None or old.shape != shape):  # tied ones never are
            put(module, name, torch.zeros(shape))
            tell_sizes(module)


def tell_sizes(module: Any) -> None:
    """Set what torch's own layers say about themselves to the sizes of their tensors."""
    tensor = module.running_mean if module.weight is None else module.weight
    outputs, inputs = len(tensor), tensor.shape[1] if tensor.dim() > 1 else len(tensor)
    if getattr(module, "transposed", False):
        outputs, inputs = inputs, outputs
    elif (groups := getattr(module, "groups", 1)) > 1:
        if groups == module.in_channels == module.out_channels:  # each channel has a window of its own
            module.groups = groups = outputs
        inputs *= groups
    names = {"in_features": inputs, "out_features": outputs, "in_channels": inputs, "out_channels": outputs}
    for name, size in (names | {"num_features": outputs}).items():
        if hasattr(module, name):
            setattr(module, name, size)
