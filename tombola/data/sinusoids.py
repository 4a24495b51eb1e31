"""A sum of ten sinusoids of one number, of which the slow ones are learned before the fast ones.

    y(z) = sum_k sin(2 pi k z + phi_k),     k = 5, 10 ... 50,     z in [0, 1],

as in On the Spectral Bias of Neural Networks (Rahaman et al., 2019), with one draw of the phases phi_k. Its 200
training points are some of 250 that are evenly spaced; the others are for validation, and the test is at the 249 points
between: all ask for values between points that were seen, and none of them beyond. What is handed to a network is z
with mean 0 and variance 1, and what is asked is y likewise.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tombola.data.arrays import Arrays
from tombola.data.facts import Facts

FREQUENCIES = tuple(range(5, 51, 5))
PHASES_SEED = 2019
DIGITS = 6  # to which numbers are rounded, so that all machines have the same ones

FACTS = Facts(
    name="sinusoids",
    shape=(1,),
    classes=1,
    train=200,
    validation=50,
    test=249,
    checksum="6aa277e62c0b7c6c3c1e8d73cc302a4f02de92ae5e9dc1032519d08ec81ce73e",
    real=True,
    answers="number",
)


def read(data_dir: Path | None) -> Arrays:
    """The points of the pool and their values, the points between and theirs; `data_dir` is not needed."""
    return summed(FREQUENCIES)


def summed(frequencies: Sequence[int]) -> Arrays:
    """The same of a sum of other frequencies, each with amplitude 1 and a phase of its own."""
    grid = np.linspace(0, 1, FACTS.train + FACTS.validation + FACTS.test)
    phases = np.random.RandomState(PHASES_SEED).uniform(0, 2 * np.pi, len(frequencies))
    values = sum(np.sin(2 * np.pi * k * grid + phase) for k, phase in zip(frequencies, phases, strict=True))
    pool, between = slice(0, None, 2), slice(1, None, 2)
    z, y = ((each - each[pool].mean()) / each[pool].std() for each in (grid, np.asarray(values)))
    z, y = (np.round(each, DIGITS).astype(np.float32) for each in (z, y))
    return z[pool, None], y[pool], z[between, None], y[between]
