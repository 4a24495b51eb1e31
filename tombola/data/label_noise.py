"""False labels on purpose: a share of the training examples gets another class, each other one as likely.

Symmetric noise, as in Sparse Double Descent (He et al., 2022). `mnist+label-noise-0.2~SEED` is drawn for the split of
that seed: of its training examples exactly the share is false, rounded half up; validation and test set stay true, so
that what is measured there is the task and not the noise. Which are false follows from the name alone.
"""

import hashlib
import re
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from tombola.data.arrays import Arrays
from tombola.data.facts import Facts
from tombola.data.splits import split

FORM = "label-noise-SHARE~SEED"


@dataclass(frozen=True)
class LabelNoise:
    """Noise of a share of the labels.

    Attributes:
        name: as it stands behind the `+`.
        share: of the training examples, 0 < share < 1.
        seed: of the split whose training examples are meant.
    """

    name: str
    share: str
    seed: int

    def facts(self, known: Facts) -> Facts:
        """Those of the noisy data set; `class_counts` are of the true labels.

        Raises:
            ValueError: labels are no classes, one for each example.
        """
        if known.answers != "class":
            raise ValueError(f"answers that are classes for {self.name}; those of {known.name} are {known.answers}")
        if known.running:
            raise ValueError(f"one label for each example for {self.name}; {known.name} is a running text")
        return known.varied(self.name)

    def arrays(self, arrays: Arrays, known: Facts) -> Arrays:
        """The same examples with the noisy labels."""
        images, labels, test_images, test_labels = arrays
        draw = self._draw()
        false = self._false(known, draw)
        noisy = labels.copy()
        noisy[false] = (labels[false] + draw.randint(1, known.classes, size=len(false))) % known.classes
        return images, noisy, test_images, test_labels

    def false(self, known: Facts) -> NDArray[np.int64]:
        """Where in the pool the false labels are, in the pool's order."""
        return self._false(known, self._draw())

    def _draw(self) -> RandomState:
        return RandomState(list(hashlib.sha256(self.name.encode()).digest()))

    def _false(self, known: Facts, draw: RandomState) -> NDArray[np.int64]:
        train, _ = split(known, self.seed)
        chosen: NDArray[np.int64] = train.numpy()[draw.permutation(known.train)[: count(self.share, known.train)]]
        return np.sort(chosen)


def count(share: str, size: int) -> int:
    """How many of so many examples a share is, rounded half up: of the number as it is written.

    >>> count("0.2", 55_000), count("0.145", 100), count("0.1", 4)
    (11000, 15, 0)
    """
    return int(Fraction(share) * size + Fraction(1, 2))


def named(name: str) -> LabelNoise | None:
    """The noise that has the name; None where there is none.

    >>> named("label-noise-0.2~7").seed, named("label-noise-0.2"), named("label-noise-0.20~7")
    (7, None, None)
    """
    found = re.fullmatch(r"label-noise-([0-9.e-]+)~([0-9]+)", name)
    return LabelNoise(name, found[1], int(found[2])) if found and share_of(found[1]) else None


def share_of(text: str) -> float | None:
    """The share that a name has in it, 0 < share < 1; None where it has none, or not as it is written.

    >>> share_of("0.2"), share_of("0.20"), share_of("1.0"), share_of("half")
    (0.2, None, None, None)
    """
    try:
        share = float(text)
    except ValueError:
        return None
    # Each share has one name, so that no data set has two.
    return share if 0 < share < 1 and repr(share) == text else None


def false_labels(known: Facts) -> NDArray[np.bool_]:
    """Of each example of a pool, in its order, whether its label is false on purpose; nothing is read for it.

    The true labels are those of the data set of the name without the noise.

    Args:
        known: of a noisy data set, as `data.facts` has them.

    Raises:
        ValueError: its name has no label noise in it; or a change behind it has left other examples.
    """
    if noise := _of(known):
        false = np.zeros(known.train + known.validation, bool)
        false[noise.false(known)] = True
        return false
    raise ValueError(f"expected a data set with label noise, NAME+{FORM}, not {known.name}")


def number_false(known: Facts) -> int:
    """How many training labels of a data set are false on purpose."""
    noise = _of(known)
    return count(noise.share, known.train) if noise else 0


def _of(known: Facts) -> LabelNoise | None:
    return next(filter(None, map(named, reversed(known.name.split("+")))), None)
