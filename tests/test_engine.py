"""The engines: what the kernels accept, what they leave out, that they compute what the plain loop computes."""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tombola import data, engine, files, models, weights
from tombola.data import Batches, Dataset
from tombola.data.facts import Facts
from tombola.data.normalise import Normalisation
from tombola.engine import kernels
from tombola.engine.native import calibrate, inspected
from tombola.engine.native.layer_formats import Shape
from tombola.engine.native.live_units import live_units
from tombola.engine.native.sequential_layers import sequential_layers
from tombola.engine.native.trainer import Native
from tombola.engine.reference.trainer import Reference, layout
from tombola.engine.training import Start, Training
from tombola.evaluate import evaluate
from tombola.mask import Mask, apply
from tombola.optimizers import optimizer_of, restore_state, state_of
from tombola.prunable import full
from tombola.recipe import SGD, Adam, AdamW, Optimizer, Recipe, learning_rate
from tombola.sparse.times import Format, Times
from tombola.train import Span, losses, train

needs_kernels = pytest.mark.skipif(not kernels.sets(), reason="no kernels: there was no compiler")

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": SGD(name="sgd", lr=0.1),
    "sgd, decay": SGD(name="sgd", lr=0.1, weight_decay=1e-2),
    "momentum": SGD(name="sgd", lr=0.02, momentum=0.9, weight_decay=1e-3),
    "nesterov": SGD(name="sgd", lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": Adam(name="adam", lr=2e-3),
    "adam, decay": Adam(name="adam", lr=2e-3, betas=(0.8, 0.99), eps=1e-6, weight_decay=1e-2),
    "adamw": AdamW(name="adamw", lr=2e-3, weight_decay=0.1),
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {"name": "constant"},
    "step": {"name": "step", "milestones": ["50it", "150it"], "factor": 0.3},
    "cosine": {"name": "cosine", "final": 0.1},
    "linear": {"name": "linear"},
}
SIZES = [(64, 21), (21, 13), (13, 10)]
BATCH = 60


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return data.load("digits")


