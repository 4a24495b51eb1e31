"""Data sets, whole in memory as tensors: `facts(name)` before reading, `load(name)`, `split`, and batches by step.

To add a data set: write a file like `digits.py` with `FACTS` and `read`, and name it in `SOURCES`.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from tombola.data import cifar10, cifar10_jpeg, cifar100, digits, mnist, subset
from tombola.data.augment import Augmentation, flip_crop, generator
from tombola.data.facts import Facts
from tombola.errors import DataError

if TYPE_CHECKING:  # torch takes 2 s to import; facts are asked for by commands that never touch a tensor
    from torch import Tensor

Arrays = mnist.Arrays
SOURCES: dict[str, ModuleType] = {
    "digits": digits,
    "mnist": mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "cifar10-jpeg": cifar10_jpeg,
}


def check(name: str) -> None:
    """Raise ValueError, with what was expected, unless `name` is a data set: one of `SOURCES`, or a part of one.

    >>> check("mnist-6000")
    >>> check("mnist-60000")
    Traceback (most recent call last):
    ValueError: mnist-N with N from 100 to 59,999, or mnist
    """
    facts(name)


def facts(name: str) -> Facts:
    """What is known of the data set `name` without reading it.

    `NAME-N` is N examples of the pool of `NAME`, equally many of each class, with the same test set.

    Raises:
        ValueError: there is no such data set; says what was expected.

    >>> facts("mnist").epoch_iterations(batch=60)
    917
    >>> facts("mnist-6000").train, facts("mnist-6000").validation
    (5500, 500)
    """
    whole, size = subset.parts(name)
    if whole not in SOURCES:
        raise ValueError("one of " + ", ".join(SOURCES) + "; or NAME-N, N examples of one")
    known: Facts = SOURCES[whole].FACTS
    return subset.facts(known, size) if size else known


@dataclass(frozen=True)
class Dataset:
    """A data set in memory: the pool (training and validation together) and the test set.

    Images are bytes, N x C x H x W; `inputs` makes them normalised floats, a batch at a time.
    """

    facts: Facts
    images: "Tensor"
    labels: "Tensor"
    test_images: "Tensor"
    test_labels: "Tensor"

    def inputs(self, images: "Tensor") -> "Tensor":
        """(x / white - mean) / std as float32, per channel, on the device where the images are."""
        if len(self.facts.std) == 1:
            scale, shift = _affine(self.facts)
            return images.float().mul_(scale[0]).add_(shift[0])
        scales, shifts = _affine_on(self.facts, str(images.device))
        return images.float().mul_(scales).add_(shifts)

    def to(self, device: str) -> "Dataset":
        """The same with its images and labels on `device`; itself where they are there already."""
        import torch

        if self.images.device == torch.empty(0, device=device).device:  # "cuda" is "cuda:0", or another one
            return self
        tensors = (self.images, self.labels, self.test_images, self.test_labels)
        return Dataset(self.facts, *(tensor.to(device) for tensor in tensors))


def _affine(facts: Facts) -> tuple[list[float], list[float]]:
    scale = [1 / (facts.white * std) for std in facts.std]
    return scale, [-mean / std for mean, std in zip(facts.mean, facts.std, strict=True)]


@lru_cache(maxsize=8)
def _affine_on(facts: Facts, device: str) -> "tuple[Tensor, Tensor]":
    # Kept: sending them to an accelerator again at every step would make each step wait for it.
    import torch

    scale, shift = (torch.tensor(numbers, device=device).view(-1, 1, 1) for numbers in _affine(facts))
    return scale, shift


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Read the data set `name` into memory and check that it is what its name says.

    Args:
        name: as `check` has it.
        data_dir: where its files lie or shall be put; `digits` needs none.

    Raises:
        DataError: a file is absent, damaged or another one.

    >>> load("digits").images.shape
    torch.Size([1200, 1, 8, 8])
    """
    import torch

    # torch.tensor copies: torch's own memory is aligned, on which the last bits of a matrix product depend.
    return Dataset(facts(name), *(torch.tensor(array) for array in read(name, data_dir)))


