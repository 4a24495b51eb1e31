"""The cut: a trained network without the weights that a mask does not keep, and what that changes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tombola.data.facts import Facts
from tombola.engine import machine
from tombola.lab.kinds.training import Train
from tombola.lab.runs import A_LOOK, Network, Outcome, Run, Tell, untold
from tombola.recipe import Recipe

if TYPE_CHECKING:
    from tombola.evaluate import Evaluation
    from tombola.lab.worker import Worker
    from tombola.weights import Weights


@dataclass(frozen=True, eq=False, repr=False)
class Cut(Run):
    """m ⊙ theta of a trained network, biases and running statistics as they are; how little was cut away.

    Its values are `sacrificed_norm` and `kept_norm`, the L2 norms of what goes and of what stays in the layers of the
    mask, and loss and accuracy on what the split holds out, before and after.

    Attributes:
        trained: the network.
        mask: what stays.
        recipe, split_seed: those of its training: which model, which data, what is held out.
    """

    kind = "cut"
    version = 1

    trained: Run
    mask: Run
    recipe: Recipe
    split_seed: int

    @classmethod
    def of(cls, trained: Train, mask: Run) -> "Cut":
        """The cut of a trained network at a mask."""
        return cls(trained, mask, trained.recipe, trained.split_seed)

    @property
    def data(self) -> tuple[str, ...]:
        return (self.recipe.data,)

    @property
    def compressed_by(self) -> Run | None:
        return self.mask

    def seconds(self, facts: Facts, step_seconds: Callable[[], float]) -> float:
        """Two looks at the validation images."""
        return step_seconds() * A_LOOK * 2 * facts.validation / self.recipe.batch

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Cut, and look at what is held out on both sides of it."""
        from tombola import mask, mask_codec

        whole, alive = worker.store.weights(self.trained), worker.store.mask(self.mask)
        left = mask.apply(whole, alive)
        before, after = self._evaluated(whole, worker), self._evaluated(left, worker)
        kept = sum(float(left[name].double().square().sum()) for name in alive)
        gone = sum(float((whole[name] - left[name]).double().square().sum()) for name in alive)
        values = {
            "sacrificed_norm": gone**0.5,
            "kept_norm": kept**0.5,
            "validation_loss_before": before.loss,
            "validation_loss_after": after.loss,
            "validation_accuracy_before": before.accuracy,
            "validation_accuracy_after": after.accuracy,
        }
        how = machine.device_facts(worker.device)
        return Outcome(values, {"weights": mask_codec.compress(left, alive)}, how=how)

    def _evaluated(self, found: "Weights", worker: "Worker") -> "Evaluation":
        from tombola import weights
        from tombola.evaluate import evaluate

        dataset = worker.placed(self.recipe)
        model = Network(self.recipe.model, dataset.facts.shape, dataset.facts.classes).build().to(worker.device)
        weights.put(model, found)
        _, validation = worker.split(self.recipe, self.split_seed)
        return evaluate(model, dataset, dataset.images, dataset.labels, validation, self.recipe.precision)
