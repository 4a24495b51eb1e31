"""Data sets: `facts(name)` before reading, `load(name)`, `split`, and batches by step.

All are held in memory as tensors, but for folders of photographs (`folder.py`), which are decoded as they are needed.

To add a data set: write a file like `digits.py` with `FACTS` and `read`, and name it in `SOURCES`.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tombola.data import (
    changed_inputs,
    cifar10,
    cifar10_jpeg,
    cifar100,
    digits,
    fashion_mnist,
    folder,
    mnist,
    moons_circles,
    normalise,
    shakespeare64,
    sinusoids,
    slow_sinusoids,
    splits,
    sst2,
    subset,
    table,
    text,
    tokenised,
    variants,
)
from tombola.data.arrays import Arrays
from tombola.data.augment import Augmentation, flip_crop, flip_crop_draws, generator
from tombola.data.facts import IGNORED, Facts
from tombola.data.normalise import Normalisation
from tombola.errors import DataError

if TYPE_CHECKING:  # torch takes 2 s to import; facts are asked for by commands that never touch a tensor
    from torch import Tensor

AHEAD = 2  # batches that are decoded while another one is trained on
SOURCES: dict[str, ModuleType] = {
    "digits": digits,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "cifar10-jpeg": cifar10_jpeg,
    "shakespeare": text,
    "shakespeare64": shakespeare64,
    "sst2": sst2,
    "sinusoids": sinusoids,
    "slow-sinusoids": slow_sinusoids,
    "moons-circles": moons_circles,
}


def check(name: str) -> None:
    """Raise ValueError, with what was expected, unless `name` is a data set: of `SOURCES`, a part of one, or a folder.

    Raises:
        DataError: it is a folder that is not laid out as it should be.

    >>> check("mnist-6000")
    >>> check("mnist-60000")
    Traceback (most recent call last):
    ValueError: mnist-N with N from 100 to 59,999, or mnist
    """
    facts(name)


def facts(name: str) -> Facts:
    """What is known of the data set `name` without reading it.

    `NAME-N` is N examples of the pool of `NAME`, equally many of each class, with the same test set. `NAME+VARIANT` has
    that pool changed as `variants` has it: `mnist+random-labels`, `mnist-6000+first-half`. `folder:PATH` is
    the folder of photographs at PATH, made 224 pixels wide and high; `folder:PATH@SIZE` as many as one wants.
    `sst2@PATH-OR-NAME` is its sentences in the tokens of a checkpoint of `transformers`. `table:FILE.csv@TARGET` is a
    table of one's own, as `table` has it.

    Raises:
        ValueError: there is no such data set; says what was expected.
        DataError: it is a folder or a table that is not as it should be.
        BadInput: there is no such tokenizer, or the package that reads it is not installed.

    >>> facts("mnist").epoch_iterations(batch=60)
    917
    >>> facts("mnist-6000").train, facts("mnist-6000").validation
    (5500, 500)
    """
    if is_folder(name):
        return folder.facts(name)
    if is_tokenised(name):
        return tokenised.facts(name)
    if is_table(name):
        return variants.facts(table.facts(name), list(table.parts(name).ways))
    varied, changes = variants.parts(name)
    whole, size = subset.parts(varied)
    if whole not in SOURCES:
        ways = f"NAME-N, which is N examples of one; {variants.FORM}; {folder.FORM}; {tokenised.FORM}; or {table.FORM}"
        raise ValueError(f"one of {', '.join(SOURCES)}; {ways}")
    known: Facts = SOURCES[whole].FACTS
    return _changed(known, size, tuple(changes)) if size or changes else known


@lru_cache(maxsize=4096)  # a plan asks some fifty times for each replicate
def _changed(known: Facts, size: int | None, changes: tuple[str, ...]) -> Facts:
    return variants.facts(subset.facts(known, size) if size else known, list(changes))


def passed_over(name: str) -> dict[str, int]:
    """How many files of which suffix are in the folder that `name` names and not taken for images; else nothing.

    Raises:
        ValueError, DataError: as `facts`.

    >>> passed_over("digits")
    {}
    """
    return dict(folder.passed_over(name)) if is_folder(name) else {}


def is_folder(name: str) -> bool:
    """Whether `name` is that of a folder of photographs, by its form."""
    return name.partition(":")[0] == "folder"


def is_tokenised(name: str) -> bool:
    """Whether `name` is that of sentences in the tokens of a checkpoint, by its form."""
    return "@" in name and not is_folder(name) and not is_table(name)


def is_table(name: str) -> bool:
    """Whether `name` is that of a table of one's own, by its form."""
    return table.named(name)


