"""Of every m weights along the inputs of a layer n stay: what processors multiply faster."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tombola.amounts import check_n_of_m
from tombola.mask import Mask
from tombola.mask_checks import check_finite


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
