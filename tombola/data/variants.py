"""Variants of a data set under names of their own: `mnist+random-labels` has the labels of its pool dealt out anew.

Only the pool changes, and with it what a training is validated on, which is split off it; the test set stays as it is,
whole and true. What is drawn is drawn from the variant's name alone, so that all replicates, and whoever asks for the
name, have the same. Several may follow each other, made from left to right: `mnist-6000+random-labels+shuffled-pixels`.

To add one: write a function like `random_labels` and declare it in `VARIANTS`.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from tombola.data import subset
from tombola.data.facts import Facts
from tombola.errors import DataError

MARK = "+"
LEAST = 10  # examples of each class that a half has to have, as a part has to
_AT_ONCE = 1000  # images whose pixels are shuffled together, for the sake of memory

Counts = tuple[int, ...]
Pool = tuple[NDArray[Any], NDArray[np.int64]]  # examples and labels


@dataclass(frozen=True)
class Variant:
    """A way to change the pool of a data set.

    Attributes:
        name: what stands behind the `+`.
        about: what it is, in one sentence.
        change: examples, labels and what draws -> examples and labels.
        left: how many examples of each class there are -> how many are left; None where all are.
        images: whether it asks for images.
        classes: how many classes it asks for.
    """

    name: str
    about: str
    change: Callable[[NDArray[Any], NDArray[np.int64], RandomState], Pool]
    left: Callable[[Counts], Counts] | None = None
    images: bool = False
    classes: int = 2

    @property
    def draw(self) -> RandomState:
        """What it draws with: seeded by the SHA-256 of its name, in a generator whose numbers NumPy keeps for good."""
        return RandomState(list(hashlib.sha256(self.name.encode()).digest()))


def random_labels(examples: NDArray[Any], labels: NDArray[np.int64], draw: RandomState) -> Pool:
    """The same examples, the labels dealt out among them at random: as many of each class as before."""
    return examples, draw.permutation(labels)


def shuffled_pixels(images: NDArray[Any], labels: NDArray[np.int64], draw: RandomState) -> Pool:
    """The pixels of each image in an order of its own, channels together: no two images in the same."""
    shuffled = images.reshape(*images.shape[:2], -1).copy()  # N x C x HW
    for part in range(0, len(images), _AT_ONCE):
        some = shuffled[part : part + _AT_ONCE]
        order = draw.rand(len(some), some.shape[2]).argsort(axis=1, kind="stable")
        some[:] = np.take_along_axis(some, order[:, None], axis=2)
    return shuffled.reshape(images.shape), labels


def permuted_pixels(images: NDArray[Any], labels: NDArray[np.int64], draw: RandomState) -> Pool:
    """The pixels of all images in one other order, channels together."""
    order = draw.permutation(images.shape[2] * images.shape[3])
    return images.reshape(*images.shape[:2], -1)[:, :, order].reshape(images.shape), labels


def first_half(examples: NDArray[Any], labels: NDArray[np.int64], draw: RandomState) -> Pool:
    """Half of the examples, equally many of each class; of all of `NAME` those that `NAME-N` has for so many."""
    chosen = subset.drawn(labels, len(labels) // 2)
    return examples[chosen], labels[chosen]


def second_half(examples: NDArray[Any], labels: NDArray[np.int64], draw: RandomState) -> Pool:
    """The examples that are not in the first half."""
    chosen = np.setdiff1d(np.arange(len(labels)), subset.drawn(labels, len(labels) // 2))
    return examples[chosen], labels[chosen]


def first_classes(examples: NDArray[Any], labels: NDArray[np.int64], draw: RandomState) -> Pool:
    """The examples of the first half of the classes; these keep their numbers, and networks all of their outputs."""
    return _of(labels < _classes(labels) // 2, examples, labels)


def second_classes(examples: NDArray[Any], labels: NDArray[np.int64], draw: RandomState) -> Pool:
    """The examples of the other classes."""
    return _of(labels >= _classes(labels) // 2, examples, labels)


def _of(chosen: NDArray[np.bool_], examples: NDArray[Any], labels: NDArray[np.int64]) -> Pool:
    return examples[chosen], labels[chosen]


def _classes(labels: NDArray[np.int64]) -> int:
    return int(labels.max()) + 1


VARIANTS: dict[str, Variant] = {
    each.name: each
    for each in (
        Variant("random-labels", "The labels dealt out at random, as many of each class as before", random_labels),
        Variant("shuffled-pixels", "The pixels of each image in an order of its own", shuffled_pixels, images=True),
        Variant("permuted-pixels", "The pixels of all images in one other order", permuted_pixels, images=True),
        Variant("first-half", "Half of the examples, equally many of each class", first_half, subset.first_half),
        Variant(
            "second-half",
            "The other half of the examples",
            second_half,
            lambda counts: tuple(map(int.__sub__, counts, subset.first_half(counts))),
        ),
        Variant(
            "first-classes",
            "The examples of the first half of the classes",
            first_classes,
            lambda counts: tuple(n * (place < len(counts) // 2) for place, n in enumerate(counts)),
            classes=4,
        ),
        Variant(
            "second-classes",
            "The examples of the other half of the classes",
            second_classes,
            lambda counts: tuple(n * (place >= len(counts) // 2) for place, n in enumerate(counts)),
            classes=4,
        ),
    )
}
FORM = f"NAME{MARK}VARIANT, a variant being {', '.join(VARIANTS)}"


def parts(name: str) -> tuple[str, list[str]]:
    """The name of what is varied, and the names of the variants, in their order.

    >>> parts("mnist-6000+random-labels+shuffled-pixels"), parts("mnist")
    (('mnist-6000', ['random-labels', 'shuffled-pixels']), ('mnist', []))
    """
    whole, *names = name.split(MARK)
    return whole, names


def facts(known: Facts, names: list[str]) -> Facts:
    """Those of a data set of which `known` are, changed in the ways that are named.

    Raises:
        ValueError: there is no such variant, or none of such data; says what was expected.
    """
    for place, name in enumerate(names):
        if name not in VARIANTS or name in names[:place]:
            raise ValueError(f"{known.name}{MARK}VARIANT, each once, a variant being {', '.join(VARIANTS)}")
        known = _changed(known, VARIANTS[name])
    return known


def changed(pool: Pool, known: Facts, names: list[str]) -> Pool:
    """Examples and labels of a pool, changed in the ways that are named.

    Raises:
        DataError: the pool has other numbers of the classes than its facts say.
    """
    for name in names:
        variant = VARIANTS[name]
        if variant.left and subset.counts(known) != (found := tuple(np.bincount(pool[1], minlength=known.classes))):
            raise _other_counts(known, found)
        pool, known = variant.change(*pool, variant.draw), _changed(known, variant)
    return pool


def _changed(known: Facts, variant: Variant) -> Facts:
    for wanted in _lacking(known, variant):
        raise ValueError(f"for {variant.name}, {wanted}")
    counts = subset.counts(known)
    left = variant.left(counts) if variant.left else counts
    if variant.left and sum(left) < LEAST * sum(n > 0 for n in left):
        raise ValueError(f"so many examples that {variant.name} leaves {LEAST} of each class, not {sum(counts):,}")
    what = f"{variant.name} of {known.checksum}"
    return replace(
        subset.of(known, sum(left)) if variant.left else known,
        name=f"{known.name}{MARK}{variant.name}",
        class_counts=left if known.class_counts or variant.left else (),
        checksum=hashlib.sha256(what.encode()).hexdigest(),
    )


def _lacking(known: Facts, variant: Variant) -> Iterator[str]:
    if known.running:
        yield f"one label for each example; {known.name} is a running text"
    if variant.images and known.text:
        yield f"images; {known.name} is a text"
    if known.answers != "class" and variant.left:
        yield f"answers that are classes; those of {known.name} are {known.answers}"
    if known.answers == "class" and known.classes < variant.classes:
        yield f"at least {variant.classes} classes; {known.name} has {known.classes}"


def _other_counts(known: Facts, found: Counts) -> DataError:
    return DataError(
        where=known.name,
        expected=f"{_listed(subset.counts(known))} examples of its classes, as its FACTS say",
        found=_listed(found),
        todo=f"Write class_counts=({_listed(found)}).",
    )


def _listed(counts: Counts) -> str:
    return ", ".join(map(str, counts))
