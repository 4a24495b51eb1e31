"""Linear mode connectivity: lines, barriers, running statistics, and the 2 % rule."""

import re
from collections.abc import Callable, Iterator
from math import inf
from statistics import mean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t
from torch import Tensor, nn

from tombola import weights
from tombola.study.connectivity import BOUND, alphas, barrier, decide, judge, recompute_statistics
from tombola.study.paired import Difference

SEEDS = st.integers(0, 2**16)
ERRORS = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=30)


def normalised(init_seed: int) -> nn.Sequential:
    torch.manual_seed(init_seed)
    layers = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3), nn.BatchNorm1d(3)
    return nn.Sequential(*layers)


def inputs(seed: int, batches: int = 4) -> list[Tensor]:
    return list(torch.randn(batches, 8, 4, generator=torch.Generator().manual_seed(seed)) * 3 + 1)


def error_of(model: nn.Module, seed: int = 0) -> Callable[[weights.Weights], float]:
    """The classification error on a fixed set, in evaluation mode."""
    draw = torch.Generator().manual_seed(seed)
    examples, labels = torch.randn(200, 4, generator=draw), torch.randint(3, (200,), generator=draw)

    def error(point: weights.Weights) -> float:
        weights.put(model.eval(), point)
        with torch.no_grad():
            return float((model(examples).argmax(dim=1) != labels).double().mean())

    return error


@given(points=st.integers(2, 200))
def test_alphas_are_evenly_spaced_from_0_to_1(points: int) -> None:  # E6
    found = alphas(points)
    assert (len(found), found[0], found[-1]) == (points, 0.0, 1.0)
    assert list(found) == pytest.approx(torch.linspace(0, 1, points, dtype=torch.float64).tolist(), abs=1e-15)


def test_a_line_has_30_points_and_at_least_its_ends() -> None:  # E6
    assert len(alphas()) == 30
    with pytest.raises(ValueError, match=r"at least the two ends of the line, found 1 point"):
        alphas(1)


Error = Callable[[weights.Weights], float]


def line(left: weights.Weights, right: weights.Weights, error: Error, points: int = 30) -> list[float]:
    """The error of each network on the line from `left` to `right`."""
    return [error(weights.interpolate(left, right, alpha)) for alpha in alphas(points)]


@given(seed=SEEDS)
def test_the_barrier_of_a_network_with_itself_is_0(seed: int) -> None:  # E6
    model = normalised(seed)
    own = weights.of(model)
    errors = line(own, own, error_of(model), points=7)
    assert len(set(errors)) == 1
    assert barrier(errors) == 0


@given(one=SEEDS, other=SEEDS)
def test_the_ends_of_the_line_are_the_networks_themselves(one: int, other: int) -> None:  # E6
    left, right = weights.of(normalised(one)), weights.of(normalised(other))
    seen: list[weights.Weights] = []

    def watch(point: weights.Weights) -> float:
        seen.append(point)
        return 0.0

    line(left, right, watch, points=5)
    for found, end in ((seen[0], left), (seen[-1], right)):
        assert {name: value.numpy().tobytes() for name, value in found.items()} == {
            name: value.numpy().tobytes() for name, value in end.items()
        }


@given(one=SEEDS, other=SEEDS)
def test_swapped_ends_give_the_line_backwards(one: int, other: int) -> None:
    left, right = ({name: value.double() for name, value in state(seed).items()} for seed in (one, other))

    def loss(point: weights.Weights) -> float:
        return float(sum(value.sin().sum() for value in point.values()))

    forth, back = line(left, right, loss), line(right, left, loss)
    assert forth == pytest.approx(back[::-1], abs=1e-9)
    assert barrier(forth) == pytest.approx(barrier(back), abs=1e-9)


def state(seed: int) -> dict[str, Tensor]:
    return {name: value for name, value in weights.of(normalised(seed)).items() if value.is_floating_point()}


