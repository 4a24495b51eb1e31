"""Which weights stay: an exact count, in a scope.

The count rule: of n living weights a fraction f removes floor(f n + 1/2), computed in floating point. The tie rule:
among equal scores the earlier tensor goes first, and in a tensor the lower flat index. So a fraction of 0 removes none,
1 removes all, and the masks of successive rounds nest.
"""

from collections.abc import Mapping
from math import floor

import torch
from torch import Tensor

from tombola.amounts import check_fraction, check_n_of_m
from tombola.mask import Mask
from tombola.mask_checks import check_finite


def count(fraction: float, living: int) -> int:
    """How many of `living` weights a `fraction` in [0, 1] removes: floor(fraction * living + 1/2), in floating point.

    So 0.29 of 50 are 14 and not 15: the product in floating point is 14.499999999999998.

    >>> [count(fraction, 10) for fraction in (0, 0.1, 0.2, 0.25, 1)]
    [0, 1, 2, 3, 10]
    >>> count(0.29, 50)
    14
    """
    check_fraction(fraction, "prune")
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
    check_finite(scores)
    return Mask(
        {name: lowest(scores[name], alive, count(rates[name], int(alive.sum()))) for name, alive in mask.items()}
    )


def globally(scores: Mapping[str, Tensor], mask: Mask, rate: float) -> Mask:
    """Pool all layers of `mask` and remove `rate` of the living weights, those of lowest score.

    Scores are compared raw, not normalised per layer.
    """
    check_finite(scores)
    pooled = torch.cat([scores[name].flatten() for name in mask])
    alive = torch.cat([mask[name].flatten() for name in mask])
    survivors = lowest(pooled, alive, count(rate, int(alive.sum())))
    sizes = [mask[name].numel() for name in mask]
    return Mask({name: part.view_as(mask[name]) for name, part in zip(mask, survivors.split(sizes), strict=True)})


def n_of_m(scores: Mapping[str, Tensor], mask: Mask, n: int, m: int) -> Mask:
    """In every m consecutive weights along the inputs of a layer the n of highest score stay, of those that live.

    2 of 4 is what GPUs multiply faster (`tombola.cash.semi_structured`). Of a group with n living weights or fewer none
    goes. Source: Accelerating Sparse Deep Neural Networks (Mishra et al., 2021), https://arxiv.org/abs/2104.08378.

    Args:
        scores: a number per weight; what is alive and scores low goes.
        mask: what is alive before, of shape [outputs, inputs, ...]; only layers whose inputs, their second axis, divide
            by m are pruned, the others stay as they are.
        n: that stay, 0 <= n <= m.
        m: > 0.

    >>> mask = Mask({"w": torch.ones(1, 8, dtype=torch.bool)})
    >>> n_of_m({"w": torch.tensor([[3.0, 1.0, 2.0, 4.0, 1.0, 1.0, 1.0, 1.0]])}, mask, 2, 4)["w"].int()
    tensor([[1, 0, 0, 1, 0, 0, 1, 1]], dtype=torch.int32)
    """
    check_n_of_m(n, m, "prune")
    check_finite(scores)
    return Mask({name: _best_of_groups(scores[name], alive, n, m) for name, alive in mask.items()})


def _best_of_groups(scores: Tensor, alive: Tensor, n: int, m: int) -> Tensor:
    if alive.dim() < 2 or alive.shape[1] % m:
        return alive
    groups = alive.movedim(1, -1).unflatten(-1, (-1, m))
    ranked = scores.movedim(1, -1).unflatten(-1, (-1, m)).double().masked_fill(~groups, -torch.inf)
    # Sorted upwards and stable, the lower index is the first to go, as everywhere here.
    stays = torch.sort(ranked, dim=-1, stable=True).indices[..., m - n :]
    kept = torch.zeros_like(groups).scatter_(-1, stays, True) & groups
    whole: Tensor = kept.flatten(-2)
    return whole.movedim(-1, 1).contiguous()
