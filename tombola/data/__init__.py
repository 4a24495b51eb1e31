"""Data sets, whole in memory as tensors: `facts(name)` before reading, `load(name)`, `split`, and batches by step.

To add a data set: write a file like `digits.py` with `FACTS` and `read`, and name it in `SOURCES`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from tombola.data import digits, mnist
from tombola.data.facts import Facts
from tombola.errors import DataError

if TYPE_CHECKING:  # torch takes 2 s to import; facts are asked for by commands that never touch a tensor
    from torch import Tensor

Arrays = mnist.Arrays
SOURCES: dict[str, ModuleType] = {"digits": digits, "mnist": mnist}


def facts(name: str) -> Facts:
    """What is known of the data set `name` without reading it.

    Raises:
        KeyError: there is no such data set; `SOURCES` lists them.

    >>> facts("mnist").epoch_iterations(batch=60)
    917
    """
    known: Facts = SOURCES[name].FACTS
    return known


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
        """(x / white - mean) / std as float32, per channel."""
        import torch

        scale = [1 / (self.facts.white * std) for std in self.facts.std]
        shift = [-mean / std for mean, std in zip(self.facts.mean, self.facts.std, strict=True)]
        if len(scale) == 1:
            return images.float().mul_(scale[0]).add_(shift[0])
        shape = (-1, 1, 1)
        return images.float().mul_(torch.tensor(scale).view(shape)).add_(torch.tensor(shift).view(shape))


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Read the data set `name` into memory and check that it is what its name says.

    Args:
        name: a key of `SOURCES`.
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
    arrays: Arrays = SOURCES[name].read(data_dir)
    known = facts(name)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
    if digest != known.checksum:
        raise DataError(
            where=name,
            expected=f"images and labels with SHA-256 {known.checksum[:16]}...",
            found=digest,
            todo="The source has changed; results would not compare.",
        )
    return arrays


def split(dataset: Dataset, split_seed: int) -> tuple["Tensor", "Tensor"]:
    """Indices into the pool for training and for validation: disjoint, together all of it, drawn from `split_seed`."""
    import torch

    order = torch.randperm(len(dataset.labels), generator=torch.Generator().manual_seed(split_seed))
    train, validation = order.split([dataset.facts.train, dataset.facts.validation])
    return train, validation


class Batches:
    """The batch of each step, as a function of the step and of `order_seed` alone.

    The training set is shuffled anew for every epoch, from `order_seed` and the epoch's number; the last batch of an
    epoch is smaller where the numbers do not divide. A training that starts at step k sees the batches that a whole one
    sees from step k on.

    Args:
        dataset: where the images are.
        train: indices of the training examples in the pool.
        size: examples per batch, > 0.
        order_seed: decides the order, and nothing else.
    """

    def __init__(self, dataset: Dataset, train: "Tensor", size: int, order_seed: int) -> None:
        self._dataset, self._train, self._size, self._seed = dataset, train, size, order_seed
        self._per_epoch = -(-len(train) // size)
        self._epoch, self._order = -1, train

    def __call__(self, step: int) -> tuple["Tensor", "Tensor"]:
        """Inputs and labels of the step that follows after `step` steps."""
        chosen, _ = self.places(step, step + 1)
        images = self._dataset.images.index_select(0, chosen)
        return self._dataset.inputs(images), self._dataset.labels.index_select(0, chosen)

    def places(self, begin: int, until: int) -> tuple["Tensor", int]:
        """Where in the pool the examples of the steps from `begin` on are, and the step they end before.

        That is `until`, or the end of the epoch if it comes first: there is always one step at least.
        """
        epoch, place = divmod(begin, self._per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._train[_permutation(len(self._train), self._seed, epoch)]
        steps = min(until - begin, self._per_epoch - place)
        return self._order[place * self._size : (place + steps) * self._size], begin + steps


def _permutation(size: int, order_seed: int, epoch: int) -> "Tensor":
    import torch

    digest = hashlib.sha256(f"{order_seed}/{epoch}".encode()).digest()
    return torch.randperm(size, generator=torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1))