@given(one=SEEDS, other=SEEDS)
def test_a_linear_loss_has_no_barrier_beyond_its_ends_and_a_hill_has_its_height(one: int, other: int) -> None:
    left, right = ({"w": torch.tensor(float(seed % 97), dtype=torch.float64)} for seed in (one, other))
    straight = line(left, right, lambda point: float(point["w"]))
    assert barrier(straight) == pytest.approx(abs(straight[0] - straight[-1]) / 2)
    ends = {"w": torch.tensor(0.0, dtype=torch.float64)}, {"w": torch.tensor(1.0, dtype=torch.float64)}
    hill = line(*ends, lambda point: 4 * float(point["w"] * (1 - point["w"])), points=31)
    assert barrier(hill) == pytest.approx(1.0)
    valley = line(*ends, lambda point: 1 - 4 * float(point["w"] * (1 - point["w"])), points=31)
    assert barrier(valley) == 0


@given(errors=ERRORS)
def test_the_barrier_is_no_less_than_half_the_difference_of_the_ends(errors: list[float]) -> None:
    assert barrier(errors) >= abs(errors[0] - errors[-1]) / 2 - 1e-15
    assert barrier(errors) == max(each - mean([errors[0], errors[-1]]) for each in errors)


def norms(model: nn.Sequential) -> list[nn.BatchNorm1d]:
    return [module for module in model if isinstance(module, nn.BatchNorm1d)]


@given(seed=SEEDS)
def test_statistics_are_the_mean_over_batches_of_mean_and_unbiased_variance(seed: int) -> None:
    model, batches = normalised(seed).eval(), inputs(seed)
    recompute_statistics(model, iter(batches))
    own = weights.of(model)

    def hidden(batch: Tensor) -> Tensor:
        return batch @ own["0.weight"].T + own["0.bias"]

    def last(batch: Tensor) -> Tensor:
        """What reaches the second norm is normalised by each batch's own statistics, and dropout is off."""
        values = hidden(batch)
        scaled = (values - values.mean(0)) / (values.var(0, unbiased=False) + 1e-5).sqrt()
        return scaled.relu() @ own["4.weight"].T + own["4.bias"]

    for name, reach in (("1", hidden), ("5", last)):
        means = torch.stack([reach(batch).mean(0) for batch in batches])
        variances = torch.stack([reach(batch).var(0, unbiased=True) for batch in batches])
        torch.testing.assert_close(own[f"{name}.running_mean"], means.mean(0))
        torch.testing.assert_close(own[f"{name}.running_var"], variances.mean(0))
        assert own[f"{name}.num_batches_tracked"] == len(batches)


def test_statistics_forget_what_was_there_and_leave_everything_else() -> None:
    model, batches = normalised(1), inputs(1)
    first, last = norms(model)
    last.eval()
    first.momentum = 0.3
    recompute_statistics(model, batches)
    once = weights.of(model)
    weights.put(model, once | {name: torch.full_like(value, 77) for name, value in once.items() if "running" in name})
    luck, graphs = torch.get_rng_state(), []
    first.register_forward_hook(lambda _module, _inputs, output: graphs.append(output.requires_grad))
    recompute_statistics(model, batches)
    assert graphs == [False] * len(batches)
    assert weights.equal(weights.of(model), once)
    assert torch.equal(torch.get_rng_state(), luck)
    assert model.training
    assert [module.training for module in model] == [True] * 5 + [False]
    assert [norm.momentum for norm in norms(model)] == [0.3, 0.1]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_without_running_statistics_nothing_happens() -> None:
    def none() -> Iterator[Tensor]:
        raise AssertionError("no batch was to be asked for")
        yield

    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.LayerNorm(3))
    before = weights.of(model)
    recompute_statistics(model, none())
    assert weights.equal(weights.of(model), before)


def test_no_batches_are_no_statistics_and_a_failure_leaves_the_modes() -> None:
    model = normalised(1)
    norms(model)[1].eval()
    with pytest.raises(ValueError, match="expected batches of training inputs to compute the statistics from"):
        recompute_statistics(model, [])
    with pytest.raises(RuntimeError):
        recompute_statistics(model, [torch.zeros(8, 9)])
    assert [module.training for module in model] == [True] * 5 + [False]
    assert [norm.momentum for norm in norms(model)] == [0.1, 0.1]


