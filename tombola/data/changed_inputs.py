"""Inputs changed on purpose, one factor each: what of a ticket hangs on the axes of its data, what on their law?

Other than the variants of a pool (`variants.py`), these change training, validation and test alike: a task is put in
other words, not spoiled. What is drawn is drawn from the change's name and a seed, `rotated~7`, and without one from
the name alone; a replicate has a seed of its own. Of several each sees what the one before it has made.

To add one: write a function like `permuted` and declare it in `CHANGES`.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from tombola.data import normalise
from tombola.data.arrays import Arrays
from tombola.data.facts import Facts
from tombola.rotation import rotation

MOST_COLUMNS = 10_000  # of noise
_AT_ONCE = 1000  # examples that are changed together, for the sake of memory

Floats = NDArray[np.float32]
Both = tuple[NDArray[Any], NDArray[Any]]  # of the pool, of the test set
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """A way to change the inputs of a data set.

    Attributes:
        name: what stands behind the `+`, up to a number of columns.
        about: what it is, in one sentence.
        change: examples and labels of pool and test set, what is known of them, what draws, columns -> examples.
        shape: of an input, columns -> of a changed one.
        real: whether it makes real numbers of bytes.
        counted: whether a number of columns belongs to its name.
        of_classes: whether it asks for classes.
        moves: whether an input is another one afterwards, or a mixture of several.
    """

    name: str
    about: str
    change: Callable[[Arrays, Facts, RandomState, int], Both]
    shape: Callable[[Shape, int], Shape]
    real: bool = True
    counted: bool = False
    of_classes: bool = False
    moves: bool = False


def permuted(arrays: Arrays, known: Facts, draw: RandomState, columns: int) -> Both:
    """The pixels of all images, of the test set too, in one other order, channels together; or the numbers of each."""
    order = draw.permutation(prod(known.shape[1:]) if len(known.shape) == 3 else known.shape[0])

    def moved(examples: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(examples.reshape(len(examples), -1, len(order))[..., order]).reshape(examples.shape)

    return moved(arrays[0]), moved(arrays[2])


def rotated(arrays: Arrays, known: Facts, draw: RandomState, columns: int) -> Both:
    """The inputs x, standardised and flattened, as Q x, of a random orthogonal Q: lengths and angles stay."""
    turn = rotation(prod(known.shape), draw)
    return _turned(arrays[0], known, turn), _turned(arrays[2], known, turn)


def _turned(examples: NDArray[Any], known: Facts, turn: NDArray[np.float64]) -> Floats:
    out = np.empty((len(examples), len(turn)), np.float32)
    for part in range(0, len(examples), _AT_ONCE):
        out[part : part + _AT_ONCE] = flat(examples[part : part + _AT_ONCE], known).astype(np.float64) @ turn.T
    return out


def gaussian(arrays: Arrays, known: Facts, draw: RandomState, columns: int) -> Both:
    """Of each class as many draws from N(mean, covariance) of its standardised inputs in the pool, in the old places.

    Mean and covariance are all that is left of a class: no edge, no stroke, nothing that is not in a pixel or in a pair
    of them. A label says of which class's law its example is drawn. The test examples are drawn from the laws of the
    pool, validation included: nothing of the test set but its labels is looked at.
    """
    pool, labels, test, test_labels = arrays
    size = prod(known.shape)
    made = np.empty((len(pool), size), np.float32), np.empty((len(test), size), np.float32)
    for kind in np.unique(np.concatenate([labels, test_labels])):
        mean, root = _law(flat(pool[labels == kind], known))
        for out, there in zip(made, (labels == kind, test_labels == kind), strict=True):
            places = np.flatnonzero(there)
            for part in range(0, len(places), _AT_ONCE):
                some = places[part : part + _AT_ONCE]
                out[some] = mean + draw.standard_normal((len(some), size)).astype(np.float32) @ root
    return made[0].reshape(len(pool), *known.shape), made[1].reshape(len(test), *known.shape)


def _law(examples: Floats) -> tuple[Floats, Floats]:
    """The mean of examples, and the symmetric root of their covariance, which rounding does not turn as others."""
    mean = examples.mean(axis=0, dtype=np.float64)
    centred = examples - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / max(len(examples), 1))
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return mean.astype(np.float32), root.astype(np.float32)


def noise(arrays: Arrays, known: Facts, draw: RandomState, columns: int) -> Both:
    """The inputs, standardised and flattened, and behind them columns of N(0, 1) that know nothing of the label."""
    pool, test = (
        np.concatenate([flat(examples, known), draw.standard_normal((len(examples), columns))], axis=1, dtype="f4")
        for examples in (arrays[0], arrays[2])
    )
    return pool, test


def flat(examples: NDArray[Any], known: Facts) -> Floats:
    """Examples as the network would be given them, one row of numbers each; images standardised."""
    import torch

    held = torch.from_numpy(np.ascontiguousarray(examples))
    inputs = held if known.real else normalise.inputs(held, known, "standard")
    rows: Floats = inputs.flatten(1).numpy()
    return rows


CHANGES: dict[str, Change] = {
    each.name: each
    for each in (
        Change(
            "permuted",
            "The pixels of all images, test set included, in one other order",
            permuted,
            lambda shape, columns: shape,
            real=False,
            moves=True,
        ),
        Change(
            "rotated",
            "The standardised inputs turned by a random orthogonal matrix",
            rotated,
            lambda shape, columns: (prod(shape),),
            moves=True,
        ),
        Change(
            "gaussian",
            "Each example drawn anew from the Gaussian of its class's mean and covariance",
            gaussian,
            lambda shape, columns: shape,
            of_classes=True,
        ),
        Change(
            "noise",
            "Columns of Gaussian noise behind the standardised inputs",
            noise,
            lambda shape, columns: (prod(shape) + columns,),
            counted=True,
        ),
    )
}
FORMS = tuple(f"{name}-N" if change.counted else name for name, change in CHANGES.items())


@dataclass(frozen=True)
class ChangedInputs:
    """A change with its columns and what it is drawn from.

    Attributes:
        name: as it stands behind the `+`, seed and all.
    """

    name: str
    change: Change
    columns: int = 0

    def facts(self, known: Facts) -> Facts:
        """Those of the changed data set.

        Raises:
            ValueError: texts have no such inputs; or there are no classes.
        """
        if self.change.of_classes and known.answers != "class":
            raise ValueError(f"answers that are classes for {self.name}; those of {known.name} are {known.answers}")
        if known.text:
            raise ValueError(f"images or numbers for {self.name}; {known.name} is a text")
        shape, real = self.change.shape(known.shape, self.columns), known.real or self.change.real
        held = {"mean": (), "std": (), "white": 1} if real else {}
        return known.varied(self.name, shape=shape, real=real, **held)

    @property
    def draw(self) -> RandomState:
        """What it draws with: by its name and seed."""
        return RandomState(list(hashlib.sha256(self.name.encode()).digest()))

    def arrays(self, arrays: Arrays, known: Facts) -> Arrays:
        """The arrays of the changed data set."""
        pool, test = self.change.change(arrays, known, self.draw, self.columns)
        return pool, arrays[1], test, arrays[3]

    def turn(self, width: int) -> NDArray[np.float64]:
        """Of `rotated` the matrix by which it turns inputs of so many numbers, [width, width]."""
        return rotation(width, self.draw)


def noise_columns(ways: Sequence[str]) -> tuple[int, ChangedInputs | None] | None:
    """How many columns of noise are the last ones, by the names of all changes, and how they are turned afterwards.

    Returns:
        None where there are no such columns, or something else has been done to them.

    >>> noise_columns(["noise-4~7"]), noise_columns(["rotated~7", "noise-4~7"]), noise_columns(["rotated~7"])
    ((4, None), (4, None), None)
    >>> noise_columns(["noise-4~7", "rotated~7"])[1].name
    'rotated~7'
    """
    found = [change for change in map(named, ways) if change]
    place = next((place for place, each in enumerate(found) if each.change is CHANGES["noise"]), None)
    if place is None:
        return None
    match found[place + 1 :]:
        case []:
            return found[place].columns, None
        case [turned] if turned.change is CHANGES["rotated"]:
            return found[place].columns, turned
    return None


def named(name: str) -> ChangedInputs | None:
    """The change that has the name, `rotated`, `noise-32~7`; None where there is none.

    >>> named("noise-32~7").columns, named("noise"), named("rotated-3")
    (32, None, None)
    """
    bare = name.partition("~")[0]
    kind, dash, number = bare.partition("-")
    change = CHANGES.get(kind)
    if change is None or bool(dash) != change.counted:
        return None
    if not change.counted:
        return ChangedInputs(name, change)
    right = number.isascii() and number.isdecimal() and number[0] != "0" and int(number) <= MOST_COLUMNS
    return ChangedInputs(name, change, int(number)) if right else None
