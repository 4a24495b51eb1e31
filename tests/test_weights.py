"""Weights are taken and put by copy, all of them, any number of times."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tombola import mask, weights
from tombola.errors import BadInput


def network() -> nn.Sequential:
    """A net with everything a state_dict can hold: weights, biases, affine norms, running statistics, a counter."""
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))


def disturb(model: nn.Module) -> None:
    """One step of training, which moves every parameter in place and every running statistic."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    outputs: Tensor = model.train()(torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(3)))
    outputs.square().sum().backward()
    optimizer.step()


def copied(model: nn.Module) -> dict[str, bytes]:
    """The bytes of every entry, taken without the code under test."""
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def test_of_holds_everything_a_state_dict_holds() -> None:  # R3
    model = network()
    assert {name: value.numpy().tobytes() for name, value in weights.of(model).items()} == copied(model)


def test_of_shares_no_memory_with_the_model() -> None:  # R1 K5
    model = network()
    taken, before = weights.of(model), copied(model)
    disturb(model)
    assert copied(model) != before
    assert {name: value.numpy().tobytes() for name, value in taken.items()} == before


def test_of_is_detached() -> None:
    assert not any(value.requires_grad for value in weights.of(network()).values())


def test_rewinding_three_times_gives_the_same_bytes_each_time() -> None:  # R1 R2 R3 R4
    model = network()
    disturb(model)  # a rewind point after step 0: gamma, beta and the statistics are no longer what a fresh model has
    point, bytes_then = weights.of(model), copied(model)
    for _ in range(3):
        disturb(model)
        moved = copied(model)
        assert all(moved[name] != bytes_then[name] for name in moved), "the training was to move every entry"
        weights.put(model, point)
        assert copied(model) == bytes_then
    assert {name: value.numpy().tobytes() for name, value in point.items()} == bytes_then


def test_put_keeps_the_models_own_tensors_so_that_an_optimiser_still_holds_them() -> None:  # R1
    model = network()
    before = dict(model.named_parameters())
    weights.put(model, weights.of(network()))
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


def test_put_leaves_the_process_able_to_train() -> None:
    model = network()
    weights.put(model, weights.of(model))
    assert all(parameter.requires_grad and parameter.grad_fn is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("other", "expected", "found"),
    [
        (nn.Linear(2, 3), "weight (1, 2), bias (1,)", "weight (3, 2), bias (3,)"),
        (nn.Linear(2, 1, bias=False), "bias (1,)", "no bias"),
        (
            nn.BatchNorm1d(1),
            "weight (1, 2), no running_mean, no running_var",
            "weight (1,), running_mean (1,), running_var (1,)",
        ),
    ],
)
def test_weights_of_another_model_are_refused_by_name_and_shape(other: nn.Module, expected: str, found: str) -> None:
    model = nn.Linear(2, 1)
    before = copied(model)
    message = f"weights of Linear: expected {expected}, found {found}. These weights belong to another model."
    with pytest.raises(BadInput, match=f"^{re.escape(message)}$"):
        weights.put(model, weights.of(other))
    assert copied(model) == before


def test_equal_compares_names_and_every_number() -> None:
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0])}
    assert weights.equal(one, {name: value.clone() for name, value in one.items()})
    assert weights.equal(one, dict(reversed(one.items())))
    assert not weights.equal(one, {"a": one["a"]})
    assert not weights.equal({"a": one["a"]}, one)
    assert not weights.equal(one, one | {"b": torch.tensor([3.0000002])})
    assert not weights.equal(one, one | {"b": torch.tensor([[3.0]])})


def test_a_masked_tied_weight_stays_masked_when_it_is_put_back() -> None:  # P7 M5
    embedding, output = nn.Embedding(3, 2), nn.Linear(2, 3, bias=False)
    output.weight = embedding.weight
    model = nn.ModuleDict({"embedding": embedding, "output": output})
    nothing = mask.Mask({"embedding.weight": torch.zeros(3, 2, dtype=torch.bool)})
    weights.put(model, mask.apply(weights.of(model), nothing))
    assert not model.get_parameter("embedding.weight").any()


