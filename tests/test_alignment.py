"""Alignment with the data's axes: which inputs survive, how local, how aligned; beside chance."""

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tombola.errors import SpecError
from tombola.lab.attempt import do
from tombola.lab.kinds import Train
from tombola.lab.plan import plan
from tombola.lab.results import Results, results
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.studies import alignment as study
from tombola.lab.studies.alignment import ChangedFinding, QuantityFinding
from tombola.lab.worker import Worker
from tombola.report import figures
from tombola.study.alignment import QUANTITIES, hanging, in_arm, sentence
from tombola.study.chance import Beside
from tombola.study.directions import aligned, directions, in_span
from tombola.study.locality import alike, locality, near
from tombola.study.survivors import ranks, spearman, survivors

SHAPE = (1, 12, 12)
seeds = st.integers(0, 2**63 - 1)
CHANGES = ["levels=3", "replicates=2", "recipe.model=lenet-30-10", "recipe.length=30it", "evaluate.every=15it"]
ASKED = "study.alignment={levels=[1,3],arms=['ticket','random']}"


def drawn(units: int, density: float, seed: int, inputs: int = 144) -> Tensor:
    return torch.rand(units, inputs, generator=torch.Generator().manual_seed(seed)) < density


def within_chance(found: Beside) -> bool:
    """Six standard deviations: what one in a billion random masks misses."""
    deviation = (found.high - found.low) / (2 * 1.96)
    return abs(found.value - found.chance) <= 6 * max(deviation, 1e-3 * found.chance)


def local(units: int = 60, size: int = 12) -> Tensor:
    """Each unit keeps a window of 3 x 3, the windows all over the image."""
    mask = torch.zeros(units, size, size, dtype=torch.bool)
    for unit in range(units):
        y, x = divmod(unit * 7 % (size - 2) ** 2, size - 2)
        mask[unit, y : y + 3, x : x + 3] = True
    return mask.flatten(1)


# ------------------------------------------------------------------- locality


def test_near_pairs_are_those_that_are_counted_one_by_one() -> None:
    shape, mask = (2, 5, 4), drawn(3, 0.4, 1, 40)
    same = other = 0
    for unit in mask.reshape(3, *shape).numpy():
        places = np.argwhere(unit)
        for place, (channel, *here) in enumerate(places):
            for further, *there in places[place + 1 :]:
                if np.abs(np.subtract(here, there)).max() <= 2:
                    same, other = same + (channel == further), other + (channel != further)
    assert (found := near(mask, shape)).same == same and found.other == other


@given(seed=seeds, density=st.floats(0.02, 0.9))
@settings(max_examples=15, deadline=None)
def test_random_masks_are_as_local_as_chance(seed: int, density: float) -> None:
    found = locality(drawn(40, density, seed % 2**32), SHAPE, seed)
    assert found is None or within_chance(found.near)


@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_masks_that_are_random_beside_their_degrees_are_as_local_as_chance(seed: int) -> None:
    """Units that keep nearly all beside units that keep little, and inputs of the centre that more units keep."""
    y, x = np.mgrid[:12, :12]
    centre = torch.from_numpy(np.exp(-((y - 5.5) ** 2 + (x - 5.5) ** 2) / 12)).flatten()
    size = torch.tensor([0.2, 30.0]).repeat(30)[:, None]
    odds = size * centre  # independent entries of these odds: uniform given their degrees
    generator = torch.Generator().manual_seed(seed % 2**32)
    found = locality(torch.rand(60, 144, generator=generator) < odds / (1 + odds), SHAPE, seed)
    assert found and within_chance(found.near)


def test_a_mask_of_windows_is_local_and_no_longer_where_pixels_are_permuted() -> None:
    order = torch.randperm(144, generator=torch.Generator().manual_seed(3))
    mask = local()
    found, moved = locality(mask, SHAPE, 0), locality(mask[:, order], SHAPE, 0)
    assert found and found.near.ratio and found.near.ratio > 3 and found.near.value > found.near.high
    assert moved and moved.near.ratio and moved.near.ratio < 1.3
    back = locality(mask[:, order][:, order.argsort()], SHAPE, 0)
    assert back == found, "in the permuted geometry, the same"


