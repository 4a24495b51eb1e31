"""Which weights stay: exact counts, ties, scopes, and the answers of others."""

import itertools
import re
from fractions import Fraction
from math import floor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from tombola import mask, prunable, prune
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.n_of_m import n_of_m

FRACTIONS = ["0", "0.1", "0.2", "0.5", "0.9", "1"]


def alive(size: int) -> Tensor:
    return torch.ones(size, dtype=torch.bool)


# ---------------------------------------------------------------- the count


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_the_count_is_the_fraction_of_the_living_rounded_half_up(fraction: str) -> None:  # C1 C2 C6
    for living in range(1000):
        assert prune.count(float(fraction), living) == floor(Fraction(fraction) * living + Fraction(1, 2))


@pytest.mark.parametrize("fraction", [-0.1, 1.1, 20, 100, float("nan"), float("inf")])
def test_a_fraction_outside_of_0_to_1_is_refused_with_an_example(fraction: float) -> None:  # C11 C12
    message = f"prune: expected a fraction in [0, 1], found {fraction!r}. 0.2 removes a fifth of the living weights."
    with pytest.raises(BadInput, match=f"^{re.escape(message)}$"):
        prune.count(fraction, living=10)


@pytest.mark.parametrize(("fraction", "stay"), [(0, 10), (0.1, 9), (0.2, 8), (0.5, 5), (0.9, 1), (1, 0)])
@pytest.mark.parametrize(
    "scores", [torch.arange(10.0), torch.ones(10), torch.zeros(10)], ids=["distinct", "all tied", "all zero"]
)
def test_exactly_the_asked_count_goes(scores: Tensor, fraction: float, stay: int) -> None:  # C1 C2 C6
    full = Mask({"w": alive(10)})
    assert prune.by_layer({"w": scores}, full, {"w": fraction}).alive == stay
    assert prune.globally({"w": scores}, full, fraction).alive == stay


def test_counts_stay_exact_round_after_round_down_to_the_last_weights() -> None:  # C4 C10
    scores, living = {"w": torch.rand(1000, dtype=torch.float64)}, Mask({"w": alive(1000)})
    for _ in range(60):
        rounded = prune.by_layer(scores, living, {"w": 0.2})
        assert rounded.alive == living.alive - floor(Fraction(2, 10) * living.alive + Fraction(1, 2))
        assert Mask(mask.apply(rounded, living)) == rounded
        living = rounded
    assert living.alive == 2, "a fifth of two is less than half a weight: nothing more goes"


# ---------------------------------------------------------------- ties


