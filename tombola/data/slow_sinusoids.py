"""A sum of eight slow sinusoids of one number, k = 1, 2 ... 6, 8, 10: `sinusoids` for small networks and few steps."""

from dataclasses import replace
from pathlib import Path

from tombola.data import sinusoids
from tombola.data.arrays import Arrays

FREQUENCIES = (1, 2, 3, 4, 5, 6, 8, 10)

FACTS = replace(
    sinusoids.FACTS, name="slow-sinusoids", checksum="e7f69b6dd31636f8f012ec5447b51b692db691440bf1585d270fe9d66cc8f079"
)


def read(data_dir: Path | None) -> Arrays:
    """The points of the pool and their values, the points between and theirs; `data_dir` is not needed."""
    return sinusoids.summed(FREQUENCIES)