def augmentations(name: str) -> tuple[Augmentation, ...]:
    """The ways in which the images of the data set `name` can be changed at random; texts and real numbers in none.

    >>> augmentations("cifar10")
    ('flip-crop',)
    """
    if is_folder(name):
        return ("flip-crop", "resized-crop")
    known = facts(name)
    return () if known.text or known.real else ("flip-crop",)


@dataclass(frozen=True)
class Dataset:
    """A data set: the pool (training and validation together) and the test set.

    Images are bytes, N x C x H x W; `inputs` makes them normalised floats, a batch at a time. In place of a tensor of
    images there may be `folder.Pictures`, which have its `len` and `index_select`; texts, tokens N x T; or real numbers
    (`facts.real`). The last two are inputs as they are. Labels are one number for each example, or for each token of a
    running text.

    Attributes:
        normalisation: how bytes become inputs.
    """

    facts: Facts
    images: "Tensor"
    labels: "Tensor"
    test_images: "Tensor"
    test_labels: "Tensor"
    normalisation: Normalisation = field(default="standard", kw_only=True)

    def inputs(self, images: "Tensor") -> "Tensor":
        """Images normalised, as float32 on the device where they are; texts and real numbers as they are."""
        return (
            images if self.facts.text or self.facts.real else normalise.inputs(images, self.facts, self.normalisation)
        )

    def pixel_scale(self) -> "dict[str, Tensor]":
        """The scale and the shift by which pixels in [0, 1] become inputs, as `normalise.pixel_scale` has it."""
        return normalise.pixel_scale(self.facts, self.normalisation)

    def pixels(self, images: "Tensor") -> "Tensor":
        """Images as real numbers in [0, 1], before any normalisation."""
        return images.float() / self.facts.white

    def of_pixels(self, pixels: "Tensor") -> "Tensor":
        """What `inputs` makes of images, of such real numbers; gradients go through."""
        return normalise.of_pixels(pixels, self.facts, self.normalisation)

    def normalised(self, how: Normalisation | None) -> "Dataset":
        """The same images under another normalisation; None is `standard`."""
        return replace(self, normalisation=how or "standard")

    def to(self, device: str) -> "Dataset":
        """The same with its labels, and images that are a tensor, on `device`; itself if they are there already."""
        import torch

        if self.labels.device == torch.empty(0, device=device).device:  # "cuda" is "cuda:0", or another one
            return self
        tensors = (self.images, self.labels, self.test_images, self.test_labels)
        return Dataset(self.facts, *(tensor.to(device) for tensor in tensors), normalisation=self.normalisation)


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Read the data set `name` and check that it is what its name says.

    Args:
        name: as `check` has it.
        data_dir: where its files lie or shall be put; `digits` needs none.

    Raises:
        DataError: a file is absent, damaged or another one.
        BadInput: a package that reads it is not installed.

    >>> load("digits").images.shape
    torch.Size([1200, 1, 8, 8])
    """
    import torch

    if is_folder(name):
        return Dataset(*folder.opened(name))
    # torch.tensor copies: torch's own memory is aligned, on which the last bits of a matrix product depend.
    return Dataset(facts(name), *(torch.tensor(array) for array in read(name, data_dir)))


def words(name: str, data_dir: Path | None = None) -> list[str]:
    """What each token of the texts of a data set stands for; empty where its examples are no texts.

    Raises:
        DataError, BadInput: as `load`.
    """
    if is_tokenised(name):
        return tokenised.words(name)
    source = None if is_folder(name) else SOURCES.get(subset.parts(variants.parts(name)[0])[0])
    known = getattr(source, "words", None)
    return list(known(data_dir)) if known else []


def source_of(name: str) -> str:
    """The data set that another one is a part or a variant of.

    >>> source_of("mnist-6000+rotated~7"), source_of("digits")
    ('mnist', 'digits')
    """
    return subset.parts(variants.parts(name)[0])[0]


def input_names(name: str) -> list[str]:
    """What each number of an input of a table is; empty where inputs have no names, or are mixtures of those that have.

    Raises:
        DataError, BadInput: as `load`.

    >>> input_names("table:diabetes+noise-2~1")[-3:], input_names("digits"), input_names("table:diabetes+rotated~1")
    (['s6', 'noise 1', 'noise 2'], [], [])
    """
    if not is_table(name):
        return []
    names = table.input_names(name)
    for changed in filter(None, map(changed_inputs.named, table.parts(name).ways)):
        if changed.change.moves:
            return []
        names += [f"noise {number + 1}" for number in range(changed.columns)]
    return names


def read(name: str, data_dir: Path | None) -> Arrays:
    """The pool's images and labels and the test set's, read and checked against the data set's checksum; no folder's.

    Raises:
        DataError: a file is absent, damaged or another one.
    """
    if is_table(name):
        return variants.changed(table.arrays(name), table.facts(name), list(table.parts(name).ways))
    varied, changes = (name.partition("@")[0], []) if is_tokenised(name) else variants.parts(name)
    whole, size = subset.parts(varied)
    source = SOURCES[whole]
    arrays: Arrays = tokenised.read(name, data_dir) if is_tokenised(name) else source.read(data_dir)
    # Where the source has an ARCHIVE, the checksum is that file's, and `source.read` has compared it; so it has where
    # a tokenizer makes something else of its files.
    if not hasattr(source, "ARCHIVE") and not is_tokenised(name):
        expected: str = source.FACTS.checksum
        digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
        if not expected:
            raise _no_checksum(whole, digest)
        if digest != expected:
            raise _another_source(whole, expected, digest)
    images, labels, test_images, test_labels = arrays
    known: Facts = source.FACTS
    if size is not None:
        chosen = subset.beginnings(known, size) if known.running else subset.drawn(labels, size)
        images, labels, known = images[chosen], labels[chosen], subset.facts(known, size)
    return variants.changed((images, labels, test_images, test_labels), known, changes)


def _no_checksum(whole: str, digest: str) -> DataError:
    return DataError(
        where=whole,
        expected="a checksum in its FACTS",
        found="none",
        todo=f'Where what was read is right, write checksum="{digest}".',
    )


def _another_source(whole: str, expected: str, digest: str) -> DataError:
    return DataError(
        where=whole,
        expected=f"examples and labels with SHA-256 {expected[:16]}...",
        found=digest,
        todo="The source has changed; results would not compare.",
    )


def split(dataset: Dataset, split_seed: int) -> tuple["Tensor", "Tensor"]:
    """Indices into the pool for training and for validation, as `splits.split` has them."""
    return splits.split(dataset.facts, split_seed)


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
        self._files = isinstance(dataset.images, folder.Pictures)
        if augment == "resized-crop" and not self._files:
            raise ValueError("expected a folder of photographs to take resized crops of, or flip-crop")
        self._dataset, self._train, self._size, self._seed = dataset.to(device), train, size, order_seed
        self.augment, self.part, self._augment_seed, self._device = augment, part, augment_seed, device
        self._per_epoch = -(-len(train) // size)
        self._orders: dict[int, Tensor] = {}

    def __call__(self, step: int) -> tuple["Tensor", "Tensor"]:
        """Inputs and labels of the step that follows after `step` steps.

        Raises:
            DataError: an image lies in a file that cannot be read.
        """
        chosen, begin, total = self._share(step)
        there = chosen.to(self._device, non_blocking=True)
        images = self._decoded(step) if self._files else self._dataset.images.index_select(0, there)
        if self.augment == "flip-crop":
            draws = flip_crop_draws(self._augment_seed, step, total)
            images = flip_crop(images, draws[:, begin : begin + len(chosen)])
        return self._dataset.inputs(images), self._dataset.labels.index_select(0, there)

    @property
    def repeats(self) -> bool:
        """Whether an example is the same input in each pass: in memory, and not changed at random."""
        return not self._files and self.augment is None and self.part == (0, 1)

    @property
    def trained_on(self) -> "Tensor":
        """Where in the pool the training examples are, ascending, on the CPU."""
        return self._train.cpu().sort().values

    def at(self, places: "Tensor") -> "Tensor":
        """Inputs of the pool at `places`, as they are where they are not changed at random."""
        return self._dataset.inputs(self._dataset.images.index_select(0, places.to(self._device)))

    def answers(self, step: int) -> "Tensor":
        """How many answers the whole batch of the step asks for, all processes' together; where the labels are."""
        whole, _ = self.places(step, step + 1)
        labels: Tensor = self._dataset.labels.index_select(0, whole.to(self._device, non_blocking=True))
        return (labels != IGNORED).sum()

    def _share(self, step: int) -> tuple["Tensor", int, int]:
        """Where in the pool our share of the step's batch is, where in the batch it begins, and the batch's size."""
        whole, _ = self.places(step, step + 1)
        ours = share(len(whole), *self.part)
        return whole[ours], ours.start, len(whole)

    def _decoded(self, step: int) -> "Tensor":
        """The step's images out of their files, those of the steps to come being decoded while it is trained on."""
        pictures: Any = self._dataset.images
        for later in range(step, step + 1 + AHEAD):
            pictures.begin(self._share(later)[0], self._draws(later))
        images: Tensor = pictures.take(self._share(step)[0], self._draws(step))
        # Out of pinned memory a GPU fetches them by itself; else this process would wait until they are there.
        ready = images.pin_memory() if self._device.startswith("cuda") else images
        return ready.to(self._device, non_blocking=True)

    def _draws(self, step: int) -> tuple[int, int] | None:
        return (self._augment_seed, step) if self.augment == "resized-crop" else None

    def places(self, begin: int, until: int) -> tuple["Tensor", int]:
        """Where in the pool the examples of the steps from `begin` on are, and the step they end before.

        That is `until`, or the end of the epoch if it comes first: there is always one step at least. They are all
        processes' together, and on the CPU.
        """
        epoch, place = divmod(begin, self._per_epoch)
        if epoch not in self._orders:
            while len(self._orders) > 1:  # two, as those who look ahead see the next epoch before this one ends
                self._orders.pop(next(iter(self._orders)))
            self._orders[epoch] = self._train[_permutation(len(self._train), self._seed, epoch)]
        steps = min(until - begin, self._per_epoch - place)
        return self._orders[epoch][place * self._size : (place + steps) * self._size], begin + steps


