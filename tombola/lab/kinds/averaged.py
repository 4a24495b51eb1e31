"""One network out of the weights of several."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tombola.data.facts import Facts
from tombola.engine import machine
from tombola.lab.kinds.statistics import recompute
from tombola.lab.kinds.training import Train, mask_values
from tombola.lab.runs import A_LOOK, Network, Outcome, Run, Tell, untold
from tombola.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.lab.worker import Worker
    from tombola.mask import Mask
    from tombola.weights import Weights


@dataclass(frozen=True, eq=False, repr=False)
class Average(Run):
    """The mean of the weights of trainings under one mask, running statistics computed anew.

    Attributes:
        trained: all under one mask.
        recipe, split_seed: those of all: which model, which data, which part of them is trained on.
    """

    kind = "average"
    version = 1

    trained: tuple[Train, ...]
    recipe: Recipe
    split_seed: int

    @classmethod
    def of(cls, trained: Sequence[Train]) -> "Average":
        """The average of trainings, one at least.

        Raises:
            ValueError: they end under several masks, or others than they were given.
        """
        if not trained or any(not each.keeps_mask or each.mask != trained[0].mask for each in trained):
            raise ValueError(f"expected trainings that end under one mask, which they were given, not {trained}")
        return cls(tuple(trained), trained[0].recipe, trained[0].split_seed)

    @property
    def data(self) -> tuple[str, ...]:
        return (self.recipe.data,)

    def seconds(self, facts: Facts, step_seconds: Callable[[], float]) -> float:
        """One look at the training set, which a network without running statistics does not take."""
        return step_seconds() * A_LOOK * facts.train / self.recipe.batch

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Average, and compute the statistics."""
        from tombola import weights

        store, model = worker.store, _placed(self.recipe, worker)
        mean = weights.average([store.weights(each) for each in self.trained])
        train, _ = worker.split(self.recipe, self.split_seed)
        ready = _ready(model, mean, self.recipe, train, worker)
        return _outcome(ready, _living(self.trained[0], model, worker), {}, worker)


@dataclass(frozen=True, eq=False, repr=False)
class Pool(Run):
    """The ticket of one level, mixed with the networks of other levels by validation accuracy: *Lottery Pools*.

    Attributes:
        target: the ticket's training, or the dense network's.
        neighbours: trainings of other levels, the nearest first.
        pooled: whether magnitudes of all layers are ranked together; else each layer keeps the count that it has.
        recipe, split_seed: those of all; the mixture is chosen on what the split holds out.
    """

    kind = "pool"
    version = 1

    target: Train
    neighbours: tuple[Train, ...]
    pooled: bool
    recipe: Recipe
    split_seed: int

    @property
    def data(self) -> tuple[str, ...]:
        return (self.recipe.data,)

    def seconds(self, facts: Facts, step_seconds: Callable[[], float]) -> float:
        """Eleven looks at the validation images for each neighbour, and at the training set for statistics."""
        images = 11 * len(self.neighbours) * (facts.validation + facts.train)
        return step_seconds() * A_LOOK * images / self.recipe.batch

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Mix, and keep what is left after the last neighbour."""
        from tombola import weights
        from tombola.evaluate import evaluate
        from tombola.study import lottery_pools

        store, recipe, dataset = worker.store, self.recipe, worker.placed(self.recipe)
        model = _placed(recipe, worker)
        train, validation = worker.split(recipe, self.split_seed)
        target = lottery_pools.Network(store.weights(self.target), _living(self.target, model, worker))

        def accuracy(candidate: "Weights") -> float:
            weights.put(model, candidate)
            found = evaluate(model, dataset, dataset.images, dataset.labels, validation, recipe.precision)
            return found.accuracy

        found = lottery_pools.pool(
            target,
            [store.weights(each) for each in self.neighbours],
            _left(target.mask, self.pooled),
            accuracy,
            lambda mixture: _ready(model, mixture, recipe, train, worker),
        )
        numbers = {
            "validation_accuracy": found.accuracy,
            "target_validation_accuracy": found.of_target,
            "mixed": [asdict(each) for each in found.mixed],
        }
        return _outcome(found.network.weights, found.network.mask, numbers, worker)


def _living(run: Run, model: "nn.Module", worker: "Worker") -> "Mask":
    from tombola import prunable

    living = worker.store.living(run)
    return prunable.full(model) if living is None else living


def _left(mask: "Mask", pooled: bool) -> dict[tuple[str, ...], int]:
    return {tuple(mask): mask.alive} if pooled else {(name,): count for name, count in mask.counts.items()}


def _placed(recipe: Recipe, worker: "Worker") -> "nn.Module":
    facts = worker.placed(recipe).facts
    return Network(recipe.model, facts.shape, facts.classes).build().to(worker.device)


def _ready(model: "nn.Module", found: "Weights", recipe: Recipe, train: "Tensor", worker: "Worker") -> "Weights":
    """These weights with running statistics of their own, where the model has some."""
    from tombola import weights

    if not any("running_mean" in name for name in found):
        return found
    weights.put(model, found)
    recompute(model, recipe, train, worker)
    return weights.of(model)


def _outcome(found: "Weights", mask: "Mask", numbers: dict[str, Any], worker: "Worker") -> Outcome:
    """Weights under a mask of their own, as `Store.weights` and `Store.mask` read them."""
    from tombola import mask_codec

    tensors = {"weights": mask_codec.compress(found, mask), "mask": mask_codec.pack(mask)}
    return Outcome({**mask_values(mask), **numbers}, tensors, how=machine.device_facts(worker.device))
