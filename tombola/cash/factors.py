"""Layers of low rank as two smaller ones: W x = A (B x)."""

from collections import OrderedDict
from typing import cast

import torch
from torch import Tensor, nn

from tombola.cash.quantization import read_by_code
from tombola.cash.replaceable import copied, only_called

ROUNDING = 1e-5  # of the largest singular value: what is smaller is what float32 has made of 0
REDUCE, EXPAND = "reduce", "expand"


def factorize(model: nn.Module) -> nn.Module:
    """A copy of `model`, in eval mode, whose linear layers of low rank are two each, where these have fewer weights.

    Of W = sum_k s_k u_k v_k^T, with r singular values that are not 0, B has the rows v_k and A the columns s_k u_k:
    r (inputs + outputs) weights in the place of inputs x outputs. Layers whose weights are shared, or read by the
    model's own code, and those that have hooks, stay as they are.

    Raises:
        BadInput: the model cannot be copied.

    >>> layer = nn.Linear(8, 6)
    >>> layer.weight = nn.Parameter(torch.outer(torch.arange(6.0), torch.ones(8)))
    >>> factorize(nn.Sequential(layer))[0].reduce
    Linear(in_features=8, out_features=1, bias=False)
    """
    small, read = nn.Sequential(copied(model)), read_by_code(model)
    for name, layer in list(only_called(small, (nn.Linear,))):
        if name not in read and (factors := _factors(layer)):
            small.set_submodule(name, factors)
    return small[0].requires_grad_(False)


def rank(weight: Tensor) -> int:
    """How many singular values a matrix has that are not 0 but for rounding.

    >>> rank(torch.ones(3, 4)), rank(torch.zeros(3, 4))
    (1, 0)
    """
    values = torch.linalg.svdvals(weight.detach().double())
    return int((values > ROUNDING * values.max()).sum())


def two(layer: nn.Linear, between: int) -> nn.Sequential:
    """A layer as two, with so many units between them; whoever asks puts the weights in."""
    kind = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    reduce = nn.Linear(layer.in_features, between, bias=False, **kind)
    expand = nn.Linear(between, layer.out_features, bias=layer.bias is not None, **kind)
    return nn.Sequential(OrderedDict({REDUCE: reduce, EXPAND: expand})).train(layer.training)


def _factors(layer: nn.Linear) -> nn.Sequential | None:
    """A layer as two; None where that is not smaller."""
    between = rank(layer.weight)
    if not 0 < between * (layer.in_features + layer.out_features) < layer.weight.numel():
        return None
    left, values, right = torch.linalg.svd(layer.weight.detach().double(), full_matrices=False)
    made = two(layer, between)
    reduce, expand = cast(nn.Linear, made.reduce), cast(nn.Linear, made.expand)
    with torch.no_grad():
        reduce.weight.copy_(right[:between])
        expand.weight.copy_(left[:, :between] * values[:between])
        if layer.bias is not None:
            expand.bias.copy_(layer.bias)
    return made
