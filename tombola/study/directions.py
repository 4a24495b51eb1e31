"""Do first layers lie along the principal directions of their data?

With V the d orthonormal directions in which the training inputs vary most, and W the masked weights of the first
layer, units x inputs,

    overlap = ||W V||^2 / ||W||^2,

the share of the squared weights that lies in the span of V; of the mask's own rows it is the same with W = m. Chance is
d / inputs for weights whose places are dealt out anew over the layer, and is drawn as such.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tombola.study.chance import Beside, beside

DRAWS = 100


@dataclass(frozen=True)
class Directions:
    """In which directions inputs vary.

    Attributes:
        variances: of each input; exactly 0 where it never changes.
        first: inputs x d, the first principal directions, orthonormal, the one of the largest variance first.
        explained: the share of all variance in these, in [0, 1].
    """

    variances: Tensor
    first: Tensor
    explained: float


@dataclass(frozen=True)
class Aligned:
    """The share of a first layer in the span of the data's first directions, beside chance.

    Attributes:
        weights: of the squared surviving weights; None where all of them are 0, and where the directions are all that
            there are, in whose span everything lies.
        mask: of the mask's rows alone, whatever the weights; None of a mask that keeps all or nothing, as it can be
            dealt out in one way alone.
    """

    weights: Beside | None
    mask: Beside | None


def directions(inputs: Tensor, d: int) -> Directions:
    """In which directions inputs vary most.

    Args:
        inputs: examples x inputs.
        d: how many directions, at most all.

    >>> found = directions(torch.tensor([[0.0, 1.0], [3.0, 1.0]]), 1)
    >>> found.variances.tolist(), found.first.abs().tolist(), found.explained
    ([2.25, 0.0], [[1.0], [0.0]], 1.0)
    """
    varies = inputs.amax(0) > inputs.amin(0)
    centred = (inputs - inputs.mean(0)) * varies  # rounding leaves of a constant what is none
    covariance = (centred.T @ centred).double() / len(inputs)
    values, vectors = torch.linalg.eigh(covariance)  # ascending
    total, variances = covariance.trace(), covariance.diagonal().clone()
    explained = float(values[-d:].sum() / total) if total else 0.0
    return Directions(variances, vectors[:, -d:].flip(1), min(explained, 1.0))


def in_span(rows: Tensor, directions: Tensor) -> float:
    """||W V||^2 / ||W||^2, in [0, 1]; nan where all of W is 0.

    Args:
        rows: W, units x inputs.
        directions: V, inputs x d, orthonormal.

    >>> in_span(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [0.0]]))
    0.36
    """
    rows, directions = rows.double(), directions.double()
    return float((rows @ directions).square().sum() / rows.square().sum())


def aligned(weights: Tensor, mask: Tensor, directions: Tensor, seed: int, draws: int = DRAWS) -> Aligned:
    """How far a first layer lies along some directions, beside the same weights dealt out anew over the layer.

    Args:
        weights, mask: units x inputs; of the weights those count that survive.
        directions: V, inputs x d, orthonormal.
        seed: of the dealing.
        draws: how often.
    """
    living = weights * mask
    dealt = [
        (living.flatten()[order].view_as(mask), mask.flatten()[order].view_as(mask))
        for order in _orders(mask.numel(), draws, seed)
    ]
    of_weights = of_mask = None
    if directions.shape[1] == len(directions):
        return Aligned(None, None)
    if living.any():
        of_weights = beside(in_span(living, directions), [in_span(each, directions) for each, _ in dealt])
    if mask.any() and not mask.all():
        of_mask = beside(in_span(mask, directions), [in_span(each, directions) for _, each in dealt])
    return Aligned(of_weights, of_mask)


def _orders(n: int, draws: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed % 2**63)
    yield from (torch.randperm(n, generator=generator) for _ in range(draws))