def test_channels_are_told_apart() -> None:
    mask = torch.zeros(60, 3, 12, 12, dtype=torch.bool)
    for unit, window in enumerate(local()):
        mask[unit, unit % 3] = window.view(12, 12)
    found = locality(mask.flatten(1), (3, 12, 12), 0)
    assert found and found.other and found.other.value == 0 < found.other.low
    assert found.same.ratio and found.same.ratio > 5 and found.near.value == found.same.value


@given(seed=seeds, units=st.integers(1, 20), density=st.floats(0, 1, allow_subnormal=False))
@settings(max_examples=25, deadline=None)
def test_random_masks_keep_what_each_unit_and_each_input_has(seed: int, units: int, density: float) -> None:
    mask = drawn(units, density, seed % 2**32, 30).numpy()
    for each in alike(mask, 3, seed):
        assert (each.sum(0) == mask.sum(0)).all() and (each.sum(1) == mask.sum(1)).all()


def test_random_masks_of_given_degrees_are_all_as_likely() -> None:
    mask = np.eye(3, dtype=bool)
    counts = np.unique([each.nonzero()[1] @ [9, 3, 1] for each in alike(mask, 3000, 0)], return_counts=True)[1]
    assert len(counts) == 6 and scipy.stats.chisquare(counts).pvalue > 1e-6


# ------------------------------------------------------------------ survivors


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-3, 3, allow_subnormal=False)), min_size=3, max_size=30))
@settings(max_examples=50, deadline=None)
def test_ranks_and_their_correlation_are_those_of_scipy(pairs: list[tuple[int, float]]) -> None:
    left, right = (np.array(each) for each in zip(*pairs, strict=True))
    assert np.array_equal(ranks(left), scipy.stats.rankdata(left))
    if len(set(left)) > 1 and len(set(right)) > 1:
        assert spearman(left, right) == pytest.approx(scipy.stats.spearmanr(left, right).statistic, abs=1e-12)
    else:
        assert np.isnan(spearman(left, right))


@given(seed=seeds, density=st.floats(0.02, 0.95))
@settings(max_examples=15, deadline=None)
def test_random_masks_keep_inputs_whatever_they_vary(seed: int, density: float) -> None:
    variances = torch.arange(144.0).sub(40).clamp(min=0)
    found = survivors(drawn(40, density, seed % 2**32), variances, seed)
    assert found.constants == 41 and found.constant and found.correlation
    assert all(within_chance(each) for each in (found.connected, found.constant))
    assert abs(found.correlation.value) < 6 / 143**0.5


def test_masks_that_keep_what_varies_are_told_from_chance() -> None:
    variances = torch.arange(144.0).sub(40).clamp(min=0)
    mask = torch.rand(40, 144, generator=torch.Generator().manual_seed(0)) < variances / 103
    found = survivors(mask, variances, 0)
    assert found.correlation and found.correlation.value > 0.95 > found.correlation.high
    assert found.constant and found.constant.value == 0 and found.connected.value < found.connected.low
    assert found.connected.value == pytest.approx(float(mask.any(0).double().mean()))
    assert survivors(torch.ones(4, 9, dtype=torch.bool), torch.arange(9.0), 0).correlation is None


def test_random_masks_that_have_no_correlation_leave_chance_a_number() -> None:
    mask = torch.tensor([[True, True, False, False], [True, False, False, True]])
    found = survivors(mask, torch.tensor([1.0, 2.0, 3.0, 4.0]), 0).correlation
    assert found and all(np.isfinite([found.value, found.chance, found.low, found.high]))


# ----------------------------------------------------------------- directions


