"""Costs: the rule against torch's own counter, and what rows come to against sums by hand."""

from dataclasses import replace
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any

import altair
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from tombola import cash, data, macs, models, prunable, weights
from tombola.engine import native
from tombola.lab.attempt import do
from tombola.lab.costs import Cost, Costs
from tombola.lab.plan import Plan, missing, plan
from tombola.lab.results import Results, results
from tombola.lab.spec import Experiment, Spec
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.report import figures, page
from tombola.report.costs import HEIGHT, LINE, labelled
from tombola.report.shown import MANY
from tombola.score import Scored
from tombola.scores import SCORES
from tombola.study.front import Way, front

IMAGE, TEXT = (3, 32, 32), (12, 20)
NETWORKS: dict[str, tuple[tuple[int, ...], int]] = {
    "lenet-300-100": ((1, 28, 28), 10),
    "conv-4": (IMAGE, 10),
    "vgg-11-w8": (IMAGE, 100),
    "resnet-20": (IMAGE, 10),
    "imagenet-resnet-50": ((3, 64, 64), 20),
    "gpt-2-32": (TEXT, TEXT[1]),
    "bert-2-32": (TEXT, 2),
}


# ---------------------------------------------------------------- the rule


@pytest.mark.parametrize("name", NETWORKS)
def test_an_example_takes_what_torch_counts(name: str) -> None:
    """Forwards f, with the gradient 3 f: those of the first layer's inputs among it, which a training leaves out."""
    shape, classes = NETWORKS[name]
    model = models.build(name, shape, classes, "glorot-normal", init_seed=0)
    text = len(shape) == 2
    inputs = torch.ones(2, shape[0], dtype=torch.int64) if text else torch.zeros(2, *shape, requires_grad=True)
    f = macs.forward(models.layers(name, shape, classes), {}, models.products(name, shape))
    assert counted(model, inputs, backward=False) == 2 * f
    assert counted(model, inputs, backward=True) == 2 * macs.GRADIENT * f


def counted(model: nn.Module, inputs: Tensor, backward: bool) -> int:
    # Attention in single products: whole, it is computed a second time on the way back, to save memory.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        scores = model(inputs).flatten(0, -2)
        if backward:
            cross_entropy(scores, torch.zeros(len(scores), dtype=torch.int64)).backward()
    return int(counter.get_total_flops()) // 2  # a multiply-add is two operations


def test_of_an_embedding_that_is_an_output_too_the_scores_are_counted_and_not_the_look_up() -> None:  # P7
    length, vocabulary = TEXT
    tokens = models.layers("gpt-2-32", TEXT, vocabulary)["tokens.weight"]
    assert tokens.uses == 32 * vocabulary * length


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 30), st.integers(0, 30))
def test_the_last_batch_of_an_epoch_may_be_smaller(train: int, batch: int, begin: int, steps: int) -> None:
    epoch = [min(batch, train - place) for place in range(0, train, batch)]
    seen = [epoch[step % len(epoch)] for step in range(begin, begin + steps)]
    assert macs.examples(begin, begin + steps, train, batch) == sum(seen)


LAYERS, FORMATS = ["fc1.weight", "block.conv.weight", "output.weight"], ["dense", "sparse"]


@given(st.dictionaries(st.sampled_from(LAYERS), st.sampled_from(FORMATS)))
def test_the_formats_that_the_kernels_held_layers_in_are_read_from_the_record(formats: dict[str, Any]) -> None:
    name = native.described("avx2", formats)
    assert native.sparse_layers(f"{name}, then reference") == {each for each in formats if formats[each] == "sparse"}
    assert native.sparse_layers("stacked") == set()


# How often, of what a score takes, torch leaves out f of the first layer for an example, as nobody asks for the
# gradient of what that layer reads. Of a gradient: once, this product itself. Of one that is differentiated in turn:
# five times, this product, its two derivatives, and one of the two that each of the other two products has.
SIZES = [6, 6, 6, 6, 3]
LEFT_OUT = {
    "gradient": sum(SIZES),
    "snip": sum(SIZES),
    "taylor": sum(SIZES),
    "grasp": 6 * sum(SIZES),
    "grasp-magnitude": 6 * sum(SIZES),
    "synflow": 1,
    "prospr": 5 * (6 + 6 + 6) + 6,
}


