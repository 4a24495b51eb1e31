"""The engine of sparse layers: what it takes, that it follows the plain loop, and what plan and record say of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tombola import data, engine, models, prunable, weights
from tombola.data import Batches, Dataset
from tombola.engine.native import calibrate, sparse_layers
from tombola.engine.sparse import SPARSE, calls, chosen
from tombola.engine.training import Start, Training
from tombola.mask import Mask
from tombola.recipe import SGD, Recipe
from tombola.sparse import choice, kernels, layers
from tombola.sparse.times import DENSITIES, Times
from tombola.train import Span, guarded

RECIPE = Recipe(
    model="resnet-8-w8", data="digits", length="20it", batch=60, optimizer=SGD(name="sgd", lr=0.05, momentum=0.9)
)
EVEN = Times(0.3, DENSITIES)  # living weights alone are faster below 27 %


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return data.load("digits")


@pytest.fixture(autouse=True)
def layers_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "LEAST", 0)
    monkeypatch.setattr(calibrate, "known", even)


def even(asked: Any) -> dict[Any, Times]:
    return dict.fromkeys(asked, EVEN)


def network(digits: Dataset) -> torch.nn.Module:
    return models.build(RECIPE.model, digits.facts.shape, digits.facts.classes, "kaiming-normal", 0)


def living_of(digits: Dataset, density: float) -> Mask:
    """A random mask of it."""
    draw, whole = torch.Generator().manual_seed(1), prunable.full(network(digits))
    return Mask({name: torch.rand(alive.shape, generator=draw) < density for name, alive in whole.items()})


def begun(digits: Dataset, density: float, asked: str) -> tuple[engine.Begun, torch.nn.Module]:
    """A training at one density, and its model."""
    model, training = network(digits), Training.of(RECIPE, digits.facts, asked)
    return engine.begin(training, [Start(model, living_of(digits, density), digits)], even), model


def trained(digits: Dataset, density: float, asked: str) -> tuple[str, dict[str, torch.Tensor], set[int]]:
    """The engine's name, the weights after 20 steps, and how many layers were sparse at each look."""
    found, model = begun(digits, density, asked)
    seen: set[int] = set()

    def look(step: int) -> None:
        seen.add(len([*layers.sparse_layers(model)]))

    batches = Batches(digits, torch.arange(600), 60, order_seed=0)
    assert found.trainings.train([batches], Span(0, 20, lambda _: 0.05, [1, 10]), [look]) == [None]
    assert not [*layers.sparse_layers(model)]
    return found.name, found.trainings.states[0].weights(), seen


def in_double(digits: Dataset, density: float) -> dict[str, torch.Tensor]:
    """The weights of a loop by hand in float64, after the same 20 steps."""
    model, living = begun(digits, density, "reference")[1].double(), living_of(digits, density)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    batches = Batches(digits, torch.arange(600), 60, order_seed=0)
    with guarded(model, optimizer, living):
        for step in range(20):
            inputs, labels = batches(step)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs.double()), labels).backward()
            optimizer.step()
    return weights.of(model)


def test_it_follows_the_plain_loop_in_double_precision(digits: Dataset) -> None:
    """20 steps to 1e-4; the plain loop in float32 is 1e-2 away: a channel without living weights magnifies rounding."""
    name, ours, seen = trained(digits, 0.2, "auto")
    plain, _, none = trained(digits, 0.2, "reference")
    assert plain == "reference" and none == {0} and seen == {10}
    assert name.startswith("sparse: ") and name.count(" sparse") == 10
    assert sparse_layers(name) == set(living_of(digits, 0.2))
    for key, value in in_double(digits, 0.2).items():
        assert torch.allclose(ours[key].double(), value.double(), atol=1e-4), key


def test_dense_networks_go_to_the_plain_loop(digits: Dataset) -> None:
    assert trained(digits, 0.5, "auto")[0] == "reference"


def test_the_plan_says_below_which_densities_layers_are_sparse(digits: Dataset) -> None:
    plan = engine.forecast(Training.of(RECIPE, digits.facts))
    assert (plan.engine, plan.name, plan.unmeasured) == (SPARSE, "sparse", False)
    assert {round(times.break_even, 2) for times in plan.times.values()} == {0.3} and len(plan.times) == 10
    sparse, dense = (plan.step_seconds(dict.fromkeys(plan.times, density)) for density in (0.1, 1.0))
    assert dense - sparse == pytest.approx(10 * 0.2)


REFUSED: dict[str, tuple[Callable[[Training], Training], str]] = {
    "a GPU": (lambda given: replace(given, device="cuda:0"), "for CPUs"),
    "mixed precision": (lambda given: replace(given, precision="bfloat16"), "type of the weights"),
    "made of others": (lambda given: replace(given, direct=False), "made of others"),
    "nothing large": (lambda given: replace(given, layers={}), "large enough"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_cannot_do_is_refused_with_the_reason(case: str, digits: Dataset) -> None:
    change, reason = REFUSED[case]
    training = change(Training.of(RECIPE, digits.facts))
    assert reason in SPARSE.accepts(training) and not calls(training) and not chosen(training)


@pytest.mark.parametrize("name", ["lenet-30+dct", "lenet-30+gaussian-2"])
def test_networks_whose_weights_are_made_of_others_are_known_by_their_names(name: str, digits: Dataset) -> None:
    assert not Training.of(RECIPE.model_copy(update={"model": name}), digits.facts).direct


def test_without_kernels_nothing_is_measured_and_the_plan_says_why(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training.of(RECIPE, digits.facts, "sparse")
    assert calls(training)
    monkeypatch.setattr(kernels, "sets", lambda: ())
    assert not calls(training)
    foreseen = engine.forecast(training)
    assert (foreseen.name, foreseen.why) == ("reference", "the kernels of sparse layers were not compiled")
