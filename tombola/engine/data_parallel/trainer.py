"""One training by several processes together: of each batch every process has a share, and all have the same weights.

torch's DistributedDataParallel averages the gradients; a loss scaled by how many answers the batch asks for makes that
the mean over all of them, whatever the shares are. Batch normalisations take the statistics of the whole batch. What
comes out is, up to the order of sums, what one process makes of the same batches.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from tombola.data import Batches, share
from tombola.engine.data_parallel.batch_norm import whole_batches
from tombola.engine.data_parallel.crew import Crew
from tombola.engine.reference.trainer import Reference
from tombola.engine.training import Start, Training
from tombola.evaluate import Evaluation, sums
from tombola.objective import cross_entropy
from tombola.train import Span, computing, train

# Whether running statistics are broadcast at each step, which would only take time: they are the same everywhere as it
# is. The newer name is of torch 2.13 or somewhat earlier.
_OPTIONS: dict[str, Any] = {
    name: False
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in signature(DistributedDataParallel.__init__).parameters
}
if len(_OPTIONS) > 1:
    del _OPTIONS["broadcast_buffers"]


class Parallel(Reference):
    """One training of a model by a whole crew: every process makes one of the same, but with its own device.

    The guard holds the weights of the model itself, with gradients that have been averaged already.
    """

    def __init__(self, crew: Crew, training: Training, start: Start) -> None:
        super().__init__(training, start)
        self._crew = crew

    def train(self, batches: Batches, span: Span, watch: Callable[[int], None]) -> None:
        """As `Reference.train`; `batches` has this process's part of each."""
        device = torch.device(self._crew.device)
        model = DistributedDataParallel(self._model, device_ids=[device] if device.type == "cuda" else None, **_OPTIONS)

        def loss(step: int) -> Tensor:
            inputs, labels = batches(step)
            with computing(device, self._training.precision):
                ours = cross_entropy(model(inputs.to(device)), labels.to(device), "sum")
            # The gradients' average is then their mean over all answers.
            return ours * self._crew.world / batches.answers(step)

        with whole_batches(self._model):
            train(self._model, self._optimizer, self._start.mask, loss, span, watch)

    def evaluate(self, images: Tensor, labels: Tensor, places: Tensor | None = None) -> Evaluation:
        """Loss and accuracy on `images` at `places`, every process a share of them; all get the same numbers."""
        places = torch.arange(len(labels)) if places is None else places
        ours = places[share(len(places), self._crew.rank, self._crew.world)]
        shares = sums(self._model, self._start.dataset, images, labels, ours, self._training.precision)
        added = torch.stack([each.double() for each in shares])
        distributed.all_reduce(added)  # counts stay exact in float64
        loss, losses, correct, total = added.tolist()
        return Evaluation(loss / losses, int(correct), int(total))
