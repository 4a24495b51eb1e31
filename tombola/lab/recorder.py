"""What is recorded of a training while it runs: its curve, its best weights, its early stop, its checkpoints.

Every number that an experiment compares is read here. The early stop is the step of minimum validation loss; the test
accuracy reported for it is measured with the weights kept from that step, so that the test set chooses nothing.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tombola.errors import Diverged
from tombola.evaluate import Evaluation, early_stop
from tombola.lab.checkpoints import Checkpoints
from tombola.lab.runs import Outcome, Tell

if TYPE_CHECKING:
    from torch import Tensor

    from tombola.data import Dataset
    from tombola.engine.training import TrainingState

STOPS = 50  # steps between two looks at the clock


@dataclass(frozen=True)
class EvaluationSchedule:
    """When a training is looked at: at both ends, and at every multiple of `evaluate_every` and `test_every` between.

    Attributes:
        begin, until: optimiser steps done before and after.
        evaluate_every, test_every: steps between two looks at the validation loss and at the test accuracy.
        settled: the first step at which an early stop may be taken: at what is before, more weights are alive than at
            the end, where dynamics prune on the way.
    """

    begin: int
    until: int
    evaluate_every: int
    test_every: int
    settled: int = 0

    def validated(self, step: int) -> bool:
        """Whether the validation loss is looked at after so many steps."""
        return step in (self.begin, self.until) or step % self.evaluate_every == 0

    def tested(self, step: int) -> bool:
        """Whether the test accuracy is."""
        return step in (self.begin, self.until) or step % self.test_every == 0

    def stops(self, begin: int) -> list[int]:
        """From `begin` on, the steps at which the training stops to be looked at, or to keep a checkpoint."""
        steps = range(begin, self.until + 1)
        return [step for step in steps if step % STOPS == 0 or self.validated(step) or self.tested(step)]


@dataclass(frozen=True)
class Splits:
    """What a training is evaluated on: places in the training images for `train` and `validation`, `test` in the test
    images."""

    dataset: "Dataset"
    train: "Tensor"
    validation: "Tensor"
    test: "Tensor"


class Recorder:
    """Watches one training: the validation loss, now and then the test accuracy, and the weights at the best point.

    Args:
        training: where it stands; its weights are those of step `begin`, or of the checkpoint that it goes on from.
        engine: what trains, for the record.
        tell: is told of every look at the validation loss.

    Attributes:
        begin: the step that the training goes on from.
        engines: what has trained it so far.
        how: what else is to be recorded of how it came about.
    """

    def __init__(
        self,
        training: "TrainingState",
        engine: str,
        schedule: EvaluationSchedule,
        splits: Splits,
        checkpoints: Checkpoints,
        tell: Tell,
    ) -> None:
        dataset = splits.dataset
        self._training, self._schedule, self._splits = training, schedule, splits
        self._checkpoints, self._tell = checkpoints, tell
        self._on_validation = training.repeatedly(dataset.images, dataset.labels, splits.validation)
        self._on_test = training.repeatedly(dataset.test_images, dataset.test_labels, splits.test)
        self.begin = schedule.begin
        self.how: dict[str, Any] = {}
        self.engines = [engine]  # with those that had it before it was interrupted
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._accuracies: list[float] = []
        self._test: list[tuple[int, float]] = []
        self._best: Any = None
        if checkpoints.halted:
            self._resume(checkpoints.halted)

    @property
    def stops(self) -> list[int]:
        """The steps at which it is to be called, from where the training goes on."""
        return self._schedule.stops(self.begin)

    def __call__(self, step: int) -> None:
        """Look at the training where it stands after `step` steps, and keep a checkpoint where one is due."""
        if step > self.begin or not self._steps:  # else it has been looked at before it was kept
            self._look(step)
        if self.begin < step < self._schedule.until and self._checkpoints.due(step):
            self._keep(step)

    def _keep(self, step: int) -> None:
        """Keep all that the training needs to go on from here as if nothing had been.

        No random state is among it: batches and their augmentation are functions of the step.
        """
        tensors = {"weights": self._training.standing(), "optimizer": self._training.optimizer_state()}
        if self._best is not None:
            now = self._training.snapshot()
            self._training.restore(self._best)
            tensors["best"] = self._training.standing()
            self._training.restore(now)
        values = {
            "step": step,
            "steps": self._steps,
            "losses": self._losses,
            "accuracies": self._accuracies,
            "test": self._test,
            "resumed": self.how.get("resumed", []),
            "engines": self.engines,
        }
        self._checkpoints.keep(Outcome(values, tensors))

    def _resume(self, kept: Outcome) -> None:
        """Stand where `kept` stood; the training has its weights already."""
        values = kept.values
        self._steps, self._losses, self._accuracies = values["steps"], values["losses"], values["accuracies"]
        self._test = [(step, accuracy) for step, accuracy in values["test"]]
        self.begin = values["step"]
        self.engines = [*values["engines"], *self.engines]
        self.how |= {"resumed": [*values["resumed"], self.begin], "seconds_before": values["seconds"]}
        if "best" in kept.tensors:
            now = self._training.snapshot()
            self._training.load(kept.tensors["best"])
            self._best = self._training.snapshot()
            self._training.restore(now)

    def _look(self, step: int) -> None:
        if self._schedule.validated(step):
            seen = self._on_validation()
            if not abs(seen.loss) < float("inf"):
                raise Diverged(
                    f"the validation loss is {seen.loss} after {step} steps; expected a finite number. "
                    "Lower recipe.optimizer.lr, or add a recipe.warmup."
                )
            if step >= self._schedule.settled and seen.loss < min(self._settled_losses, default=float("inf")):
                self._best = self._training.snapshot()
            self._steps.append(step)
            self._losses.append(seen.loss)
            self._accuracies.append(seen.accuracy)
            self._tell(step - self._schedule.begin, self._schedule.until - self._schedule.begin, seen.loss)
        if self._schedule.tested(step):
            self._test.append((step, self._on_test().accuracy))

    @property
    def _settled_losses(self) -> list[float]:
        """Those at which an early stop may be taken."""
        return [loss for step, loss in zip(self._steps, self._losses, strict=True) if step >= self._schedule.settled]

    def _on_training(self) -> Evaluation:
        dataset = self._splits.dataset
        return self._training.evaluate(dataset.images, dataset.labels, self._splits.train)

    def finish(self) -> dict[str, Any]:
        """The numbers of the training; leaves the weights as they came."""
        settled = self._settled_losses
        best = len(self._losses) - len(settled) + early_stop(settled)
        train_final, test_final = self._on_training(), self._test[-1][1]
        train_best, test_best = train_final, test_final  # the last look was at the end, and may have been the best
        if best < len(self._losses) - 1:
            final = self._training.snapshot()
            self._training.restore(self._best)
            train_best, test_best = self._on_training(), self._on_test().accuracy
            self._training.restore(final)
        return {
            "early_stop_step": self._steps[best],
            "early_stop_validation_loss": self._losses[best],
            "early_stop_test_accuracy": test_best,
            "early_stop_train_accuracy": train_best.accuracy,
            "final_test_accuracy": test_final,
            "final_train_accuracy": train_final.accuracy,
            "final_train_loss": train_final.loss,
            "final_validation_loss": self._losses[-1],
            "final_validation_accuracy": self._accuracies[-1],
            "curve": {
                "step": self._steps,
                "validation_loss": self._losses,
                "validation_accuracy": self._accuracies,
                "test_step": [step for step, _ in self._test],
                "test_accuracy": [accuracy for _, accuracy in self._test],
            },
        }
