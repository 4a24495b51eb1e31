"""What several rankings of the same weights agree on: the intersection of the best of each, to an exact count."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `tombola plan` reads who prunes by it, and touches no tensor
    from torch import Tensor

    from tombola.mask import Mask


def lowest_ranks(
    scores: "Sequence[Mapping[str, Tensor]]", mask: "Mask", groups: Sequence[Sequence[str]]
) -> "dict[str, Tensor]":
    """Return of each weight the lowest rank that it has among several scores, 0 for the first to go.

    What is left when the lowest of these ranks go is the intersection of what is left when each score prunes by itself,
    each as much as it takes: a weight whose lowest rank is r or more is among the best of each from r on. Where two
    weights would go at once, as they have one rank by different scores, the count decides, by `prune`'s tie rule.

    Args:
        scores: a number per weight, each time.
        mask: what is alive; ranks are among the living, and those of pruned weights are 0.
        groups: of layers whose weights are ranked against each other.

    >>> import torch
    >>> from tombola.mask import Mask
    >>> alive = Mask({"w": torch.ones(4, dtype=torch.bool)})
    >>> one, other = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([3.0, 1.0, 4.0, 2.0])
    >>> lowest_ranks([{"w": one}, {"w": other}], alive, [["w"]])
    {'w': tensor([0, 0, 2, 1])}
    """
    import torch

    lowest: dict[str, Tensor] = {}
    for names in groups:
        alive = torch.cat([mask[name].flatten() for name in names])
        places = alive.nonzero().squeeze(1)
        ranks = []
        for each in scores:
            pooled = torch.cat([each[name].flatten() for name in names])[places]
            own = torch.empty(len(places), dtype=torch.int64)
            own[torch.sort(pooled, stable=True).indices] = torch.arange(len(places))
            ranks.append(own)
        everywhere = torch.zeros(len(alive), dtype=torch.int64)
        everywhere[places] = torch.stack(ranks).amin(0)
        parts = everywhere.split([mask[name].numel() for name in names])
        lowest |= {name: part.view_as(mask[name]) for name, part in zip(names, parts, strict=True)}
    return lowest
