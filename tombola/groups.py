"""Pruning by groups of weights, which go together: a mask is constant on each."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from tombola.amounts import count
from tombola.mask import Mask
from tombola.mask_checks import check_finite
from tombola.prune import lowest

SIDE = 4  # of a block

Grouping = Callable[[Sequence[int]], Tensor]  # the shape of a weight -> the number of each entry's group, from 0 on


def units(shape: Sequence[int]) -> Tensor:
    """The rows of a weight, which are what comes into a unit or a filter.

    >>> units((2, 3))
    tensor([[0, 0, 0],
            [1, 1, 1]])
    """
    return torch.arange(shape[0]).view(-1, *(1 for _ in shape[1:])).expand(*shape)


def blocks(shape: Sequence[int]) -> Tensor:
    """Squares of `SIDE` x `SIDE` of the matrix (outputs, what comes into each); at its ends what is left of them.

    >>> blocks((1, 6))
    tensor([[0, 0, 0, 0, 1, 1]])
    """
    rows = torch.arange(shape[0])[:, None] // SIDE
    columns = torch.arange(int(torch.tensor(shape[1:]).prod()))[None] // SIDE
    return (rows * (int(columns[0, -1]) + 1) + columns).view(*shape)


def by_groups(scores: Mapping[str, Tensor], mask: Mask, rates: Mapping[str, float], grouping: Grouping) -> Mask:
    """In each layer, remove that layer's rate of its living groups, those of the lowest mean score.

    Of the mean of |w|, the rows that go are those of Pruning Filters for Efficient ConvNets (Li et al., 2017).

    Args:
        scores: a number per weight.
        mask: what is alive before; of a group the mean is over what lives of it.
        rates: the fraction of its living groups that each layer loses, in [0, 1]; counts and ties as in `prune`.
        grouping: which weights go together.

    >>> scores = {"w": torch.tensor([[1.0, 1.0], [0.0, 3.0]])}
    >>> by_groups(scores, Mask({"w": torch.ones(2, 2, dtype=torch.bool)}), {"w": 0.5}, units)["w"]
    tensor([[False, False],
            [ True,  True]])
    """
    check_finite(scores)
    kept: dict[str, Tensor] = {}
    for name, alive in mask.items():
        group = grouping(alive.shape).to(alive.device)
        living, sums = (
            torch.zeros(int(group.max()) + 1, dtype=torch.float64, device=alive.device).index_add_(
                0, group.flatten(), values.double().flatten()
            )
            for values in (alive, scores[name].where(alive, 0))
        )
        stay = lowest(sums / living.clamp(min=1), living > 0, count(rates[name], int((living > 0).sum())))
        kept[name] = alive & stay[group]
    return Mask(kept)
