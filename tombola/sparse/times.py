"""How long a step of a layer takes, densely and with its living weights only, and which of both is faster."""

from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np

Format = Literal["dense", "sparse"]

DENSITIES = (0.01, 0.1, 0.3, 0.6)


@dataclass(frozen=True)
class Times:
    """Seconds that a training step of a layer takes.

    Attributes:
        dense: in the dense format.
        sparse: in the sparse format, at each of `DENSITIES`.
        plain: by the plain loop, the whole layer.
        masked: by the plain loop, under a mask of whatever density.
    """

    dense: float
    sparse: tuple[float, ...]
    plain: float = inf  # where it was not measured
    masked: float = inf

    def sparse_at(self, density: float) -> float:
        """Seconds of a step in the sparse format, on straight lines between the measured densities and beyond them."""
        slope = (self.sparse[-1] - self.sparse[-2]) / (DENSITIES[-1] - DENSITIES[-2])
        beyond = self.sparse[-1] + slope * (density - DENSITIES[-1])
        return float(np.interp(density, DENSITIES, self.sparse)) if density <= DENSITIES[-1] else beyond

    def format(self, density: float) -> Format:
        """The faster format: `dense` or `sparse`."""
        return "sparse" if self.sparse_at(density) < self.dense else "dense"

    def seconds(self, density: float) -> float:
        """Of a step in the faster format."""
        return min(self.dense, self.sparse_at(density))

    def plain_seconds(self, density: float) -> float:
        """Of a step by the plain loop."""
        return self.masked if density < 1 else self.plain

    @property
    def break_even(self) -> float:
        """The density below which the sparse format is faster, in [0, 1]."""
        grid = np.linspace(0, 1, 1001)
        faster = [density for density in grid if self.sparse_at(density) < self.dense]
        return float(max(faster, default=0.0))