@pytest.mark.parametrize("name", [name for name in SCORES if name != "bn-scale"])  # of batch normalisations alone
def test_a_score_takes_what_torch_counts(name: str) -> None:
    """All but what torch leaves out of the first layer; scores that see no batches multiply nothing."""
    network = "lenet-30-20+gaussian" if SCORES[name].of_gaussian else "lenet-30-20"
    model, generator = models.build(network, (1, 8, 8), 10, "glorot-normal", 0), torch.Generator().manual_seed(0)
    batches = [(torch.rand(size, 1, 8, 8, generator=generator), torch.zeros(size, dtype=torch.int64)) for size in SIZES]
    score, layers = SCORES[name], models.layers("lenet-30-20", (1, 8, 8), 10)
    coupled = None if score.of_gaussian else cash.coupling(model, batches[0][0])
    with FlopCounterMode(display=False) as counter:
        seen = replace(Scored.of(model, prunable.full(model)), batches=batches, initial=weights.of(model))
        score.of(replace(seen, coupling=coupled) if score.of_channels else seen)
    left_out = LEFT_OUT.get(name, 0) * layers["fc1.weight"].uses
    assert counter.get_total_flops() // 2 == score.cost(macs.forward(layers, {}), SIZES) - left_out


# ---------------------------------------------------------------- rows


def planned(**changes: Any) -> Plan:
    spec: dict[str, Any] = {
        "replicates": 2,
        "levels": 3,
        "arms": ["ticket", "reinit", "random", "shuffle", "continued", "lr-rewind"],
        "recipe": {
            "model": "lenet-20-10",
            "data": "digits",
            "length": "60it",
            "batch": 60,
            "optimizer": {"name": "adam", "lr": 2e-3},
        },
        "evaluate": {"every": "20it", "test_every": "20it"},
    }
    if "densities" in changes:
        del spec["levels"]  # it follows from them
    return plan(Experiment(name="tiny", spec=Spec.model_validate(spec | changes)))


def done(wanted: Plan, folder: Path, engine: Any = "reference") -> Results:
    store = Store(folder / "store").open()
    worker = Worker(store, None, engine)
    for run in missing(wanted, store):
        assert do(run, worker, lambda *seen: None) == ("stored",)
    return results(wanted, store)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return done(planned(), tmp_path_factory.mktemp("costs"))


def costs(found: Results) -> dict[tuple[str, int, int], Cost]:
    return {(row.arm, row.replicate, row.level): found.costs.of(row) for row in found.plan.rows}


