"""Stability: distances over survivors, angles that are exact where it is hard, and what is said of tickets."""

from math import acos, degrees, inf, nan, sin, sqrt
from math import pi as PI

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel
from torch import Tensor

from tombola.mask import Mask
from tombola.study.paired import Difference
from tombola.study.stability import Distances, angle, decide, distance, distances, judge

SEEDS = st.integers(0, 2**16)


def network(seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(6, 5, generator=draw), "v": torch.randn(7, generator=draw), "bias": torch.randn(3)}


def half(seed: int) -> Mask:
    draw = torch.Generator().manual_seed(seed)
    alive = {name: torch.rand(value.shape, generator=draw) < 0.5 for name, value in network(0).items()}
    alive["w"][0, 0] = True  # never empty
    return Mask({name: alive[name] for name in ("w", "v")})


def listed(weights: dict[str, Tensor], mask: Mask) -> list[float]:
    """The survivors one by one, without the code under test."""
    return [
        float(value)
        for name in mask
        for value, alive in zip(weights[name].flatten().tolist(), mask[name].flatten().tolist(), strict=True)
        if alive
    ]


@given(one=SEEDS, other=SEEDS, third=SEEDS)
def test_distances_are_those_of_the_survivors_one_by_one(one: int, other: int, third: int) -> None:
    left, right, mask = network(one), network(other), half(third)
    u, v = listed(left, mask), listed(right, mask)
    assert distance(left, right, mask) == pytest.approx(sqrt(sum((a - b) ** 2 for a, b in zip(u, v, strict=True))))
    cosine = sum(a * b for a, b in zip(u, v, strict=True)) / sqrt(sum(a * a for a in u) * sum(b * b for b in v))
    assert angle(left, right, mask) == pytest.approx(degrees(acos(max(-1, min(1, cosine)))), abs=1e-5)


@given(one=SEEDS, other=SEEDS, third=SEEDS)
def test_pruned_places_and_biases_are_not_seen(one: int, other: int, third: int) -> None:
    left, right, mask = network(one), network(other), half(third)
    before = distances(left, right, mask)
    for name in mask:
        left[name][~mask[name]] = 1e6
    right["bias"] = torch.full((3,), 1e6)
    assert distances(left, right, mask) == before


@given(one=SEEDS, other=SEEDS, third=SEEDS)
def test_distances_are_symmetric_and_0_for_a_network_with_itself(one: int, other: int, third: int) -> None:
    left, right, mask = network(one), network(other), half(third)
    assert distances(left, right, mask) == distances(right, left, mask)
    assert distances(left, left, mask) == Distances(0.0, 0.0)


@given(one=SEEDS, scale=st.floats(0.01, 100))
def test_the_angle_forgets_length_and_turns_round_with_the_sign(one: int, scale: float) -> None:
    left, mask = network(one), half(one)
    longer = {name: value.double() * scale for name, value in left.items()}
    assert angle(left, longer, mask) == pytest.approx(0, abs=1e-12)
    assert angle(left, {name: -value for name, value in left.items()}, mask) == 180.0


ALL = Mask({"w": torch.tensor([True, True])})


def pair(u: tuple[float, float], v: tuple[float, float]) -> tuple[dict[str, Tensor], dict[str, Tensor], Mask]:
    return {"w": torch.tensor(u, dtype=torch.float64)}, {"w": torch.tensor(v, dtype=torch.float64)}, ALL


def test_orthogonal_vectors_are_90_degrees_apart() -> None:
    assert angle(*pair((3.0, 4.0), (-4.0, 3.0))) == 90.0


@pytest.mark.parametrize("small", [1e-3, 1e-6, 1e-9, 1e-12])
def test_the_angle_is_exact_near_0_and_near_180(small: float) -> None:
    """The arc cosine of 1 - 1e-18 is 0."""
    assert angle(*pair((1.0, 0.0), (1.0, sin(small)))) == pytest.approx(small * 180 / PI, rel=1e-6)
    assert 180 - angle(*pair((1.0, 0.0), (-1.0, sin(small)))) == pytest.approx(small * 180 / PI, rel=1e-6, abs=1e-13)


def test_a_vector_of_0_has_no_direction() -> None:
    with pytest.raises(ValueError, match="found one that is 0 at every surviving weight"):
        angle(*pair((0.0, 0.0), (1.0, 0.0)))
    assert angle(*pair((0.0, 0.0), (0.0, 0.0))) == 0.0


