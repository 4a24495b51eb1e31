"""The error along the line between two trainings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tombola import data
from tombola.data.facts import Facts
from tombola.engine import machine
from tombola.lab.kinds.training import Train
from tombola.lab.runs import A_LOOK, Network, Outcome, Run, Tell
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

    def perform(self, worker: "Worker", tell: Tell = lambda done, total, loss: None) -> Outcome:
        """The error on training and test images at each point, the running statistics treated in both ways."""
        import torch

        from tombola import weights
        from tombola.data.augment import generator
        from tombola.evaluate import evaluate
        from tombola.study import connectivity
        from tombola.train import computing

        recipe, dataset = self.recipe, worker.placed(self.recipe)
        facts = dataset.facts
        model = Network(recipe.model, facts.shape, facts.classes).build()
        model.to(worker.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        ends = [worker.store.weights(end) for end in (self.left, self.right)]
        train_places = data.split(dataset, self.split_seed)[0][: self.examples]
        # Some data sets have their test set class by class: a few of its examples are a few of all.
        test_places = torch.randperm(len(dataset.test_labels), generator=generator("line", "test"))[: self.examples]
        normed = any("running_mean" in name for name in ends[0])
        points = connectivity.alphas(self.points)
        halted = worker.store.kept(self)
        before: Mapping[str, Any] = (
            halted.values if halted else {"step": 0, "seconds": 0.0, "errors": {}, "resumed": []}
        )
        resumed = [*before["resumed"], before["step"]] if halted else []
        errors: dict[str, dict[str, list[float]]] = before["errors"]
        checkpoints = worker.checkpoints(self, halted)

        def measure(statistics: str) -> None:
            on_train = evaluate(model, dataset, dataset.images, dataset.labels, train_places, recipe.precision)
            on_test = evaluate(model, dataset, dataset.test_images, dataset.test_labels, test_places, recipe.precision)
            for name, seen in (("train", on_train), ("test", on_test)):
                errors.setdefault(statistics, {}).setdefault(name, []).append(1 - seen.accuracy)

        for done, alpha in enumerate(points[before["step"] :], start=before["step"] + 1):
            weights.put(model, weights.interpolate(ends[0], ends[1], alpha))
            measure("interpolated" if normed else "none")
            if normed:
                chunks = train_places.split(recipe.batch)
                whole = [chunk for chunk in chunks if len(chunk) == recipe.batch] or chunks
                with computing(torch.device(worker.device), recipe.precision):  # as the network is used
                    images = (each.to(worker.device) for each in data.each(dataset.images, whole))  # as bytes
                    connectivity.recompute_statistics(model, map(dataset.inputs, images))
                measure("recomputed")
            tell(done, len(points), errors["recomputed" if normed else "none"]["test"][-1])
            if done < len(points) and checkpoints.due(done):
                checkpoints.keep(Outcome({"step": done, "errors": errors, "resumed": resumed}))
        barriers = {
            statistics: {name: connectivity.barrier(line) for name, line in each.items()}
            for statistics, each in errors.items()
        }
        values = {"alphas": list(points), "errors": errors, "barriers": barriers}
        how = {
            **machine.device_facts(worker.device),
            **({"resumed": resumed, "seconds_before": before["seconds"]} if halted else {}),
        }
        return Outcome(values, how=how)
