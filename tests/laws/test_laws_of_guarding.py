"""Every optimiser under the guard obeys the same laws: pruned means pruned, and the living train as if alone."""

import importlib
import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from tombola import prunable, weights
from tombola.guard import Guard
from tombola.mask import Mask
from tombola.optimizer_state import KNOWN, keeping

OPTIMISERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "sgd": partial(optim.SGD, lr=0.1),
    "momentum": partial(optim.SGD, lr=0.1, momentum=0.9),
    "momentum with decay": partial(optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": partial(optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "fused sgd": partial(optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1, fused=True),
    "adam": partial(optim.Adam, lr=0.1),
    "adam with decay": partial(optim.Adam, lr=0.1, weight_decay=0.1),
    "amsgrad": partial(optim.Adam, lr=0.1, amsgrad=True),
    "fused adam": partial(optim.Adam, lr=0.1, weight_decay=0.1, fused=True),
    "adamw": partial(optim.AdamW, lr=0.1, weight_decay=0.1),
    "fused adamw": partial(optim.AdamW, lr=0.1, weight_decay=0.1, fused=True),
    "rmsprop": partial(optim.RMSprop, lr=0.1),
    "centred rmsprop": partial(optim.RMSprop, lr=0.1, momentum=0.9, centered=True, weight_decay=0.1),
    "adagrad": partial(optim.Adagrad, lr=0.1, weight_decay=0.1),
    "rprop": partial(optim.Rprop, lr=0.01),  # its step sizes start at lr, pruned or not
    "nadam": partial(optim.NAdam, lr=0.1, weight_decay=0.1),
    "radam": partial(optim.RAdam, lr=0.1),
    "adamax": partial(optim.Adamax, lr=0.1),  # its infinity norm moves away from 0 by itself
    "adadelta": partial(optim.Adadelta, lr=1.0),
    "asgd": partial(optim.ASGD, lr=0.1, t0=0),
}
optimisers = pytest.mark.parametrize("name", OPTIMISERS)
few = settings(max_examples=10)
seeds = st.integers(0, 2**32 - 1)
densities = st.sampled_from([0.0, 0.2, 0.5, 0.9])


def network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv1d(1, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 2)
        ).double()


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_of(model: nn.Module, density: float, seed: int) -> Mask:
    return Mask({name: drawn(seed, *alive.shape).sigmoid() < density for name, alive in prunable.full(model).items()})


def train(model: nn.Module, optimizer: Optimizer, inputs: Tensor, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        outputs: Tensor = model(inputs)
        outputs.square().sum().backward()
        optimizer.step()


@optimisers
@few
@given(seed=seeds, density=densities)
def test_pruned_weights_gradients_and_state_are_exactly_0_after_every_step(
    name: str, seed: int, density: float
) -> None:
    # M1 M2 M9 M10
    model = network(seed)
    kept, optimizer, inputs = some_of(model, density, seed), OPTIMISERS[name](model.parameters()), drawn(seed, 6, 1, 4)
    train(model, optimizer, inputs, steps=2)  # gathers momentum that the pruning must not leave behind
    guard = Guard(model, optimizer, kept)
    for _ in range(3):
        train(model, optimizer, inputs, steps=1)
        for layer, alive in kept.items():
            parameter = model.get_parameter(layer)
            state = [
                value
                for value in optimizer.state[parameter].values()
                if isinstance(value, Tensor) and value.shape == alive.shape
            ]
            assert parameter.grad is not None and len(state) == {"sgd": 0, "amsgrad": 3, "centred rmsprop": 3}.get(
                name, len(state)
            )
            assert not any(value.detach()[~alive].any() for value in (parameter, parameter.grad, *state))
    guard.check()


@optimisers
@few
@given(seed=seeds)
def test_living_weights_move_whatever_their_sign(name: str, seed: int) -> None:
    # M6
    model = network(seed)
    kept, optimizer = some_of(model, 0.5, seed), OPTIMISERS[name](model.parameters())
    before = weights.of(model)
    Guard(model, optimizer, kept)
    train(model, optimizer, drawn(seed, 6, 1, 4), steps=2)
    last, alive = "5.weight", kept["5.weight"]
    assert (model.get_parameter(last).detach() != before[last])[alive].all()


@optimisers
@few
@given(seed=seeds, alive=st.lists(st.booleans(), min_size=5, max_size=5).filter(any))
def test_the_living_train_as_in_a_network_that_never_had_the_others(name: str, seed: int, alive: list[bool]) -> None:
    """The independent answer: a linear layer without the pruned inputs, trained without any mask."""
    # M1 M5 M10
    living = torch.tensor(alive)
    wide, thin = nn.Linear(5, 1).double(), nn.Linear(int(living.sum()), 1).double()
    values, inputs = drawn(seed, 1, 5), drawn(seed + 1, 8, 5)
    weights.put(wide, {"weight": values, "bias": torch.zeros(1)})
    weights.put(thin, {"weight": values[:, living], "bias": torch.zeros(1)})
    optimizer = OPTIMISERS[name](wide.parameters())
    Guard(wide, optimizer, Mask({"weight": living.view(1, 5)}))
    train(wide, optimizer, inputs, steps=4)
    train(thin, OPTIMISERS[name](thin.parameters()), inputs[:, living], steps=4)
    assert torch.allclose(wide.weight[:, living], thin.weight, rtol=1e-6, atol=1e-8)
    assert torch.allclose(wide.bias, thin.bias, rtol=1e-6, atol=1e-8)


@optimisers
def test_the_full_mask_changes_nothing(name: str) -> None:
    guarded, free = network(0), network(0)
    optimizer = OPTIMISERS[name](guarded.parameters())
    Guard(guarded, optimizer, prunable.full(guarded))
    train(guarded, optimizer, drawn(1, 6, 1, 4), steps=3)
    train(free, OPTIMISERS[name](free.parameters()), drawn(1, 6, 1, 4), steps=3)
    assert weights.equal(weights.of(guarded), weights.of(free))


MIXED = {name: kind for name in ("Adafactor", "Muon") if (kind := getattr(optim, name, None))}  # not each by itself
CLASSES = [
    optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax, optim.Adagrad, optim.Adadelta,
    optim.ASGD, optim.RMSprop, optim.Rprop, *MIXED.values(),
]  # fmt: skip
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "momentum": st.sampled_from([0.1, 0.9]),
    "weight_decay": st.sampled_from([0.0, 0.1]),
    "nesterov": st.booleans(),
    "amsgrad": st.booleans(),
    "centered": st.booleans(),
    "decoupled_weight_decay": st.booleans(),
    "initial_accumulator_value": st.sampled_from([0.0, 0.1]),
    "maximize": st.booleans(),
    "foreach": st.sampled_from([None, False, True]),
}