def network(sizes: Sequence[tuple[int, int]] = SIZES, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """Linear layers with ReLU between them, biases not 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in sizes:
            parts += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*parts[:-1]).to(dtype)


def masks(model: nn.Module) -> dict[str, Mask]:
    """By name: dense, sparse, nearly nothing, whole layers and units without a living weight."""
    draw = torch.Generator().manual_seed(1)
    whole = full(model)
    one, two, three = whole

    def random(density: float) -> Mask:
        return Mask({name: torch.rand(alive.shape, generator=draw) < density for name, alive in whole.items()})

    half, blocks = random(0.5), {name: alive.clone() for name, alive in random(0.4).items()}
    blocks[one][3:9], blocks[one][:, ::3], blocks[two][:, 5], blocks[three][:, 2:6] = False, False, False, False
    return {
        "all": whole,
        "half": half,
        "twentieth": random(0.05),
        "dead units": Mask(blocks),
        "first layer empty": Mask({**half, one: torch.zeros_like(half[one])}),
        "second layer empty": Mask({**half, two: torch.zeros_like(half[two])}),
        "last layer empty": Mask({**half, three: torch.zeros_like(half[three])}),
        "one layer masked": Mask({two: half[two]}),
    }


MASKS = list(masks(network()))


def native(
    model: nn.Module,
    mask: Mask,
    optimizer: Optimizer,
    dataset: Dataset,
    form: Format = "sparse",
    batch: int = BATCH,
    state: dict[str, Tensor] | None = None,
    instructions: str | None = None,
) -> Native:
    layers = sequential_layers(model, dataset.facts.shape)
    assert layers
    training, start = Training(optimizer=optimizer, batch=batch), Start(model, mask, dataset, state or {})
    return Native(training, start, layers, {layer.weight: form for layer in layers}, instructions)


def unwatched(step: int) -> None:
    """For a training at which nobody looks."""


def by_hand(
    model: nn.Module, mask: Mask, optimizer: Optimizer, batches: Batches, rate: Callable[[int], float], until: int
) -> dict[str, Tensor]:
    """The plain loop's weights; and its optimiser's state, by path."""
    torchs = optimizer_of(optimizer, model)
    kind = next(model.parameters()).dtype

    def cast(step: int) -> tuple[Tensor, Tensor]:
        inputs, labels = batches(step)
        return inputs.to(kind), labels

    train(model, torchs, mask, losses(model, cast), Span(0, until, rate), unwatched)
    return state_of(torchs, model)


def farthest(left: weights.Weights, right: weights.Weights) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name].double() - right[name].double()).abs().max()) for name in left if left[name].numel())


# ---------------------------------------------------------------- it follows the plain loop


Plainly = Callable[[str, str, bool], tuple[nn.Module, dict[str, Tensor]]]


@pytest.fixture(scope="module")
def plainly(digits: Dataset) -> Plainly:
    """200 steps of the plain loop, 100 of convolutions: model and state of the optimiser, once for both forms."""

    @functools.cache
    def trained(optimizer: str, mask: str, convolutions: bool) -> tuple[nn.Module, dict[str, Tensor]]:
        model = maps() if convolutions else network()
        alive = (map_masks(model) if convolutions else masks(model))[mask]
        places = torch.arange(1000) if convolutions else data.split(digits, 0)[0]
        chosen = OPTIMIZERS[optimizer]
        batches, steps = Batches(digits, places, BATCH, 5), 100 if convolutions else 200
        return model, by_hand(model, alive, chosen, batches, lambda step: chosen.lr, steps)

    return trained


@needs_kernels
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_200_steps_in_float64_are_the_plain_loops(
    digits: Dataset, optimizer: str, mask: str, form: Format, plainly: Plainly
) -> None:
    model = network()
    chosen, alive, rate = OPTIMIZERS[optimizer], masks(model)[mask], OPTIMIZERS[optimizer].lr
    places, _ = data.split(digits, 0)
    fast = native(model, alive, chosen, digits, form)
    fast.train(Batches(digits, places, BATCH, 5), Span(0, 200, lambda step: rate), unwatched)
    plain, state = plainly(optimizer, mask, False)
    assert farthest(fast.weights(), weights.of(plain)) < 1e-9
    kept = fast.optimizer_state()
    assert {name: value.shape for name, value in kept.items()} == {name: value.shape for name, value in state.items()}
    if state:
        assert farthest(kept, state) < 1e-9


@needs_kernels
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_is_followed(digits: Dataset, schedule: str) -> None:
    model = network()
    recipe = Recipe.model_validate(
        {"model": "lenet-21-13", "data": "digits", "length": "200it", "batch": BATCH, "warmup": "20it"}
        | {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}, "schedule": SCHEDULES[schedule]}
    )
    alive = masks(model)["half"]
    places, _ = data.split(digits, 0)
    fast = native(model, alive, recipe.optimizer, digits)
    fast.train(Batches(digits, places, BATCH, 5), Span(0, 200, lambda step: learning_rate(recipe, step, 17)), unwatched)
    by_hand(
        model,
        alive,
        recipe.optimizer,
        Batches(digits, places, BATCH, 5),
        lambda step: learning_rate(recipe, step, 17),
        200,
    )
    assert farthest(fast.weights(), weights.of(model)) < 1e-9


@needs_kernels
@pytest.mark.parametrize("batch", [1, 7, 16, 64, 65, 200])
@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("instructions", kernels.sets())
def test_every_instruction_set_and_batch_size(digits: Dataset, instructions: str, form: Format, batch: int) -> None:
    model = network()
    alive, optimizer = masks(model)["half"], OPTIMIZERS["momentum"]
    places, _ = data.split(digits, 0)
    fast = native(model, alive, optimizer, digits, form, batch, instructions=instructions)
    fast.train(Batches(digits, places, batch, 5), Span(0, 40, lambda step: 0.02), unwatched)
    by_hand(model, alive, optimizer, Batches(digits, places, batch, 5), lambda step: 0.02, 40)
    assert farthest(fast.weights(), weights.of(model)) < 1e-9


@needs_kernels
@pytest.mark.parametrize("how", ["range", "unit"])
@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("instructions", kernels.sets())
def test_every_normalisation_is_the_plain_loops(
    digits: Dataset, instructions: str, form: Format, how: Normalisation
) -> None:
    black = digits.images.clone()
    black[:3] = 0  # has no length to be divided by
    dataset = replace(digits, images=black).normalised(how)
    for model, alive in ((network(), masks(network())["dead units"]), (maps(), map_masks(maps())["dead channels"])):
        batches = Batches(dataset, torch.arange(1000), BATCH, 5)
        fast = native(model, alive, OPTIMIZERS["momentum"], dataset, form, instructions=instructions)
        fast.train(batches, Span(0, 40, lambda step: 0.02), unwatched)
        by_hand(model, alive, OPTIMIZERS["momentum"], batches, lambda step: 0.02, 40)
        assert farthest(fast.weights(), weights.of(model)) < 1e-9
        outputs = model(dataset.inputs(dataset.test_images).double()).detach()
        loss = float(nn.functional.cross_entropy(outputs, dataset.test_labels))
        seen = fast.repeatedly(dataset.test_images, dataset.test_labels)()
        assert seen.loss == pytest.approx(loss, rel=1e-9)


@needs_kernels
@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("instructions", kernels.sets())
def test_float32_is_as_near_to_float64_as_the_plain_loop_is(digits: Dataset, instructions: str, form: Format) -> None:
    """Rounding differs with the order of sums and no more: within four times torch's own distance from the truth."""
    alive, optimizer = masks(network())["half"], SGD(name="sgd", lr=0.05, momentum=0.9)
    places, _ = data.split(digits, 0)
    truth, single = network(), network(dtype=torch.float32)
    weights.put(truth, {name: value.double() for name, value in weights.of(single).items()})
    fast = native(single, alive, optimizer, digits, form, instructions=instructions)
    fast.train(Batches(digits, places, BATCH, 5), Span(0, 30, lambda step: 0.05), unwatched)
    for model in (truth, single):
        by_hand(model, alive, optimizer, Batches(digits, places, BATCH, 5), lambda step: 0.05, 30)
    ours, torchs = (farthest(one, weights.of(truth)) for one in (fast.weights(), weights.of(single)))
    assert ours < 4 * torchs + 1e-6


@needs_kernels
@given(
    widths=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    batch=st.integers(1, 130),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    form=st.sampled_from(["dense", "sparse"]),
    seed=st.integers(0, 2**16),
)
def test_one_step_of_gradient_descent_is_the_gradient(
    widths: list[int], batch: int, density: float, form: Format, seed: int
) -> None:
    """With a learning rate of 1 the step is autograd's gradient, at the living positions, and nothing elsewhere."""
    pixels, *rest = widths
    sizes = list(zip([pixels, *rest], [*rest, 3], strict=True))
    model = network(sizes, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch, 1, 1, pixels), dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, 3, (batch,), generator=draw)
    facts = Facts("noise", (1, 1, pixels), 3, batch, 0, 0, (0.4,), (0.3,), 255, "")
    dataset = Dataset(facts, images, labels, images, labels)
    alive = Mask({name: torch.rand(one.shape, generator=draw) < density for name, one in full(model).items()})
    weights.put(model, apply(weights.of(model), alive))
    fast = native(model, alive, SGD(name="sgd", lr=1.0), dataset, form, batch)
    before = fast.weights()
    fast.train(Batches(dataset, torch.arange(batch), batch, 0), Span(0, 1, lambda step: 1.0), unwatched)
    nn.functional.cross_entropy(model(dataset.inputs(images).double()), labels).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        gradient = parameter.grad * alive[name] if name in alive else parameter.grad
        assert torch.allclose(before[name] - fast.weights()[name], gradient, rtol=1e-9, atol=1e-12)


