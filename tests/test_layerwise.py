"""How what stays of a network is shared among its layers: exact totals, and densities that are computed once more."""

from collections.abc import Callable, Mapping
from math import ceil, prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tombola import layerwise

RULES = [layerwise.evenly, layerwise.erdos_renyi, layerwise.erdos_renyi_kernel]
CONV4 = {  # Conv-4 of The Lottery Ticket Hypothesis
    "conv1": (64, 3, 3, 3),
    "conv2": (64, 64, 3, 3),
    "conv3": (128, 64, 3, 3),
    "conv4": (128, 128, 3, 3),
    "fc1": (256, 8192),
    "fc2": (256, 256),
    "output": (10, 256),
}
Shapes = dict[str, tuple[int, ...]]
Rule = Callable[[Mapping[str, tuple[int, ...]], Mapping[str, float], int], dict[str, int]]
SHARE = st.floats(0, 1, allow_subnormal=False)
shapes = st.dictionaries(
    st.sampled_from("abcdef"),
    st.one_of(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.integers(1, 3)),
    ),
    min_size=1,
)


def sizes(network: Shapes) -> dict[str, int]:
    return {name: prod(shape) for name, shape in network.items()}


@pytest.mark.parametrize("rule", RULES)
@given(network=shapes, share=SHARE)
def test_the_total_is_exact_and_no_layer_has_more_than_its_weights(
    rule: Rule, network: Shapes, share: float
) -> None:  # C1 C15
    whole = sizes(network)
    total = round(share * sum(whole.values()))
    counts = rule(network, dict.fromkeys(network, 0.2), total)
    assert sum(counts.values()) == total
    assert all(0 <= counts[name] <= whole[name] for name in network) and list(counts) == list(network)


@pytest.mark.parametrize("rule", RULES)
@given(network=shapes, shares=st.tuples(SHARE, SHARE))
def test_fewer_in_all_are_nowhere_more_but_by_rounding(
    rule: Rule, network: Shapes, shares: tuple[float, float]
) -> None:
    whole = sum(sizes(network).values())
    few, many = sorted(round(share * whole) for share in shares)
    rates = dict.fromkeys(network, 0.2)
    less, more = rule(network, rates, few), rule(network, rates, many)
    assert all(less[name] <= more[name] + 1 for name in network)


def by_bisection(network: Shapes, raw: dict[str, float], density: float) -> dict[str, float]:
    """min(1, epsilon raw_l) with the one epsilon at which the network has the density: nothing is shared out again."""
    whole, low, high = sizes(network), 0.0, 1e9
    for _ in range(300):
        middle = (low + high) / 2
        kept = sum(min(1.0, middle * raw[name]) * whole[name] for name in network)
        low, high = (middle, high) if kept < density * sum(whole.values()) else (low, middle)
    return {name: min(1.0, high * raw[name]) for name in network}


@pytest.mark.parametrize("density", [0.02, 0.1, 0.36, 0.9])
def test_erdos_renyi_is_what_one_epsilon_gives(density: float) -> None:  # C15 O4
    total = round(density * sum(sizes(CONV4).values()))
    formulas: dict[Rule, Callable[[tuple[int, ...]], float]] = {
        layerwise.erdos_renyi: lambda s: (s[0] + s[1]) / (s[0] * s[1]),
        layerwise.erdos_renyi_kernel: lambda s: sum(s) / prod(s),
    }
    for rule, formula in formulas.items():
        expected = by_bisection(CONV4, {name: formula(shape) for name, shape in CONV4.items()}, density)
        counts = rule(CONV4, dict.fromkeys(CONV4, 0.2), total)
        for name, count in sizes(CONV4).items():
            assert abs(counts[name] - expected[name] * count) <= 1 + 1e-4 * count, name
        assert any(each == 1 for each in expected.values()) or density < 0.1, "a layer that is capped is among them"


def test_evenly_is_one_density_for_all_where_the_rates_are_one() -> None:
    total = ceil(0.1 * sum(sizes(CONV4).values()))
    counts = layerwise.evenly(CONV4, dict.fromkeys(CONV4, 0.2), total)
    assert all(abs(counts[name] - 0.1 * count) <= 1 for name, count in sizes(CONV4).items())


def test_evenly_gives_what_rounds_give_where_they_have_rates_of_their_own() -> None:
    """LeNet after ten rounds of 20 %, 10 % in the output layer."""
    lenet = {"fc1": (300, 784), "fc2": (100, 300), "output": (10, 100)}
    exact = {"fc1": 235_200 * 0.8**10, "fc2": 30_000 * 0.8**10, "output": 1_000 * 0.9**10}
    counts = layerwise.evenly(lenet, {"fc1": 0.2, "fc2": 0.2, "output": 0.1}, round(sum(exact.values())))
    assert all(abs(counts[name] - exact[name]) <= 1 for name in lenet)


def test_a_rate_of_zero_keeps_a_layer_dense() -> None:
    for rule in RULES:
        counts = rule({"a": (10, 10), "b": (5, 4)}, {"a": 0.2, "b": 0.0}, 40)
        assert counts == {"a": 20, "b": 20}