class Matrices(nn.Module):
    """Two square layers without biases, as some optimisers take matrices alone."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.first, self.last = (nn.Linear(4, 4, bias=False, dtype=torch.float64) for _ in range(2))
        weights.put(self, {"first.weight": drawn(seed, 4, 4), "last.weight": drawn(seed + 1, 4, 4)})

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.first(inputs).tanh())
        return outputs


@settings(max_examples=60)
@given(
    kind=st.sampled_from(CLASSES),
    options=st.fixed_dictionaries(OPTIONS),
    seed=seeds,
    density=densities,
    dense=st.integers(0, 2),
)
def test_the_guard_does_what_masking_by_hand_does(
    kind: Callable[..., Optimizer], options: dict[str, Any], seed: int, density: float, dense: int
) -> None:
    """By hand: gradients before each step, weights and what has their shape after it, and all of them at the start."""
    # M1 M2 M9 M10
    known = inspect.signature(kind).parameters
    chosen = {option: value for option, value in options.items() if option in known}
    guarded, by_hand, inputs = Matrices(seed), Matrices(seed), drawn(seed, 6, 4)
    kept = some_of(guarded, density, seed)
    held, free = kind(guarded.parameters(), lr=0.01, **chosen), kind(by_hand.parameters(), lr=0.01, **chosen)
    train(guarded, held, inputs, dense)
    train(by_hand, free, inputs, dense)

    @torch.no_grad()
    def masked(what: Callable[[Tensor], Iterable[Any]]) -> None:
        for name, alive in kept.items():
            parameter = by_hand.get_parameter(name)
            for value in what(parameter):
                if isinstance(value, Tensor) and value.shape == alive.shape:
                    value.masked_fill_(~alive, 0)

    guard = Guard(guarded, held, kept)
    masked(lambda parameter: [parameter.data, *free.state[parameter].values()])
    free.register_step_pre_hook(lambda *_: masked(lambda parameter: [parameter.grad]))
    for _ in range(3):
        train(guarded, held, inputs, steps=1)
        train(by_hand, free, inputs, steps=1)
        masked(lambda parameter: [parameter.data, *free.state[parameter].values()])
        guard.check()
        assert weights.equal(weights.of(guarded), weights.of(by_hand))


SWITCHED: dict[str, dict[str, Any]] = {
    "torch.SGD": {"momentum": 0.9},
    "torch.Adam": {"amsgrad": True},
    "torch.AdamW": {"amsgrad": True},
    "torch.RMSprop": {"momentum": 0.9, "centered": True},
    "torch.Muon": {"lr": 0.01},
    "pytorch_optimizer.AdaBelief": {"ams_bound": True},
}
VECTORS = ("torch.Adafactor",)  # of which it keeps the variance; of a matrix, sums over rows and columns


def state_after(name: str, gradients: list[Tensor]) -> dict[str, Tensor]:
    """What counts as one number per weight, after steps along `gradients`."""
    package, _, kind = name.partition(".")
    made = getattr(importlib.import_module(package if package != "torch" else "torch.optim"), kind)
    weight = nn.Parameter(torch.linspace(-1, 1, gradients[0].numel()).view_as(gradients[0]))
    muon = {"use_muon": True} if name == "pytorch_optimizer.Muon" else {}
    optimizer = made([{"params": [weight], **muon}], **SWITCHED.get(name, {}))
    if hasattr(optimizer, "train"):
        optimizer.train()
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    names = keeping(optimizer).per_weight
    return {each: value.clone() for each, value in optimizer.state[weight].items() if each in names}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KNOWN)
def test_what_counts_as_one_number_per_weight_depends_on_the_gradient_of_that_weight_alone(name: str) -> None:
    package, _, kind = name.partition(".")
    if package == "torch" and not hasattr(optim, kind):
        pytest.skip("this torch does not have it")
    if package != "torch":
        pytest.importorskip(package)
    shape, place = ((16,), [6]) if name in VECTORS else ((4, 4), [1, 2])
    gradients = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    other = [*gradients[:-1], gradients[-1].clone()]
    other[-1][tuple(place)] += 0.5
    one, another = state_after(name, gradients), state_after(name, other)
    differing = {each: (value != another[each]).nonzero().tolist() for each, value in one.items()}
    assert all(found in ([place], []) for found in differing.values()) and any(differing.values())
