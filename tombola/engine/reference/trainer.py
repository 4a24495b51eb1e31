"""The plain loop as a training in progress."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tombola import weights
from tombola.data import Batches
from tombola.engine.training import Moved, Start, Training
from tombola.evaluate import Evaluation, evaluate
from tombola.optimizers import optimizer_of, restore_state, state_of
from tombola.train import Span, losses, train


def layout(model: nn.Module) -> torch.memory_format:
    """How a model's convolutions lie in memory while it trains.

    Channels last: they are 1.2 to 1.8 times faster on a CPU, and it is what a GPU wants for mixed precision. Not where
    torch 2.13 writes beyond a gradient and corrupts memory: strided 1 x 1 convolutions of less than 8 channels on
    processors with AVX2 alone.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        return torch.channels_last
    convolutions = [each for each in model.modules() if isinstance(each, nn.Conv2d)]
    overrun = [each for each in convolutions if each.kernel_size == (1, 1) != each.stride and each.in_channels < 8]
    return torch.contiguous_format if overrun else torch.channels_last


class Reference:
    """One training by torch's own layers, gradients and optimisers.

    Args:
        training: its optimiser, precision, objective and device.
        start: the model that is trained in place, and what it begins with.
    """

    def __init__(self, training: Training, start: Start) -> None:
        model = start.model
        model.to(training.device).to(memory_format=layout(model))  # type: ignore[call-overload]
        self._training, self._start, self._model = training, start, model
        self._inputs = {
            name: {key: value.to(training.device) for key, value in given.items()}
            for name, given in start.inputs.items()
        }
        self._optimizer = optimizer_of(training.optimizer, model)
        restore_state(self._optimizer, model, start.state)

    def train(self, batches: Batches, span: Span, watch: Callable[[int], None]) -> None:
        """Train over `span`; call `watch` at each of its looks, before the step that follows."""
        loss = losses(self._model, batches, self._training.objective, self._training.precision, self._inputs)
        train(self._model, self._optimizer, self._start.mask, loss, span, watch)

    def evaluate(self, images: Tensor, labels: Tensor, places: Tensor | None = None) -> Evaluation:
        """Loss and accuracy on `images` at `places`, by default on all, every one counted once."""
        return evaluate(self._model, self._start.dataset, images, labels, places, self._training.precision)

    def repeatedly(self, images: Tensor, labels: Tensor, places: Tensor | None = None) -> Callable[[], Evaluation]:
        """The same as `evaluate`, to be asked for again and again."""
        return lambda: self.evaluate(images, labels, places)

    def snapshot(self) -> Any:
        """The weights as they are, for `restore`."""
        return weights.of(self._model)

    def restore(self, snapshot: Any) -> None:
        """Put a snapshot back."""
        weights.put(self._model, snapshot)

    def load(self, start: weights.Weights) -> None:
        """Put in what `standing()` gave; the optimiser's state stays."""
        weights.put(self._model, start)

    def standing(self) -> dict[str, Tensor]:
        """The weights: there is nothing else but the optimiser's state."""
        return self.weights()

    @property
    def moved(self) -> Moved | None:
        """None: its mask is the one that it was given."""
        return None

    def weights(self) -> dict[str, Tensor]:
        """The state_dict of the model."""
        return weights.of(self._model)

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimiser's state by name."""
        return state_of(self._optimizer, self._model)
