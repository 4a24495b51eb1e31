"""What a worker has at hand while it performs runs: the store, the data sets, and how it trains."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from tombola import data, files
from tombola.data import variants
from tombola.data.shared import attach, published
from tombola.engine import Choice, native
from tombola.engine.native import calibrate
from tombola.engine.native.image_order import image_order
from tombola.engine.native.layer_formats import Timed
from tombola.engine.training import Training
from tombola.lab.checkpoints import Checkpoints, Clock, Interval, staying
from tombola.lab.runs import Outcome, Run
from tombola.lab.store import Store
from tombola.recipe import Recipe
from tombola.score import Score
from tombola.scores import SCORES
from tombola.sparse.times import Times

if TYPE_CHECKING:
    from tombola.engine.data_parallel.crew import Crew


MOST_DRAWN = 4  # data sets that are drawn with a seed, each replicate's its own, held at a time: one search's, about


class ExampleOrder(Protocol):
    """What says which training examples come when: a training, or what else sees its batches."""

    @property
    def recipe(self) -> Recipe:
        """Names the data set, the size of a batch, and how images are augmented."""

    @property
    def split_seed(self) -> int:
        """Decides what is held out for validation."""

    @property
    def order_seed(self) -> int:
        """Decides the order of what is trained on."""

    @property
    def augment_seed(self) -> int | None:
        """Decides how images are changed; None where they are not."""


@dataclass(eq=False)
class Worker:
    """What a worker has at hand while it performs runs: the store, the data sets, and how it trains.

    Attributes:
        data_dir: where data sets lie.
        engine: what trains.
        shared: where `data.shared.publish` has put them, to be mapped instead of read.
        device: where it trains.
        clock: the time in seconds; one that stands still keeps no checkpoints.
        crew: the processes that do every training together; None where this one trains alone.
        measured: how long layers take, of which one measurement holds for all that a command trains; None where this
            worker is all there is, and measures for itself.
        scores: those that a pruning may name.
        leaving: whether its time is running out: what it is at then keeps a checkpoint, and it begins nothing more.
    """

    store: Store
    data_dir: Path | None
    engine: Choice = "auto"
    shared: Path | None = None
    device: str = "cpu"
    clock: Clock = lambda: 0.0
    crew: "Crew | None" = None
    measured: Mapping[Timed, Times] | None = None
    scores: Mapping[str, Score] = field(default_factory=lambda: SCORES)
    leaving: Callable[[], bool] = staying

    def __post_init__(self) -> None:
        self._measured, self._measures = dict(self.measured or {}), self.measured is None
        self._stacks: dict[tuple[str, int], bool] = {}  # recipe, how many -> whether they pay, where it is measured
        self._datasets: dict[str, data.Dataset] = {}
        self._placed: dict[str, data.Dataset] = {}
        self._tests: dict[tuple[str, bool], Tensor] = {}
        self._splits: dict[tuple[str, int, bool], tuple[Tensor, Tensor]] = {}

    def dataset(self, name: str) -> data.Dataset:
        """The data set `name` as it is read, read once."""
        if name not in self._datasets:
            if self.shared and variants.drawn(name):
                published(name, self.data_dir, self.shared)
            self._datasets[name] = attach(name, self.shared) if self.shared else data.load(name, self.data_dir)
        return _last_used(self._datasets, name)

    def placed(self, recipe: Recipe) -> data.Dataset:
        """The recipe's data set, normalised as it says, on the worker's device, moved there once."""
        if recipe.data not in self._placed:
            self._placed[recipe.data] = self.dataset(recipe.data).to(self.device)
        return _last_used(self._placed, recipe.data).normalised(recipe.normalise)

    def training(self, recipe: Recipe) -> Training:
        """What its engines are asked of a training of `recipe`."""
        training = Training.of(recipe, self.dataset(recipe.data).facts, self.engine, self.device)
        return replace(training, processes=self.crew.world) if self.crew else training

    def times(self, shapes: Iterable[Timed]) -> dict[Timed, Times]:
        """How long layers of these shapes take, from the one measurement there is."""
        requested = list(shapes)
        if self._measures:
            measured = calibrate.times([shape for shape in requested if shape not in self._measured])
            self._measured = measured | self._measured
        return {shape: self._measured.get(shape) or calibrate.assumed(shape) for shape in requested}

    def pays(self, recipe: str, count: int, measured: Callable[[], bool]) -> bool:
        """Whether so many trainings of a recipe are faster in a stack; measured once, by the first worker that asks."""
        if (recipe, count) not in self._stacks:
            self._stacks[recipe, count] = False  # what cannot be measured, for lack of memory say, is not tried again
            self._stacks[recipe, count] = self._agreed(f"{recipe} {count}", measured)
        return self._stacks[recipe, count]

    def _agreed(self, name: str, measured: Callable[[], bool]) -> bool:
        """What the first worker of several finds."""
        if not self.shared:
            return measured()
        path = self.shared / f"pays-{hashlib.sha256(name.encode()).hexdigest()[:20]}.json"
        with files.turn(path.with_suffix(".lock")):  # of one host, maybe: of several the first answer counts
            if not path.exists():
                files.first(path, json.dumps(measured()).encode())
            return bool(json.loads(path.read_text(encoding="utf-8")))

    def split(self, recipe: Recipe, split_seed: int) -> tuple[Tensor, Tensor]:
        """As `data.split` has it, the validation images in the order in which the model evaluates them fastest."""
        dataset, key = self.dataset(recipe.data), (recipe.data, split_seed, self._groups_images(recipe))
        if key not in self._splits:
            train, validation = data.split(dataset, split_seed)
            if self._groups_images(recipe):
                order = image_order(dataset.images.numpy()[validation.numpy()])
                validation = validation[torch.from_numpy(order)]
            self._splits[key] = train, validation
        return self._splits[key]

    def test(self, recipe: Recipe) -> Tensor:
        """All places in the test set, in such an order."""
        images, key = self.dataset(recipe.data).test_images, (recipe.data, self._groups_images(recipe))
        if key not in self._tests:
            self._tests[key] = torch.from_numpy(image_order(images.numpy())) if key[1] else torch.arange(len(images))
        return self._tests[key]

    @property
    def alone(self) -> "Worker":
        """The same without its crew, for runs that one process does by itself; what it has read it has in common."""
        alone = copy.copy(self)
        alone.crew = None
        return alone

    def batches(self, order: ExampleOrder) -> data.Batches:
        """The batches that a training sees, step by step: of each this process's share, on the worker's device."""
        recipe = order.recipe
        return data.Batches(
            self.placed(recipe),
            self.split(recipe, order.split_seed)[0],
            recipe.batch,
            order.order_seed,
            recipe.augment,
            order.augment_seed or 0,
            part=(self.crew.rank, self.crew.world) if self.crew else (0, 1),
            device=self.device,
        )

    def _groups_images(self, recipe: Recipe) -> bool:
        images = self.dataset(recipe.data).images
        bytes_in_memory = isinstance(images, Tensor) and images.dtype == torch.uint8
        return bytes_in_memory and native.groups_images(self.training(recipe))

    def halted(self, run: Run) -> Outcome | None:
        """The checkpoint of `run`; all of a crew go on from that of their leader, whatever a file system shows them."""
        halted = self.store.kept(run)
        if self.crew is None:
            return halted
        step = self.crew.hear(halted and halted.values["step"])
        if step is None:
            return None

        def seen() -> bool:
            nonlocal halted
            if halted is None or halted.values["step"] != step:
                halted = self.store.kept(run)
            return halted is not None and halted.values["step"] == step

        self.store.await_seen(f"the checkpoint of {run.key} at step {step}", seen)
        return halted

    def checkpoints(self, run: Run, halted: Outcome | None, interval: Interval | None = None) -> Checkpoints:
        """Where `run` keeps how far it is, from now on.

        Args:
            interval: that of the runs that are done at once with it.
        """
        return Checkpoints(run, self.store, self.clock, interval or self.interval(), halted)

    def interval(self, among: int = 1) -> Interval:
        """When so many runs that are done at once keep their checkpoints: all at one step."""
        return Interval(self.clock, self.leaving, among)


def _last_used(held: dict[str, data.Dataset], name: str) -> data.Dataset:
    """The data set of a name, as the one that was used last; of those drawn with a seed the oldest are let go."""
    found = held[name] = held.pop(name)
    for old in [each for each in held if variants.drawn(each)][:-MOST_DRAWN]:
        del held[old]
    return found
