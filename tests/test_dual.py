"""Dual tickets: how weights are transformed towards a mask, what the cut changes, and what costs as much."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import Tensor, nn

from tombola import data, models, prunable, weights
from tombola.cli import main
from tombola.data import Batches
from tombola.engine.reference.trainer import Reference
from tombola.engine.training import Start, Training
from tombola.errors import BadInput, SpecError
from tombola.extrusion import KEPT, PENALTY, Extrusion, Penalty
from tombola.lab.attempt import do
from tombola.lab.kinds import Cut, Prune, Train
from tombola.lab.plan import Plan, expected_costs, plan
from tombola.lab.runs import Run
from tombola.lab.spec import Experiment, Spec
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.mask import Mask
from tombola.method import Found
from tombola.methods.dual import DualIterativeOptions, drawn_out
from tombola.recipe import SGD
from tombola.search import Search
from tombola.train import Span, losses

CONTROLS = ("dual-longer", "dual-unpenalised", "dual-magnitude")
SEARCH: dict[str, Any] = {"penalty_step": 0.1, "every": 1, "ceiling": 100.0, "hold": 2000}
SPEC: dict[str, Any] = {
    "replicates": 1,
    "densities": [0.2, 0.1],
    "method": "dual",
    "arms": ["ticket", *CONTROLS, "random-uniform"],
    "search": {"penalty_step": 0.5, "every": 2, "hold": 6, "extrusion_batch": 30},
    "recipe": {
        "model": "lenet-20-10",
        "data": "digits-300",
        "length": "24it",
        "batch": 60,
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
        "schedule": {"name": "step", "milestones": ["12it"]},
    },
    "prune": {"rate": 0.5, "keep": ["output"]},
    "evaluate": {"every": "6it", "test_every": "24it"},
}
SIZES = {"fc1.weight": 64 * 20, "fc2.weight": 20 * 10}


def planned(**changes: Any) -> Plan:
    return plan(Experiment(name="tiny", spec=Spec.model_validate(SPEC | changes)))


def of(wanted: Plan, arm: str, level: int = 1, replicate: int = 0) -> Train:
    (run,) = [row.run for row in wanted.rows if (row.arm, row.level, row.replicate) == (arm, level, replicate)]
    return run


def cut_of(run: Train) -> Cut:
    assert isinstance(run.start, Cut)
    return run.start


def extrusions(run: Train) -> list[Train]:
    found, before = list[Train](), cut_of(run).trained
    while isinstance(before, Train) and not before.until == run.begin > 0:  # which is the way to the rewind point
        found.insert(0, before)
        before = before.start
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Plan, Store]]:
    """The plan of a spec and its finished store."""
    finished: dict[str, tuple[Plan, Store]] = {}

    def performed(**changes: Any) -> tuple[Plan, Store]:
        if str(changes) not in finished:
            wanted, store = planned(**changes), Store(tmp_path_factory.mktemp("store") / "store").open()
            worker = Worker(store, None, "reference")
            for run in wanted.runs:
                assert do(run, worker, lambda *seen: None) == ("stored",), run
            finished[str(changes)] = wanted, store
        return finished[str(changes)]

    return performed


# ---------------------------------------------------------------- lambda


@pytest.mark.parametrize(
    ("rise", "by_hand"),
    [
        ("linear", [0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("square", [0.0625, 0.0625, 0.25, 0.25, 0.5625, 0.5625, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("cube", [0.015625, 0.015625, 0.125, 0.125, 0.421875, 0.421875, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_lambda_rises_as_a_power_of_a_counter_that_stays_linear(rise: str, by_hand: list[float]) -> None:
    """The counter is 1/4, 2/4, 3/4, 1, whatever lambda is made of it; an extrusion ends after three steps more."""
    penalty = Penalty.model_validate({"penalty_step": 0.25, "every": 2, "rise": rise, "hold": 3})
    assert penalty.steps == len(by_hand) == 11
    assert [penalty.at(step) for step in range(11)] == by_hand


@given(
    some.floats(1e-4, 2), some.integers(1, 7), some.sampled_from(["linear", "square", "cube"]), some.floats(0.01, 200)
)
def test_lambda_never_falls_and_is_at_its_ceiling_when_the_hold_begins(
    step: float, every: int, rise: str, ceiling: float
) -> None:
    penalty = Penalty.model_validate(
        {"penalty_step": step, "every": every, "rise": rise, "ceiling": ceiling, "hold": 4}
    )
    first = penalty.steps - penalty.hold - every  # the last time that the counter grows
    assert penalty.at(first) == pytest.approx(ceiling)
    assert first == 0 or penalty.at(first - 1) < ceiling
    seen = [penalty.at(at) for at in range(max(0, first - 50), penalty.steps)]
    assert seen == sorted(seen) and max(seen) <= ceiling


def test_the_papers_constants_are_the_defaults_and_take_as_long_as_there() -> None:
    assert Penalty().steps == 5 * 10_000 + 40_000
    cycle = DualIterativeOptions()
    assert cycle.steps == 10_000 + 10_000 and cycle.cycles == 5
    assert cycle.optimizer == SGD(name="sgd", lr=1e-3, momentum=0.9, weight_decay=5e-4) and cycle.extrusion_batch == 64


# ---------------------------------------------------------------- the penalty


def network() -> tuple[nn.Module, Mask, tuple[Tensor, Tensor]]:
    model = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", 0)
    draw = torch.Generator().manual_seed(1)
    full = prunable.full(model)
    mask = Mask({name: torch.rand(full[name].shape, generator=draw) < 0.3 for name in SIZES})
    return model, mask, (torch.randn(50, 1, 8, 8, generator=draw), torch.arange(50) % 10)


def test_the_gradient_of_the_penalty_is_lambda_w_on_sacrificed_weights_alone() -> None:
    model, mask, batch = network()
    inputs = {KEPT: mask, PENALTY: {"lambda": torch.tensor(0.7)}}
    names = [name for name, _ in model.named_parameters()]
    with_it, without = (
        torch.autograd.grad(loss, list(model.parameters()))
        for loss in (
            Extrusion().loss(model, batch, inputs),
            nn.functional.cross_entropy(model(batch[0]), batch[1]),
        )
    )
    for name, whole, plain, weight in zip(names, with_it, without, model.parameters(), strict=True):
        expected = 0.7 * weight.detach() * ~mask[name] if name in mask else torch.zeros_like(plain)
        torch.testing.assert_close(whole - plain, expected, atol=1e-6, rtol=1e-4)


def test_a_step_has_the_lambda_of_its_own() -> None:
    model, mask, batch = network()
    objective = Extrusion(penalty_step=0.5, every=3, ceiling=2)
    loss = losses(model, lambda step: batch, objective, inputs={KEPT: mask})
    squares = sum(
        float((value.detach() * ~mask[name]).square().sum()) for name, value in model.named_parameters() if name in mask
    )
    plain = float(nn.functional.cross_entropy(model(batch[0]), batch[1]).detach())
    for step, penalty in ((0, 0.5), (2, 0.5), (3, 1.0), (9, 2.0), (100, 2.0)):
        assert float(loss(step).detach()) == pytest.approx(plain + penalty / 2 * squares, rel=1e-5)


def test_an_extrusion_that_was_interrupted_ends_as_if_it_had_not_been() -> None:  # R9 S4
    def started() -> tuple[Training, Start]:
        model, mask, _ = network()
        objective = Extrusion(penalty_step=0.3, every=2, ceiling=3)
        training = Training(optimizer=SGD(name="sgd", lr=0.05, momentum=0.9), batch=60, objective=objective)
        return training, Start(model, prunable.full(model), data.load("digits"), inputs={KEPT: mask})

    def advanced(trainer: Reference, begin: int, until: int) -> Reference:
        train, _ = data.split(dataset := data.load("digits"), 3)
        batches = Batches(dataset, train[:330], 60, 5)
        trainer.train(batches, Span(begin, until, lambda step: 0.05), lambda step: None)
        return trainer

    whole, first = advanced(Reference(*started()), 0, 15), advanced(Reference(*started()), 0, 4)
    training, start = started()
    weights.put(start.model, first.weights())
    rest = advanced(Reference(training, replace(start, state=first.optimizer_state())), 4, 15)
    assert weights.equal(whole.weights(), rest.weights())


# ---------------------------------------------------------------- what is left of sacrificed weights


def test_sacrificed_weights_are_below_a_hundredth_before_the_cut_which_moves_little(done: Any) -> None:
    """The cut moves the validation accuracy by half a point at most; without the penalty it takes most of it."""
    recipe = SPEC["recipe"] | {"data": "digits"}
    search = SEARCH | {"optimizer": {"name": "sgd", "lr": 1e-2, "momentum": 0.9}}
    wanted, store = done(recipe=recipe, densities=[0.2], search=search, arms=["ticket", "dual-unpenalised"])
    for arm in ("ticket", "dual-unpenalised"):
        run = of(wanted, arm)
        values, whole, mask = store.values(run.start), store.weights(cut_of(run).trained), store.mask(run.mask)
        gone = torch.cat([whole[name][~alive] for name, alive in mask.items()]).double().norm()
        kept = torch.cat([whole[name][alive] for name, alive in mask.items()]).double().norm()
        assert values["sacrificed_norm"] == pytest.approx(float(gone))
        assert values["kept_norm"] == pytest.approx(float(kept))
        moved = abs(values["validation_accuracy_after"] - values["validation_accuracy_before"])
        if arm == "ticket":
            assert gone < 1e-2 * kept and moved <= 0.005
        else:
            assert gone > kept and moved > 0.3


@pytest.mark.parametrize("method", ["dual", "dual-iterative"])
def test_the_cut_keeps_living_weights_biases_and_running_statistics(method: str, done: Any) -> None:  # R3 M1
    recipe = SPEC["recipe"] | {"model": "resnet-8-w2", "length": "2it", "schedule": {"name": "constant"}}
    search = {"penalty_step": 0.5, "every": 1, "hold": 1}
    wanted, store = done(recipe=recipe, search=search, method=method, arms=["ticket"], densities=[0.2])
    run = of(wanted, "ticket")
    whole, left, mask = store.weights(cut_of(run).trained), store.weights(run.start), store.mask(run.mask)
    statistics = [name for name in whole if "running_mean" in name]
    assert statistics and all(bool(whole[name].any()) for name in statistics)
    for name, value in whole.items():
        assert torch.equal(left[name], value * mask[name] if name in mask else value), name


def test_what_is_said_of_the_cut() -> None:
    def found(level: int, gone: float, after: float) -> Found:
        values = {"sacrificed_norm": gone, "kept_norm": 2.0}
        values |= {"validation_accuracy_before": 0.9, "validation_accuracy_after": after}
        return Found(level, 0.1 / level, values)

    first, second = drawn_out([found(1, 0.002, 0.9), found(1, 0.004, 0.895), found(2, 0.006, 0.901)])
    assert "at most: at 10.0% 0.002, at 5.0% 0.003." in first and "by -0.50% at most" in second
    *_, third = drawn_out([found(1, 0.002, 0.9), found(2, 0.02, 0.9)])
    assert third.startswith("at 5.0% weights of 1% or more were cut away")


# ---------------------------------------------------------------- which are sacrificed


def test_masks_are_drawn_uniformly_in_each_layer_and_nest(done: Any) -> None:  # C1 C9
    wanted, store = done()
    masks = [store.mask(of(wanted, "ticket", level).mask) for level in (1, 2)]
    for density, mask in zip((0.2, 0.1), masks, strict=True):
        assert mask.counts == {name: round(density * size) for name, size in SIZES.items()}
    assert all(bool((masks[0][name] | ~masks[1][name]).all()) for name in SIZES)
    assert [of(wanted, "random-uniform", level).mask for level in (1, 2)] == [
        of(wanted, "ticket", level).mask for level in (1, 2)
    ], "the random mask that nothing was transformed towards"


def test_the_smallest_initial_weights_are_sacrificed_where_that_is_asked(done: Any) -> None:
    wanted, store = done(search=SPEC["search"] | {"pick": "smallest"}, arms=["ticket"])
    (first,) = extrusions(of(wanted, "ticket"))
    initial, mask = store.weights(first.start), store.mask(of(wanted, "ticket").mask)
    for name, alive in mask.items():
        assert initial[name][alive].abs().min() >= initial[name][~alive].abs().max()


def test_a_cycle_sacrifices_what_the_one_before_made_small_and_others_at_random(done: Any) -> None:
    """With n = 4 and d = 0.2 a cycle k leaves d^(k / 4) of each layer; nothing is cut between them."""
    search = {"penalty_step": 5.0, "hold": 30, "ceiling": 50.0, "cycles": 4}
    wanted, store = done(method="dual-iterative", search=search, arms=["ticket"], densities=[0.2])
    run = of(wanted, "ticket")
    chain = extrusions(run)
    assert len(chain) == 4 and all(each.mask == wanted.rows[0].run.mask for each in chain), "dense until the cut"
    assert [(each.begin, each.until) for each in chain] == [(0, 40)] * 4, "and lambda begins anew"
    masks = [store.mask(dict(each.further or ())[KEPT]) for each in chain]
    assert masks[-1] == store.mask(run.mask)
    for cycle, mask in enumerate(masks, start=1):
        for name, size in SIZES.items():
            assert mask[name].sum() == pytest.approx(size * 0.2 ** (cycle / 4), abs=1.01)
    for cycle, before, mask in zip((1, 2, 3), masks, masks[1:], strict=False):
        trained = store.weights(chain[cycle - 1])
        for name in SIZES:
            sacrificed = int((~before[name]).sum())
            small = trained[name].abs().flatten().argsort()[: sacrificed - 1]  # rounding may share one between layers
            assert not mask[name].flatten()[small].any(), "what is smallest by now, as many as before"
    joined = [masks[0][name] & ~masks[1][name] for name in SIZES]
    sizes = [store.weights(chain[0])[name].abs() for name in SIZES]
    ranks = torch.cat([size[gone].argsort() for size, gone in zip(sizes, joined, strict=True)])
    assert len(ranks) > 100
    of_kept = [
        (float(size[gone].mean()), float(size[kept].mean()))
        for size, gone, kept in zip(sizes, joined, (masks[0][name] for name in SIZES), strict=True)
    ]
    assert all(gone == pytest.approx(kept, rel=0.25) for gone, kept in of_kept), "the others at random, of any size"


# ---------------------------------------------------------------- what costs as much


def examples_of(*trainings: Train) -> int:
    """By counting: an epoch of 250 in batches, the last of which may be smaller."""
    seen = 0
    for each in trainings:
        batches = [min(each.recipe.batch, 250 - at) for at in range(0, 250, each.recipe.batch)]
        seen += sum(batches[step % len(batches)] for step in range(each.begin, each.until))
    return seen


@pytest.mark.parametrize("method", ["dual", "dual-iterative"])
@pytest.mark.parametrize("rewind", ["0it", "6it"])
def test_controls_see_as_many_examples_and_differ_in_one_thing(method: str, rewind: str) -> None:  # K8
    wanted = planned(method=method, rewind=rewind, replicates=2)
    for number in range(2):
        dense = of(wanted, "dense", 0, number)
        for level in (1, 2):
            ticket, longer, plain, largest = (of(wanted, arm, level, number) for arm in ("ticket", *CONTROLS))
            chain, unpenalised = extrusions(ticket), extrusions(plain)
            assert (
                longer == replace(ticket, start=dense.start, recipe=longer.recipe, until=longer.until)
                and longer.mask == ticket.mask
            )
            extra = examples_of(longer) - examples_of(*chain, ticket)
            assert 0 <= extra < 60, "as many examples, up to a batch"
            half = longer.until // 2
            assert str(longer.recipe.schedule.milestones[0]) == f"{half}it"  # type: ignore[union-attr]
            assert longer.recipe.length.count == longer.until
            assert plain == replace(ticket, start=plain.start) and cut_of(plain).mask == ticket.mask
            before: Run = chain[0].start
            for extrusion, same in zip(chain, unpenalised, strict=True):
                recipe = extrusion.recipe.model_copy(update={"objective": None})
                assert same == replace(extrusion, start=before, recipe=recipe, further=None)
                before = same
            assert cut_of(largest).trained == cut_of(plain).trained and cut_of(largest).mask == largest.mask


def test_magnitude_pruning_keeps_the_largest_of_the_dense_network(done: Any) -> None:
    wanted, store = done()
    run = of(wanted, "dual-magnitude", 2)
    dense, mask = store.weights(cut_of(run).trained), store.mask(run.mask)
    assert mask.counts == store.mask(of(wanted, "ticket", 2).mask).counts
    for name, alive in mask.items():
        assert dense[name][alive].abs().min() >= dense[name][~alive].abs().max()
        assert torch.equal(store.weights(run.start)[name], dense[name] * alive)


def test_an_extrusion_is_in_the_cost_of_the_search() -> None:
    wanted = planned()
    costs = {cost["arm"]: cost for cost in expected_costs(wanted) if cost["level"] == 1}
    (extrusion,) = extrusions(of(wanted, "ticket"))
    dense = 64 * 20 + 20 * 10 + 10 * 10
    assert costs["ticket"]["search_macs"] == 3 * dense * examples_of(extrusion)
    assert costs["random-uniform"]["search_macs"] == costs["dual-longer"]["search_macs"] == 0
    assert costs["ticket"]["training_macs"] == costs["random-uniform"]["training_macs"]


# ---------------------------------------------------------------- as a spec


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"recipe.objective": "{name='l1',strength=1e-5}"}, "recipe.objective: expected none beside dual"),
        ({"recipe.dynamics": "{name='aws'}"}, "recipe.dynamics: expected none beside dual"),
        ({"search.extrusion_batch": "5000"}, "search.extrusion_batch: expected at most the"),
        ({"search.retrain": "true"}, "search.retrain: expected no data, precision or retrain of the search's own"),
        ({"search.lr": "0.1"}, "search.lr: expected no such choice of dual"),
        ({"search.hold": "-1"}, "search.hold"),
        ({"method": "iterative"}, "arms.*'dual-longer'.*its tickets' weights are not transformed"),
        ({"arms": "ticket,random"}, "arms: expected only ticket, other methods and .*dual-longer"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_trained(changes: dict[str, str], fault: str) -> None:
    method = {"method": "dual", "arms": "ticket,dual-longer"} | changes
    with pytest.raises(SpecError) as refused:
        read("digits-lenet", [f"{name}={value}" for name, value in method.items()])
    assert re.search(fault, str(refused.value), re.S), refused.value


def test_a_search_of_ones_own_says_that_it_extrudes_nothing() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def body(level: Any) -> None:
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(3, 4)).square().sum().backward()
            optimizer.step()
        level.report(accuracy=0.5)

    search = Search(model, optimizer, levels=1, rate=0.5, prune="weight")
    for level in search:
        body(level)
    for control in CONTROLS:
        with pytest.raises(BadInput, match=f"{control}, which asks for an extrusion, which no search makes"):
            search.verify(body, level=1, replicates=2, controls=[control], build=lambda: nn.Linear(4, 2))


def test_an_experiment_says_whether_it_is_the_transformation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [
        "replicates=2",
        "levels=1",
        "recipe.length=30it",
        "method=dual",
        "search.hold=5",
        "search.penalty_step=0.5",
    ]
    small += ["arms=ticket,dual-longer,dual-unpenalised,dual-magnitude,dual-iterative"]
    small += ["arm.dual-iterative.hold=5", "arm.dual-iterative.penalty_step=0.5"]
    sets = [word for each in small for word in ("--set", each)]
    assert main(["run", "digits-lenet", *sets, "--store", str(tmp_path), "--workers", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the same random mask on early weights, trained for as long as extrusion and training take" in said
    assert "ticket: the sacrificed weights' norm before the cut" in said
    assert "dual-iterative: the cut moved the validation accuracy by" in said


def test_all_masks_of_a_plan_are_prunings() -> None:
    assert all(isinstance(of(planned(), arm).mask, Prune) for arm in ("ticket", *CONTROLS))