def test_directions_are_those_of_a_singular_value_decomposition() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 15, generator=generator) @ torch.randn(15, 15, generator=generator)
    inputs[:, 4] = 0.1  # which is no binary fraction
    found = directions(inputs, 5)
    centred = inputs.double().numpy() - inputs.double().numpy().mean(0)
    _, sizes, rows = np.linalg.svd(centred)
    assert np.allclose(np.abs((found.first.numpy() * rows[:5].T).sum(0)), 1, atol=1e-5)
    assert found.explained == pytest.approx((sizes[:5] ** 2).sum() / (sizes**2).sum(), rel=1e-5)
    assert np.allclose(found.variances.numpy(), centred.var(0), rtol=1e-4) and found.variances[4] == 0


def test_the_share_in_a_span_is_all_inside_of_it_and_nothing_beside_it() -> None:
    basis = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    first, rest = basis[:, :6], basis[:, 6:]
    assert in_span(first.T, first) == pytest.approx(1) and in_span(rest.T, first) == pytest.approx(0, abs=1e-12)
    assert in_span(basis.T, first) == pytest.approx(6 / 20)


@given(seed=seeds, density=st.floats(0.02, 0.95))
@settings(max_examples=10, deadline=None)
def test_weights_at_random_places_lie_along_no_directions(seed: int, density: float) -> None:
    generator = torch.Generator().manual_seed(seed % 2**32)
    first = torch.linalg.qr(torch.randn(144, 144, generator=generator))[0][:, :10]
    mask = torch.rand(40, 144, generator=generator) < density
    found = aligned(torch.randn(40, 144, generator=generator), mask, first, seed)
    assert found.weights and found.mask and within_chance(found.weights) and within_chance(found.mask)
    assert found.weights.chance == pytest.approx(10 / 144, rel=0.1)


def test_weights_along_the_data_are_told_from_chance_by_those_that_survive() -> None:
    first = torch.zeros(144, 10)
    first[range(10), range(10)] = 1
    weights, mask = torch.ones(40, 144), drawn(40, 0.3, 0)
    assert in_span(weights * mask, first) < 0.1
    mask[:, 10:] = False
    found = aligned(weights, mask, first, 0)
    assert found.weights and found.weights.value == 1 > found.weights.high and found.mask and found.mask.value == 1


def test_all_directions_say_nothing() -> None:
    basis = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
    found = aligned(torch.ones(5, 6), torch.eye(5, 6).bool(), basis, 0)
    assert found.weights is None and found.mask is None


# ----------------------------------------------------------- words and numbers


def test_one_replicate_decides_nothing_and_chance_is_told_by_intervals() -> None:
    locality = QUANTITIES["locality"]
    assert "one replicate decides nothing" in sentence(locality, 0.1, [in_arm("ticket", [(9.0, 1.0)], 0.95)])
    words = [
        in_arm("ticket", [(1 + d, 1.0) for d in shifts], 0.95).word for shifts in ([1, 1.1], [-0.5, -0.51], [1, -1])
    ]
    assert words == ["more than by chance", "less than by chance", "not shown to differ from chance"]


def test_what_hangs_on_a_change_is_told_by_pairs() -> None:
    here = {0: 2.0, 1: 3.0, 2: 4.0, 9: 100.0}
    found = hanging({0: 1.0, 1: 2.01, 2: 2.99}, here, 0.95)
    assert found and found.less.n == 3 and found.less.mean == pytest.approx(-1) and found.less.high < 0
    assert found.word("axes") == "it hangs on axes (shown)"
    assert hanging({0: 1.0}, {1: 1.0}, 0.95) is None
    words = [hanging(dict(enumerate(there)), here, 0.95) for there in ([3.0, 4.01], [2.5, 2.5], [3.0])]
    told = [each.word("axes") for each in words if each]
    assert told == ["it is larger there (shown)", "that it hangs on axes is not shown", "one replicate decides nothing"]


