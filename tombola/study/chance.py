"""A number of one mask beside the same number of random ones: what it is, and what it would be by chance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COVERED = 0.95  # of random masks lie in the interval


@dataclass(frozen=True)
class Beside:
    """A number of a mask, and of random masks.

    Attributes:
        value: of the mask.
        chance: the mean over random masks.
        low, high: between which 95 % of them lie.
    """

    value: float
    chance: float
    low: float
    high: float

    @property
    def ratio(self) -> float | None:
        """How many times what chance gives; None where that is 0."""
        return self.value / self.chance if self.chance else None


def beside(value: float, drawn: Sequence[float]) -> Beside:
    """The number of a mask beside those of random ones.

    >>> beside(3.0, [1.0, 2.0])
    Beside(value=3.0, chance=1.5, low=1.025, high=1.975)
    """
    tail = (1 - COVERED) / 2
    low, high = np.quantile(np.asarray(drawn, float), [tail, 1 - tail])
    return Beside(float(value), float(np.mean(drawn)), float(low), float(high))
