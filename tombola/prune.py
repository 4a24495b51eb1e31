"""Which weights stay: an exact count, in a scope.

The count rule: of n living weights a fraction f removes floor(f n + 1/2), computed in floating point. The tie rule:
among equal scores the earlier tensor goes first, and in a tensor the lower flat index. So a fraction of 0 removes none,
1 removes all, and the masks of successive rounds nest.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tombola.amounts import count as count
from tombola.mask import Mask
from tombola.mask_checks import check_finite


def lowest(scores: Tensor, alive: Tensor, remove: int) -> Tensor:
    """`alive` less its `remove` living entries of lowest score, ties by flat index, lower first."""
    places = alive.flatten().nonzero().squeeze(1)
    order = torch.sort(scores.flatten()[places], stable=True).indices
    survivors = alive.flatten().clone()
    survivors[places[order[:remove]]] = False
    return survivors.view_as(alive)


def by_layer(scores: Mapping[str, Tensor], mask: Mask, rates: Mapping[str, float]) -> Mask:
    """In each layer, remove that layer's rate of its living weights, those of lowest score.

    Args:
        scores: a number per weight; what is alive and scores low goes.
        mask: what is alive before; pruned weights stay pruned.
        rates: the fraction of its living weights that each layer loses, in [0, 1].

    >>> mask = Mask({"w": torch.ones(5, dtype=torch.bool)})
    >>> by_layer({"w": torch.tensor([3.0, 1.0, 2.0, 1.0, 5.0])}, mask, {"w": 0.2})["w"]
    tensor([ True, False,  True,  True,  True])
    """
    counts = mask.counts
    return down_to(scores, mask, {(name,): counts[name] - count(rates[name], counts[name]) for name in mask})


def globally(scores: Mapping[str, Tensor], mask: Mask, rate: float) -> Mask:
    """Pool all layers of `mask` and remove `rate` of the living weights, those of lowest score.

    Scores are compared raw, not normalised per layer.
    """
    return down_to(scores, mask, {tuple(mask): mask.alive - count(rate, mask.alive)})


def down_to(scores: Mapping[str, Tensor], mask: Mask, left: Mapping[tuple[str, ...], int]) -> Mask:
    """Let the lowest go until so many are left: of each group of layers, whose scores are compared raw.

    Args:
        scores: a number per weight; what is alive and scores low goes.
        mask: what is alive before.
        left: how many stay of each group of names; groups in which no more are alive stay as they are.

    >>> mask = Mask({"a": torch.ones(3, dtype=torch.bool), "b": torch.ones(1, dtype=torch.bool)})
    >>> kept = down_to({"a": torch.tensor([3.0, 1.0, 2.0]), "b": torch.tensor([2.5])}, mask, {("a", "b"): 2})
    >>> kept["a"], kept["b"]
    (tensor([ True, False, False]), tensor([True]))
    """
    check_finite(scores)
    kept: dict[str, Tensor] = {}
    for names, stay in left.items():
        alive = torch.cat([mask[name].flatten() for name in names])
        pooled = torch.cat([scores[name].flatten() for name in names])
        survivors = lowest(pooled, alive, max(0, int(alive.sum()) - stay))
        parts = survivors.split([mask[name].numel() for name in names])
        kept |= {name: part.view_as(mask[name]) for name, part in zip(names, parts, strict=True)}
    return Mask({name: kept[name] for name in mask})