def test_a_dense_training_is_the_unit(finished: Results) -> None:
    facts = data.facts("digits")
    epoch = [60] * (facts.train // 60) + ([facts.train % 60] if facts.train % 60 else [])
    examples = sum(epoch[step % len(epoch)] for step in range(60))
    dense = costs(finished)["dense", 0, 0]
    assert dense.training.ideal == dense.dense == 3 * (64 * 20 + 20 * 10 + 10 * 10) * examples
    assert dense.search == macs.Macs() and dense.dense_trainings == 1


def test_the_search_for_a_level_takes_the_levels_before(finished: Results) -> None:
    """Sum of P_m over the rounds, as Elastic Lottery Ticket Hypothesis (Chen et al., 2021) counts a search."""
    found = costs(finished)
    for replicate in (0, 1):
        levels = [found["dense" if level == 0 else "ticket", replicate, level] for level in range(4)]
        for level, cost in enumerate(levels):
            assert cost.search.ideal == sum(each.training.ideal for each in levels[:level])
            assert cost.search.executed == level * cost.dense, "the plain loop multiplies with pruned weights too"
        assert all(after.training.ideal < before.training.ideal for before, after in pairwise(levels))


def test_each_weight_that_lives_is_counted_as_often_as_it_is_used(finished: Results) -> None:
    examples = costs(finished)["dense", 0, 0].dense // (3 * 1580)
    for row in finished.plan.rows:
        alive = finished.store.values(row.run)["alive"]  # fully connected: each is used once
        assert finished.costs.of(row).training.ideal == 3 * alive * examples


def test_what_arms_share_is_counted_for_each_of_them(finished: Results) -> None:
    found = costs(finished)
    for level in (1, 2, 3):
        for arm in ("reinit", "random", "shuffle"):
            assert found[arm, 1, level].search == found["ticket", 1, level].search
    # Trained on without resetting: of the second level on, the search has a training that no row is about.
    second = found["continued", 0, 2]
    assert second.search.ideal == found["dense", 0, 0].dense + found["ticket", 0, 1].training.ideal
    assert found["lr-rewind", 0, 2].search.ideal == found["ticket", 0, 2].search.ideal


def test_a_run_that_a_row_needs_in_two_ways_is_counted_once(finished: Results) -> None:
    # Of a continued search the dense network is scored, and trained on.
    for (arm, _, level), cost in costs(finished).items():
        assert cost.search.executed <= (level + (arm == "continued")) * cost.dense


def test_the_table_has_each_cost(finished: Results) -> None:
    rows = {(row["arm"], row["level"]): row for row in finished.table if row["replicate"] == 0}
    ticket, dense = rows["ticket", 2], rows["dense", 0]
    assert ticket["search_macs"] + ticket["training_macs"] == pytest.approx(
        ticket["dense_trainings"] * dense["training_macs"], rel=1e-5
    )
    assert ticket["search_seconds"] > dense["training_seconds"] and ticket["training_seconds"] == ticket["seconds"]


def test_a_plan_foresees_what_is_then_counted(finished: Results) -> None:
    wanted = finished.plan
    foreseen = Costs(wanted.experiment, wanted.runs)
    for row in wanted.rows:
        expected, counted = foreseen.of(row), finished.costs.of(row)
        assert (expected.search.ideal, expected.training.ideal) == (counted.search.ideal, counted.training.ideal)
        assert expected.training_seconds is None


def test_the_way_to_the_rewind_point_is_training_of_the_dense_network_and_search_of_a_ticket() -> None:
    wanted = planned(rewind="20it", levels=1, arms=["ticket"])
    found = Costs(wanted.experiment, wanted.runs)
    dense, ticket = (found.of(next(row for row in wanted.rows if row.arm == arm)) for arm in ("dense", "ticket"))
    assert dense.training.ideal == dense.dense == ticket.search.ideal, "20 steps and the other 40"


def test_kernels_multiply_with_living_weights_in_the_layers_that_they_hold_sparse(tmp_path: Path) -> None:
    wanted = planned(levels=1, arms=["ticket"], replicates=1, prune={"rate": 0.9})
    found = done(wanted, tmp_path)
    row = found.plan.rows[1]
    provenance = found.store.provenance(row.run)
    (found.store.root / "runs" / row.run.key / "provenance.json").write_text(
        '{"seconds": 2.0, "engine": "native avx2: fc1 sparse, fc2 dense, output sparse, then reference"}'
    )
    cost, examples = Costs(wanted.experiment, wanted.runs, found.store).of(row), found.costs.of(row).dense // (3 * 1580)
    assert cost.training.executed == 3 * (128 + 200 + 10) * examples and cost.training_seconds == 2
    assert cost.training.ideal == 3 * (128 + 20 + 10) * examples
    assert provenance["engine"] == "reference"


def test_a_plan_of_many_levels_is_no_depth_of_recursion() -> None:
    wanted = planned(levels=400, replicates=1, arms=["ticket", "one-shot"], prune={"rate": 0.01})
    found = Costs(wanted.experiment, wanted.runs)
    last = found.of(wanted.rows[-1])
    assert 1 < last.dense_trainings < 1.2 and last.search.ideal == last.dense


# ---------------------------------------------------------------- every way to a ticket


F = 64 * 20 + 20 * 10 + 10 * 10  # of lenet-20-10 on digits


def foreseen(wanted: Plan, arm: str, level: int) -> Cost:
    row = next(row for row in wanted.rows if (row.arm, row.level) == (arm, level))
    return Costs(wanted.experiment, wanted.runs).of(row)


def test_scores_at_initialisation_cost_their_examples_in_each_of_their_steps() -> None:
    arms = ["ticket", "random-erk", "magnitude-init", "snip", "iterative-snip", "force", "grasp", "synflow"]
    wanted = planned(arms=arms, densities=[0.1])
    level = wanted.rows[-1].level
    search = {arm: foreseen(wanted, arm, level).search for arm in arms}
    assert search["random-erk"] == search["magnitude-init"] == macs.Macs()
    gradients = 3 * F * 100  # ten examples of each class
    assert search["snip"] == macs.Macs(gradients, gradients)
    assert search["grasp"].ideal == 4 * gradients and search["iterative-snip"].executed == 60 * gradients
    assert search["synflow"].executed == 100 * 3 * F, "one example, in a hundred steps"
    # From all to a tenth, exponentially: the mean of 0.1^x is (1 - 0.1) / ln 10, and a little more from the left.
    assert search["iterative-snip"].ideal == pytest.approx(60 * gradients * 0.9 / log(10), rel=0.03)
    # Pruned weights, which may come back, have gradients too: two thirds of what lives, and a third of everything.
    force = (2 * search["iterative-snip"].ideal + search["iterative-snip"].executed) / 3
    assert search["force"].ideal == pytest.approx(force, rel=0.01)


def test_a_cheaper_search_is_counted_by_its_own_recipe() -> None:
    cheap = {"cheap": {"method": "iterative", "length": "30it", "data": "digits-600"}}
    wanted = planned(arms=["ticket", "cheap"], arm=cheap, levels=2)
    facts = data.facts("digits-600")
    seen = macs.examples(0, 30, facts.train, 60)
    first, second = (foreseen(wanted, "cheap", level) for level in (1, 2))
    assert first.search.ideal == 3 * F * seen
    assert first.search.ideal < second.search.ideal < 2 * first.search.ideal
    assert second.training == foreseen(wanted, "ticket", 2).training, "trained in full"


def test_a_moving_mask_and_an_early_bird_say_what_they_took(tmp_path: Path) -> None:
    arms, bird = ["ticket", "gradual", "rigl", "bird"], {"method": "early-bird", "every": "5it", "within": 0.9}
    found = done(planned(arms=arms, arm={"bird": bird}, densities=[0.3], replicates=1), tmp_path)
    last = {row.arm: row for row in found.plan.rows if row.level}
    for arm in ("gradual", "rigl"):
        row = last[arm]
        cost, values = found.costs.of(row), found.store.values(row.run)
        assert cost.training.ideal == values["macs"] and cost.training.executed == cost.dense
        assert values["density"] * cost.dense < cost.training.ideal < cost.dense, "dense at times"
    seen = 16 * 60 + 40 + 8 * 60  # in 25 steps: five masks, all within the distance; an epoch has 1,000 examples
    assert found.costs.of(last["bird"]).search.ideal == 3 * F * seen


# ---------------------------------------------------------------- figures and pages


def test_the_figures_hold_to_the_schema_with_many_arms(finished: Results) -> None:
    drawn = figures.all_figures(finished, [])
    assert "cost" in drawn and len(finished.arms) >= MANY
    for spec, caption in drawn.values():
        assert altair.Chart.from_dict(spec, validate=True) and caption.endswith(".")


def test_figures_are_drawn_where_the_dense_network_failed(finished: Results) -> None:
    """Of methods that prune before training, the tickets may be there without it."""
    rows = [result for result in finished.rows if result.row.level]
    drawn = figures.all_figures(replace(finished, rows=rows), [])
    assert drawn.keys() == figures.all_figures(finished, []).keys()


def test_a_single_way_to_a_ticket_has_no_front(finished: Results) -> None:
    alone = replace(
        finished, rows=[result for result in finished.rows if result.row.arm in ("dense", "ticket", "reinit")]
    )
    assert (
        "cost" not in figures.all_figures(alone, []) and alone.front == [] and "<h2>Cost" not in page._page(alone, [])
    )
    assert "<h2>Cost" in page._page(finished, []) and len(finished.front) == 1


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 1000), st.integers(1, 24)), min_size=1, max_size=14))
def test_no_two_names_on_a_front_lie_over_each_other(drawn: list[tuple[int, int, int]]) -> None:
    best = front([Way("x" * length, cost / 100, {0: part / 1000}) for cost, part, length in drawn])
    points: list[dict[str, Any]] = [{"arm": way.name, "cost": way.cost, "accuracy": 100 * way.accuracy} for way in best]
    heights = min(point["accuracy"] for point in points), max(point["accuracy"] for point in points)
    (low, high), labels = labelled(points, (0.005, 4.0), heights)
    places = sorted((label["accuracy"] - low) / (high - low) * HEIGHT for label in labels)
    assert all(upper - lower > LINE - 1e-6 for lower, upper in pairwise(places))
    assert places[0] >= 0 and places[-1] <= HEIGHT
