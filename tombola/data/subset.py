"""A part of a data set under a name of its own: `mnist-6000` is 6,000 of MNIST's pool, and all of its test set."""

import hashlib
import re
from dataclasses import replace

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
    pool, least = whole.train + whole.validation, 10 * (1 if whole.running else whole.classes)
    if not least <= size < pool:
        raise ValueError(f"{whole.name}-N with N from {least:,} to {pool - 1:,}, or {whole.name}")
    validation = (2 * size * whole.validation + pool) // (2 * pool)
    what = f"{size} of {whole.checksum} by seed {SEED}"
    return replace(
        whole,
        name=f"{whole.name}-{size}",
        train=size - validation,
        validation=validation,
        checksum=hashlib.sha256(what.encode()).hexdigest(),
    )


def beginnings(whole: Facts, size: int) -> NDArray[np.int64]:
    """Where in the pool of a running text the blocks of a subset are: the first for training, and for validation.

    >>> whole = Facts("letters", (4, 26), 26, train=90, validation=10, test=0)
    >>> beginnings(whole, 20)[-4:].tolist()
    [16, 17, 90, 91]
    """
    part = facts(whole, size)
    return np.concatenate([np.arange(part.train), whole.train + np.arange(part.validation)])


def drawn(labels: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Where in the pool the examples of a subset are, in the pool's order.

    The pool is shuffled; then the first of each class are taken, then the second of each, and so on, the classes in the
    order of their numbers, until there are enough: equally many of each as long as there are, and a smaller subset
    lies within each larger one.

    >>> drawn(np.array([0, 1, 1, 0, 1, 1]), 4).tolist()
    [0, 3, 4, 5]
    """
    order = np.random.RandomState(SEED).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[np.lexsort((labels[by_class], rank))][:size])
