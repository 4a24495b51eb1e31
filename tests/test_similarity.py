"""How alike kernels are: against numpy by hand, against explicit Jacobians, and what turning or scaling leaves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from tombola import models
from tombola.study.similarity import (
    aligned,
    alignment,
    answered,
    centred,
    chance,
    gram,
    handed,
    linear_cka,
    tangent_kernel,
    targets,
    unbiased,
)

SEEDS = st.integers(0, 10_000)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(left: np.ndarray, right: np.ndarray) -> float:
    """CKA as its paper has it, in numpy: covariances of centred columns."""
    one, other = left - left.mean(axis=0), right - right.mean(axis=0)
    cross = np.linalg.norm(np.einsum("ni,nj->ij", other, one)) ** 2
    own = np.linalg.norm(np.einsum("ni,nj->ij", one, one)) * np.linalg.norm(np.einsum("ni,nj->ij", other, other))
    return float(cross / own)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(5, 12), st.integers(1, 20), st.integers(1, 20))
def test_both_ways_to_cka_are_the_one_by_hand(seed: int, n: int, left: int, right: int) -> None:
    one, other = drawn(seed, n, left) + 3, drawn(seed + 1, n, right)
    wanted = by_hand(one.numpy(), other.numpy())
    assert linear_cka(one, other) == pytest.approx(wanted, abs=1e-9)
    assert alignment(gram(one), gram(other)) == pytest.approx(wanted, abs=1e-9)
    assert 0 <= wanted <= 1 + 1e-12


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(6, 12), st.integers(1, 8), st.floats(0.01, 100))
def test_features_that_are_turned_scaled_or_shifted_are_the_same_features(
    seed: int, n: int, width: int, scale: float
) -> None:
    features = drawn(seed, n, width)
    turn, _ = torch.linalg.qr(drawn(seed + 1, width, width))
    changed = scale * features @ turn + 5
    assert linear_cka(features, changed) == pytest.approx(1, abs=1e-9)
    assert unbiased(gram(features), gram(changed)) == pytest.approx(1, abs=1e-7)
    other = drawn(seed + 2, n, 3)
    assert linear_cka(features, other) == pytest.approx(linear_cka(changed, other), abs=1e-9)


def test_a_scaling_of_one_axis_alone_is_another_set_of_features() -> None:
    features = drawn(0, 50, 4)
    assert linear_cka(features, features * torch.tensor([10.0, 1, 1, 1])) < 0.9


def test_the_unbiased_products_are_means_over_other_examples() -> None:
    """Over all examples that are different, as the estimator of the four sums has it written out."""
    n = 6
    one, other = (gram(drawn(seed, n, 3)) for seed in (0, 1))
    total, pairs, triples, quadruples = 0.0, [], [], []
    for i in range(n):
        for j in {*range(n)} - {i}:
            pairs.append(float(one[i, j] * other[i, j]))
            for k in {*range(n)} - {i, j}:
                triples.append(float(one[i, j] * other[i, k]))
                quadruples += [float(one[i, j] * other[k, m]) for m in {*range(n)} - {i, j, k}]
    total = float(np.mean(pairs) - 2 * np.mean(triples) + np.mean(quadruples))

    def same(kernel: Tensor) -> float:
        from tombola.study.similarity import _hollow, _product

        return _product(_hollow(kernel), _hollow(kernel))

    assert unbiased(one, other) * (same(one) * same(other)) ** 0.5 == pytest.approx(total, abs=1e-12)


def test_features_that_have_nothing_in_common_are_unlike_only_without_bias() -> None:
    pairs = [(gram(drawn(seed, 30, 200)), gram(drawn(seed + 500, 30, 200))) for seed in range(40)]
    assert np.mean([alignment(*pair) for pair in pairs]) > 0.5
    assert abs(np.mean([unbiased(*pair) for pair in pairs])) < 0.03


def test_chance_is_the_mean_over_all_orders_of_the_labels() -> None:
    kernel, labels = gram(drawn(3, 40, 10)), torch.arange(40) % 4
    found = aligned(kernel, labels, 4)
    orders = [torch.randperm(40, generator=torch.Generator().manual_seed(seed)) for seed in range(3000)]
    dealt = [alignment(kernel, gram(targets(labels[order], 4))) for order in orders]
    assert found.chance == pytest.approx(np.mean(dealt), abs=4 * np.std(dealt) / 3000**0.5)
    assert found.alignment == pytest.approx(alignment(kernel, gram(targets(labels, 4))))


def test_a_kernel_that_says_nothing_is_aligned_with_nothing() -> None:
    flat, labels = torch.ones(8, 8), torch.arange(8) % 2
    assert aligned(flat, labels, 2).alignment == 0 == chance(flat, flat)
    assert unbiased(torch.zeros(8, 8), gram(drawn(0, 8, 2))) == 0


def test_labels_that_are_numbers_stand_as_they_are() -> None:
    numbers = drawn(0, 9)
    assert torch.equal(targets(numbers, 1), numbers[:, None])
    assert torch.equal(targets(torch.tensor([[0, 1], [1, 1]]), 2), torch.tensor([[0.0, 1], [1, 1]]).double())
    assert aligned(gram(numbers[:, None]), numbers, 1).alignment == pytest.approx(1)
    assert centred(gram(numbers[:, None])).sum() == pytest.approx(0, abs=1e-9)


def explicit(model: nn.Module, inputs: Tensor, living: dict[str, Tensor]) -> Tensor:
    """The tangent kernel from the whole Jacobian of all outputs, masked afterwards."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    jacobians = jacrev(lambda changed: functional_call(model, changed, (inputs,)))(parameters)
    total = torch.zeros(len(inputs), len(inputs), dtype=torch.float64)
    for name, jacobian in jacobians.items():
        kept = jacobian * living[name] if name in living else jacobian
        total += torch.einsum("nc...,mc...->nm", kept, kept)
    return total


@pytest.mark.parametrize(("name", "shape"), [("lenet-7-5", (1, 4, 4)), ("conv-2", (1, 8, 8)), ("resnet-8", (3, 8, 8))])
@pytest.mark.parametrize("room", [1 << 26, 3000])
def test_the_tangent_kernel_is_that_of_the_whole_jacobian(name: str, shape: tuple[int, ...], room: int) -> None:
    if name == "conv-2":
        room *= 1000  # it has so many weights
    model = models.build(name, shape, 3, "glorot-normal", init_seed=0).double().eval()
    weights = {each: value for each, value in model.named_parameters() if each.endswith("weight") and value.ndim > 1}
    living = {each: drawn(place, *value.shape) > 0.5 for place, (each, value) in enumerate(weights.items())}
    with torch.no_grad():
        for each, alive in living.items():
            weights[each].mul_(alive)
    inputs = drawn(9, 5, *shape)
    assert torch.allclose(tangent_kernel(model, inputs, living, room), explicit(model, inputs, living), atol=1e-9)


def test_what_a_layer_is_handed_is_what_the_one_before_has_made() -> None:
    model = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", init_seed=0)
    inputs = drawn(0, 70, 1, 8, 8).float()
    weight, bias = model.get_parameter("fc1.weight"), model.get_parameter("fc1.bias")
    first = torch.relu(inputs.flatten(1) @ weight.T + bias)
    assert torch.allclose(handed(model, "fc2", inputs), first, atol=1e-5)
    assert torch.equal(handed(model, "fc1", inputs), inputs.flatten(1))
    assert torch.allclose(answered(model, inputs), model(inputs), atol=1e-6)
