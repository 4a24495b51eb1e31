"""Every example counts once, whatever the batches."""

import math

import pytest
import torch
from torch import Tensor, nn

from tombola.data import Dataset
from tombola.data.facts import Facts
from tombola.evaluate import CHUNK, Evaluation, early_stop, evaluate

FACTS = Facts(
    "toy", shape=(1, 2, 2), classes=3, train=4, validation=2, test=2, mean=(0.0,), std=(1.0,), white=255, checksum=""
)
NOTHING = torch.zeros(0, dtype=torch.uint8)
DATASET = Dataset(FACTS, NOTHING, NOTHING, NOTHING, NOTHING)


def images_of(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


def labels_of(count: int) -> Tensor:
    return torch.randint(0, 3, (count,), generator=torch.Generator().manual_seed(count + 1))


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


class Always(nn.Module):
    """Answers class 0 with the same confidence every time, and remembers how many it was asked at once."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([2.0, 0.0, 0.0]))
        self.asked: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.asked.append(len(inputs))
        return self.logits.expand(len(inputs), 3)


@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 337])
def test_accuracy_and_loss_are_those_of_a_loop_over_single_examples(count: int) -> None:  # E3 E4 E5
    model, images, labels = network(), images_of(count), labels_of(count)
    logits = model(images.double().div(255).float()).detach().double()
    losses = [float(logits[place].logsumexp(0) - logits[place, label]) for place, label in enumerate(labels)]
    correct = sum(int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True))
    measured = evaluate(model, DATASET, images, labels)
    assert (measured.correct, measured.total) == (correct, count)
    assert measured.accuracy == correct / count
    assert measured.loss == pytest.approx(math.fsum(losses) / count, rel=1e-6)


def test_a_last_batch_of_one_weighs_as_much_as_one_example() -> None:  # E4
    model, labels = Always(), torch.zeros(CHUNK + 1, dtype=torch.int64)
    labels[-1] = 1
    measured = evaluate(model, DATASET, images_of(CHUNK + 1), labels)
    assert model.asked == [CHUNK, 1]
    assert (measured.correct, measured.total) == (CHUNK, CHUNK + 1)
    assert measured.loss == pytest.approx(math.log(math.exp(2) + 2) - 2 * CHUNK / (CHUNK + 1), rel=1e-6)


def test_a_perfect_model_reaches_exactly_1() -> None:  # E3
    assert evaluate(Always(), DATASET, images_of(1337), torch.zeros(1337, dtype=torch.int64)).accuracy == 1.0


def test_only_the_given_places_count_in_any_order() -> None:  # E2
    model, images, labels = network(), images_of(50), labels_of(50)
    places = torch.tensor([7, 3, 41, 8])
    some = evaluate(model, DATASET, images, labels, places)
    assert some.total == 4
    assert some == evaluate(model, DATASET, images[places], labels[places])
    assert evaluate(model, DATASET, images, labels, torch.arange(50)) == evaluate(model, DATASET, images, labels)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, again = (evaluate(model, DATASET, images_of(20), labels_of(20)) for _ in range(2))
    assert first == again, "evaluation mode: no dropout, no batch statistics"
    assert model.training is training and all(module.training is training for module in model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_evaluation_is_a_value() -> None:  # C11
    assert Evaluation(loss=0.5, correct=3, total=4).accuracy == 0.75
    assert Evaluation(0.5, 3, 4) == Evaluation(0.5, 3, 4)


@pytest.mark.parametrize(
    ("losses", "place"),
    [
        ([1.0], 0),
        ([2.3, 0.4, 0.2, 0.2, 0.3], 2),
        ([0.1, 0.2, 0.3], 0),
        ([0.3, 0.2, 0.1], 2),
        ([0.5, 0.3, 0.9, 0.1, 0.2], 3),  # up and down again: found afterwards, not at the first rise
        ([5.0, 1.0, 1.1, 1.2, 1.0], 1),  # a cumulative mean would still fall at the end
    ],
)
def test_the_early_stop_is_the_first_smallest_loss(losses: list[float], place: int) -> None:  # E1 E8
    assert early_stop(losses) == place
