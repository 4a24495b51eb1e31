"""Laws of the arms: each differs from its ticket in what it declares and in nothing else, and does its deed.

The arms are those of the tables: of a control its `changes` is what it declares, of a method its `rewinds`.
"""

import random
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from tombola import mask, models, weights
from tombola.controls import CONTROLS
from tombola.lab.attempt import do
from tombola.lab.kinds import Init, Train
from tombola.lab.plan import Plan, plan
from tombola.lab.spec import Experiment, Spec
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.mask import Mask
from tombola.methods import METHODS
from tombola.study.overlap import overlaps

# Of the papers' methods, the fields of a training that are other than the ticket's: at level 1, where one may still be
# the iterative search, and later. Of other methods their `rewinds` says what may differ.
METHOD_ARMS: dict[str, tuple[set[str], set[str]]] = {
    "continued": (set(), {"mask"}),
    "one-shot": (set(), {"mask"}),
    "lr-rewind": ({"start"}, {"start", "mask"}),
    "fine-tune": ({"start", "recipe"}, {"start", "mask", "recipe"}),
    "generalised": ({"start", "mask", "recipe"}, {"start", "mask", "recipe"}),  # whose recipe names another model
}
# Of the controls those that any method's tickets have; what others ask of theirs is tested beside that method.
GENERAL = {name: control for name, control in CONTROLS.items() if control.refuses is None}
ARMS = [*GENERAL, *(name for name in METHODS if name != "iterative")]
REPLICATES, LEVELS, REINITS = 2, 2, 2
SPEC: dict[str, Any] = {
    "replicates": REPLICATES,
    "levels": LEVELS,
    "arms": ["ticket", *ARMS],
    "reinits": REINITS,
    "recipe": {
        "model": "lenet-20-10",
        "data": "digits",
        "length": "24it",
        "batch": 60,
        "optimizer": {"name": "adam", "lr": 1e-2},
        "schedule": {"name": "linear", "final": 0.1},
    },
    # As long as the others, or nearly.
    "arm": {name: {"penalty_step": 0.25, "every": 1, "hold": 10} for name in ("dual", "dual-iterative")},
    "prune": {"rate": 0.4, "output_rate": 0.2},
    "evaluate": {"every": "6it", "test_every": "24it"},
}
Lab = Callable[[str], tuple[Plan, Worker]]

every_arm = pytest.mark.parametrize("arm", ARMS)
every_control = pytest.mark.parametrize("arm", GENERAL)
every_rewind = pytest.mark.parametrize("rewind", ["0it", "6it"])


def planned(rewind: str) -> Plan:
    return plan(Experiment(name="tiny", spec=Spec.model_validate(SPEC | {"rewind": rewind})))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Performs all arms, once for all laws; the plan, and the worker with the finished store."""
    finished: dict[str, tuple[Plan, Worker]] = {}

    def performed(rewind: str) -> tuple[Plan, Worker]:
        if rewind not in finished:
            wanted, worker = planned(rewind), Worker(Store(tmp_path_factory.mktemp("store") / "store").open(), None)
            for run in wanted.runs:
                assert do(run, worker, lambda *seen: None) == ("stored",)
            finished[rewind] = wanted, worker
        return finished[rewind]

    return performed


def pairs(wanted: Plan, arm: str, draw: int = 0) -> list[tuple[int, Train, Train]]:
    """(level, the ticket's training, the arm's) of every replicate."""
    by_row = {(row.arm, row.replicate, row.level, row.draw): row.run for row in wanted.rows}
    return [
        (level, by_row["ticket", replicate, level, 0], by_row[arm, replicate, level, draw])
        for replicate in range(REPLICATES)
        for level in range(1, LEVELS + 1)
    ]


def differing(left: Train, right: Train) -> set[str]:
    ours, theirs = left.described, right.described
    return {name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)}


def mask_of(run: Train, worker: Worker) -> Mask:
    made = worker.store.masked_by(run)
    assert made
    return worker.store.mask(made)


def declared(arm: str, level: int) -> list[set[str]]:
    """The fields that differ from the ticket's, each set of them that may be so."""
    if arm in CONTROLS:
        changes = CONTROLS[arm].changes
        return [set(changes.split(" and "))] if changes else [{"start"}, {"mask"}]
    if arm in METHOD_ARMS:
        return [METHOD_ARMS[arm][level > 1]]
    may = ["mask"] if METHODS[arm].rewinds else ["start", "mask", "recipe", "further", "dynamics_seed"]
    return [set(some) for size in range(len(may) + 1) for some in combinations(may, size)]


# ---------------------------------------------------------------- one declared difference