@needs_kernels
@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_pruned_stays_exactly_0(digits: Dataset, optimizer: str, form: Format) -> None:
    model = network(dtype=torch.float32)
    alive = masks(model)["dead units"]
    fast = native(model, alive, OPTIMIZERS[optimizer], digits, form)
    fast.train(Batches(digits, torch.arange(300), BATCH, 0), Span(0, 50, lambda step: 0.05), unwatched)
    for path, value in {**fast.weights(), **fast.optimizer_state()}.items():
        name = path.split("/")[-1]
        if name in alive and value.shape == alive[name].shape:
            dead = value[~alive[name]]
            assert not dead.any() and not torch.signbit(dead).any(), f"{path}: +0, as a mask applied to weights gives"
    for part in fast._parts:  # and where the kernels hold them: a dense matrix has places for pruned weights
        if part.name in alive:
            of_others = [other.slots for other in fast._parts if other.held is part.held]
            for array in (part.held, part.first, part.second):
                assert not np.delete(array.reshape(-1), np.concatenate(of_others)).any()


# ---------------------------------------------------------------- convolutions


def maps(dtype: torch.dtype = torch.float64, channels: int = 1) -> nn.Module:
    """As the Conv networks: convolutions in twos, pooling after each pair but the last; odd sizes, biases not 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(channels, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 7, 3, padding=1), nn.ReLU()),
            *(nn.MaxPool2d(3), nn.Conv2d(7, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 5, padding=2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(24, 9), nn.ReLU(), nn.Linear(9, 10)),
        ).to(dtype)


def map_masks(model: nn.Module) -> dict[str, Mask]:
    """By name: dense, sparse, nearly nothing, channels without a living weight in or out, layers without any."""
    draw = torch.Generator().manual_seed(1)
    whole = full(model)

    def random(density: float) -> dict[str, Tensor]:
        return {name: torch.rand(alive.shape, generator=draw) < density for name, alive in whole.items()}

    half, blocks = random(0.5), random(0.4)
    blocks["0.weight"][2], blocks["2.weight"][:, 3], blocks["5.weight"][:, 1] = False, False, False
    blocks["10.weight"][:, 8:12] = False  # a channel that the first fully connected layer does not read
    return {
        "all": whole,
        "half": Mask(half),
        "twentieth": Mask(random(0.05)),
        "dead channels": Mask(blocks),
        "first layer empty": Mask({**half, "0.weight": torch.zeros_like(half["0.weight"])}),
        "a layer empty": Mask({**half, "5.weight": torch.zeros_like(half["5.weight"])}),
        "fully connected layer empty": Mask({**half, "10.weight": torch.zeros_like(half["10.weight"])}),
        "one layer masked": Mask({"2.weight": half["2.weight"]}),
    }


MAP_MASKS = list(map_masks(maps()))


@needs_kernels
@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("mask", MAP_MASKS)
@pytest.mark.parametrize("optimizer", ["momentum", "adam, decay", "adamw"])
def test_convolutions_in_float64_are_the_plain_loops(
    digits: Dataset, optimizer: str, mask: str, form: Format, plainly: Plainly
) -> None:
    model = maps()
    chosen, alive = OPTIMIZERS[optimizer], map_masks(model)[mask]
    batches = Batches(digits, torch.arange(1000), BATCH, 5)
    fast = native(model, alive, chosen, digits, form)
    fast.train(batches, Span(0, 100, lambda step: chosen.lr), unwatched)
    plain, state = plainly(optimizer, mask, True)
    assert farthest(fast.weights(), weights.of(plain)) < 1e-9
    assert farthest(fast.optimizer_state(), state) < 1e-9
    outputs = plain(digits.inputs(digits.test_images).double()).detach()
    for seen in (
        fast.evaluate(digits.test_images, digits.test_labels),
        fast.repeatedly(digits.test_images, digits.test_labels)(),
    ):
        assert seen.loss == pytest.approx(float(nn.functional.cross_entropy(outputs, digits.test_labels)), rel=1e-9)
        assert seen.correct == int((outputs.argmax(1) == digits.test_labels).sum())


@needs_kernels
@pytest.mark.parametrize("batch", [1, 17, 65, 130])
@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("instructions", kernels.sets())
def test_convolutions_in_every_instruction_set_and_batch_size(
    digits: Dataset, instructions: str, form: Format, batch: int
) -> None:
    model = maps()
    alive, optimizer = map_masks(model)["dead channels"], OPTIMIZERS["momentum"]
    batches = Batches(digits, torch.arange(1000), batch, 5)
    fast = native(model, alive, optimizer, digits, form, batch, instructions=instructions)
    fast.train(batches, Span(0, 20, lambda step: 0.02), unwatched)
    by_hand(model, alive, optimizer, batches, lambda step: 0.02, 20)
    assert farthest(fast.weights(), weights.of(model)) < 1e-9


@needs_kernels
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    plan=st.lists(st.tuples(st.integers(1, 9), st.sampled_from([1, 3, 5]), st.booleans()), min_size=1, max_size=3),
    batch=st.integers(1, 70),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    form=st.sampled_from(["dense", "sparse"]),
    single=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_one_step_of_any_convolutions_is_the_gradient(
    shape: tuple[int, int, int],
    plan: list[tuple[int, int, bool]],
    batch: int,
    density: float,
    form: Format,
    single: bool,
    seed: int,
) -> None:
    """Maps of any size, windows wider than the map, pooling that leaves a row over; in both number types."""
    draw = torch.Generator().manual_seed(seed)
    channels, height, width = shape
    parts: list[nn.Module] = []
    for outputs, window, pools in plan:
        parts += [nn.Conv2d(channels, outputs, window, padding=window // 2), nn.ReLU()]
        channels = outputs
        if pools and min(height, width) > 1:
            parts, height, width = [*parts, nn.MaxPool2d(2)], height // 2, width // 2
    model = nn.Sequential(*parts, nn.Flatten(), nn.Linear(channels * height * width, 3))
    model = model.to(torch.float32 if single else torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) / 2)
    images = torch.randint(0, 256, (batch, *shape), dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, 3, (batch,), generator=draw)
    facts = Facts("noise", shape, 3, batch, 0, 0, (0.4,) * shape[0], (0.3,) * shape[0], 255, "")
    dataset = Dataset(facts, images, labels, images, labels)
    alive = Mask({name: torch.rand(one.shape, generator=draw) < density for name, one in full(model).items()})
    weights.put(model, apply(weights.of(model), alive))
    fast = native(model, alive, SGD(name="sgd", lr=1.0), dataset, form, batch)
    before = fast.weights()
    fast.train(Batches(dataset, torch.arange(batch), batch, 0), Span(0, 1, lambda step: 1.0), unwatched)
    model = model.double()
    nn.functional.cross_entropy(model(dataset.inputs(images).double()), labels).backward()
    rtol, atol = (2e-3, 1e-4) if single else (1e-9, 1e-11)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        gradient = parameter.grad * alive[name] if name in alive else parameter.grad
        assert torch.allclose((before[name] - fast.weights()[name]).double(), gradient, rtol, atol)


@needs_kernels
def test_channels_that_lead_nowhere_are_not_computed(digits: Dataset) -> None:
    model = maps()
    fast = native(model, map_masks(model)["dead channels"], OPTIMIZERS["adamw"], digits)
    layers = fast._network.layers
    assert [(layers[number].inputs, layers[number].outputs) for number in range(4)] == [(1, 4), (4, 6), (6, 4), (4, 5)]


def test_the_sizes_of_a_chain_of_convolutions() -> None:
    layers = sequential_layers(maps(), (1, 8, 8))
    assert layers and [
        (layer.inputs, layer.outputs, layer.area, layer.window, layer.height, layer.width, layer.pool)
        for layer in layers
    ] == [
        (1, 5, 9, 3, 8, 8, 0),
        (5, 7, 9, 3, 8, 8, 3),
        (7, 4, 1, 1, 2, 2, 0),
        (4, 6, 25, 5, 2, 2, 1),
        (6, 9, 4, 0, 1, 1, 0),
        (9, 10, 1, 0, 1, 1, 0),
    ]


# ---------------------------------------------------------------- where it stands, and how it goes on


@needs_kernels
@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_in_two_parts_it_is_the_same_bytes(digits: Dataset, optimizer: str, form: Format) -> None:
    """Weights and optimiser state are all there is: a training taken up again is the uninterrupted one."""
    model = network(dtype=torch.float32)
    alive, chosen = masks(model)["dead units"], OPTIMIZERS[optimizer]
    batches = Batches(digits, torch.arange(1000), BATCH, 3)
    whole, first = (native(model, alive, chosen, digits, form) for _ in range(2))
    whole.train(batches, Span(0, 50, lambda step: 0.01), unwatched)
    first.train(batches, Span(0, 23, lambda step: 0.01), unwatched)
    weights.put(model, first.weights())
    second = native(model, alive, chosen, digits, form, state=first.optimizer_state())
    second.train(batches, Span(23, 50, lambda step: 0.01), unwatched)
    assert weights.equal(whole.weights(), second.weights())
    assert weights.equal(whole.optimizer_state(), second.optimizer_state())


@needs_kernels
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_optimizers_state_is_torchs(digits: Dataset, optimizer: str) -> None:
    """Either engine takes up what the other left, decayed idle weights and all."""
    model, chosen = network(), OPTIMIZERS[optimizer]
    alive = masks(model)["dead units"]
    batches = Batches(digits, torch.arange(1000), BATCH, 3)
    fast = native(model, alive, chosen, digits)
    fast.train(batches, Span(0, 20, lambda step: 0.01), unwatched)
    weights.put(model, fast.weights())
    torchs = optimizer_of(chosen, model)
    restore_state(torchs, model, fast.optimizer_state())
    fast.train(batches, Span(20, 60, lambda step: 0.01), unwatched)

    def cast(step: int) -> tuple[Tensor, Tensor]:
        inputs, labels = batches(step)
        return inputs.double(), labels

    train(model, torchs, alive, losses(model, cast), Span(20, 60, lambda step: 0.01), unwatched)
    assert farthest(fast.weights(), weights.of(model)) < 1e-9


@needs_kernels
def test_looks_come_at_their_steps_in_both_engines(digits: Dataset) -> None:
    model = network(dtype=torch.float32)
    alive, batches = masks(model)["half"], Batches(digits, torch.arange(1000), BATCH, 3)
    looks = [0, 3, 17, 18, 300]
    for one in (
        native(model, alive, OPTIMIZERS["adam"], digits),
        Reference(Training(optimizer=OPTIMIZERS["adam"], batch=BATCH), Start(model, alive, digits)),
    ):
        seen: list[tuple[int, float]] = []
        taken = one
        taken.train(
            batches,
            Span(0, 300, lambda step: 1e-3, looks),
            lambda step, taken=taken, seen=seen: seen.append(  # type: ignore[misc]
                (step, taken.evaluate(digits.images, digits.labels).loss)
            ),
        )
        assert [step for step, _ in seen] == looks
        assert seen[-1][1] < seen[2][1] < seen[0][1], "each sees the weights of its step"


@needs_kernels
def test_a_snapshot_is_put_back_as_it_was(digits: Dataset) -> None:
    model = network(dtype=torch.float32)
    fast = native(model, masks(model)["dead units"], OPTIMIZERS["adamw"], digits)
    before, taken = fast.weights(), fast.snapshot()
    fast.train(Batches(digits, torch.arange(1000), BATCH, 3), Span(0, 20, lambda step: 0.01), unwatched)
    after = fast.weights()
    assert not weights.equal(before, after)
    fast.restore(taken)
    assert weights.equal(before, fast.weights())


# ---------------------------------------------------------------- evaluation


@needs_kernels
@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("count", [1, 63, 64, 65, 600, 1200])
def test_evaluation_is_the_plain_one_packed_or_not(digits: Dataset, mask: str, form: Format, count: int) -> None:
    model = network()
    alive = masks(model)[mask]
    weights.put(model, apply(weights.of(model), alive))
    places = torch.randperm(1200, generator=torch.Generator().manual_seed(2))[:count]
    outputs = model(digits.inputs(digits.images[places]).double()).detach()
    answers = digits.labels[places]
    loss = float(nn.functional.cross_entropy(outputs, answers))
    for instructions in kernels.sets():
        for dtype, allowed in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
            narrow = network(dtype=dtype)
            weights.put(narrow, {name: value.to(dtype) for name, value in weights.of(model).items()})
            fast = native(narrow, alive, OPTIMIZERS["sgd"], digits, form, instructions=instructions)
            for seen in (
                fast.evaluate(digits.images, digits.labels, places),
                fast.repeatedly(digits.images, digits.labels, places)(),
            ):
                assert seen.loss == pytest.approx(loss, rel=allowed)
                assert (seen.correct, seen.total) == (int((outputs.argmax(1) == answers).sum()), count)


@needs_kernels
def test_float32_evaluation_on_real_images(mnist_dir: Path) -> None:
    dataset = data.load("mnist", mnist_dir)
    model = network([(784, 300), (300, 100), (100, 10)], torch.float32)
    seen = evaluate(model, dataset, dataset.test_images, dataset.test_labels)
    whole = full(model)
    for form in ("dense", "sparse"):
        fast = native(model, whole, OPTIMIZERS["adam"], dataset, form)
        for ours in (
            fast.evaluate(dataset.test_images, dataset.test_labels),
            fast.repeatedly(dataset.test_images, dataset.test_labels)(),
        ):
            assert ours.loss == pytest.approx(seen.loss, rel=1e-6)
            assert abs(ours.correct - seen.correct) <= 2, "an answer may be a tie within rounding"


@needs_kernels
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_a_training_that_diverges_is_seen(digits: Dataset, form: Format) -> None:
    model = network(dtype=torch.float32)
    fast = native(model, masks(model)["half"], SGD(name="sgd", lr=1e30), digits, form)
    fast.train(Batches(digits, torch.arange(1000), BATCH, 3), Span(0, 9, lambda step: 1e30), unwatched)
    for seen in (
        fast.evaluate(digits.images, digits.labels),
        fast.repeatedly(digits.images, digits.labels)(),
    ):
        assert not abs(seen.loss) < float("inf")


# ---------------------------------------------------------------- compaction


@given(data=st.data())
def test_a_unit_is_left_out_only_if_it_cannot_influence_the_output(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    alive = [draw.random((after, before)) < 0.3 for before, after in pairwise(sizes)]
    # The number of living paths from each unit to an output, from the products of the masks.
    paths = np.ones(sizes[-1])
    for layer, units in zip(
        reversed(range(len(sizes))), reversed(live_units([one[:, :, None] for one in alive])), strict=True
    ):
        assert units.tolist() == np.flatnonzero(paths).tolist()
        if layer:
            paths = paths @ alive[layer - 1]


@needs_kernels
def test_what_leads_nowhere_is_not_computed_and_still_decays(digits: Dataset) -> None:
    model = network()
    alive = masks(model)["second layer empty"]
    fast = native(model, alive, OPTIMIZERS["adamw"], digits)
    assert fast._network.inputs == 0 and fast._network.idle > 0
    before = fast.weights()["1.weight"]
    fast.train(Batches(digits, torch.arange(1000), BATCH, 3), Span(0, 1, lambda step: 1e-2), unwatched)
    assert torch.allclose(fast.weights()["1.weight"], before * (1 - 1e-2 * 0.1), rtol=1e-12)


# ---------------------------------------------------------------- what it does not take


class OwnLinear(nn.Linear):
    """A subclass may do anything."""


def hooked() -> nn.Module:
    model = network()
    model[1].register_forward_hook(lambda *_: None)  # type: ignore[index]
    return model


def hooked_gradient() -> nn.Module:
    model = network()
    model[1].weight.register_hook(lambda gradient: 0 * gradient)  # type: ignore[index]
    return model


def hooked_later() -> nn.Module:
    model = network()
    model[1].weight.register_post_accumulate_grad_hook(lambda weight: None)  # type: ignore[index]
    return model


def shared_activation() -> nn.Module:
    activation = nn.ReLU()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), activation, nn.Linear(5, 10), activation)


def with_a_parameter_of_its_own() -> nn.Module:
    model = network()
    model[1].extra = nn.Parameter(torch.ones(3, dtype=torch.float64))  # type: ignore[index]
    return model


def frozen() -> nn.Module:
    model = network()
    model[1].weight.requires_grad = False  # type: ignore[index]
    return model


def tied() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    model[3].weight = model[1].weight
    return model


def patched() -> nn.Module:
    model = network()
    model[2].forward = lambda x: x  # type: ignore[index]
    return model


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def convolution(*parts: nn.Module, area: int = 64) -> nn.Module:
    """`parts`, which end in a convolution of 2 channels, on 8 x 8 images, and what makes it a whole model."""
    model = nn.Sequential(*parts, nn.ReLU(), nn.Flatten(), nn.Linear(2 * area, 10))
    if model[0].__class__ is not nn.Conv2d or model[0].in_channels == 1:
        model(torch.zeros(2, 1, 8, 8))  # torch takes it: what is left to refuse it is `chain`
    return model


UNSUPPORTED: dict[str, Callable[[], nn.Module]] = {
    "another activation": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 10)),
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Dropout(), nn.Linear(5, 10)),
    "no activation": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Linear(5, 10)),
    "ReLU at the end": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU()),
    "no bias": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False)),
    "no flattening": lambda: nn.Sequential(nn.Linear(64, 10)),
    "a convolution without padding": lambda: convolution(nn.Conv2d(1, 2, 3), area=36),
    "a convolution with stride": lambda: convolution(nn.Conv2d(1, 2, 3, padding=1, stride=2), area=16),
    "a dilated convolution": lambda: convolution(nn.Conv2d(1, 2, 3, padding=2, dilation=2)),
    "an even window": lambda: convolution(nn.Conv2d(1, 2, 2, padding=1), area=81),
    "an oblong window": lambda: convolution(nn.Conv2d(1, 2, (1, 3), padding=(0, 1))),
    "another padding": lambda: convolution(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect")),
    "a convolution without bias": lambda: convolution(nn.Conv2d(1, 2, 3, padding=1, bias=False)),
    "channels that do not fit": lambda: convolution(nn.Conv2d(3, 2, 3, padding=1)),
    "groups": lambda: convolution(conv(1, 2), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1, groups=2)),
    "two convolutions in a row": lambda: convolution(conv(1, 2), conv(2, 2)),
    "a convolution at the end": lambda: nn.Sequential(conv(1, 2), nn.ReLU()),
    "average pooling": lambda: convolution(conv(1, 2), nn.ReLU(), nn.AvgPool2d(2), conv(2, 2), area=16),
    "overlapping pooling": lambda: convolution(conv(1, 2), nn.ReLU(), nn.MaxPool2d(3, 1, 1), conv(2, 2)),
    "rounded-up pooling": lambda: convolution(
        conv(1, 2), nn.ReLU(), nn.MaxPool2d(3, ceil_mode=True), conv(2, 2), area=9
    ),
    "pooling twice": lambda: convolution(conv(1, 2), nn.ReLU(), nn.MaxPool2d(2), nn.MaxPool2d(2), conv(2, 2), area=4),
    "pooling first": lambda: convolution(nn.MaxPool2d(2), conv(1, 2), area=16),
    "a flattening too early": lambda: nn.Sequential(conv(1, 2), nn.Flatten(), nn.ReLU(), nn.Linear(128, 10)),
    "batch norm": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.Linear(5, 10)),
    "layers that do not fit": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(6, 10)),
    "flattening in the middle": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Flatten(), nn.Linear(5, 10)
    ),
    "another flattening": lambda: nn.Sequential(nn.Flatten(0), nn.Linear(64, 10)),
    "a subclass": lambda: nn.Sequential(nn.Flatten(), OwnLinear(64, 10)),
    "not a sequence": lambda: nn.Linear(64, 10),
    "nothing": lambda: nn.Sequential(),
    "one ReLU twice, and at the end": shared_activation,
    "a parameter of no layer": with_a_parameter_of_its_own,
    "a layer of no units": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 0), nn.ReLU(), nn.Linear(0, 10)),
    "a hook": hooked,
    "a hook on a gradient": hooked_gradient,
    "a hook after a gradient": hooked_later,
    "a frozen weight": frozen,
    "tied weights": tied,
    "a replaced forward": patched,
    "a parametrization": lambda: nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(64, 10))),
    "half precision": lambda: network(dtype=torch.float16),
    "mixed types": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10).double()),
    "another device": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10, device="meta")),
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("what", UNSUPPORTED)
def test_what_the_kernels_cannot_do_exactly_is_none(what: str) -> None:
    assert sequential_layers(UNSUPPORTED[what](), (1, 8, 8)) is None


def test_a_chain_of_linear_layers_is_taken() -> None:
    layers = sequential_layers(network(), (1, 8, 8))
    assert layers and [(layer.weight, layer.inputs, layer.outputs) for layer in layers] == [
        ("1.weight", 64, 21),
        ("3.weight", 21, 13),
        ("5.weight", 13, 10),
    ]


def test_a_hook_on_all_modules_goes_to_the_plain_loop() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert sequential_layers(network(), (1, 8, 8)) is None
    finally:
        handle.remove()
    assert sequential_layers(network(), (1, 8, 8)) is not None


def started(model: nn.Module, dataset: Dataset, choice: engine.Choice = "auto", mask: Mask | None = None) -> str:
    """The name of the engine that it gets."""
    training = Training(optimizer=OPTIMIZERS["adam"], batch=BATCH, choice=choice)
    return engine.begin(training, [Start(model, full(model) if mask is None else mask, dataset)]).name


@needs_kernels
@pytest.mark.parametrize(
    ("name", "shape"), [("1.bias", (21,)), ("no.weight", (21, 64)), ("1.weight", (64, 21)), ("1.weight", (21, 8, 4))]
)
def test_a_mask_that_is_not_of_the_layers_weights_goes_to_the_plain_loop(
    digits: Dataset, name: str, shape: tuple[int, ...]
) -> None:
    mask = Mask({name: torch.zeros(shape, dtype=torch.bool)})
    assert started(network(dtype=torch.float32), digits, mask=mask) == "reference", "which refuses it where it does"


@needs_kernels
@pytest.mark.parametrize(
    "changed",
    [
        {"images": torch.zeros(1797, 1, 8, 8)},
        {"test_images": torch.zeros(360, 1, 8, 16, dtype=torch.uint8)[..., ::2]},
        {"labels": torch.zeros(1437, dtype=torch.int32)},
        {"labels": torch.zeros(2874, dtype=torch.int64)[::2]},
        {"labels": torch.full((1437,), 10)},
        {"test_labels": torch.full((360,), -1)},
    ],
    ids=["float images", "strided images", "narrow labels", "strided labels", "a label too high", "a label below 0"],
)
def test_data_that_the_kernels_cannot_read_go_to_the_plain_loop(digits: Dataset, changed: dict[str, Any]) -> None:
    assert started(network(dtype=torch.float32), replace(digits, **changed)) == "reference"


@needs_kernels
def test_places_rates_and_batches_are_read_as_they_are_meant(digits: Dataset) -> None:
    model = network(dtype=torch.float32)
    fast = native(model, full(model), OPTIMIZERS["sgd"], digits)
    every_other = torch.arange(1200)[::2]
    wanted = fast.evaluate(digits.images, digits.labels, every_other)
    seen = fast.repeatedly(digits.images, digits.labels, every_other)()
    assert seen.correct == wanted.correct and seen.loss == pytest.approx(wanted.loss, rel=1e-6)
    before = fast.weights()
    fast.train(Batches(digits, torch.arange(1000), BATCH, 3), Span(0, 3, lambda step: 1), unwatched)
    assert not weights.equal(before, fast.weights()), "a whole number is a rate too"
    with pytest.raises(ValueError, match="expected batches of"):
        fast.train(Batches(digits, torch.arange(1000), BATCH // 2, 3), Span(0, 3, lambda step: 0.1), unwatched)
    flipped = Batches(digits, torch.arange(1000), BATCH, 3, "flip-crop")
    shared = Batches(digits, torch.arange(1000), BATCH, 3, part=(0, 2))
    for batches in (flipped, shared):
        with pytest.raises(ValueError, match="whole batches of images as they are"):
            fast.train(batches, Span(0, 3, lambda step: 0.1), unwatched)


def test_what_is_not_supported_goes_to_the_plain_loop(digits: Dataset) -> None:
    assert started(UNSUPPORTED["another activation"](), digits) == "reference"
    assert started(nn.Sequential(nn.Flatten(), nn.Linear(63, 10)), digits) == "reference", "not the data's size"


@needs_kernels
def test_the_engine_is_chosen_and_named(digits: Dataset) -> None:
    model = network(dtype=torch.float32)
    assert started(model, digits, "reference") == "reference"
    assert started(model, digits).startswith(f"native {kernels.sets()[-1]}: 1 ")


def test_without_kernels_everything_goes_to_the_plain_loop(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "sets", tuple)
    assert started(network(dtype=torch.float32), digits) == "reference"


# ---------------------------------------------------------------- which form is faster


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


SHAPE = Shape(64, 20, 60, first=True)
TIMES = Times(dense=1.0, sparse=(0.1, 0.3, 0.7, 1.3))
SHORT = json.dumps({SHAPE.name: {"dense": 2.0, "sparse": [0.1], "plain": 3.0, "masked": 4.0}})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Shape]:
    """The shapes that were measured, in place of measuring them."""
    asked: list[Shape] = []

    def pretend(shape: Shape) -> Times:
        asked.append(shape)
        return TIMES

    monkeypatch.setattr(calibrate, "_measured", pretend)
    return asked


def test_a_shape_is_measured_once_and_kept(cache: Path, measured: list[Shape]) -> None:
    for _ in range(3):
        assert calibrate.times([SHAPE, SHAPE]) == {SHAPE: TIMES}
    assert measured == [SHAPE]
    other = Shape(64, 20, 61, first=True)
    assert calibrate.times([SHAPE, other]).keys() == {SHAPE, other} and measured == [SHAPE, other]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"64 to 20, first, batch 60": {}}', '{"x": 3}', SHORT])
def test_what_was_kept_badly_is_measured_again(cache: Path, measured: list[Shape], content: str) -> None:
    calibrate.times([SHAPE])
    (file,) = (cache / "tombola").glob("engine-*.json")
    file.write_text(content)
    assert calibrate.times([SHAPE]) == {SHAPE: TIMES} and measured == [SHAPE, SHAPE]
    assert json.loads(file.read_text())[SHAPE.name]["dense"] == 1.0


def test_where_nothing_can_be_kept_the_choice_is_still_always_the_same(cache: Path, measured: list[Shape]) -> None:
    (cache / "tombola").write_text("a file where the folder should be")
    chosen = calibrate.times([SHAPE])[SHAPE]
    assert not measured
    assert [chosen.format(density) for density in (0.39, 0.41)] == ["sparse", "dense"]


def test_what_cannot_be_written_is_not_measured(
    cache: Path, measured: list[Shape], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(files, "replace", refuse)
    assert calibrate.times([SHAPE]) == calibrate.times([SHAPE]) and not measured


@pytest.mark.parametrize(
    ("density", "seconds"), [(0.01, 0.1), (0.1, 0.3), (0.2, 0.5), (0.45, 1.0), (0.6, 1.0), (1.0, 1.0)]
)
def test_in_between_it_is_interpolated(density: float, seconds: float) -> None:
    assert TIMES.seconds(density) == pytest.approx(seconds)
    assert TIMES.format(density) == ("sparse" if density < 0.449 else "dense")


@needs_kernels
def test_dense_convolutions_go_to_whichever_is_faster(
    digits: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain loop has good libraries for those: it is measured, and taken where all layers together gain by it."""
    model, sparse = maps(torch.float32), (0.1, 0.3, 0.7, 1.3)
    here = {
        True: Times(1.0, sparse, plain=0.8, masked=0.9),
        False: Times(1.0, sparse, 1.1, 1.1),
    }
    monkeypatch.setattr(calibrate, "_measured", lambda shape: here[bool(shape.window)])
    for mask, name in (("all", "reference"), ("half", "reference"), ("twentieth", "native")):
        alive = map_masks(model)[mask]
        assert started(model, digits, mask=alive).startswith(name), mask
    training = Training(optimizer=OPTIMIZERS["adam"], batch=BATCH)
    plan = engine.forecast(inspected(training, Start(model, full(model), digits)))
    sizes = plan.training.layers
    assert "plain loop for dense networks" in plan.why
    assert plan.step_seconds(dict.fromkeys(sizes, 1.0)) == pytest.approx(4 * 0.8 + 2 * 1.1)
    assert plan.step_seconds(dict.fromkeys(sizes, 0.9)) == pytest.approx(4 * 0.9 + 2 * 1.1)
    assert plan.step_seconds(dict.fromkeys(sizes, 0.1)) == pytest.approx(6 * 0.3)


