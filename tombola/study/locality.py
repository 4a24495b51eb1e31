"""Do the inputs that a unit keeps lie near each other? How many pairs do, beside masks that keep as much elsewhere.

Two surviving inputs of one unit of the first layer, pixels at (x, y) and (x', y'), are near where their Chebyshev
distance max(|x - x'|, |y - y'|) is at most r = 2. Over all units u with masks m_u and near pairs A,

    near = 1/2 sum_u m_u^T A m_u,        locality = near / E[near of random masks].

The random masks have, input by input, as many units that keep it, so that centres of images, which every unit keeps
more of, do not count as local; and, unit by unit, as many inputs. Without the second, a mask of independent entries
whose units differ in size would look more or less local than it is: a unit that keeps nearly all has the pairs of the
whole image. As unit degrees are the same, so is the number of all pairs, and the ratio of counts is that of shares.

Sifting out the features by pruning: Are convolutional networks the winning lottery ticket of fully connected ones?
(Pellegrini & Biroli, 2021), who permute, input by input, which units keep it. The masks are drawn by trades between
units: Global Curveball, in A Fast and Unbiased Procedure to Randomize Ecological Binary Matrices with Fixed Row and
Column Totals (Strona et al., 2014) and Carstens, Berger & Strona (2018).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tombola.study.chance import Beside, beside

NEAR = 2
DRAWS = 100
_MIXED, _APART = 30, 3  # rounds of trades before the first random mask, and from one to the next


@dataclass(frozen=True)
class Near:
    """How many pairs of inputs of one unit are near each other.

    Attributes:
        same: of one colour channel.
        other: of two channels, pixels at the same place included.
    """

    same: float
    other: float


@dataclass(frozen=True)
class Locality:
    """How many times as many pairs are near as in random masks of the same degrees.

    Attributes:
        pairs: of surviving inputs of one unit, in all units.
        near: of all of these.
        same, other: of those of one colour channel, and of two; `other` is None where there is one channel alone.
    """

    pairs: int
    near: Beside
    same: Beside
    other: Beside | None


def near(mask: Tensor, shape: tuple[int, int, int], within: int = NEAR) -> Near:
    """The near pairs of all units.

    Args:
        mask: units x inputs.
        shape: C x H x W of the inputs.
        within: r, the Chebyshev distance that is still near, in pixels.

    >>> row = torch.tensor([[True, True, False, False, True]])  # two neighbours, and one three pixels away
    >>> near(row, (1, 1, 5))
    Near(same=1.0, other=0.0)
    """
    kept = mask.reshape(-1, *shape).double()  # units x C x H x W
    around = _around(kept, within)
    same = (kept * (around - kept)).sum()
    other = (kept * (around.sum(1, keepdim=True) - around)).sum()
    return Near(float(same) / 2, float(other) / 2)


def _around(kept: Tensor, within: int) -> Tensor:
    """How many are kept in the window around each place, itself included."""
    return functional.avg_pool2d(kept, 2 * within + 1, 1, within, divisor_override=1).round()


def locality(
    mask: Tensor, shape: tuple[int, int, int], seed: int, draws: int = DRAWS, within: int = NEAR
) -> Locality | None:
    """How local a mask of the first layer is, beside random masks of the same degrees.

    Args:
        mask: units x inputs, which inputs each unit keeps.
        shape: C x H x W of the inputs.
        seed: of the random masks.
        draws: how many of them.
        within: as for `near`.

    Returns:
        None where no random mask has a near pair: where units keep one input at most, or where degrees leave nothing
        else to draw.
    """
    degrees = mask.sum(1).double()
    found = near(mask, shape, within)
    drawn = [near(torch.from_numpy(each), shape, within) for each in alike(mask.numpy(), draws, seed)]
    together = beside(found.same + found.other, [each.same + each.other for each in drawn])
    if not together.chance:
        return None
    other = beside(found.other, [each.other for each in drawn]) if shape[0] > 1 else None
    same = beside(found.same, [each.same for each in drawn])
    return Locality(int((degrees * (degrees - 1)).sum() / 2), together, same, other)


def alike(mask: NDArray[np.bool_], draws: int, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Random masks with the row sums and the column sums of `mask`: a Markov chain, uniform over these in the end.

    In each of its steps the rows are paired at random; what only one of a pair has is dealt out anew between the two,
    to each as many as it had.

    >>> eye = np.eye(3, dtype=bool)
    >>> all((each.sum(0) == 1).all() and (each.sum(1) == 1).all() for each in alike(eye, 5, seed=0))
    True
    """
    rng, mask = np.random.default_rng(seed), mask.copy()
    for steps in [_MIXED] + [_APART] * (draws - 1):
        for _ in range(steps):
            _trade(mask, rng)
        yield mask.copy()


def _trade(mask: NDArray[np.bool_], rng: np.random.Generator) -> None:
    order, half = rng.permutation(len(mask)), len(mask) // 2
    left, right = order[:half], order[half : 2 * half]
    ours, theirs = mask[left], mask[right]
    apart = ours ^ theirs
    pair = apart.nonzero()[0]  # ascending: the dealing below stays inside each pair
    dealt = ours[apart][np.argsort(pair + rng.random(len(pair)))]
    ours[apart], theirs[apart] = dealt, ~dealt
    mask[left], mask[right] = ours, theirs
