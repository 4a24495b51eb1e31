"""Classes of which there are fewer and fewer: in `cifar10+long-tailed-100` the first has 100 times as many as the last.

Of the C classes the one of the number c has n rho^(-c / (C - 1)) examples in the pool, rounded half up, n as many as
the smallest class had and rho the ratio: Class-Balanced Loss Based on Effective Number of Samples (Cui et al., 2019),
https://arxiv.org/abs/1901.05555. Validation examples are of the pool, and the test set stays as it is. Which are left
is drawn from the name alone, that has a seed in it where there is one, `long-tailed-100~7`.
"""

import hashlib
import re
from dataclasses import dataclass

import numpy as np
from numpy.random import RandomState

from tombola.data import label_noise, subset
from tombola.data.arrays import Arrays
from tombola.data.facts import Facts

FORM = "long-tailed-RATIO"


@dataclass(frozen=True)
class LongTailed:
    """Classes in a long tail.

    Attributes:
        name: as it stands behind the `+`, seed and all.
        ratio: rho, the examples of the first class to those of the last, from 2 on.
    """

    name: str
    ratio: int

    def left(self, counts: tuple[int, ...]) -> tuple[int, ...]:
        """How many of each class are left.

        >>> LongTailed("long-tailed-4", 4).left((100, 90, 80))
        (80, 40, 20)
        """
        most, last = min(counts), len(counts) - 1
        return tuple(int(most * self.ratio ** (-place / last) + 0.5) for place in range(len(counts)))

    def facts(self, known: Facts) -> Facts:
        """Those of the data set with a tail, its class counts among them.

        Raises:
            ValueError: there are no classes, one true one for each example; or none would be left of the last one.
        """
        if known.answers != "class" or known.running:
            what = "the next token" if known.running else known.answers
            raise ValueError(f"answers that are classes for {self.name}; those of {known.name} are {what}")
        if label_noise.number_false(known):
            raise ValueError(f"true labels for {self.name}; {known.name} has false ones")
        left = self.left(subset.counts(known))
        if not left[-1]:
            fewest = min(subset.counts(known))
            raise ValueError(
                f"a ratio of at most {2 * fewest:,} for {self.name}, as {known.name} has {fewest:,} of a class"
            )
        return subset.of(known, sum(left)).varied(self.name, class_counts=left)

    def arrays(self, arrays: Arrays, known: Facts) -> Arrays:
        """The same with what is left of the pool, in its order."""
        images, labels, *test = arrays
        draw = RandomState(list(hashlib.sha256(self.name.encode()).digest()))
        order = draw.permutation(len(labels))
        counts = enumerate(self.left(subset.counts(known)))
        kept = np.sort(np.concatenate([order[labels[order] == kind][:count] for kind, count in counts]))
        return images[kept], labels[kept], test[0], test[1]


def named(name: str) -> LongTailed | None:
    """The tail that has the name; None where there is none.

    >>> named("long-tailed-100~7").ratio, named("long-tailed-1"), named("long-tailed")
    (100, None, None)
    """
    found = re.fullmatch(r"long-tailed-([1-9][0-9]{0,5})", name.partition("~")[0])
    return LongTailed(name, int(found[1])) if found and int(found[1]) > 1 else None
