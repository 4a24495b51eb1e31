"""The plain loop with sparse layers as a training in progress."""

from collections.abc import Callable, Sequence

from tombola.data import Batches
from tombola.engine.reference.trainer import Reference
from tombola.engine.training import Start, Training
from tombola.sparse import layers
from tombola.sparse.layers import Candidate
from tombola.train import Span


class SparseLayers(Reference):
    """One training by torch's own optimisers and gradients, some of its layers sparse while it goes on.

    Args:
        training: its optimiser and objective.
        start: the model that is trained in place, and what it begins with.
        chosen: the layers that compute with their living weights only.
    """

    def __init__(self, training: Training, start: Start, chosen: Sequence[Candidate]) -> None:
        super().__init__(training, start)
        self._chosen = chosen

    def train(self, batches: Batches, span: Span, watch: Callable[[int], None]) -> None:
        """Train over `span`; call `watch` at each of its looks, before the step that follows."""
        for each in self._chosen:
            each.put_on()
        try:
            super().train(batches, span, watch)
        finally:
            for each in self._chosen:
                layers.dense(each.module)
