"""Two tasks side by side: is a point on the upper or the lower moon, and is another one on the inner or outer circle?

Four inputs, of which the first two are of a moon and the last two of a circle, paired at random: neither pair knows
anything of the other's answer. A network that learned both in one can be asked whether it fell apart into two.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tombola.data.arrays import Arrays
from tombola.data.facts import Facts

NOISE, FACTOR = 0.1, 0.35  # of both; of the inner circle's radius
SEEDS = 1, 2  # of moons and circles: part of what the name means
TASKS = {"moons": (0, 1), "circles": (2, 3)}  # the inputs of each task, in the order of the answers

FACTS = Facts(
    name="moons-circles",
    shape=(4,),
    classes=2,
    train=1000,
    validation=200,
    test=1000,
    checksum="86b1675e3ce56188038c277ce60df6c8009c32945e03a68c46f8fc8a8c8b41e0",
    real=True,
    answers="tasks",
)


def read(data_dir: Path | None) -> Arrays:
    """Points and answers of the pool, points and answers of the test set; `data_dir` is not needed."""
    from sklearn.datasets import make_circles, make_moons  # 1.6 s: only when it is really read

    size = FACTS.train + FACTS.validation + FACTS.test
    moons, upper = make_moons(size, noise=NOISE, random_state=SEEDS[0])
    circles, inner = make_circles(size, noise=NOISE, factor=FACTOR, random_state=SEEDS[1])
    points, answers = np.concatenate([moons, circles], axis=1), np.stack([upper, inner], axis=1).astype(np.int64)
    pool = FACTS.train + FACTS.validation
    inputs = standardised(points, pool)
    return inputs[:pool], answers[:pool], inputs[pool:], answers[pool:]


def standardised(points: NDArray[Any], pool: int) -> NDArray[np.float32]:
    """Points less the mean, divided by the deviation, of the first `pool` of them.

    To four digits, so that a machine that rounds a sine otherwise has the same data.
    """
    known = points[:pool]
    found: NDArray[np.float32] = ((points - known.mean(axis=0)) / known.std(axis=0)).round(4).astype(np.float32)
    return found
