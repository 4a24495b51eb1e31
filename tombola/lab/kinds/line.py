"""The error along the line between two trainings."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tombola import data
from tombola.data.facts import Facts
from tombola.engine import machine
from tombola.lab.kinds.statistics import recompute
from tombola.lab.kinds.training import Train
from tombola.lab.runs import A_LOOK, Network, Outcome, Run, Tell, untold
from tombola.recipe import Recipe

if TYPE_CHECKING:
    from tombola.lab.worker import Worker


@dataclass(frozen=True, eq=False, repr=False)
class Line(Run):
    """The error along the line between the ends of two trainings.

    Attributes:
        left, right: at alpha = 0 and 1.
        points: on the line, its ends included.
        recipe, split_seed: those of both: which model, which data, which part of them is trained on.
        examples: of the training set and of the test set each, the first ones; None for all.
    """

    kind = "line"
    version = 1

    left: Train
    right: Train
    recipe: Recipe
    split_seed: int
    points: int
    examples: int | None

    @property
    def data(self) -> tuple[str, ...]:
        return (self.recipe.data,)

    def seconds(self, facts: Facts, step_seconds: Callable[[], float]) -> float:
        """With statistics recomputed too: training images three times, test images twice."""
        train, test = (min(self.examples or size, size) for size in (facts.train, facts.test))
        images = self.points * (3 * train + 2 * test)
        return step_seconds() * (A_LOOK * images / self.recipe.batch)

    def progress(self, done: int, total: int, loss: float) -> str:
        return f"{done} of {total} points"

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """The error on training and test images at each point, the running statistics treated in both ways."""
        from tombola.study import connectivity

        points, errors_at, halted = connectivity.alphas(self.points), _errors(self, worker), worker.store.kept(self)
        before: Mapping[str, Any] = halted.values if halted else {"step": 0, "errors": {}}
        how = {"resumed": [*before["resumed"], before["step"]], "seconds_before": before["seconds"]} if halted else {}
        errors: dict[str, dict[str, list[float]]] = before["errors"]
        checkpoints = worker.checkpoints(self, halted)
        for done, alpha in enumerate(points[before["step"] :], start=before["step"] + 1):
            for statistics, on, error in errors_at(alpha):
                errors.setdefault(statistics, {}).setdefault(on, []).append(error)
            tell(done, len(points), error)
            if done < len(points) and checkpoints.due(done):
                checkpoints.keep(Outcome({"step": done, "errors": errors, "resumed": how.get("resumed", [])}))
        barriers = {
            statistics: {on: connectivity.barrier(line) for on, line in each.items()}
            for statistics, each in errors.items()
        }
        values = {"alphas": list(points), "errors": errors, "barriers": barriers}
        return Outcome(values, how={**machine.device_facts(worker.device), **how})


def _errors(line: Line, worker: "Worker") -> Callable[[float], Iterator[tuple[str, str, float]]]:
    """What says of a point of the line its errors: (how statistics are treated, on which images, error), test last.

    Where the network has running statistics they are interpolated like weights, and then recomputed for the point.
    """
    import torch

    from tombola import weights
    from tombola.data.augment import generator
    from tombola.evaluate import evaluate

    recipe, dataset = line.recipe, worker.placed(line.recipe)
    facts = dataset.facts
    model = Network(recipe.model, facts.shape, facts.classes).build()
    model.to(worker.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    left, right = (worker.store.weights(end) for end in (line.left, line.right))
    train = data.split(dataset, line.split_seed)[0][: line.examples]
    # Some data sets have their test set class by class: a few of its examples are a few of all.
    test = torch.randperm(len(dataset.test_labels), generator=generator("line", "test"))[: line.examples]

    def measured(statistics: str) -> Iterator[tuple[str, str, float]]:
        on_train = evaluate(model, dataset, dataset.images, dataset.labels, train, recipe.precision)
        on_test = evaluate(model, dataset, dataset.test_images, dataset.test_labels, test, recipe.precision)
        yield statistics, "train", 1 - on_train.accuracy
        yield statistics, "test", 1 - on_test.accuracy

    def at(alpha: float) -> Iterator[tuple[str, str, float]]:
        weights.put(model, weights.interpolate(left, right, alpha))
        if not any("running_mean" in name for name in left):
            yield from measured("none")
            return
        yield from measured("interpolated")
        recompute(model, recipe, train, worker)
        yield from measured("recomputed")

    return at
