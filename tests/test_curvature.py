"""Curvature, sharpness and flatness over living coordinates, against the Hessian written down and closed forms."""

from itertools import pairwise
from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn import functional

from tombola.study.curvature import hessian_product, top_eigenvalue, trace
from tombola.study.effective_rank import effective_rank
from tombola.study.flatness import flatness, sharpness
from tombola.study.learning_distance import learning_distance, moved
from tombola.study.living import Living, gradient
from tombola.study.margin import margins

# Torch's own, of its forward mode, which `hessian` takes.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


def network(seed: int, sizes: tuple[int, ...] = (5, 6, 3)) -> tuple[nn.Sequential, dict[str, Tensor]]:
    """A small network in float64, and a mask that keeps about half of its weights, which are 0 where it does not."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, dtype=torch.float64), nn.Tanh()]
    model, mask = nn.Sequential(*layers[:-1]).eval(), {}
    for name, value in model.named_parameters():
        with torch.no_grad():
            value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64))
            if value.dim() > 1:
                mask[name] = torch.rand(value.shape, generator=generator) < 0.5
                value.mul_(mask[name])
    return model, mask


def examples(seed: int, count: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed + 1)
    inputs = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (count,), generator=generator)


def written_down(model: nn.Module, mask: dict[str, Tensor], seed: int, biases: bool) -> Tensor:
    """The whole Hessian by the whole parameters, of which the living rows and columns are taken."""
    inputs, labels = examples(seed)
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(state: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(functional_call(model, state, (inputs,)), labels)

    blocks = hessian(loss)(parameters)
    rows = []
    for left, value in parameters.items():
        cells = [blocks[left][right].reshape(value.numel(), other.numel()) for right, other in parameters.items()]
        rows.append(torch.cat(cells, 1))
    free = torch.ones if biases else torch.zeros
    living = torch.cat(
        [mask[name].flatten() if name in mask else free(value.numel()).bool() for name, value in parameters.items()]
    )
    return torch.cat(rows)[living][:, living]


@pytest.mark.parametrize("biases", [True, False])
@given(seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_eigenvalue_and_products_are_those_of_the_hessian_written_down(biases: bool, seed: int) -> None:
    model, mask = network(seed)
    living, exact = Living.of(model, mask, biases), written_down(model, mask, seed, biases)
    n = living.theta.numel()
    product = hessian_product(living.loss(*examples(seed), of=functional.cross_entropy), living.theta)
    columns = torch.stack([product(one) for one in torch.eye(n, dtype=torch.float64)], 1)
    assert n == len(exact) and torch.allclose(columns, exact, atol=1e-10)
    top = float(torch.linalg.eigvalsh(exact)[-1])
    assert top_eigenvalue(product, n, seed, tolerance=1e-9) == pytest.approx(top, rel=1e-6)
    assert top_eigenvalue(product, n, seed) == pytest.approx(top, rel=1e-3)


def test_random_signs_cover_the_exact_trace() -> None:
    covered = []
    for seed in range(40):
        model, mask = network(seed)
        living, exact = Living.of(model, mask), written_down(model, mask, seed, True)
        product = hessian_product(living.loss(*examples(seed), of=functional.cross_entropy), living.theta)
        found = trace(product, living.theta.numel(), seed, draws=24)
        assert found.coordinates == len(exact)
        covered.append(abs(found.trace - float(exact.trace())) <= 2.07 * found.error)  # t of 23 degrees, 95 %
    assert 34 <= sum(covered) < 40, "95 % intervals, of which some miss"


def test_the_trace_of_a_diagonal_is_exact_and_the_top_of_nothing_is_0() -> None:
    diagonal = torch.tensor([4.0, -9.0, 2.0, 0.0])
    assert trace(lambda vector: diagonal * vector, 4, seed=1, draws=3).trace == -3
    assert top_eigenvalue(lambda vector: 0 * vector, 4, seed=0) == 0
    assert top_eigenvalue(lambda vector: -2 * vector, 1, seed=0) == -2, "all are negative"
    clustered = torch.cat([torch.full((200,), 1.0), torch.tensor([1.5])])
    assert top_eigenvalue(lambda vector: clustered * vector, 201, seed=0, tolerance=1e-6) == pytest.approx(1.5)


def test_a_dead_network_is_flat() -> None:
    model, mask = network(0)
    none = {name: torch.zeros_like(alive) for name, alive in mask.items()}
    living = Living.of(model, none, biases=False)
    assert living.theta.numel() == 0
    with_biases = Living.of(model, none)
    loss = with_biases.loss(*examples(0), of=functional.cross_entropy)
    assert sharpness(lambda theta: 0 * loss(theta), with_biases.theta) == 0
    assert sharpness(lambda theta: torch.tensor(1.0), with_biases.theta) == 0


def test_one_step_uphill_is_the_step_by_hand() -> None:
    model, mask = network(3)
    inputs, labels = examples(3)
    living = Living.of(model, mask)
    before = functional.cross_entropy(model(inputs), labels)
    before.backward()
    slopes = {
        name: value.grad * mask[name] if name in mask else value.grad
        for name, value in model.named_parameters()
        if value.grad is not None
    }
    size = sqrt(sum(float(slope.square().sum()) for slope in slopes.values()))
    scaled = sqrt(sum(float((model.get_parameter(n).detach() * slope).square().sum()) for n, slope in slopes.items()))
    loss = living.loss(inputs, labels, of=functional.cross_entropy)
    for adaptive, length in ((False, size), (True, scaled)):
        uphill = {}
        for name, value in model.named_parameters():
            step = slopes[name] * value.detach().square() if adaptive else slopes[name]
            uphill[name] = value.detach() + 0.05 * step / length
        after = functional.cross_entropy(functional_call(model, uphill, (inputs,)), labels)
        risen = sharpness(loss, living.theta, 0.05, adaptive)
        assert risen == pytest.approx(float((after - before).detach()), rel=1e-9) and risen > 0


def test_adaptive_sharpness_stays_where_layers_share_their_scale_otherwise() -> None:
    first, second = torch.randn(4, 5, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    inputs, labels = examples(0)

    def risen(factor: float, adaptive: bool) -> float:
        theta = torch.cat([(first * factor).flatten(), (second / factor).flatten()])

        def loss(theta: Tensor) -> Tensor:
            hidden = (inputs @ theta[:20].view(4, 5).T).relu()
            return functional.cross_entropy(hidden @ theta[20:].view(3, 4).T, labels)

        return sharpness(loss, theta, 0.05, adaptive)

    assert risen(1, True) == pytest.approx(risen(7, True), rel=1e-9)
    assert risen(1, False) != pytest.approx(risen(7, False), rel=0.1)


@pytest.mark.parametrize("curved", [2.0, 30.0])
def test_flatness_of_a_quadratic_is_its_closed_form(curved: float) -> None:
    theta = torch.linspace(-1, 4, 4000, dtype=torch.float64)

    def accuracy(moved: Tensor) -> float:
        return 1 - curved * float((moved - theta).square().mean())

    # E = 1 - curved sigma² mean theta², so that a tenth is gone at sigma = sqrt(0.1 / (curved mean theta²)).
    expected = sqrt(0.1 / (curved * float(theta.square().mean())))
    assert flatness(accuracy, theta, seed=0) == pytest.approx(expected, rel=0.01)
    assert flatness(lambda _: 0.7, theta, seed=0) == 5


def test_effective_rank_counts_equal_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(1, 8, generator=generator)
    assert effective_rank(torch.randn(30, 1, generator=generator) * direction) == pytest.approx(1, abs=1e-4)
    orthogonal, _ = torch.linalg.qr(torch.randn(30, 8, generator=generator))
    assert effective_rank(orthogonal) == pytest.approx(8)
    assert effective_rank(7 * orthogonal) == pytest.approx(8)
    assert 1 < effective_rank(orthogonal * torch.tensor([8.0, 4, 2, 1, 0, 0, 0, 0])) < 4
    assert effective_rank(torch.zeros(4, 4)) == 0


def test_margins_are_distances_to_where_the_answer_turns() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-3.0, -3.0]])
    inputs, labels = torch.tensor([[2.0, 0.0], [0.0, 0.5]]), torch.tensor([0, 0])
    found = margins(lambda points: points @ weight.T, inputs, labels)
    assert found.tolist() == pytest.approx([2 / sqrt(2), -0.5 / sqrt(2)])
    assert torch.allclose(margins(lambda points: 9 * points @ weight.T, inputs, labels), found)
    assert margins(lambda points: 0 * points @ weight.T, inputs, labels).tolist() == [0, 0]


def test_pruned_weights_have_gone_to_0() -> None:
    start = {"w": torch.tensor([3.0, 4.0, 1.0]), "bias": torch.ones(1)}
    end = {"w": torch.tensor([0.0, 4.0, 3.0]), "bias": torch.zeros(1)}
    mask = {"w": torch.tensor([True, False, True])}
    assert learning_distance(start, end, mask) == pytest.approx(sqrt(9 + 16 + 4))
    assert moved(start, end, mask) == pytest.approx(sqrt(9 + 4))


def test_gradients_leave_the_network_as_it_was() -> None:
    model, mask = network(5)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    living = Living.of(model, mask)
    value, slope = gradient(living.loss(*examples(5), of=functional.cross_entropy), living.theta)
    assert float(value) > 0 and len(slope) == living.theta.numel()
    assert all(torch.equal(before[name], value) and value.grad is None for name, value in model.named_parameters())