def read(name: str, data_dir: Path | None) -> Arrays:
    """The pool's images and labels and the test set's, read and checked against the data set's checksum.

    Raises:
        DataError: a file is absent, damaged or another one.
    """
    whole, size = subset.parts(name)
    source = SOURCES[whole]
    arrays: Arrays = source.read(data_dir)
    # Where the source has an ARCHIVE, the checksum is that file's, and `source.read` has compared it.
    if not hasattr(source, "ARCHIVE"):
        expected: str = source.FACTS.checksum
        digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
        if digest != expected:
            raise DataError(
                where=whole,
                expected=f"images and labels with SHA-256 {expected[:16]}...",
                found=digest,
                todo="The source has changed; results would not compare.",
            )
    if size is None:
        return arrays
    images, labels, test_images, test_labels = arrays
    chosen = subset.drawn(labels, size)
    return images[chosen], labels[chosen], test_images, test_labels


def split(dataset: Dataset, split_seed: int) -> tuple["Tensor", "Tensor"]:
    """Indices into the pool for training and for validation: disjoint, together all of it, drawn from `split_seed`."""
    import torch

    order = torch.randperm(len(dataset.labels), generator=torch.Generator().manual_seed(split_seed))
    train, validation = order.split([dataset.facts.train, dataset.facts.validation])
    return train, validation


class Batches:
    """The batch of each step, as a function of the step and of the seeds alone.

    The training set is shuffled anew for every epoch, from `order_seed` and the epoch's number; the last batch of an
    epoch is smaller where the numbers do not divide. A training that starts at step k sees the batches that a whole one
    sees from step k on.

    Args:
        dataset: where the images are.
        train: indices of the training examples in the pool.
        size: examples per batch, > 0.
        order_seed: decides the order, and nothing else.
        augment: how images are changed at random, if at all.
        augment_seed: decides those changes, and nothing else.
        part: (rank, world): of each batch the share of process `rank` of `world`. All shares one after the other are
            the batch; some are empty where it has fewer examples than there are processes.
        device: where inputs and labels shall be; the data set is moved there once.
    """

    def __init__(
        self,
        dataset: Dataset,
        train: "Tensor",
        size: int,
        order_seed: int,
        augment: Augmentation | None = None,
        augment_seed: int = 0,
        part: tuple[int, int] = (0, 1),
        device: str = "cpu",
    ) -> None:
        self._dataset, self._train, self._size, self._seed = dataset.to(device), train, size, order_seed
        self.augment, self.part, self._augment_seed, self._device = augment, part, augment_seed, device
        self._per_epoch = -(-len(train) // size)
        self._epoch, self._order = -1, train

    def __call__(self, step: int) -> tuple["Tensor", "Tensor"]:
        """Inputs and labels of the step that follows after `step` steps."""
        whole, _ = self.places(step, step + 1)
        rank, world = self.part
        begin, end = (len(whole) * share // world for share in (rank, rank + 1))
        chosen = whole[begin:end].to(self._device, non_blocking=True)
        images = self._dataset.images.index_select(0, chosen)
        if self.augment == "flip-crop":
            images = flip_crop(images, self._augment_seed, step, begin, len(whole))
        return self._dataset.inputs(images), self._dataset.labels.index_select(0, chosen)

    def places(self, begin: int, until: int) -> tuple["Tensor", int]:
        """Where in the pool the examples of the steps from `begin` on are, and the step they end before.

        That is `until`, or the end of the epoch if it comes first: there is always one step at least. They are all
        processes' together, and on the CPU.
        """
        epoch, place = divmod(begin, self._per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._train[_permutation(len(self._train), self._seed, epoch)]
        steps = min(until - begin, self._per_epoch - place)
        return self._order[place * self._size : (place + steps) * self._size], begin + steps


def _permutation(size: int, order_seed: int, epoch: int) -> "Tensor":
    import torch

    return torch.randperm(size, generator=generator(order_seed, epoch))