def state(seed: int) -> dict[str, Tensor]:
    """A trained-like state with every kind of entry, and what arithmetic would not keep: -0, tiny and huge numbers."""
    draw = torch.Generator().manual_seed(seed)
    return {
        "w": torch.cat([torch.randn(40, generator=draw), torch.tensor([-0.0, 0.0, 1e-30, 1e30])]),
        "running_var": torch.rand(3, generator=draw),
        "num_batches_tracked": torch.tensor(seed),
        "flag": torch.tensor([seed % 2 == 0]),
    }


def bytes_of(held: weights.Weights) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in held.items()}


def test_the_ends_of_a_line_are_the_networks_bit_for_bit() -> None:  # E6
    left, right = state(1), state(2)
    assert bytes_of(weights.interpolate(left, right, 0.0)) == bytes_of(left)
    assert bytes_of(weights.interpolate(left, right, 1.0)) == bytes_of(right)


@given(alpha=st.floats(0, 1, allow_subnormal=False), seed=st.integers(0, 100))
def test_between_the_ends_every_real_entry_lies_on_the_line(alpha: float, seed: int) -> None:
    left, right = state(seed), state(seed + 1)
    between = weights.interpolate(left, right, alpha)
    for name in ("w", "running_var"):
        expected = (1 - alpha) * left[name].double() + alpha * right[name].double()
        assert between[name].dtype == torch.float32
        torch.testing.assert_close(between[name].double(), expected, rtol=1e-5, atol=1e-6)
    if alpha < 1:
        assert (between["num_batches_tracked"], between["flag"]) == (left["num_batches_tracked"], left["flag"])


@given(alpha=st.floats(0, 1, allow_subnormal=False), seed=st.integers(0, 100))
def test_what_both_ends_share_stays_as_it_is_on_the_whole_line(alpha: float, seed: int) -> None:
    """Also the exact 0 of what both have pruned; (1 - alpha) x + alpha x would be another number here and there."""
    assert weights.equal(weights.interpolate(state(seed), state(seed), alpha), state(seed))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_point_of_the_line_shares_no_memory_with_its_ends(alpha: float) -> None:
    left, right = state(1), state(2)
    for value in weights.interpolate(left, right, alpha).values():
        value.zero_()
    assert bytes_of(left) == bytes_of(state(1)) and bytes_of(right) == bytes_of(state(2))


def test_there_is_no_line_between_two_models() -> None:
    message = "the right end of the line: expected a (1,), found a (3,). These weights belong to another model."
    with pytest.raises(BadInput, match=f"^{re.escape(message)}$"):  # torch would have broadcast it
        weights.interpolate({"a": torch.zeros(1)}, {"a": torch.zeros(3)}, 0.5)


def test_an_average_is_the_mean_of_what_are_real_numbers() -> None:
    one = {"w": torch.tensor([0.1, 1.0, -3.0]), "steps": torch.tensor(7)}
    two = {"w": torch.tensor([0.3, 2.0, 3.0]), "steps": torch.tensor(9)}
    found = weights.average([one, two])
    assert torch.allclose(found["w"], torch.tensor([0.2, 1.5, 0.0])) and found["steps"] == 7
    assert weights.equal(weights.average([two, one]), {"w": found["w"], "steps": two["steps"]})
    assert all(weights.equal(weights.average([one] * times), one) for times in range(1, 8)), "not a bit is rounded"
    found["w"].zero_()
    assert one["w"][0] == torch.tensor(0.1), "no memory is shared"
    with pytest.raises(BadInput, match="the weights of an average"):
        weights.average([one, {"w": torch.zeros(2), "steps": torch.tensor(7)}])
