"""What is measured, and what it is measured against: LeNet-300-100 on MNIST, its tickets, and the plain PyTorch loop.

The plain loop is what one writes without Tombola: the images as normalised floats in memory, torch's layers, fused
Adam, and the gradients multiplied by the mask before each step. Adam that never saw a gradient of a pruned weight does
not move it, so that this one multiplication a step holds the weights at 0.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tombola import data, engine, mask, models, prunable, prune, score, weights
from tombola.engine.training import Alone, Start, Trainer, Training
from tombola.recipe import Adam
from tombola.train import Span

BATCH = 60
RATE = 1.2e-3
LEVELS = 20
RATES = {"fc1.weight": 0.2, "fc2.weight": 0.2, "output.weight": 0.1}
ADAM = Adam(name="adam", lr=RATE)
VALIDATE_EVERY, TEST_EVERY = 100, 1000  # steps, as in the preset lenet-mnist

Batches = Callable[[int], tuple[Tensor, Tensor]]


def one_thread() -> None:
    """As Tombola's workers are: one thread, numbers too small for 32 bits become 0. For the plain loop too."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def model(seed: int = 0) -> nn.Module:
    """LeNet-300-100 with fresh weights."""
    return models.build("lenet-300-100", (1, 28, 28), 10, "glorot-normal", seed)


@dataclass(frozen=True)
class Floats:
    """MNIST as the plain loop has it: normalised floats in memory, split as Tombola splits."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def load(data_dir: Path | None) -> tuple[data.Dataset, Tensor, Tensor]:
    """MNIST, and the places of its training and validation images."""
    dataset = data.load("mnist", data_dir)
    return dataset, *data.split(dataset, 0)


def floats(dataset: data.Dataset, train: Tensor, validation: Tensor) -> Floats:
    """All of it, normalised once."""

    def chosen(places: Tensor) -> tuple[Tensor, Tensor]:
        return dataset.inputs(dataset.images[places]), dataset.labels[places]

    return Floats(chosen(train), chosen(validation), (dataset.inputs(dataset.test_images), dataset.test_labels))


def batches(images: Tensor, labels: Tensor) -> Batches:
    """step -> a batch: a new order in each epoch, its last batch smaller, as Tombola has it."""
    per_epoch = -(-len(labels) // BATCH)
    order = {"epoch": -1, "places": torch.arange(0)}

    def batch(step: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(step, per_epoch)
        if order["epoch"] != epoch:
            order.update(epoch=epoch, places=torch.randperm(len(labels)))
        chosen = order["places"][place * BATCH : (place + 1) * BATCH]
        return images.index_select(0, chosen), labels.index_select(0, chosen)

    return batch


class Plain:
    """One training by the plain loop: `steps` goes on with it.

    Args:
        network: holds the weights to start from.
        living: True = alive; None where nothing is pruned, which spares the multiplication.
    """

    def __init__(self, network: nn.Module, living: mask.Mask | None) -> None:
        self.network = network
        self._optimizer = torch.optim.Adam(network.parameters(), lr=RATE, fused=True)
        parameters = dict(network.named_parameters())
        self._pruned: list[nn.Parameter] = [parameters[name] for name in living] if living else []
        self._masks = [alive.float() for alive in living.values()] if living else []
        with torch.no_grad():
            for parameter, alive in zip(self._pruned, self._masks, strict=True):
                parameter.mul_(alive)

    def step(self, inputs: Tensor, labels: Tensor) -> None:
        loss = functional.cross_entropy(self.network(inputs), labels)
        self._optimizer.zero_grad()
        loss.backward()
        if self._masks:
            torch._foreach_mul_([parameter.grad for parameter in self._pruned], self._masks)
        self._optimizer.step()


def levels(dataset: data.Dataset, train: Tensor, steps: int) -> list[tuple[dict[str, Tensor], mask.Mask]]:
    """(initial weights under the mask, mask) of each level of a real search with `steps` steps a level.

    Real masks are not like random ones: nearly all weights that see the images' empty corners go first.
    """
    start = weights.of(model())
    living, found = prunable.full(model()), []
    for _ in range(LEVELS + 1):
        found.append((mask.apply(start, living), living))
        trained = engine_of(dataset, living, found[-1][0])
        trained.train(data.Batches(dataset, train, BATCH, 0), Span(0, steps, lambda _: RATE), lambda _: None)
        living = prune.by_layer(score.magnitude(score.Scored(model(), trained.weights(), living)), living, RATES)
    return found


def random_levels() -> list[tuple[dict[str, Tensor], mask.Mask]]:
    """The same with random masks of exactly the same counts."""
    start = weights.of(model())
    living, found = prunable.full(model()), []
    for level in range(LEVELS + 1):
        found.append((mask.apply(start, living), living))
        living = prune.by_layer(score.random(score.Scored(model(), start, living, seed=level)), living, RATES)
    return found


def engine_of(
    dataset: data.Dataset, living: mask.Mask, start: dict[str, Tensor], choice: engine.Choice = "auto"
) -> Trainer:
    """Tombola's engine as a run gets it."""
    network = model()
    weights.put(network, start)
    training = Training(optimizer=ADAM, batch=BATCH, choice=choice)
    trainings = engine.begin(training, [Start(network, living, dataset)]).trainings
    assert isinstance(trainings, Alone)
    return trainings.trainer


def clocked(act: Callable[[], Any]) -> float:
    """Seconds that `act` takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began
