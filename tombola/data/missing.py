"""Missing pixels on purpose: `mnist+missing-0.3` has three in ten pixels of each image of its pool at 0.

Of each image exactly the share is missing, rounded half up, other pixels of each: black ones, of all channels at once.
Of real numbers, as of a table, as many are 0, which is the training set's mean. Validation examples are of the pool,
and the test set stays whole. Which are missing is drawn from the name alone, that has a seed in it where there is one,
`missing-0.3~7`.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.random import RandomState

from tombola.data.arrays import Arrays, by_place
from tombola.data.facts import Facts
from tombola.data.label_noise import count, share_of

FORM = "missing-SHARE"
_AT_ONCE = 1000  # examples whose pixels are drawn together, for the sake of memory


@dataclass(frozen=True)
class Missing:
    """A share of each example that is missing.

    Attributes:
        name: as it stands behind the `+`, seed and all.
        share: of the pixels, or numbers, of each example, 0 < share < 1, as it is written.
    """

    name: str
    share: str

    def facts(self, known: Facts) -> Facts:
        """Those of the data set with holes.

        Raises:
            ValueError: texts have no pixels.
        """
        if known.text:
            raise ValueError(f"images or numbers for {self.name}; {known.name} is a text")
        return known.varied(self.name)

    def arrays(self, arrays: Arrays, known: Facts) -> Arrays:
        """The same with holes in the pool."""
        draw = RandomState(list(hashlib.sha256(self.name.encode()).digest()))
        pool = by_place(arrays[0]).copy()  # N x C x places
        missing = count(self.share, pool.shape[2])
        for part in range(0, len(pool), _AT_ONCE):
            some = pool[part : part + _AT_ONCE]
            order = draw.rand(len(some), some.shape[2]).argsort(axis=1, kind="stable")
            np.put_along_axis(some, order[:, None, :missing], 0, axis=2)
        return pool.reshape(arrays[0].shape), *arrays[1:]


def named(name: str) -> Missing | None:
    """The holes that have the name; None where there are none.

    >>> named("missing-0.3~7").share, named("missing-0.30"), named("missing")
    ('0.3', None, None)
    """
    kind, _, rest = name.partition("~")[0].partition("-")
    return Missing(name, rest) if kind == "missing" and share_of(rest) else None
