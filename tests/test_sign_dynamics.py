"""Sign-In, a weight as a product that is balanced again and again; and AWS, normalisations softened at random."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from tombola import weights
from tombola.dynamics import Aws, Setting, SignIn, Timeline
from tombola.dynamics.factors import Factors, balanced
from tombola.dynamics.softened import Softened, alpha_of
from tombola.errors import BadInput
from tombola.mask import Mask

TIMES = Timeline(begin=0, until=40, length=40, epoch_iterations=10)
INPUTS = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
LABELS = (INPUTS[:, 0] > 0).long()


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.LayerNorm(12), nn.Linear(12, 2))


def sparse(model: nn.Module) -> Mask:
    draw = torch.Generator().manual_seed(2)
    return Mask({name: torch.rand(model.get_parameter(name).shape, generator=draw) < 0.5 for name in MASKED})


MASKED = ("0.weight", "4.weight")
OPTIMIZERS: dict[str, Any] = {
    "momentum": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda parameters: torch.optim.Adam(parameters, 0.02, weight_decay=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.02),
}


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    cross_entropy(model(INPUTS), LABELS).backward()


# ---------------------------------------------------------------- sign-in


@given(st.lists(st.integers(-(10**8), 10**8), min_size=1, max_size=20), st.integers(1, 1000))
def test_balanced_factors_have_the_product_and_the_difference_of_squares(values: list[int], hundredths: int) -> None:
    theta, beta = torch.tensor(values) / 1e5, hundredths / 100
    m, w = (each.double().numpy() for each in balanced(theta, beta))
    assert np.allclose(m * w, theta.double().numpy(), rtol=2**-23, atol=1e-37)
    assert np.allclose(m**2 - w**2, beta, rtol=1e-5, atol=3e-7 * float((m**2).max()))
    assert (m > 0).all()


def test_balancing_keeps_every_weight_to_the_last_bit_or_the_next(tmp_path: Path) -> None:
    theta = torch.randn(100_000, generator=torch.Generator().manual_seed(1))
    m, w = balanced(theta, 1.0)
    apart = (m * w).view(torch.int32) - theta.view(torch.int32)
    assert int(apart.abs().max()) <= 1 and int((apart != 0).sum()) < len(theta) / 3
    again = balanced(m * w, 1.0)
    assert float((again[0] * again[1] / theta - 1).abs().max()) < 3 * 2**-23


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_factors_are_trained_as_the_papers_formula_has_it_and_pruned_ones_stay(name: str) -> None:  # M1 M3
    model = network()
    mask, plain = sparse(model), weights.of(model)
    course = SignIn(every="3it").course(Setting(model, mask, TIMES))
    optimizer = OPTIMIZERS[name](model.parameters())
    assert isinstance(course, Factors)
    begun = course.weights()
    assert begun.keys() == plain.keys()
    for layer, alive in mask.items():
        assert torch.allclose(begun[layer], plain[layer] * alive, rtol=2**-22, atol=0)
    for number in range(7):
        step(model, optimizer)
        before = course.weights()
        course.advance(optimizer, number)
        for layer in mask:
            owner: Any = model.get_submodule(layer.removesuffix(".weight"))
            made = owner.parametrizations["weight"]
            m, w, alive = made.original0, made.original1, mask[layer]
            assert not m[~alive].any() and not w[~alive].any()
            for factor in (m, w):
                kept = [value for value in optimizer.state[factor].values() if value.shape == factor.shape]
                assert not any(value[~alive].any() for value in kept)
            difference = (m.square() - w.square())[alive]
            assert torch.allclose(difference, torch.ones(()), atol=1e-5) == (number % 3 == 2)
        assert not weights.equal(before, course.weights())
    assert course.mask == mask


def test_a_step_moves_a_weight_by_its_gradient_times_the_sum_of_the_factors_squares() -> None:
    """dtheta = -lr dL/dtheta (m^2 + w^2) + O(lr^2), where m^2 + w^2 = sqrt(beta^2 + 4 theta^2)."""
    theta, beta, lr = torch.linspace(-2, 2, 41, dtype=torch.float64), 0.5, 1e-6
    m, w = (each.requires_grad_() for each in balanced(theta, beta))
    slope = torch.linspace(-1, 3, 41, dtype=torch.float64)
    (slope * m * w).sum().backward()
    assert m.grad is not None and w.grad is not None
    moved = (m - lr * m.grad) * (w - lr * w.grad) - m * w
    expected = -lr * slope * (beta**2 + 4 * theta.square()).sqrt()
    assert torch.allclose(moved, expected, rtol=1e-4, atol=1e-10)


def test_the_merged_network_computes_the_same() -> None:
    model = network()
    course = SignIn().course(Setting(model, sparse(model), TIMES))
    optimizer = OPTIMIZERS["adam"](model.parameters())
    for number in range(5):
        step(model, optimizer)
        course.advance(optimizer, number)
    merged = network()
    weights.put(merged, course.weights())
    assert torch.equal(merged.eval()(INPUTS), model.eval()(INPUTS))


# ---------------------------------------------------------------- AWS


def softened(parameters: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """gamma' = alpha + (1 - alpha) gamma and beta' = (1 - alpha) beta of the two normalisations, 1 and 3."""
    made = dict(parameters)
    for norm in ("1", "3"):
        made[f"{norm}.weight"] = alpha + (1 - alpha) * parameters[f"{norm}.weight"]
        made[f"{norm}.bias"] = (1 - alpha) * parameters[f"{norm}.bias"]
    return made


def test_each_step_goes_along_the_gradient_of_the_softened_network_and_looks_are_at_the_network_itself() -> None:
    model, other = network(), network()
    mask = sparse(model)
    course = Aws().course(Setting(model, mask, TIMES, seed=7))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert isinstance(course, Softened)
    with torch.no_grad():
        for name, alive in mask.items():
            other.get_parameter(name).mul_(alive)
    with course.along(optimizer):
        for number in range(4):
            step(model, optimizer)
            course.advance(optimizer, number)
            # The same by hand: parameters put in the place of gamma and beta, and the gradient through them.
            parameters = dict(other.named_parameters())
            loss = cross_entropy(functional_call(other, softened(parameters, alpha_of(7, number)), INPUTS), LABELS)
            for (name, parameter), gradient in zip(
                parameters.items(), torch.autograd.grad(loss, list(parameters.values())), strict=True
            ):
                with torch.no_grad():
                    parameter.sub_(0.1 * gradient * mask[name] if name in mask else 0.1 * gradient)
            for name, value in weights.of(other).items():
                assert torch.allclose(weights.of(model)[name], value, atol=1e-6), name
        looked = model.eval()(INPUTS)
    assert torch.equal(looked, model(INPUTS)), "in eval mode nothing is softened, along the training or after"
    assert torch.allclose(looked, other.eval()(INPUTS), atol=1e-5)


def test_alphas_are_uniform_and_of_seed_and_step_alone() -> None:  # K9
    drawn = np.sort([alpha_of(3, number) for number in range(2000)])
    assert np.abs(drawn - (np.arange(2000) + 0.5) / 2000).max() < 1.63 / 2000**0.5  # Kolmogorov, 1 %
    assert alpha_of(3, 5) == alpha_of(3, 5) != alpha_of(4, 5) != alpha_of(4, 6)


def test_a_network_without_normalisations_is_refused() -> None:
    plain = nn.Sequential(nn.Linear(6, 2))
    with pytest.raises(BadInput, match="expected a network with batch or layer normalisations that learn"):
        Aws().course(Setting(plain, Mask({"0.weight": torch.ones(2, 6, dtype=torch.bool)}), TIMES))