@every_rewind
@every_arm
def test_an_arm_differs_from_its_ticket_in_what_it_declares_alone(arm: str, rewind: str) -> None:  # K3 K8
    for level, ticket, run in pairs(planned(rewind), arm):
        assert differing(ticket, run) in declared(arm, level)


@every_rewind
def test_the_ticket_differs_from_the_dense_network_in_its_mask_alone(rewind: str) -> None:  # K8
    rows = planned(rewind).rows
    dense = {row.replicate: row.run for row in rows if row.arm == "dense"}
    for row in rows:
        if row.arm == "ticket":
            assert differing(dense[row.replicate], row.run) == {"mask"}


@every_rewind
@every_control
def test_a_control_is_another_run_in_every_replicate_level_and_draw(arm: str, rewind: str) -> None:  # K10
    wanted = planned(rewind)
    draws = {row.draw for row in wanted.rows if row.arm == arm}
    runs = [run for draw in draws for _, _, run in pairs(wanted, arm, draw)]
    assert len(set(runs)) == len(runs) == REPLICATES * LEVELS * len(draws)


@every_rewind
@every_arm
def test_arms_of_a_replicate_see_the_same_examples_in_the_same_order(arm: str, rewind: str) -> None:  # K10 R12
    for _, ticket, run in pairs(planned(rewind), arm):
        assert (run.order_seed, run.split_seed, run.begin, run.until) == (
            ticket.order_seed,
            ticket.split_seed,
            ticket.begin,
            ticket.until,
        )


# ---------------------------------------------------------------- as it is performed


@every_rewind
@every_arm
def test_an_arm_has_as_many_living_weights(lab: Lab, arm: str, rewind: str) -> None:  # K1 K2 K3
    wanted, worker = lab(rewind)
    for _, ticket, run in pairs(wanted, arm):
        assert mask_of(run, worker).alive == mask_of(ticket, worker).alive
        if arm in ("reinit", "random", "shuffle", *METHOD_ARMS):
            assert mask_of(run, worker).counts == mask_of(ticket, worker).counts, "in every layer"
        assert worker.store.values(run)["density"] == worker.store.values(ticket)["density"]


@every_rewind
@every_arm
def test_an_arm_begins_where_it_says(lab: Lab, arm: str, rewind: str) -> None:  # K3 K4 R1
    wanted, worker = lab(rewind)
    for _, ticket, run in pairs(wanted, arm):
        same = weights.equal(worker.store.weights(run.start), worker.store.weights(ticket.start))
        assert same == (run.start == ticket.start), "another start is one of other weights"


@every_rewind
@every_control
def test_a_control_of_the_mask_really_has_another_one(lab: Lab, arm: str, rewind: str) -> None:  # K1 K3
    wanted, worker = lab(rewind)
    for _, ticket, run in pairs(wanted, arm):
        assert (mask_of(ticket, worker) != mask_of(run, worker)) == (run.mask != ticket.mask)


@every_rewind
@pytest.mark.parametrize("arm", ["random", "shuffle"])
def test_a_drawn_mask_is_as_like_the_tickets_as_by_chance_in_every_layer(lab: Lab, arm: str, rewind: str) -> None:  # K3
    wanted, worker = lab(rewind)
    for _, ticket, run in pairs(wanted, arm):
        theirs, ours = mask_of(ticket, worker), mask_of(run, worker)
        assert all((ours[name] != theirs[name]).any() for name in theirs)
        # Two independent masks of density d overlap by d / (2 - d): they are no more alike than by chance.
        chance = theirs.density / (2 - theirs.density)
        assert overlaps(ours, theirs)[-1].overlap == pytest.approx(chance, abs=0.08)


@every_rewind
def test_random_masks_of_the_levels_nest_and_shuffled_ones_do_not(lab: Lab, rewind: str) -> None:  # K3
    wanted, worker = lab(rewind)
    for arm, nests in (("random", True), ("shuffle", False)):
        masks = [mask_of(run, worker) for _, _, run in pairs(wanted, arm)]
        for first in range(0, len(masks), LEVELS):
            assert (Mask(mask.apply(masks[first + 1], masks[first])) == masks[first + 1]) == nests


@every_rewind
def test_reinit_keeps_the_mask_and_draws_all_weights_anew(lab: Lab, rewind: str) -> None:  # K4 K7 K14
    wanted, worker = lab(rewind)
    for draw in range(REINITS):
        for _, ticket, run in pairs(wanted, "reinit", draw):
            assert run.mask == ticket.mask
            ours, theirs = worker.store.weights(run.start), worker.store.weights(ticket.start)
            for name, alive in mask_of(ticket, worker).items():
                assert (ours[name] != theirs[name]).all(), f"{name} is drawn anew, every weight of it"
                assert not torch.equal(ours[name].sort().values, theirs[name].sort().values), "and not permuted"
                assert alive.shape == ours[name].shape


