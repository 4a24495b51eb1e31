"""The plain loop of `train.py` as an engine: it does everything, and all others are measured by it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tombola import weights
from tombola.data import Batches, Dataset
from tombola.evaluate import Evaluation, evaluate
from tombola.mask import Mask
from tombola.recipe import Optimizer, Precision
from tombola.train import optimizer_of, restore_state, state_of, train


class Reference:
    """One training of `model`, by torch's own layers, gradients and optimisers.

    Args:
        model: holds the weights to start from.
        mask: True = alive.
        optimizer, state: which optimiser, and its state where one is carried over.
        dataset: what `evaluate` is asked about.
        device: where.
        precision: of the forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        mask: Mask,
        optimizer: Optimizer,
        state: Mapping[str, Tensor],
        dataset: Dataset,
        device: str = "cpu",
        precision: Precision | None = None,
    ) -> None:
        # Channels last: convolutions are 1.2 to 1.8 times faster on a CPU, and what a GPU wants for mixed precision.
        model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._model, self._mask, self._dataset, self._precision = model, mask, dataset, precision
        self._optimizer = optimizer_of(optimizer, model)
        restore_state(self._optimizer, model, state)

    def train(
        self,
        batches: Batches,
        learning_rate: Callable[[int], float],
        begin: int,
        until: int,
        looks: Sequence[int],
        watch: Callable[[int], None],
    ) -> None:
        """Train from step `begin` to step `until`; call `watch` at each of `looks`, before the step that follows."""
        wanted = set(looks)
        train(
            self._model,
            self._optimizer,
            self._mask,
            batches,
            learning_rate,
            begin,
            until,
            lambda step: watch(step) if step in wanted else None,
            self._precision,
        )

    def evaluate(self, images: Tensor, labels: Tensor, places: Tensor | None = None) -> Evaluation:
        """Loss and accuracy on `images` at `places`, by default on all, every one counted once."""
        return evaluate(self._model, self._dataset, images, labels, places, self._precision)

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
        """Put in weights as `weights()` gave them; the optimiser's state stays."""
        weights.put(self._model, start)

    def weights(self) -> dict[str, Tensor]:
        """The state_dict of the model."""
        return weights.of(self._model)

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimiser's state by name."""
        return state_of(self._optimizer, self._model)
