"""The plain loop with dynamics: a mask that moves, or weights that are made of others, beside the optimiser's steps."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tombola import macs, weights
from tombola.data import Batches
from tombola.dynamics import Setting
from tombola.engine.reference.trainer import Reference
from tombola.engine.training import Moved, Start, Training
from tombola.objective import CrossEntropy
from tombola.optimizers import optimizer_of, restore_state
from tombola.train import Span, descend, losses


class Moving(Reference):
    """One training under dynamics, by torch's own layers, gradients and optimisers.

    Args:
        training: its optimiser, precision, objective, dynamics and device.
        start: the model that is trained in place, what it begins with, and when it takes place.
    """

    def __init__(self, training: Training, start: Start) -> None:
        assert training.dynamics is not None and start.timeline is not None
        super().__init__(training, replace(start, state={}))
        setting = Setting(
            self._model, start.mask, start.timeline, start.seed, self._inputs, training.layers, training.products
        )
        self._course = training.dynamics.course(setting)
        self._multiply_adds = 0
        # Made anew, over what the course has made of the model.
        self._optimizer = optimizer_of(training.optimizer, self._model)
        restore_state(self._optimizer, self._model, self._course.carried(start.state))
        if start.standing is not None:
            self.load(start.standing)

    def train(self, batches: Batches, span: Span, watch: Callable[[int], None]) -> None:
        """Train over `span`; call `watch` at each of its looks, before the step that follows."""

        examples = partial(macs.examples, train=self._start.dataset.facts.train, batch=self._training.batch)
        forwards = (self._training.objective or CrossEntropy()).forwards

        def advance(step: int) -> None:
            self._course.advance(self._optimizer, step)
            gradients = examples(step, step + 1) * self._course.multiply_adds(step)
            self._multiply_adds += gradients * forwards // macs.GRADIENT

        loss = losses(self._model, batches, self._training.objective, self._training.precision, self._inputs)
        with self._course.along(self._optimizer):
            descend(self._model, self._optimizer, loss, span, watch, advance)
        if span.until in span.looks:
            watch(span.until)

    @property
    def moved(self) -> Moved:
        """The mask as it stands, and what the steps so far took."""
        return Moved(self._course.mask, self._multiply_adds, self._course.numbers, self._course.holds)

    def weights(self) -> dict[str, Tensor]:
        """The state_dict of the network as it computes now, under the names of a plain one."""
        return self._course.weights()

    def standing(self) -> dict[str, Tensor]:
        """What the model holds, what the course remembers, and what the steps so far took."""
        held = {f"model/{name}": value for name, value in weights.of(self._model).items()}
        remembered = {f"course/{name}": value for name, value in self._course.state().items()}
        return held | remembered | {"multiply_adds": torch.tensor(self._multiply_adds)}

    def load(self, start: Mapping[str, Tensor]) -> None:
        """Put in what `standing()` gave; the optimiser's state stays."""
        weights.put(self._model, weights.below("model/", start))
        self._course.load(weights.below("course/", start))
        self._multiply_adds = int(start["multiply_adds"])

    def snapshot(self) -> Any:
        """All that `standing` gives, for `restore`."""
        return self.standing()

    def restore(self, snapshot: Any) -> None:
        """Put a snapshot back."""
        self.load(snapshot)