def test_reinit_is_drawn_as_a_fresh_model_is_name_by_name(lab: Lab) -> None:  # K7
    """Biases are 0 in both; weights have the layer's own spread, and are those of a model built with that seed."""
    wanted, worker = lab("0it")
    drawn: dict[str, list[torch.Tensor]] = {}
    for draw in range(REINITS):
        for _, _, run in pairs(wanted, "reinit", draw):
            assert isinstance(run.start, Init)
            found = worker.store.weights(run.start)
            built = models.build("lenet-20-10", (1, 8, 8), 10, "glorot-normal", init_seed=run.start.init_seed)
            assert weights.equal(found, weights.of(built))
            for name, value in found.items():
                drawn.setdefault(name, []).append(value.flatten())
    for name, fan in (("fc1", 64 + 20), ("fc2", 20 + 10), ("output", 10 + 10)):
        assert not torch.cat(drawn[f"{name}.bias"]).any()
        spread = float(torch.cat(drawn[f"{name}.weight"]).std())
        assert spread == pytest.approx((2 / fan) ** 0.5, rel=0.15)


@every_rewind
def test_draws_of_reinit_are_independent(lab: Lab, rewind: str) -> None:  # K5 K9
    wanted, worker = lab(rewind)
    starts = {run.start for draw in range(REINITS) for _, _, run in pairs(wanted, "reinit", draw)}
    assert len(starts) == REPLICATES * REINITS, "one for all levels of a replicate and draw"
    values = [worker.store.weights(start)["fc1.weight"].flatten() for start in starts]
    correlations = torch.corrcoef(torch.stack(values)) - torch.eye(len(values))
    assert correlations.abs().max() < 0.15


@every_rewind
@every_arm
def test_an_arm_trains_its_living_weights_and_keeps_the_others_at_0(lab: Lab, arm: str, rewind: str) -> None:  # M1
    wanted, worker = lab(rewind)
    for _, ticket, run in pairs(wanted, arm):
        trained, start = worker.store.weights(run), worker.store.weights(run.start)
        holds = arm in CONTROLS and run.recipe.dynamics is not None
        held = start if holds else {name: torch.zeros_like(value) for name, value in start.items()}
        for name, alive in mask_of(run, worker).items():
            assert torch.equal(trained[name][~alive], held[name][~alive]), "at 0, or where it began"
            assert (trained[name][alive] != start[name][alive]).float().mean() > 0.5
        # A method may find the mask of another one in another way.
        found_too = arm in METHODS and weights.equal(mask_of(run, worker), mask_of(ticket, worker))
        if run != ticket and not (found_too and run.start == ticket.start):
            assert not weights.equal(trained, worker.store.weights(ticket)), "it came out differently"


@every_rewind
@every_arm
def test_an_arm_done_again_is_the_same_whatever_the_process_has_drawn(
    lab: Lab, arm: str, rewind: str
) -> None:  # K11 K13
    wanted, worker = lab(rewind)
    _, _, run = pairs(wanted, arm)[-1]
    for each in (run, run.mask or run):
        random.seed(1)
        torch.manual_seed(1)
        again = each.perform(worker)
        assert again.values == worker.store.values(each)
        for name, tensors in again.tensors.items():
            assert weights.equal(tensors, worker.store.tensors(each, name))


def test_a_control_of_nothing_pruned_is_its_ticket(tmp_path: Path) -> None:
    """With a rate of 0 every mask is full: controls of the mask have nothing to move, others another start."""
    spec = SPEC | {"prune": {"rate": 0}, "levels": 1, "replicates": 1, "arms": ["ticket", *GENERAL], "reinits": 1}
    wanted = plan(Experiment(name="tiny", spec=Spec.model_validate(spec)))
    worker = Worker(Store(tmp_path / "store").open(), None)
    for run in wanted.runs:
        assert do(run, worker, lambda *seen: None) == ("stored",)
    by_arm = {row.arm: row.run for row in wanted.rows}
    for arm in GENERAL:
        trained, ticket = (worker.store.tensors(by_arm[each], "weights") for each in (arm, "ticket"))
        if by_arm[arm].recipe.objective:
            assert not weights.equal(trained, ticket)
            continue
        if by_arm[arm].recipe != by_arm["ticket"].recipe:  # another engine does it, with other last bits
            assert all(torch.allclose(trained[name], ticket[name], atol=1e-4) for name in ticket) or (
                by_arm[arm].start != by_arm["ticket"].start
            )
            continue
        assert weights.equal(trained, ticket) == (by_arm[arm].start == by_arm["ticket"].start)
