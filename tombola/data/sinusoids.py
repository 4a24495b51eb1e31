"""A sum of sines of a number, f(z) = sum of sin(2 pi k z + phi_k): which frequencies does a network learn first?

k = 5, 10, ..., 50, as in On the Spectral Bias of Neural Networks (Rahaman et al., 2019), one fixed draw of the phases.
There all of 200 points are trained on, and nothing else is asked. Here a replicate draws its 200 out of 240 points that
lie evenly in [0, 1), and validates on the other 40; the test set are the 240 places midway between them. Both say how
well the network goes through points of the same function that lie between those it knows; neither says anything of
other functions, or of what lies outside of [0, 1).
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tombola.data.arrays import Arrays
from tombola.data.facts import Facts

FREQUENCIES = tuple(range(5, 51, 5))
SEED = 2019  # of the phases: part of what the name means

FACTS = Facts(
    name="sinusoids",
    shape=(1,),
    classes=1,
    train=200,
    validation=40,
    test=240,
    checksum="6234f8bdaa9de3369d1524eda0605f76294d1fc25ee1baa2c127a5975dbad531",
    real=True,
    answers="number",
)


def phases() -> NDArray[np.float64]:
    """phi_k of each frequency, in [0, 2 pi), to six digits."""
    drawn: NDArray[np.float64] = np.random.RandomState(SEED).uniform(0, 2 * np.pi, len(FREQUENCIES)).round(6)
    return drawn


def target(z: NDArray[Any]) -> NDArray[np.float64]:
    """f(z), before it is divided by its deviation: each frequency has amplitude 1.

    >>> z = np.arange(240) / 240
    >>> spectrum = abs(np.fft.rfft(target(z))) / 120
    >>> [k for k in range(121) if spectrum[k] > 0.5] == list(FREQUENCIES)
    True
    """
    turns = 2 * np.pi * np.multiply.outer(np.asarray(z, np.float64), np.array(FREQUENCIES))
    total: NDArray[np.float64] = np.sin(turns + phases()).sum(axis=-1)
    return total


def deviation() -> float:
    """What f is divided by to be the answers: its deviation over the pool, where its mean is 0."""
    return float(np.sqrt(len(FREQUENCIES) / 2))


def read(data_dir: Path | None) -> Arrays:
    """Points and answers of the pool, points and answers of the test set; `data_dir` is not needed."""
    size = FACTS.train + FACTS.validation
    pool, test = np.arange(size) / size, (np.arange(size) + 0.5) / size
    arrays: Any = [
        made.astype(np.float32)
        for z in (pool, test)
        for made in (z[:, None], (target(z) / deviation()).round(4))  # the same where a sine is rounded otherwise
    ]
    return tuple(arrays)  # type: ignore[return-value]