def test_among_equals_the_lower_flat_index_goes_first() -> None:  # C19
    scores = torch.tensor([[3.0, 1.0, 1.0], [1.0, 0.5, 1.0]])
    kept = [prune.lowest(scores, alive(6).view(2, 3), remove).flatten().int().tolist() for remove in range(7)]
    assert kept == [
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 0, 1],
        [1, 0, 1, 1, 0, 1],
        [1, 0, 0, 1, 0, 1],
        [1, 0, 0, 0, 0, 1],
        [1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_among_equals_the_earlier_tensor_goes_first() -> None:  # C19
    tied = {"z": torch.ones(3), "a": torch.ones(3)}
    assert prune.globally(tied, Mask({"z": alive(3), "a": alive(3)}), 0.5).counts == {"z": 0, "a": 3}
    assert prune.globally(tied, Mask({"a": alive(3), "z": alive(3)}), 0.5).counts == {"a": 0, "z": 3}


def test_zero_and_minus_zero_are_equals() -> None:  # C19
    assert prune.lowest(torch.tensor([0.0, -0.0, 0.0]), alive(3), 1).tolist() == [False, True, True]


# ---------------------------------------------------------------- what is counted and touched


def test_pruned_weights_are_neither_counted_nor_revived_whatever_their_score() -> None:  # C4 C5 M3
    before = Mask({"w": torch.tensor([True, False, True, False, True])})
    scores = {"w": torch.tensor([1.0, 99.0, 2.0, -99.0, 3.0])}
    for after in (prune.by_layer(scores, before, {"w": 0.34}), prune.globally(scores, before, 0.34)):
        assert after["w"].tolist() == [False, False, True, False, True]


def test_an_alive_weight_that_is_exactly_0_stays_alive_until_it_is_chosen() -> None:  # C8
    full = Mask({"w": alive(4)})
    assert prune.by_layer({"w": torch.tensor([5.0, 0.0, 0.0, 1.0])}, full, {"w": 0}).alive == 4
    assert prune.by_layer({"w": torch.tensor([5.0, 0.0, 0.0, 1.0])}, full, {"w": 0.25})["w"].tolist() == [
        True,
        False,
        True,
        True,
    ]


def test_the_given_mask_stays_as_it_was() -> None:  # K5
    full = Mask({"w": alive(4)})
    prune.by_layer({"w": torch.arange(4.0)}, full, {"w": 0.5})
    prune.globally({"w": torch.arange(4.0)}, full, 0.5)
    assert full.alive == 4


def test_every_layer_is_pruned_at_its_own_rate() -> None:  # C18
    full = Mask({name: alive(10) for name in "abc"})
    scores = {"a": torch.full((10,), 1e6), "b": torch.arange(10.0), "c": torch.full((10,), 1e-6)}
    assert prune.by_layer(scores, full, {"a": 0.2, "b": 0, "c": 1}).counts == {"a": 8, "b": 10, "c": 0}


def test_global_scores_are_compared_raw() -> None:  # C16
    full = Mask({"large": alive(5), "small": alive(5)})
    scores = {"large": torch.arange(5.0) + 100, "small": torch.arange(5.0)}
    assert prune.globally(scores, full, 0.5).counts == {"large": 5, "small": 0}


def test_a_layer_that_is_left_out_changes_what_the_rate_is_taken_of() -> None:  # C17
    scores = {"a": torch.arange(10.0) + 1, "kept": torch.zeros(90)}
    without = prune.globally(scores, Mask({"a": alive(10)}), 0.2)
    assert list(without) == ["a"] and without.alive == 8
    assert prune.globally(scores, Mask({"a": alive(10), "kept": alive(90)}), 0.2).counts == {"a": 10, "kept": 70}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_of_a_diverged_training_are_refused(bad: float) -> None:
    message = (
        "scores of fc.weight: expected finite numbers, found NaN or infinity. The training that gave them diverged."
    )
    scores, full = {"fc.weight": torch.tensor([1.0, bad])}, Mask({"fc.weight": alive(2)})
    with pytest.raises(BadInput, match=f"^{re.escape(message)}$"):
        prune.by_layer(scores, full, {"fc.weight": 0.5})
    with pytest.raises(BadInput, match=f"^{re.escape(message)}$"):
        prune.globally(scores, full, 0.5)


def test_more_weights_than_a_quantile_can_take() -> None:  # C7
    size = 20_000_000  # torch.quantile refuses more than 2**24; int16 scores have many ties and sort fast
    scores = torch.randint(-30_000, 30_000, (size,), dtype=torch.int16, generator=torch.Generator().manual_seed(0))
    kept = prune.lowest(scores, alive(size), prune.count(0.2, size))
    assert int(kept.sum()) == 16_000_000
    assert scores[~kept].max() <= scores[kept].min()


# ---------------------------------------------------------------- n of m


@given(
    nm=st.sampled_from([(2, 4), (1, 4), (0, 4), (4, 4), (4, 8), (1, 1), (3, 5)]),
    shape=st.sampled_from([(1,), (5,), (3, 2, 2), (2, 3, 3)]),
    groups=st.integers(1, 3),
    levels=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_of_each_group_along_the_inputs_the_best_living_stay(
    nm: tuple[int, int], shape: tuple[int, ...], groups: int, levels: int, seed: int
) -> None:  # C4 C19 M3
    (n, m), random = nm, torch.Generator().manual_seed(seed)
    shape = (shape[0], groups * m, *shape[1:])
    scores = torch.randint(levels, shape, generator=random).double()  # with many equals
    before = torch.rand(shape, generator=random) < 0.7
    after = n_of_m({"w": scores}, Mask({"w": before}), n, m)["w"]
    for output in range(shape[0]):
        for window in itertools.product(*map(range, shape[2:])):
            for first in range(0, groups * m, m):
                places = [(output, place, *window) for place in range(first, first + m)]
                living = [place for place in places if before[place]]
                best = sorted(living, key=lambda place: (float(scores[place]), place))[max(0, len(living) - n) :]
                assert [place for place in places if after[place]] == sorted(best)


def test_n_of_m_nests_is_exact_and_leaves_layers_whose_inputs_do_not_divide() -> None:
    scores = {"a": torch.rand(6, 8), "odd": torch.rand(6, 7), "flat": torch.rand(8)}
    full = Mask({name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()})
    half, quarter = n_of_m(scores, full, 2, 4), n_of_m(scores, n_of_m(scores, full, 2, 4), 1, 4)
    assert half.counts == {"a": 24, "odd": 42, "flat": 8} and quarter.counts == {"a": 12, "odd": 42, "flat": 8}
    assert (
        Mask(mask.apply(half, full)) == half and Mask(mask.apply(quarter, half)) == quarter and full.counts["a"] == 48
    )
    assert n_of_m(scores, full, 1, 4) == quarter


def test_the_n_of_m_vectors_of_jaxpruner() -> None:  # O3
    """Its tie rule for n of m is ours: of equals the lower index goes. Its axis -1 is our inputs."""
    scores = [[0.69, 0.37, 0.96, 0.81], [0.79, 0.55, 0.88, 0.53], [0.66, 0.88, 0.4, 0.83], [0.13, 0.8, 0.91, 0.96]]
    scores += [[0.34, 0.17, 0.07, 0.74], [0.13, 0.13, 0.83, 0.76], [0.13, 0.92, 0.25, 0.75], [0.37, 0.42, 0.65, 0.46]]
    wanted = [
        [0, 0, 1, 1],
        [1, 0, 1, 0],
        [0, 1, 0, 1],
        [0, 0, 1, 1],
        [1, 0, 0, 1],
        [0, 0, 1, 1],
        [0, 1, 0, 1],
        [0, 0, 1, 1],
    ]
    full = Mask({"w": alive(32).view(8, 4)})
    assert n_of_m({"w": torch.tensor(scores)}, full, 2, 4)["w"].int().tolist() == wanted
    tied = n_of_m({"w": torch.ones(1, 8)}, Mask({"w": alive(8).view(1, 8)}), 2, 4)
    assert tied["w"].int().tolist() == [[0, 0, 1, 1, 0, 0, 1, 1]]


@pytest.mark.parametrize(("n", "m"), [(4, 2), (-1, 4), (0, 0)])
def test_more_than_all_of_a_group_cannot_stay(n: int, m: int) -> None:  # O3
    with pytest.raises(BadInput, match=f"expected n of m with 0 <= n <= m and m > 0, found {n} of {m}"):
        n_of_m({"w": torch.ones(1, 8)}, Mask({"w": alive(8).view(1, 8)}), n, m)
    with pytest.raises(BadInput, match="scores of w: expected finite numbers"):
        n_of_m({"w": torch.full((1, 4), torch.nan)}, Mask({"w": alive(4).view(1, 4)}), 2, 4)


# ---------------------------------------------------------------- independent answers


@pytest.mark.parametrize("remove", range(6))
def test_brute_force_on_five_weights(remove: int) -> None:  # C1 C2 C19
    """Of all ways to remove `remove` of five: the smallest sum of scores, then the lowest indices."""
    for values in itertools.product([0.0, 1.0, 2.0], repeat=5):
        # The sum settles which values go; among the ways to take equal values the lowest indices come first.
        best = min(
            itertools.combinations(range(5), remove), key=lambda gone: (sum(values[place] for place in gone), gone)
        )
        kept = prune.lowest(torch.tensor(values), alive(5), remove)
        assert kept.tolist() == [place not in best for place in range(5)], values


def test_the_vectors_of_pytorchs_own_tests() -> None:  # O2
    m = torch.tensor([[1.0, 2.0, 3.0, 4.0], [-4.0, -3.0, -2.0, -1.0]])
    first = prune.lowest(m.abs(), alive(8).view(2, 4), 2)
    assert (m * first).tolist() == [[0, 2, 3, 4], [-4, -3, -2, 0]]
    second = prune.lowest(m.abs(), first, 2)
    assert (m * second).tolist() == [[0, 0, 3, 4], [-4, -3, 0, 0]]

    t = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    given = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 1]]).bool()
    assert prune.lowest(t, given, 2).int().tolist() == [[0, 0, 1, 0], [1, 1, 0, 1]]

    n = torch.tensor([[0.0, 0.1, -2.0]])
    pooled = prune.globally(
        {"m": m.abs(), "n": n.abs()}, Mask({"m": alive(8).view(2, 4), "n": alive(3).view(1, 3)}), 4 / 11
    )
    assert (m * pooled["m"]).tolist() == [[0, 2, 3, 4], [-4, -3, -2, 0]]
    assert (n * pooled["n"]).tolist() == [[0, 0, -2]]

    tied = torch.ones(3, 4)
    assert int(prune.lowest(tied, alive(12).view(3, 4), 5).sum()) == 7


