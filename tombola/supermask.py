"""Masks that scores decide while weights stay as they were drawn: h(s) ⊙ w, with the gradient straight through h.

What is trained is a score s for each weight; what multiplies is w where the mask h(s) keeps it, 0 elsewhere, or -w
where a signed mask turns it. h has no gradient, so that of the score is taken as if h were the soft function beside it,
|s| or sigmoid(s): ds = dL/dw_eff · w · soft'(s). `dynamics` says which scores there are, and how they are drawn.

Sources: What's Hidden in a Randomly Weighted Neural Network? (Ramanujan et al., 2020), https://arxiv.org/abs/1911.13299;
Deconstructing Lottery Tickets (Zhou et al., 2019), https://arxiv.org/abs/1905.01067.
"""

from collections.abc import Callable, Mapping
from math import prod, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Groups = Mapping[tuple[str, ...], int]  # layers that are ranked together, and how many weights of theirs stay


def highest(scores: Tensor, keep: int) -> Tensor:
    """Which `keep` entries are the highest; among equal ones the lower flat index goes first, as in `prune`.

    Args:
        scores: finite numbers, of any shape.
        keep: in [0, their number].

    >>> highest(torch.tensor([2.0, 1.0, 3.0, 1.0]), 3)
    tensor([ True, False,  True,  True])
    """
    flat = scores.detach().flatten()
    if keep <= 0 or keep >= len(flat):
        return torch.full_like(scores, keep > 0, dtype=torch.bool)
    least = _largest(flat, keep)
    kept, equal = flat > least, flat == least
    lacking = keep - int(kept.sum())
    kept[equal.nonzero().squeeze(1)[-lacking:]] = True
    return kept.view_as(scores)


def _largest(flat: Tensor, place: int) -> Tensor:
    """The number that is the largest but `place` - 1."""
    if flat.device.type == "cpu":  # where NumPy's selection is fifteen times as fast as torch's
        return torch.tensor(np.partition(flat.numpy(), len(flat) - place)[len(flat) - place])
    return flat.kthvalue(len(flat) - place + 1).values


def highest_of(scores: Mapping[str, Tensor], groups: Groups) -> dict[str, Tensor]:
    """Which weights stay: in each group of layers, whose scores are compared raw, so many of the highest.

    >>> scores = {"a": torch.tensor([1.0, 4.0]), "b": torch.tensor([3.0, 2.0])}
    >>> {name: kept.tolist() for name, kept in highest_of(scores, {("a", "b"): 2}).items()}
    {'a': [False, True], 'b': [True, False]}
    """
    kept: dict[str, Tensor] = {}
    for names, keep in groups.items():
        parts = highest(torch.cat([scores[name].detach().flatten() for name in names]), keep)
        sizes = [scores[name].numel() for name in names]
        pairs = zip(names, parts.split(sizes), strict=True)
        kept |= {name: part.view_as(scores[name]) for name, part in pairs}
    return kept


class _StraightThrough(torch.autograd.Function):
    """`hard` forwards; backwards as if it had been `soft`."""

    @staticmethod
    def forward(ctx: Any, soft: Tensor, hard: Tensor) -> Tensor:
        return hard.to(soft.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(soft: Tensor, hard: Tensor) -> Tensor:
    """`hard`, bit for bit, with the gradient of `soft`: soft + hard - soft would round.

    >>> soft = torch.tensor([0.3, 0.6], requires_grad=True)
    >>> (straight_through(soft, torch.tensor([0, 1])) * torch.tensor([2.0, 5.0])).sum().backward()
    >>> soft.grad
    tensor([2., 5.])
    """
    passed: Tensor = _StraightThrough.apply(soft, hard)  # type: ignore[no-untyped-call]
    return passed


def signed_constant(weight: Tensor) -> Tensor:
    """sign(w) sqrt(2 / fan_in): Kaiming's deviation with the signs of w (Ramanujan et al., 2020).

    >>> signed_constant(torch.tensor([[0.3, -0.1]]))
    tensor([[ 1., -1.]])
    """
    return weight.sign() * sqrt(2 / prod(weight.shape[1:]))


def signed_deviation(weight: Tensor) -> Tensor:
    """sign(w) std(w): the deviation of the layer itself with the signs of w (Zhou et al., 2019).

    >>> signed_deviation(torch.tensor([[0.5, -1.5], [1.5, -0.5]])).abs().unique()
    tensor([1.1180])
    """
    return weight.sign() * weight.std(correction=0)


class Scored(nn.Module):
    """A parametrisation of a weight: w ⊙ h, where h is handed in and its gradient goes to the scores.

    Args:
        scores: s, one for each weight; trained.
        soft: what h is taken for backwards: |s|, sigmoid(s), s.
        factor: of the mask: what the living weights are multiplied by, so that sums keep their size.
        settled: what h is where the network is looked at, in evaluation mode.

    Attributes:
        hard: what h is at the next step of the optimiser, in {-1, 0, 1}.
        open: which scores are still trained; None for all.
    """

    def __init__(
        self,
        scores: Tensor,
        soft: Callable[[Tensor], Tensor],
        factor: "Callable[[Tensor], Tensor | float]",
        settled: Callable[[], Tensor],
    ) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self._soft, self._factor, self._settled = soft, factor, settled
        self.hard = torch.ones_like(scores)
        self.open: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """w ⊙ h, times the factor."""
        if not self.training:
            return self.settled_weight(weight)
        soft = self._soft(self.scores)
        mask = straight_through(soft if self.open is None else soft * self.open, self.hard)
        return weight * mask * self._factor(mask)

    def settled_weight(self, weight: Tensor) -> Tensor:
        """The same where the network is looked at; +0 where nothing is kept."""
        settled = self._settled()
        return (weight * settled * self._factor(settled)).masked_fill(settled == 0, 0)


def whole(mask: Tensor) -> float:
    """Weights keep their size."""
    return 1.0


def by_fan_in(mask: Tensor) -> Tensor:
    """sqrt(n / |m|): what keeps the variance of sums when |m| of n weights are left; fan_in |m| / n for fan_in.

    The authors' code has fan_in (1 - |m| / n), which is the same at one half only.
    """
    return (mask.numel() / mask.detach().abs().sum().clamp(min=1)).sqrt()


def dynamically(mask: Tensor) -> Tensor:
    """n / |m|, dynamic weight rescaling; the gradient goes through it too (Zhou et al., 2019)."""
    return mask.numel() / mask.sum().clamp(min=1)


def parametrise(model: nn.Module, scored: Mapping[str, Scored]) -> None:
    """Freeze `model`, and let the weights of these names be what their scores make of them; these have gradients."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    modules = dict(model.named_modules())
    for name, each in scored.items():
        path, _, own = name.rpartition(".")
        parametrize.register_parametrization(modules[path], own, each)