def stacked_batches(several: Sequence[Batches], step: int) -> tuple["Tensor", "Tensor"]:
    """The step's inputs [replicate, example, ...] and labels [replicate, example] of several trainings of one recipe.

    What each gives by itself, but with one way to the device, one gather and one augmentation for all of them: a small
    network's step is as short as these.

    Args:
        several: of one data set in memory, one batch size and one way to augment.
        step: as `Batches` has it.
    """
    import torch

    first = several[0]
    places = torch.stack([each.places(step, step + 1)[0] for each in several])
    chosen = places.view(-1).to(first._device, non_blocking=True)
    images = first._dataset.images.index_select(0, chosen)
    if first.augment == "flip-crop":
        draws = [flip_crop_draws(each._augment_seed, step, places.shape[1]) for each in several]
        images = flip_crop(images, torch.cat(draws, dim=1))
    inputs = first._dataset.inputs(images)
    labels = first._dataset.labels.index_select(0, chosen)
    return inputs.view(*places.shape, *inputs.shape[1:]), labels.view(*places.shape, *labels.shape[1:])


def share(count: int, rank: int, world: int) -> slice:
    """Process `rank`'s part of `count` things; all `world` parts one after the other are all, some may be empty.

    >>> [share(2, rank, world=3) for rank in range(3)]
    [slice(0, 0, None), slice(0, 1, None), slice(1, 2, None)]
    """
    return slice(count * rank // world, count * (rank + 1) // world)


def each(images: "Tensor", parts: Sequence["Tensor"]) -> Iterator["Tensor"]:
    """The images at each of `parts`, one part after the other; of files, the next are decoded meanwhile.

    >>> import torch
    >>> [part.flatten().tolist() for part in each(torch.arange(3).view(3, 1), torch.tensor([2, 0, 1]).split(2))]
    [[2, 0], [1]]
    """
    for number, part in enumerate(parts):
        if isinstance(images, folder.Pictures):
            for later in parts[number : number + 1 + AHEAD]:
                images.begin(later)
        yield images.index_select(0, part.to(images.device))


def _permutation(size: int, order_seed: int, epoch: int) -> "Tensor":
    import torch

    return torch.randperm(size, generator=generator(order_seed, epoch))
