"""Which inputs survive: those that vary in the training data, or whichever?

The out-degree of an input is how many units of the first layer keep it. It is held against the input's variance by
Spearman's rank correlation, and inputs that never vary, whose weights get no gradient but decay, against the others.
Chance is a mask that keeps as many weights of the layer, anywhere: out-degrees are then multivariate hypergeometric,
and are drawn as such.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tombola.study.chance import Beside, beside

DRAWS = 400


@dataclass(frozen=True)
class Survivors:
    """Which inputs a mask of the first layer keeps, beside masks that keep as many weights anywhere.

    Attributes:
        correlation: Spearman's, of out-degree and variance; None where one of the two is the same for all inputs.
            Random masks that keep of each input as many have none, and are left out of chance.
        connected: the share of the inputs that any unit keeps.
        constant: the share of the weights of inputs that never vary that survive; None where all inputs vary.
        constants: how many inputs never vary.
    """

    correlation: Beside | None
    connected: Beside
    constant: Beside | None
    constants: int


def ranks(values: NDArray[np.floating | np.integer]) -> NDArray[np.float64]:
    """From 1 on, those of equal values their mean.

    >>> ranks(np.array([30, 10, 10]))
    array([3. , 1.5, 1.5])
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]  # type: ignore[no-any-return]


def spearman(left: NDArray[np.floating | np.integer], right: NDArray[np.floating | np.integer]) -> float:
    """The correlation of the ranks; nan where one of the two has one value alone.

    >>> spearman(np.array([1, 2, 3]), np.array([10, 100, 1000]))
    1.0
    """
    x, y = ranks(left), ranks(right)
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else float("nan")


def survivors(mask: Tensor, variances: Tensor, seed: int, draws: int = DRAWS) -> Survivors:
    """Which inputs survive.

    Args:
        mask: units x inputs of the first layer.
        variances: of each input in the training data, exactly 0 where it never changes.
        seed: of the random masks.
        draws: how many of them.
    """
    units, inputs = mask.shape
    degrees, spread = mask.sum(0).numpy(), variances.double().numpy()
    kept = np.random.default_rng(seed).multivariate_hypergeometric(
        [units] * inputs, int(degrees.sum()), size=draws, method="marginals"
    )
    dead = spread == 0
    correlation, constant = spearman(degrees, spread), None
    by_chance = [each for each in (spearman(each, spread) for each in kept) if np.isfinite(each)]
    if dead.any():
        constant = beside(degrees[dead].mean() / units, kept[:, dead].mean(1) / units)
    return Survivors(
        beside(correlation, by_chance) if np.isfinite(correlation) and by_chance else None,
        beside((degrees > 0).mean(), (kept > 0).mean(1)),
        constant,
        int(dead.sum()),
    )
