"""A part of a data set under a name of its own: `mnist-6000` is 6,000 of MNIST's pool, and all of its test set."""

import hashlib
import re
from bisect import bisect_right
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tombola.data.facts import Facts

SEED = 6000  # part of what the names mean, like the rule of `drawn`


def parts(name: str) -> tuple[str, int | None]:
    """The name of the whole and how much of it `name` asks for; None for all.

    >>> parts("cifar10-jpeg-5000"), parts("cifar10-jpeg")
    (('cifar10-jpeg', 5000), ('cifar10-jpeg', None))
    """
    found = re.fullmatch(r"(.+)-([1-9][0-9]*)", name)
    return (found[1], int(found[2])) if found else (name, None)


def facts(whole: Facts, size: int) -> Facts:
    """Of `size` examples of the pool of `whole`: validation keeps its proportion, rounded, and the test set is whole.

    Raises:
        ValueError: the number is not one of at least ten examples of each class or ten blocks of a running text, and
            below the pool; says so.
    """
    pool, least = whole.train + whole.validation, 10 * (1 if whole.running else strata(whole))
    if not least <= size < pool:
        raise ValueError(f"{whole.name}-N with N from {least:,} to {pool - 1:,}, or {whole.name}")
    what = f"{size} of {whole.checksum} by seed {SEED}"
    return replace(
        of(whole, size),
        name=f"{whole.name}-{size}",
        checksum=hashlib.sha256(what.encode()).hexdigest(),
        class_counts=() if whole.running else evenly(counts(whole), size),
    )


def of(whole: Facts, size: int) -> Facts:
    """The facts with `size` examples in the pool: validation keeps its proportion, rounded."""
    pool = whole.train + whole.validation
    validation = (2 * size * whole.validation + pool) // (2 * pool)
    return replace(whole, train=size - validation, validation=validation)


def counts(known: Facts) -> tuple[int, ...]:
    """How many examples of each class are in the pool.

    >>> counts(Facts("letters", (1, 8, 8), 4, train=8, validation=2, test=0))
    (3, 3, 2, 2)
    """
    pool = known.train + known.validation
    return known.class_counts or evenly((pool,) * strata(known), pool)


def strata(known: Facts) -> int:
    """Of how many classes a part has equally many examples: where answers are no classes, of one that all are of."""
    return known.classes if known.answers == "class" else 1


def evenly(counts: tuple[int, ...], size: int) -> tuple[int, ...]:
    """How many of each class `drawn` takes of a pool with these counts: equally many as long as there are.

    >>> evenly((1, 4, 4), 6)
    (1, 3, 2)
    """
    rounds = bisect_right(range(max(counts) + 1), size, key=lambda each: sum(min(n, each) for n in counts)) - 1
    taken = [min(n, rounds) for n in counts]
    longer = [place for place, n in enumerate(counts) if n > rounds][: size - sum(taken)]
    return tuple(n + (place in longer) for place, n in enumerate(taken))


def first_half(counts: tuple[int, ...]) -> tuple[int, ...]:
    """How many of each class are in half of a pool with these counts."""
    return evenly(counts, sum(counts) // 2)


def beginnings(whole: Facts, size: int) -> NDArray[np.int64]:
    """Where in the pool of a running text the blocks of a subset are: the first for training, and for validation.

    >>> whole = Facts("letters", (4, 26), 26, train=90, validation=10, test=0)
    >>> beginnings(whole, 20)[-4:].tolist()
    [16, 17, 90, 91]
    """
    part = facts(whole, size)
    return np.concatenate([np.arange(part.train), whole.train + np.arange(part.validation)])


def drawn(labels: NDArray[Any], size: int) -> NDArray[np.int64]:
    """Where in the pool the examples of a subset are, in the pool's order.

    The pool is shuffled; then the first of each class are taken, then the second of each, and so on, the classes in the
    order of their numbers, until there are enough: equally many of each as long as there are, and a smaller subset
    lies within each larger one.

    Labels that are no classes, real numbers or several for an example, are taken as of one class.

    >>> drawn(np.array([0, 1, 1, 0, 1, 1]), 4).tolist()
    [0, 3, 4, 5]
    """
    if labels.ndim > 1 or labels.dtype.kind == "f":
        labels = np.zeros(len(labels), np.int64)
    order = np.random.RandomState(SEED).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[np.lexsort((labels[by_class], rank))][:size])