def drawn_network(seed: int) -> nn.Sequential:
    """A small float64 net with weights of very different sizes from layer to layer; no two are equal."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 12), nn.Linear(12, 5)).double()
    for scale, name in zip((1.0, 0.1, 3.0), prunable.prunable(model), strict=True):
        model.get_parameter(name).data.normal_(generator=generator).mul_(scale)
    return model


@pytest.mark.parametrize("seed", range(5))
def test_layer_by_layer_as_torch_does_over_eight_rounds(seed: int) -> None:  # O1 C1 C4 C5
    model = drawn_network(seed)
    scores = {name: model.get_parameter(name).detach().abs() for name in prunable.prunable(model)}
    rates = dict(zip(scores, (0.1, 0.2, 0.5), strict=True))
    modules = {name: model.get_submodule(name.rpartition(".")[0]) for name in scores}
    living = prunable.full(model)
    for _ in range(8):
        for name, module in modules.items():
            torch_prune.l1_unstructured(module, "weight", amount=prune.count(rates[name], living.counts[name]))
        living = prune.by_layer(scores, living, rates)
        for name, module in modules.items():
            assert torch.equal(living[name], module.get_buffer("weight_mask").bool())


@pytest.mark.parametrize("seed", range(5))
def test_globally_as_torch_does_over_eight_rounds(seed: int) -> None:  # O1 C16
    model = drawn_network(seed)
    scores = {name: model.get_parameter(name).detach().abs() for name in prunable.prunable(model)}
    modules = {name: model.get_submodule(name.rpartition(".")[0]) for name in scores}
    living = prunable.full(model)
    for _ in range(8):
        torch_prune.global_unstructured(
            [(module, "weight") for module in modules.values()],
            pruning_method=torch_prune.L1Unstructured,
            amount=prune.count(0.2, living.alive),
        )
        living = prune.globally(scores, living, 0.2)
        for name, module in modules.items():
            assert torch.equal(living[name], module.get_buffer("weight_mask").bool())


# Weights and rate of each layer: convolutions and the output layer lose 10 % a round, the other linear layers 20 %.
LENET = {"fc1": (784 * 300, 0.2), "fc2": (300 * 100, 0.2), "output": (100 * 10, 0.1)}
HEAD = {"fc2": (256 * 256, 0.2), "output": (256 * 10, 0.1)}
CONV_2 = {"conv1": (3 * 64 * 9, 0.1), "conv2": (64 * 64 * 9, 0.1), "fc1": (16 * 16 * 64 * 256, 0.2)} | HEAD
CONV_4 = {
    "conv1": (3 * 64 * 9, 0.1),
    "conv2": (64 * 64 * 9, 0.1),
    "conv3": (64 * 128 * 9, 0.1),
    "conv4": (128 * 128 * 9, 0.1),
    "fc1": (8 * 8 * 128 * 256, 0.2),
} | HEAD


def living_by_round(layers: dict[str, tuple[int, float]], rounds: int) -> list[dict[str, int]]:
    counts = [{name: size for name, (size, _) in layers.items()}]
    for _ in range(rounds):
        counts.append({name: living - prune.count(layers[name][1], living) for name, living in counts[-1].items()})
    return counts


@pytest.mark.parametrize(
    ("layers", "total", "percent"),
    [
        (
            LENET,
            266_200,
            "100.0 80.0 64.1 51.3 41.1 32.9 26.3 21.1 16.9 13.5 10.8 8.7 7.0 5.6 4.5 3.6 2.9 2.3 1.9 1.5 1.2",
        ),
        (CONV_2, 4_300_992, "100.0 80.1 64.2 51.4 41.2 33.0 26.5 21.2 17.0 13.7 11.0 8.8 7.1 5.7 4.6 3.7 3.0"),
        (CONV_4, 2_425_024, "100.0 81.1 65.8 53.5 43.6 35.6 29.1 23.9 19.6 16.2 13.3 11.1 9.2 7.7 6.4 5.4 4.5"),
    ],
    ids=["LeNet", "Conv-2", "Conv-4"],
)
def test_the_densities_that_the_paper_prints(layers: dict[str, tuple[int, float]], total: int, percent: str) -> None:
    """P_m by round (The Lottery Ticket Hypothesis, Frankle & Carbin, 2019, labels of the figures).

    Two labels of the paper lie within 0.06 of ours and are not their rounding: LeNet's 1.8 is 1.851 here (its code
    removes one weight more per layer and round, trap C2, which makes it 1.844), Conv-4's 7.6 is 7.653.
    """
    counts = living_by_round(layers, rounds=len(percent.split()) - 1)
    assert sum(counts[0].values()) == total
    assert [f"{100 * sum(living.values()) / total:.1f}" for living in counts] == percent.split()


def test_the_masks_of_lenet_have_these_densities() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(size, generator=generator) for name, (size, _) in LENET.items()}
    living = Mask({name: alive(size) for name, (size, _) in LENET.items()})
    for counts in living_by_round(LENET, rounds=20):
        assert living.counts == counts
        living = prune.by_layer(scores, living, {name: rate for name, (_, rate) in LENET.items()})