def test_a_barrier_can_be_owed_to_the_statistics_alone() -> None:
    """1 x and 3 x are normalised alike; halfway is 2 x, of variance 4, where the mean of 1 and 9 is 5."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False))
    batches = [torch.randn(50, 1, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    left, right = ({**weights.of(model), "0.weight": torch.tensor([[times]])} for times in (1.0, 3.0))

    def at(point: weights.Weights) -> weights.Weights:
        weights.put(model, point)
        recompute_statistics(model, batches)
        return weights.of(model)

    def error(point: weights.Weights) -> float:
        """How far the standard deviation of what comes out is from 1."""
        weights.put(model.eval(), point)
        with torch.no_grad():
            return abs(1 - float(torch.cat([model(batch) for batch in batches]).std()))

    interpolated = line(at(left), at(right), error, points=3)
    recomputed = line(at(left), at(right), lambda point: error(at(point)), points=3)
    assert barrier(recomputed) == pytest.approx(0, abs=1e-4)
    assert barrier(interpolated) == pytest.approx(1 - (4 / 5) ** 0.5, abs=0.02)


BARRIERS = [[0.006, 0.007, 0.008], [0.008, 0.008, 0.008], [0.010, 0.009, 0.008]]


def test_pairs_are_averaged_inside_their_initialisation() -> None:  # K15
    found = judge(0.262, 500, BARRIERS, "recomputed").barrier
    means = torch.tensor([mean(pairs) for pairs in BARRIERS], dtype=torch.float64)
    width = t.ppf(0.975, 2) * float(means.std()) / 3**0.5
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((0.008, 0.008 - width, 0.008 + width, 3))


def test_the_sentence_says_where_how_far_and_why() -> None:
    assert judge(0.262, 500, BARRIERS, "recomputed").reason == (
        "At 26.2%, rewound to step 500: test error rises by 0.80 [0.55, 1.05] points on the line between two trainings "
        "in other orders (statistics recomputed), n = 3 inits x 3 pairs: stable (below 2)."
    )
    assert judge(1.0, 0, [[0.3], [0.31, 0.29]], error="training error").reason == (
        "At 100.0%, from the initialisation: training error rises by 30.00 [30.00, 30.00] points on the line between "
        "two trainings in other orders, n = 2 inits x 1 to 2 pairs: unstable (not below 2)."
    )
    assert judge(0.5, 0, [[0.01], [0.03]]).reason.endswith(
        "2 inits x 1 pair: not decided (the interval reaches across 2)."
    )


def test_one_initialisation_decides_nothing() -> None:  # K15
    found = judge(0.5, 2000, [[0.0, 0.0, 0.0]])
    assert (found.verdict, found.barrier.low, found.barrier.high) == ("not decided", -inf, inf)
    assert found.reason.endswith(
        "rewound to step 2,000: test error rises by 0.00 points on the line between two trainings in other orders, "
        "n = 1 init x 3 pairs: not decided (one initialisation has no interval)."
    )


def test_barriers_that_agree_by_rounding_are_no_certainty() -> None:
    assert judge(0.5, 0, [[0.019], [0.019]]).verdict == "stable"
    assert judge(0.5, 0, [[0.019], [0.019]], grain=0.01).verdict == "not decided"


@pytest.mark.parametrize("barriers", [[], [[0.1], []]])
def test_no_barriers_are_no_verdict(barriers: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=re.escape("expected the barrier of at least one pair in every init")):
        judge(0.5, 0, barriers)


@pytest.mark.parametrize(("low", "high", "expected"), [
    (-0.01, BOUND - 1e-9, "stable"),
    (-0.01, BOUND, "not decided"),
    (BOUND - 1e-9, 0.5, "not decided"),
    (BOUND, 0.5, "unstable"),
])  # fmt: skip
def test_the_bound_is_where_it_is_said_to_be(low: float, high: float, expected: str) -> None:
    assert decide(Difference((low + high) / 2, low, high, 3)) == expected
