"""How far masks overlap, and how far they would by chance."""

from itertools import combinations, product
from statistics import mean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola import mask
from tombola.mask import Mask
from tombola.study.overlap import Overlap, averaged, chance, overlaps, sentence

SIZES = {"conv": (8, 25), "fc": (30, 40), "out": (10, 5)}


def drawn(seed: int, densities: tuple[float, ...] = (0.5, 0.1, 0.9)) -> Mask:
    draw = torch.Generator().manual_seed(seed)
    return Mask(
        {name: torch.rand(size, generator=draw) < d for (name, size), d in zip(SIZES.items(), densities, strict=True)}
    )


@given(one=st.integers(0, 2**16), other=st.integers(0, 2**16))
def test_overlaps_are_those_of_the_sets_of_places(one: int, other: int) -> None:
    left, right = drawn(one), drawn(other)
    places = [
        {(name, place) for name in each for place, alive in enumerate(each[name].flatten().tolist()) if alive}
        for each in (left, right)
    ]
    *layers, whole = overlaps(left, right)
    assert [layer.name for layer in layers] == list(SIZES)
    for layer in layers:
        a, b = ({place for place in these if place[0] == layer.name} for these in places)
        assert layer.overlap == len(a & b) / len(a | b)
    assert whole.name == "all"
    assert whole.overlap == len(places[0] & places[1]) / len(places[0] | places[1])


@pytest.mark.parametrize(("a", "b", "n"), [(1, 1, 5), (2, 3, 5), (4, 2, 6), (3, 3, 6), (0, 3, 6), (6, 6, 6)])
def test_chance_has_in_common_what_all_pairs_of_masks_have_on_average(a: int, b: int, n: int) -> None:
    common = mean(
        len(set(left) & set(right)) for left, right in product(combinations(range(n), a), combinations(range(n), b))
    )
    assert chance(a, b, n) == pytest.approx(common / (a + b - common))


@given(d=st.integers(1, 100))
def test_of_equal_density_chance_is_d_over_2_minus_d(d: int) -> None:
    assert chance(d, d, 100) == pytest.approx((d / 100) / (2 - d / 100))


def test_independent_masks_overlap_as_chance_does() -> None:
    """One density for all would expect less: layers that keep much share much."""
    left = drawn(1, (0.9, 0.05, 0.5))
    pairs = [overlaps(mask.random_like(left, seed), mask.random_like(left, 1000 + seed)) for seed in range(200)]
    for found in averaged(pairs):
        assert found.overlap == pytest.approx(found.chance, rel=0.06)
    *_, whole = averaged(pairs)
    assert whole.chance > 1.5 * left.density / (2 - left.density)


@given(seed=st.integers(0, 2**16))
def test_a_mask_overlaps_itself_by_1_and_its_opposite_by_0(seed: int) -> None:
    own = drawn(seed)
    opposite = Mask({name: ~alive for name, alive in own.items()})
    assert {found.overlap for found in overlaps(own, own)} == {1.0}
    assert {found.overlap for found in overlaps(own, opposite)} == {0.0}
    assert overlaps(own, opposite) == overlaps(opposite, own)


def test_two_empty_layers_are_alike_and_nothing_is_divided_by_0() -> None:
    empty = Mask({"w": torch.zeros(4, dtype=torch.bool), "none": torch.zeros(0, dtype=torch.bool)})
    full = Mask({"w": torch.ones(4, dtype=torch.bool), "none": torch.zeros(0, dtype=torch.bool)})
    assert [(found.overlap, found.chance) for found in overlaps(empty, empty)] == [(1.0, 1.0)] * 3
    assert [(found.overlap, found.chance) for found in overlaps(empty, full)] == [(0.0, 0.0), (1.0, 1.0), (0.0, 0.0)]


def test_masks_of_other_layers_are_refused() -> None:
    one, other = Mask({"w": torch.ones(1, dtype=torch.bool)}), Mask({"w": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"same layers, found \{'w': \(1,\)\} and \{'w': \(3,\)\}"):
        overlaps(one, other)  # torch would have broadcast it


def test_the_sentence_says_how_much_against_chance_and_where() -> None:
    pairs = [
        [Overlap("fc1", 0.2, 0.1), Overlap("fc2", 0.5, 0.3), Overlap("all", 0.30, 0.2)],
        [Overlap("fc1", 0.2, 0.1), Overlap("fc2", 0.6, 0.3), Overlap("all", 0.40, 0.2)],
    ]
    assert sentence("tickets of one initialisation in other data orders", 0.107, pairs) == (
        "At 10.7%, the masks of tickets of one initialisation in other data orders overlap by 0.35 (0.30 to 0.40) "
        "where chance gives 0.20, over 2 pairs: most above chance in fc2 (0.55 against 0.30), least in fc1 (0.20 "
        "against 0.10)."
    )
    one = [Overlap("w", 0.5, 0.1), Overlap("all", 0.5, 0.1)]
    assert sentence("tickets", 0.5, [one]) == (
        "At 50.0%, the masks of tickets overlap by 0.50 where chance gives 0.10, over 1 pair."
    )
    alike = [Overlap("fc1", 0.034, 0.03), Overlap("fc2", 0.02, 0.024), Overlap("all", 0.03, 0.03)]
    assert sentence("tickets", 0.03, [alike]).endswith("over 1 pair: in no layer more than chance, to two digits.")