# ------------------------------------------------------------------ the study


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Results:
    wanted = plan(read("digits-lenet", [*CHANGES, ASKED]))
    worker = Worker(Store(tmp_path_factory.mktemp("alignment")).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    return results(wanted, worker.store)


def test_the_numbers_are_those_of_the_masks_and_of_what_is_trained_on(finished: Results) -> None:
    store = finished.store
    for question in finished.plan.questions:
        assert question.density_of.mask is not None
        values, mask = store.values(question.run), store.mask(question.density_of.mask)["fc1.weight"]
        assert values["degrees"] == mask.sum(0).tolist() and len(values["variances"]) == 64
        assert values["survivors"]["connected"]["value"] == pytest.approx(float(mask.any(0).double().mean()))
        found = locality(mask, (1, 8, 8), 0)
        assert found and values["locality"]["near"]["value"] == found.near.value
    seen = [each for each in finished.findings if isinstance(each, QuantityFinding)]
    assert {(each.level, each.quantity) for each in seen} >= {(1, "variance"), (3, "locality"), (3, "directions")}
    for each in seen:
        assert [arm.arm for arm in each.arms] == ["ticket", "random"] and each.arms[0].value.n == 2
        assert "maps" not in each.values
    drawn = figures.study_figures(finished)
    assert {"alignment", "alignment-locality"} <= drawn.keys()


def test_changed_inputs_have_the_same_search_with_tickets_and_controls_of_their_own(tmp_path: Path) -> None:
    asked = "study.alignment={levels=[2],arms=['ticket','random'],inputs=['permuted','rotated']}"
    wanted = plan(read("digits-lenet", ["levels=2", *CHANGES[1:], asked]))
    trained = {
        (question.replicate, question.arm, question.part): question.run
        for question in wanted.questions
        if isinstance(question.run, Train)
    }
    assert len(trained) == 2 * 2 * 3 and len(set(trained.values())) == 12
    for (replicate, arm, part), training in trained.items():
        here, change = trained[replicate, arm, "accuracy"], part.removeprefix("accuracy on ").removesuffix(" inputs")
        assert training.split_seed == here.split_seed and training.order_seed == here.order_seed
        if part != "accuracy":
            assert training.recipe.data.startswith(f"digits+{change}~") and training.mask != here.mask
            assert training.start.init_seed == here.start.init_seed  # type: ignore[attr-defined]
            same = training.recipe.model_copy(update={"data": "digits"})
            assert same.model_dump() == here.recipe.model_dump(), "one factor alone"
    assert len({run.recipe.data for run in trained.values()}) == 5, "each replicate has changes of its own"
    worker = Worker(Store(tmp_path).open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *_: None) == ("stored",)
    said = results(wanted, worker.store)
    changed = [each for each in said.findings if isinstance(each, ChangedFinding)]
    assert [(each.inputs, each.what) for each in changed] == [
        (change, what) for change in ("permuted", "rotated") for what in ("advantage over random", "locality")
    ]
    accuracy = [
        [float(worker.store.values(trained[number, arm, part])["early_stop_test_accuracy"]) for number in (0, 1)]
        for part in ("accuracy on rotated inputs", "accuracy")
        for arm in ("ticket", "random")
    ]
    less = np.subtract(accuracy[0], accuracy[1]) - np.subtract(accuracy[2], accuracy[3])
    assert changed[2].found.less.mean == pytest.approx(less.mean())
    assert "alignment-advantage" in figures.study_figures(said)


def test_what_has_no_meaning_is_refused() -> None:
    for changes, about in (
        (["recipe.model=conv-2", "study.alignment.levels=1"], "a model whose first layer sees whole examples"),
        (["study.alignment={levels=[1],arms=['nobody']}"], "'nobody'"),
        (["study.alignment.levels=4"], "levels from 1 to 3"),
        (["study.alignment={levels=[1],arms=['ticket'],inputs=['rotated']}"], "ticket and a control"),
        (["study.alignment={levels=[1],inputs=['turned']}"], "permuted, rotated, gaussian"),
        (["recipe.inputs=rotated", "study.alignment={levels=[1],inputs=['rotated']}"], "has not made already"),
    ):
        with pytest.raises(SpecError, match=about):
            read("digits-lenet", [*changes, "levels=3"])


def test_the_first_layer_is_the_one_that_sees_whole_examples() -> None:
    facts = read("digits-lenet", []).spec.facts
    assert study.first_layer("lenet-20-10", facts) == "fc1.weight"
    assert study.first_layer("conv-2", facts) is None
