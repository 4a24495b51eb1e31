"""Lottery pools, on weights of a few numbers and an accuracy of our own."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola import weights
from tombola.mask import Mask
from tombola.study.lottery_pools import ALPHAS, Network, Pool, pool
from tombola.weights import Weights

SIZE, KEPT = 6, 3
Left = dict[tuple[str, ...], int]


def drawn(seed: int, neighbours: int) -> tuple[Network, list[Weights], Callable[[Weights], float]]:
    """A ticket of three of six weights in two layers, other networks, and how near to some place weights are."""
    generator = torch.Generator().manual_seed(seed)
    values, wanted = torch.randn(neighbours + 1, SIZE, generator=generator), torch.randn(SIZE, generator=generator)
    alive = torch.zeros(SIZE, dtype=torch.bool)
    alive[torch.randperm(SIZE, generator=generator)[:KEPT]] = True
    ticket = Network(layers(values[0] * alive), Mask({"a": alive[:4], "b": alive[4:]}))

    def accuracy(found: Weights) -> float:
        return float(1 / (1 + (torch.cat([found["a"], found["b"]]) - wanted).square().sum()))

    return ticket, [layers(each) for each in values[1:]], accuracy


def layers(values: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"a": values[:4].clone(), "b": values[4:].clone()}


def flat(found: Weights) -> list[float]:
    return torch.cat([found["a"], found["b"]]).tolist()


TOGETHER: Left = {("a", "b"): KEPT}


@given(st.integers(0, 10**6), st.integers(0, 4))
def test_a_pool_never_falls_below_its_ticket_and_keeps_as_many_weights(seed: int, neighbours: int) -> None:
    ticket, others, accuracy = drawn(seed, neighbours)
    apart: Left = {(name,): count for name, count in ticket.mask.counts.items()}
    for left in (TOGETHER, apart):
        found = pool(ticket, others, left, accuracy)
        assert found.of_target == accuracy(ticket.weights) <= found.accuracy == accuracy(found.network.weights)
        assert found.network.mask.alive == KEPT
        assert left is TOGETHER or found.network.mask.counts == ticket.mask.counts
        dead = Mask({name: ~alive for name, alive in found.network.mask.items()})
        assert not any(found.network.weights[name][dead[name]].any() for name in dead)


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_a_pool_is_that_of_plain_arithmetic(seed: int, neighbours: int) -> None:
    """Lists, sorted by size: at each neighbour the most accurate of eleven, if it is as accurate as what there was."""
    ticket, others, accuracy = drawn(seed, neighbours)
    best, reached = flat(ticket.weights), accuracy(ticket.weights)
    for other in map(flat, others):
        tried = []
        for alpha in ALPHAS:
            mixed = [alpha * one + (1 - alpha) * two for one, two in zip(best, other, strict=True)]
            large = sorted(range(SIZE), key=lambda place, mixed=mixed: abs(mixed[place]))[-KEPT:]  # type: ignore[misc]
            mixed = [value if place in large else 0.0 for place, value in enumerate(mixed)]
            tried.append((accuracy(layers(torch.tensor(mixed))), mixed))
        found, mixed = max(tried, key=lambda pair: pair[0])
        if found >= reached:
            best, reached = mixed, found
    assert flat(pool(ticket, others, TOGETHER, accuracy).network.weights) == pytest.approx(best, abs=1e-5)


def test_a_ticket_mixed_with_itself_is_itself() -> None:
    ticket, _, accuracy = drawn(0, 0)
    found = pool(ticket, [ticket.weights] * 3, TOGETHER, accuracy)
    assert weights.equal(found.network.weights, ticket.weights) and found.network.mask == ticket.mask
    assert all(each.taken and each.alpha == ALPHAS[0] for each in found.mixed), "none is less accurate"


def test_without_neighbours_it_stays_as_it_is_and_worse_mixtures_are_left() -> None:
    ticket, others, accuracy = drawn(1, 2)
    assert pool(ticket, [], TOGETHER, accuracy).network is ticket

    def of_ticket(found: Weights) -> float:
        return float(weights.equal(found, ticket.weights))

    found: Pool = pool(ticket, others, TOGETHER, of_ticket)
    assert found.network is ticket and not any(each.taken for each in found.mixed)


def test_what_is_asked_is_what_was_made_ready() -> None:
    """As with running statistics, which each mixture has of its own."""
    ticket, others, _ = drawn(2, 1)

    def ready(found: Weights) -> Weights:
        return {**found, "a": found["a"] + 1}

    found = pool(ticket, others, TOGETHER, lambda found: float(found["a"].sum()), ready)
    dead = ~found.network.mask["a"]
    assert found.mixed[0].taken and dead.any() and (found.network.weights["a"][dead] == 1).all()