@needs_kernels
def test_a_convolution_is_measured_beside_the_plain_loop(cache: Path) -> None:
    shape = Shape(2, 3, 10, first=False, window=3, height=6, width=5)
    assert shape.name == "2 to 3, 3 x 3 on 6 x 5, batch 10"
    measured = calibrate.times([shape, SHAPE])
    assert calibrate.known([shape, SHAPE]) == measured, "kept as it was measured"
    assert all(0 < seconds < 60 for one in measured.values() for seconds in (one.plain, one.masked))


def test_the_break_even_is_where_the_forms_are_equally_fast() -> None:
    assert TIMES.break_even == pytest.approx(0.45, abs=0.002)
    assert Times(9.0, (1, 1, 1, 1)).break_even == 1 and Times(0.5, (1, 1, 1, 1)).break_even == 0


@needs_kernels
def test_measuring_gives_times(cache: Path) -> None:
    taken = calibrate.times([SHAPE, Shape(20, 10, 60, first=False)])
    assert all(0 < one.dense < 1 and all(0 < seconds < 1 for seconds in one.sparse) for one in taken.values())


@pytest.mark.parametrize(
    "model, capability, wanted",
    [
        ("resnet-8-w4", "AVX2", torch.contiguous_format),
        ("resnet-8-w4", "AVX512", torch.channels_last),
        ("resnet-8-w8", "AVX2", torch.channels_last),
    ],
)
def test_where_channels_last_would_corrupt_memory_they_are_not(
    model: str, capability: str, wanted: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert layout(models.build(model, (1, 8, 8), 10, "kaiming-normal", 0)) == wanted
