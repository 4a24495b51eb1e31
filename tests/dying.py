"""Models with random numbers everywhere and parts that die: what tests of smaller models start from."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from tombola import mask as masks
from tombola import weights
from tombola.mask import Mask


def drawn(make: Callable[[], nn.Module], seed: int = 0, by: float = 1) -> nn.Module:
    """In float64, with normal numbers divided by `by` everywhere, in eval mode."""
    model, generator = make().double().eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64) / by)
    return model


def masked(model: nn.Module, mask: Mask) -> nn.Module:
    """What a smaller model is compared with: a copy with its pruned weights 0."""
    other = copy.deepcopy(model)
    weights.put(other, masks.apply(weights.of(model), mask))
    return other
