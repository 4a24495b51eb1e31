"""Every optimiser under the guard obeys the same laws: pruned means pruned, and the living train as if alone."""

from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from tombola import mask, weights
from tombola.guard import Guard
from tombola.mask import Mask

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
    return Mask({name: drawn(seed, *alive.shape).sigmoid() < density for name, alive in mask.full(model).items()})


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
    Guard(guarded, optimizer, mask.full(guarded))
    train(guarded, optimizer, drawn(1, 6, 1, 4), steps=3)
    train(free, OPTIMISERS[name](free.parameters()), drawn(1, 6, 1, 4), steps=3)
    assert weights.equal(weights.of(guarded), weights.of(free))
