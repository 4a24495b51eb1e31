"""Random numbers for a batch of images, of which each image has its own: by a seed and its place, not by the batch."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.random import Philox, RandomState
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


class Draws:
    """What is drawn for each of some images, [images, ...]; `RandomState`, as NumPy keeps its numbers for good.

    Args:
        name: of what is drawn for.
        seed: 0 <= seed < 2^63.
        places: of the images, by which each has its generator.

    >>> whole, part = Draws("fog", 7, [0, 1, 2]), Draws("fog", 7, [2])
    >>> whole.normal(3)[2].tolist() == part.normal(3)[0].tolist()
    True
    """

    def __init__(self, name: str, seed: int, places: Sequence[int]) -> None:
        self._name, self._seed, self._places = name, seed, places
        key = int.from_bytes(hashlib.sha256(f"{name} {seed}".encode()).digest()[:8])
        self._each = [RandomState(Philox(key=np.array([key, place], np.uint64))) for place in places]

    def __getitem__(self, some: slice) -> "Draws":
        """What is drawn for some of the images, from the beginning."""
        return Draws(self._name, self._seed, self._places[some])

    def normal(self, *shape: int) -> Numbers:
        """N(0, 1)."""
        return self._stacked(lambda draw: draw.standard_normal(shape))

    def uniform(self, low: float, high: float, *shape: int) -> Numbers:
        """Real numbers in [low, high)."""
        return self._stacked(lambda draw: draw.uniform(low, high, shape))

    def whole(self, low: int, high: int, *shape: int) -> NDArray[np.int64]:
        """Whole numbers from `low` on, less than `high`."""
        return self._stacked(lambda draw: draw.randint(low, high, shape, dtype=np.int64))

    def signs(self, *shape: int) -> NDArray[np.int64]:
        """-1 or 1."""
        return 2 * self.whole(0, 2, *shape) - 1

    def poisson(self, rates: Numbers) -> Numbers:
        """Counts by rates, [images, ...]."""
        return np.stack([draw.poisson(rate) for draw, rate in zip(self._each, rates, strict=True)]).astype(float)

    def _stacked(self, drawn: Callable[[RandomState], Any]) -> NDArray[Any]:
        return np.stack([np.asarray(drawn(draw)) for draw in self._each])