def test_float32_is_summed_in_float64() -> None:
    many = Mask({"w": torch.ones(3_000_000, dtype=torch.bool)})
    zeros, tenths = {"w": torch.zeros(3_000_000)}, {"w": torch.full((3_000_000,), 0.1)}
    assert distance(zeros, tenths, many) == pytest.approx(sqrt(3_000_000) * float(tenths["w"][0]), rel=1e-10)


TICKET = {n: [Distances(7.0 + n, 16.0), Distances(7.2 + n, 16.2 + n)] for n in range(3)}
RANDOM = {n: [Distances(28.9 + n, 75.8), Distances(29.0 + 2 * n, 76.0)] for n in range(3)}


def test_pairs_are_averaged_inside_their_replicate_and_the_interval_is_paired() -> None:  # K15
    found = judge("data order", 0.107, TICKET, RANDOM, confidence=0.9)
    ours, theirs = ([sum(d.l2 for d in arm[n]) / 2 for n in range(3)] for arm in (TICKET, RANDOM))
    expected = ttest_rel(ours, theirs).confidence_interval(0.9)
    assert (found.l2.low, found.l2.high) == pytest.approx((expected.low, expected.high))
    assert (found.l2.n, found.verdict) == (3, "more stable")
    assert found.ticket.l2 == pytest.approx(sum(ours) / 3)
    assert found.random.degrees == pytest.approx(75.9)


def test_replicates_are_paired_by_number_and_those_without_a_partner_left_out() -> None:
    backwards = {n: RANDOM[n] for n in (2, 1, 0)}
    assert judge("pruning", 0.5, TICKET | {7: [Distances(nan, nan)], 8: []}, backwards | {8: RANDOM[0]}) == judge(
        "pruning", 0.5, TICKET, RANDOM
    )
    with pytest.raises(ValueError, match="expected a replicate that both tickets and random masks have, found none"):
        judge("pruning", 0.5, {0: TICKET[0]}, {1: RANDOM[0]})


def test_tickets_against_themselves_show_nothing_and_swapped_arms_the_opposite() -> None:
    assert judge("data order", 0.1, TICKET, TICKET).verdict == "not shown"
    assert judge("data order", 0.1, RANDOM, TICKET).verdict == "less stable"


def test_one_replicate_decides_nothing() -> None:  # K15
    found = judge("data order", 0.1, {0: TICKET[0]}, {0: RANDOM[0]})
    assert (found.verdict, found.l2.low, found.l2.high) == ("not shown", -inf, inf)
    assert found.reason.endswith("one replicate decides nothing, difference -21.9 (-59.8 degrees), n = 1.")


@pytest.mark.parametrize(("l2", "turned", "expected"), [
    ((-2, -1), (-2, -1), "more stable"),
    ((-2, -1), (-2, 0), "not shown"),
    ((-2, 0), (-2, -1), "not shown"),
    ((-2, -1), (1, 2), "not shown"),
    ((1, 2), (1, 2), "less stable"),
    ((1, 2), (0, 2), "not shown"),
])  # fmt: skip
def test_both_distances_must_agree(l2: tuple[float, float], turned: tuple[float, float], expected: str) -> None:
    assert decide(*(Difference(0, low, high, 3) for low, high in (l2, turned))) == expected


def test_the_sentence_says_what_was_done_and_what_came_out() -> None:
    steady = [{n: [Distances(a + n / 100, b + n)] for n in range(3)} for a, b in ((7.1, 16.1), (28.9, 75.8))]
    steady[0][0] = [Distances(7.2, 16.3)]
    assert judge("data order", 0.107, steady[0], steady[1]).reason == (
        "Stability to data order at 10.7%: trained twice in other orders, tickets end 7.1 apart (17.2 degrees), random "
        "masks 28.9 (76.8 degrees): the tickets are closer, difference -21.8 [-21.9, -21.6] (-59.6 [-59.9, -59.3] "
        "degrees), n = 3."
    )
    loose = {n: [Distances(7.1, 75.8 + n * (-1) ** n)] for n in range(3)}
    found = judge("pruning", 0.107, loose, steady[1])
    assert found.verdict == "not shown"
    assert "from the dense network trained in the same order" in found.reason
    assert ": by distance the tickets are closer, by angle no difference is shown, " in found.reason
