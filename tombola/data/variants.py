"""Variants of a data set under names of their own: `mnist+random-labels` has the labels of its pool dealt out anew.

Only the pool changes, and with it what a training is validated on, which is split off it; the test set stays as it is,
whole and true. What is drawn is drawn from the variant's name alone, so that all replicates, and whoever asks for the
name, have the same. Several may follow each other, made from left to right: `mnist-6000+random-labels+shuffled-pixels`.

To add one: write a function like `random_labels` and declare it in `VARIANTS`. `missing` and `long_tailed` have those
with a number in their names, and with a seed where one is wanted; `changed_inputs` and `label_noise` have what is named
in the same way and changes a task as a whole, or is drawn for a split.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from tombola.data import changed_inputs, label_noise, long_tailed, missing, subset, table
from tombola.data.arrays import Arrays, by_place
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

    def facts(self, known: Facts) -> Facts:
        """Those of a data set whose pool is changed so.

        Raises:
            ValueError: there is none of such data; says what was expected.
        """
        for wanted in _lacking(known, self):
            raise ValueError(f"for {self.name}, {wanted}")
        counts = subset.counts(known)
        left = self.left(counts) if self.left else counts
        if self.left and sum(left) < LEAST * sum(n > 0 for n in left):
            raise ValueError(f"so many examples that {self.name} leaves {LEAST} of each class, not {sum(counts):,}")
        counted = {"class_counts": left if known.class_counts or self.left else ()}
        whole = subset.of(known, sum(left)) if self.left else known
        return whole.varied(self.name, **counted)

    def arrays(self, arrays: Arrays, known: Facts) -> Arrays:
        """The same with the pool changed.

        Raises:
            DataError: the pool has other numbers of the classes than its facts say.
        """
        images, labels, test, test_labels = arrays
        if self.left and subset.counts(known) != (found := tuple(np.bincount(labels, minlength=known.classes))):
            raise _other_counts(known, found)
        return *self.change(images, labels, self.draw), test, test_labels


def random_labels(examples: NDArray[Any], labels: NDArray[np.int64], draw: RandomState) -> Pool:
    """The same examples, the labels dealt out among them at random: as many of each class as before."""
    return examples, draw.permutation(labels)


def shuffled_pixels(images: NDArray[Any], labels: NDArray[np.int64], draw: RandomState) -> Pool:
    """The pixels of each image in an order of its own, channels together: no two images in the same."""
    shuffled = by_place(images).copy()  # N x C x HW
    for part in range(0, len(images), _AT_ONCE):
        some = shuffled[part : part + _AT_ONCE]
        order = draw.rand(len(some), some.shape[2]).argsort(axis=1, kind="stable")
        some[:] = np.take_along_axis(some, order[:, None], axis=2)
    return shuffled.reshape(images.shape), labels


def permuted_pixels(images: NDArray[Any], labels: NDArray[np.int64], draw: RandomState) -> Pool:
    """The pixels of all images in one other order, channels together."""
    pixels = by_place(images)
    order = draw.permutation(pixels.shape[2])
    return pixels[:, :, order].reshape(images.shape), labels


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
_NUMBERED = (missing.FORM, long_tailed.FORM, *changed_inputs.FORMS, label_noise.FORM)
FORM = f"NAME{MARK}VARIANT, a variant being {', '.join((*VARIANTS, *_NUMBERED))} (0 < SHARE < 1, RATIO from 2 on)"
_ALL = FORM.partition(MARK)[2]
_SEED = re.compile("0|[1-9][0-9]{0,18}")


class Way(Protocol):
    """How one data set is made of another one: a variant of its pool, other inputs, false labels."""

    @property
    def name(self) -> str:
        """What stands behind the `+`."""

    def facts(self, known: Facts) -> Facts:
        """Of the data set that it makes; raises ValueError, with what was expected, where it makes none of this one."""

    def arrays(self, arrays: Arrays, known: Facts) -> Arrays:
        """Those of the data set that it makes."""


def way(name: str) -> Way | None:
    """The one of a name; None where there is none.

    >>> way("random-labels").name, way("rotated~7").name, way("rotated~seven")
    ('random-labels', 'rotated~7', None)
    """
    bare, mark, seed = name.partition("~")
    if mark and not _SEED.fullmatch(seed):
        return None
    if not mark and bare in VARIANTS:
        return VARIANTS[bare]
    return next(filter(None, (kind.named(name) for kind in (changed_inputs, label_noise, missing, long_tailed))), None)


def drawn(name: str) -> bool:
    """Whether a data set is made with a seed that its name has in it, so that there may be many such.

    >>> drawn("mnist+rotated~7"), drawn("mnist+rotated")
    (True, False)
    """
    if table.named(name):
        return table.parts(name).seed is not None
    return any("~" in each and way(each) for each in name.split(MARK)[1:])


def named(
    whole: str, inputs: Sequence[str] = (), label_noise: float | None = None, inputs_seed: int = 0, split_seed: int = 0
) -> str:
    """The name of a data set whose inputs are changed, and a share of whose training labels is false.

    Args:
        whole: what is changed.
        inputs: the changes, without seeds, in their order.
        label_noise: the share, of the training examples of the split of `split_seed`.

    >>> named("mnist", ["noise-32", "rotated"], 0.2, inputs_seed=5, split_seed=7)
    'mnist+noise-32~5+rotated~5+label-noise-0.2~7'
    """
    noise = [] if label_noise is None else [f"label-noise-{label_noise!r}~{split_seed}"]
    whole = table.of_split(whole, split_seed) if table.named(whole) else whole
    return MARK.join([whole, *(f"{each}~{inputs_seed}" for each in inputs), *noise])


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
    seen = set[str]()
    for name in names:
        found, kind = way(name), _kind(name)
        if found is None or kind in seen:
            raise ValueError(f"{known.name}{MARK}{_ALL.replace('VARIANT', 'VARIANT, each once', 1)}")
        seen.add(kind)
        known = found.facts(known)
    return known


def changed(arrays: Arrays, known: Facts, names: list[str]) -> Arrays:
    """The arrays of a data set, changed in the ways that are named.

    Raises:
        DataError: the pool has other numbers of the classes than its facts say.
    """
    for name in names:
        if found := way(name):
            arrays, known = found.arrays(arrays, known), found.facts(known)
    return arrays


def _kind(name: str) -> str:
    """What a way is, without its numbers."""
    bare = name.partition("~")[0]
    return next(
        (kind for kind in ("label-noise", "noise", "missing", "long-tailed") if bare.startswith(f"{kind}-")), bare
    )


def _lacking(known: Facts, variant: Variant) -> Iterator[str]:
    if known.running:
        yield f"one label for each example; {known.name} is a running text"
    if variant.left and label_noise.FORM[:12] in known.name:
        yield f"true labels; {known.name} has false ones"
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
