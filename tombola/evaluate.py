"""How good a model is on a set of examples: exact counts, whatever the batches."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from tombola.data import Dataset, each
from tombola.data.facts import IGNORED
from tombola.objective import cross_entropy
from tombola.recipe import Precision
from tombola.train import computing

CHUNK = 250  # inputs and activations stay in a core's own cache: up to 1.6 times faster than chunks of 1000
CHUNK_GPU = 2000
LARGE = 3 * 32 * 32  # values of an image; of larger ones there are fewer in a chunk, as they would fill the memory


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy loss and the number of correct answers among `total`: of a running text one for each token."""

    loss: float
    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """Correct answers as a fraction, in [0, 1]."""
        return self.correct / self.total


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    images: Tensor,
    labels: Tensor,
    places: Tensor | None = None,
    precision: Precision | None = None,
) -> Evaluation:
    """Loss and accuracy of `model` on `images` at `places`, by default on all, every one counted once.

    The model is put into evaluation mode and back. The loss is summed in float64. `precision` is that of `train`.
    """
    places = torch.arange(len(labels)) if places is None else places
    loss, correct, total = sums(model, dataset, images, labels, places, precision)
    return Evaluation(float(loss) / int(total), int(correct), int(total))


def sums(
    model: nn.Module,
    dataset: Dataset,
    images: Tensor,
    labels: Tensor,
    places: Tensor,
    precision: Precision | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The losses at `places` added up, the correct answers, and all that were asked for; of no places 0, 0 and 0.

    They are where the model is.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    # Sums stay where they are made until the end: asking a GPU for a number stops it.
    loss = torch.zeros((), dtype=torch.float64, device=device)
    correct, total = torch.zeros((2,), dtype=torch.int64, device=device)
    with torch.no_grad(), computing(device, precision):
        most = CHUNK if device.type == "cpu" else CHUNK_GPU
        chunks = places.split(max(32, min(most, most * LARGE // prod(dataset.facts.shape))))
        for chunk, chosen in zip(chunks, each(images, chunks), strict=True):
            outputs = model(dataset.inputs(chosen.to(device))).float()
            answers = labels.index_select(0, chunk.to(labels.device)).to(device)
            loss += cross_entropy(outputs, answers, "none").double().sum()
            correct += (outputs.argmax(dim=-1) == answers).sum()
            total += (answers != IGNORED).sum()
    model.train(was_training)
    return loss, correct, total


def early_stop(losses: list[float]) -> int:
    """The place of the smallest validation loss, the first of equals (App. C of The Lottery Ticket Hypothesis).

    Found afterwards: the training is never stopped.

    >>> early_stop([2.3, 0.4, 0.2, 0.2, 0.3])
    2
    """
    return min(range(len(losses)), key=losses.__getitem__)
