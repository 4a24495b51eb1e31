"""How good a model is on a set of examples: exact counts, whatever the batches."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from tombola.data import Dataset, each
from tombola.data.facts import IGNORED
from tombola.evaluating import evaluating
from tombola.objective import asked, loss_of_answers
from tombola.recipe import Precision
from tombola.train import computing

CHUNK = 250  # inputs and activations stay in a core's own cache: up to 1.6 times faster than chunks of 1000
CHUNK_GPU = 2000
LARGE = 3 * 32 * 32  # values of an image; of larger ones there are fewer in a chunk, as they would fill the memory


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and the number of correct answers among `total`: of a running text one for each token.

    Of numbers `total` is SST, the sum of squares about the mean of the training set, which is 0 in their units, and
    `correct` what of it is explained, SST - SSE.
    """

    loss: float
    correct: float
    total: float

    @property
    def accuracy(self) -> float:
        """Correct answers as a fraction, in [0, 1]; of numbers R2 = 1 - SSE / SST, at most 1."""
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
    loss, losses, correct, total = sums(model, dataset, images, labels, places, precision)
    return Evaluation(float(loss) / int(losses), correct.item(), total.item())


def sums(
    model: nn.Module,
    dataset: Dataset,
    images: Tensor,
    labels: Tensor,
    places: Tensor,
    precision: Precision | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The losses at `places` added up, how many they are, and `correct` and `total` of an `Evaluation`; of no places 0.

    They are where the model is.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    # Sums stay where they are made until the end: asking a GPU for a number stops it.
    loss = torch.zeros((), dtype=torch.float64, device=device)
    losses = torch.zeros((), dtype=torch.int64, device=device)
    counted = torch.float64 if dataset.facts.answers == "number" else torch.int64
    correct, total = torch.zeros((2,), dtype=counted, device=device)
    with torch.no_grad(), computing(device, precision):
        chunks = places.split(_chunk(device, dataset))
        for chunk, chosen in zip(chunks, each(images, chunks), strict=True):
            outputs = model(dataset.inputs(chosen.to(device))).float()
            answers = labels.index_select(0, chunk.to(labels.device)).to(device)
            loss += loss_of_answers(outputs, answers, "none").double().sum()
            right, of = _right(outputs, answers)
            losses += of if dataset.facts.answers == "class" else len(answers)
            correct += right
            total += of
    model.train(was_training)
    return loss, losses, correct, total


def outputs(
    model: nn.Module, dataset: Dataset, images: Tensor, places: Tensor, precision: Precision | None = None
) -> Tensor:
    """What `model` answers to `images` at `places`, a row for each, in float32 on the CPU.

    The model is put into evaluation mode and back. `dataset` makes inputs of images; `precision` is that of `train`.
    """
    device = next(model.parameters()).device
    with torch.no_grad(), evaluating(model), computing(device, precision):
        chunks = places.split(_chunk(device, dataset))
        found = [model(dataset.inputs(chosen.to(device))).float().cpu() for chosen in each(images, chunks)]
    return torch.cat(found)


def _chunk(device: torch.device, dataset: Dataset) -> int:
    most = CHUNK if device.type == "cpu" else CHUNK_GPU
    return max(32, min(most, most * LARGE // prod(dataset.facts.shape)))


def _right(outputs: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """How many answers are right, and of how many; of numbers the squares explained, and all of them."""
    match asked(outputs, answers):
        case "class":
            return (outputs.argmax(dim=-1) == answers).sum(), (answers != IGNORED).sum()
        case "tasks":
            return ((outputs > 0) == (answers == 1)).sum(), torch.tensor(answers.numel(), device=answers.device)
        case "number":
            squares = answers.double().square().sum()
            return squares - (outputs.squeeze(-1).double() - answers.double()).square().sum(), squares


def early_stop(losses: list[float]) -> int:
    """The place of the smallest validation loss, the first of equals (App. C of The Lottery Ticket Hypothesis).

    Found afterwards: the training is never stopped.

    >>> early_stop([2.3, 0.4, 0.2, 0.2, 0.3])
    2
    """
    return min(range(len(losses)), key=losses.__getitem__)
