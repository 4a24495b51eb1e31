"""A fully connected and a convolutional layer of which only the living weights are computed, with their gradients."""

import torch
from torch import Tensor
from torch.nn import functional

from tombola.sparse.pattern import Pattern


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    """The function computes y = x (m ⊙ w)^T + b from the living weights alone.

    Args:
        x: (..., inputs).
        weight: (outputs, inputs); what it holds where the pattern has no weight is not read.
        bias: (outputs,), or None.
        pattern: where m is 1.

    Returns:
        (..., outputs). The gradient of `weight` has its shape and is exactly 0 where the pattern has no weight.

    Examples:
        >>> linear(torch.ones(1, 2), torch.tensor([[1.0, 2.0]]), None, Pattern.of(torch.tensor([[0, 1]])))
        tensor([[2.]])
    """
    return functional.linear(x, _living(weight, pattern), bias)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    """The function convolves x with m ⊙ w, from the living weights alone.

    Args:
        x: (examples, channels, rows, columns) or (channels, rows, columns), in any memory format.
        weight: (outputs, channels / groups, rows, columns of the window).
        bias: (outputs,), or None.
        pattern: where m is 1, and stride, padding, dilation and groups.

    Returns:
        The maps of the outputs. The gradient of `weight` is exactly 0 where the pattern has no weight.

    Examples:
        >>> window = torch.ones(1, 1, 3, 3)
        >>> conv2d(torch.ones(1, 1, 3, 3), window, None, Pattern.of(window, padding=1))[0, 0, 1]
        tensor([6., 9., 6.])
    """
    (top, bottom), (left, right) = pattern.padding
    if (top, left) != (bottom, right):
        x, top, left = functional.pad(x, (left, right, top, bottom)), 0, 0
    return functional.conv2d(
        x, _living(weight, pattern), bias, pattern.stride, (top, left), pattern.dilation, pattern.groups
    )


def _living(weight: Tensor, pattern: Pattern) -> Tensor:
    """m ⊙ w, whose gradient is m ⊙ dw even where dw is infinite."""
    return torch.where(pattern.mask.to(weight.device), weight, 0.0)
