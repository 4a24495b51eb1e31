"""Which weights stay: an exact count, in a scope.

The count rule: of n living weights a fraction f removes floor(f n + 1/2). The tie rule: among equal scores the earlier
tensor goes first, and in a tensor the lower flat index. So a fraction of 0 removes none, 1 removes all, and the masks
of successive rounds nest.
"""

from collections.abc import Mapping
from math import floor

import torch
from torch import Tensor

from tombola.errors import BadInput
from tombola.mask import Mask


def count(fraction: float, living: int) -> int:
    """How many of `living` weights a `fraction` in [0, 1] removes: floor(fraction * living + 1/2).

    >>> [count(fraction, 10) for fraction in (0, 0.1, 0.2, 0.25, 1)]
    [0, 1, 2, 3, 10]
    """
    if not 0 <= fraction <= 1:
        raise BadInput(
            where="prune",
            expected="a fraction in [0, 1]",
            found=repr(fraction),
            todo="0.2 removes a fifth of the living weights.",
        )
    return floor(fraction * living + 0.5)


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
    _finite(scores)
    return Mask(
        {name: lowest(scores[name], alive, count(rates[name], int(alive.sum()))) for name, alive in mask.items()}
    )


def globally(scores: Mapping[str, Tensor], mask: Mask, rate: float) -> Mask:
    """Pool all layers of `mask` and remove `rate` of the living weights, those of lowest score.

    Scores are compared raw, not normalised per layer.
    """
    _finite(scores)
    pooled = torch.cat([scores[name].flatten() for name in mask])
    alive = torch.cat([mask[name].flatten() for name in mask])
    survivors = lowest(pooled, alive, count(rate, int(alive.sum())))
    sizes = [mask[name].numel() for name in mask]
    return Mask({name: part.view_as(mask[name]) for name, part in zip(mask, survivors.split(sizes), strict=True)})


def _finite(scores: Mapping[str, Tensor]) -> None:
    for name, score in scores.items():
        if not bool(score.isfinite().all()):
            raise BadInput(
                where=f"scores of {name}",
                expected="finite numbers",
                found="NaN or infinity",
                todo="The training that gave them diverged.",
            )
