"""Plans: which rows a spec wants, which runs they need, and what of it is missing."""

import gc
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tombola.control import Control
from tombola.controls import CONTROLS
from tombola.engine import kernels
from tombola.engine.native import calibrate
from tombola.errors import BadInput
from tombola.lab.kinds import Init, Train
from tombola.lab.members import BUILT_IN
from tombola.lab.plan import END_S, RUN_S, START_S, Plan, missing, plan, run_seconds, summary
from tombola.lab.runs import Outcome, Run
from tombola.lab.spec import Experiment, Spec
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.report.text import _runs_text, plan_text
from tombola.sparse.times import Times

LAYERS = ("fc1.weight", "fc2.weight", "output.weight")
RECIPE: dict[str, Any] = {
    "model": "lenet-20-10",
    "data": "digits",
    "length": "40it",
    "batch": 60,
    "optimizer": {"name": "adam", "lr": 2e-3},
}


def planned(**changes: Any) -> Plan:
    spec = {"replicates": 2, "levels": 3, "arms": ["ticket", "reinit", "random"], "recipe": RECIPE} | changes
    return plan(Experiment(name="tiny", spec=Spec.model_validate(spec)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").open()


def finish(store: Store, runs: list[Run], seconds: float = 1.0) -> None:
    """Pretend that `runs` are done."""
    for run in runs:
        store.save(run, Outcome({}), {"seconds": seconds})


def test_one_row_for_each_replicate_arm_level_and_draw() -> None:
    rows = [(row.arm, row.replicate, row.level, row.draw) for row in planned(reinits=2).rows]
    expected = {("dense", replicate, 0, 0) for replicate in (0, 1)}
    for replicate in (0, 1):
        for level in (1, 2, 3):
            expected |= {(arm, replicate, level, 0) for arm in ("ticket", "reinit", "random")}
            expected.add(("reinit", replicate, level, 1))
    assert set(rows) == expected and len(rows) == len(expected)


def test_draws_of_a_control_are_runs_of_their_own() -> None:
    rows = planned(reinits=3, randoms=2).rows
    for arm, draws in (("reinit", 3), ("random", 2)):
        runs = [row.run for row in rows if row.arm == arm]
        assert len(set(runs)) == len(runs) == 2 * 3 * draws


def test_any_control_that_draws_is_drawn_as_often_as_the_spec_says() -> None:
    drawn = ["reinit", "random", "shuffle"]  # others may draw nothing
    arms = ["ticket", *drawn]
    once, rows = planned(arms=arms).rows, planned(arms=arms, draws=dict.fromkeys(drawn, 2), levels=3).rows
    assert [row for row in rows if row.draw == 0] == list(once), "the first draw is that of a control drawn once"
    for arm in drawn:
        runs = [row.run for row in rows if row.arm == arm]
        assert len(set(runs)) == len(runs) == 2 * 3 * 2


def test_a_control_that_is_the_same_in_each_draw_counts_once() -> None:
    with pytest.raises(BadInput, match="draws of fixed: expected a control that is another one in each draw"):
        planned_with(
            "fixed", lambda replicate, ticket, level, draw: CONTROLS["random"].make(replicate, ticket, level, 0)
        )


def planned_with(name: str, make: Any, changes: Any = "", draws: int = 2) -> Plan:
    """The plan of a spec with one control of one's own."""
    control = Control(name, make, claim="", what=name, about=name, changes=changes)
    members = replace(BUILT_IN, controls=CONTROLS | {name: control})
    table = {"arms": ["ticket", name], "draws": {name: draws}, "recipe": RECIPE, "levels": 1}
    return plan(Experiment(name="tiny", spec=Spec.model_validate(table, context=members.tables), members=members))


@pytest.mark.parametrize(
    ("change", "changes", "alone", "differs"),
    [
        (lambda replicate, ticket: ticket, "", "start or its mask", "one that differs in nothing"),
        (lambda replicate, ticket: replace(ticket, until=30), "", "start or its mask", "one that differs in until"),
        (lambda replicate, ticket: replace(ticket, order_seed=1), "mask", "mask", "one that differs in order_seed"),
        (
            lambda replicate, ticket: replace(ticket, recipe=ticket.recipe.model_copy(update={"batch": 10})),
            "start",
            "start",
            "one that differs in recipe",
        ),
        (lambda replicate, ticket: replace(ticket, mask=None), "mask", "mask", "one whose mask is None"),
        (
            lambda replicate, ticket: CONTROLS["reinit"].make(replicate, ticket, 1, 0),
            "mask",
            "mask",
            "differs in start",
        ),
        (
            lambda replicate, ticket: CONTROLS["random"].make(
                replicate, CONTROLS["reinit"].make(replicate, ticket, 1, 0), 1, 0
            ),
            "",
            "start or its mask",
            "one that differs in mask, start",
        ),
        (lambda replicate, ticket: None, "", "start or its mask", "a NoneType"),
    ],
)
def test_a_control_differs_from_its_ticket_in_what_it_declares_alone(
    change: Any, changes: str, alone: str, differs: str
) -> None:  # K8
    with pytest.raises(BadInput, match=f"control bold: expected a training .* in its {alone} alone, found .*{differs}"):
        planned_with("bold", lambda replicate, ticket, level, draw: change(replicate, ticket), changes, draws=1)


def test_another_method_is_an_arm_and_shares_what_it_can() -> None:
    wanted = planned(arms=["ticket", "one-shot"])
    by_row = {(row.arm, row.replicate, row.level): row.run for row in wanted.rows}
    assert by_row["one-shot", 1, 1] == by_row["ticket", 1, 1], "one round of either is the same"
    assert by_row["one-shot", 1, 2] != by_row["ticket", 1, 2]
    assert sum(arm == "dense" for arm, *_ in by_row) == 2, "level 0 once for all methods"


def test_no_levels_is_the_dense_network_alone() -> None:
    wanted = planned(levels=0)
    assert [row.arm for row in wanted.rows] == ["dense", "dense"] and len(wanted.runs) == 4


def test_every_run_is_listed_once_and_after_what_it_needs() -> None:  # S5
    wanted = planned(arms=["ticket", "reinit", "random", "shuffle", "continued", "fine-tune"], rewind="8it")
    assert len(set(wanted.runs)) == len(wanted.runs)
    for place, run in enumerate(wanted.runs):
        assert all(needed in wanted.runs[:place] for needed in run.inputs)
    assert {row.run for row in wanted.rows} <= set(wanted.runs)


def test_the_same_spec_gives_the_same_plan() -> None:
    assert planned() == planned() and planned(seed=1) != planned()


def test_all_is_missing_from_a_new_store_even_from_one_that_is_not_there(store: Store, tmp_path: Path) -> None:
    wanted = planned()
    assert missing(wanted, store) == missing(wanted, Store(tmp_path / "none")) == list(wanted.runs)
    assert not (tmp_path / "none").exists(), "to look writes nothing"


def test_what_is_stored_is_not_missing(store: Store) -> None:  # S5
    wanted = planned()
    finish(store, list(wanted.runs[:7]))
    assert missing(wanted, store) == list(wanted.runs[7:])
    finish(store, list(wanted.runs))
    assert missing(wanted, store) == []


def test_what_went_into_a_run_that_is_done_is_missing_only_where_something_undone_needs_it(store: Store) -> None:
    """Rows, their starts and masks are wanted for themselves; trainings in between are not, once the masks exist."""
    wanted = planned(arms=["ticket", "continued"], replicates=1)
    kept = {run for row in wanted.rows for run in (row.run, *row.run.inputs)}
    between = set(wanted.runs) - kept
    assert between and {run.kind for run in between} == {"train"}
    finish(store, [run for run in wanted.runs if run in kept])
    assert missing(wanted, store) == []
    more = planned(arms=["ticket", "continued"], replicates=1, levels=4)
    assert between < set(missing(more, store)), "the next level of the continued search needs them"


def test_more_replicates_levels_and_arms_later_cost_only_what_is_new(store: Store) -> None:
    finish(store, list(planned().runs))
    more = planned(replicates=3, levels=4, arms=["ticket", "reinit", "random", "shuffle"])
    lacking = missing(more, store)
    assert set(lacking) == set(more.runs) - set(planned().runs)
    assert set(planned().runs) < set(more.runs), "none of what is done has another name now"


def test_two_experiments_share_their_dense_trainings(store: Store) -> None:
    finish(store, list(planned(arms=["ticket"]).runs))
    other = planned(method="one-shot", arms=["ticket"])
    assert not [run for run in missing(other, store) if isinstance(run, Train) and run.mask is None]


def test_the_summary_counts_by_kind(store: Store) -> None:
    wanted = planned()
    finish(store, [run for run in wanted.runs if isinstance(run, Init)])
    content = summary(wanted, store, workers=2)
    kinds = Counter(run.kind for run in wanted.runs)
    assert {kind: counts["wanted"] for kind, counts in content["runs"].items()} == kinds
    # Two replicates: an init each for the ticket and the reinit arm; three prunings and random masks; all trainings.
    assert kinds == {"init": 4, "train": 2 * (1 + 3 * 3), "prune": 6, "random": 6}
    assert content["runs"]["init"]["stored"] == 4 and content["runs"]["init"]["missing"] == 0
    assert all(counts["wanted"] == counts["stored"] + counts["missing"] for counts in content["runs"].values())
    assert all(counts["asked"] >= counts["wanted"] for counts in content["runs"].values())
    assert content["total"] == {"wanted": 36, "stored": 4, "missing": 32}
    assert (content["experiment"], content["rows"], content["workers"]) == ("tiny", 20, 2)
    assert content["training_steps_missing"] == 20 * 40


def test_steps_of_a_rewound_training_count_from_its_rewind_point(store: Store) -> None:
    content = summary(planned(rewind="8it", levels=1, arms=["ticket"], replicates=1), store, workers=1)
    assert content["training_steps_missing"] == 8 + 2 * 32


def test_the_estimate_is_measured_where_something_is_finished(store: Store) -> None:
    wanted = planned(engine="reference")
    run = wanted.rows[0].run
    assert 4e-5 < run_seconds(wanted, store)(run) < 0.4, "a small network's steps"
    finish(store, [run], seconds=4.0)
    assert run_seconds(wanted, store)(run) == pytest.approx(4.0)
    content = summary(wanted, store, workers=2)
    around = START_S + END_S + content["total"]["missing"] * RUN_S / 2
    assert content["estimated_seconds"] == pytest.approx(around + 19 * 40 * 0.1 / 2, rel=0.06)
    assert content["estimated_by"] == "finished"


@pytest.mark.skipif(not kernels.sets(), reason="the kernels were not compiled here")
def test_the_estimate_follows_the_density(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernels have been measured, a step of a late level costs what its living weights cost."""
    times = Times(dense=1.0, sparse=(0.01, 0.1, 0.3, 0.6))
    monkeypatch.setattr(calibrate, "known", lambda shapes: dict.fromkeys(shapes, times))
    wanted = planned(levels=9, prune={"rate": 0.5})
    each = run_seconds(wanted, store)
    dense, ninth = wanted.rows[0].run, next(row.run for row in wanted.rows if row.level == 9)
    spec = wanted.experiment.spec
    assert isinstance(dense, Train)
    looks, tests = 40 // dense.evaluate_every + 1, 40 // dense.test_every + 1
    images = looks * spec.facts.validation + tests * spec.facts.test + 4 * spec.facts.train
    whole = 3 * (40 + images / 6 / spec.recipe.batch)
    assert each(dense) == pytest.approx(whole) and each(ninth) == pytest.approx(whole * 0.01)
    finish(store, [dense], seconds=whole * 2)
    assert run_seconds(wanted, store)(ninth) == pytest.approx(2 * whole * 0.01), "twice as slow as measured"


def test_the_guess_counts_what_convolutions_do_at_every_position(store: Store) -> None:
    wanted = planned(recipe=RECIPE | {"model": "resnet-20"})
    run = wanted.rows[0].run
    images = 1 * 200 + 1 * 597 + 4 * 1000
    seconds = run_seconds(wanted, store)(run) / (40 + images / 6 / 60)
    uses = 144 * 64 + 6 * 2304 * 64 + (4608 + 512 + 5 * 9216) * 16 + (18432 + 2048 + 5 * 36864) * 4 + 640
    assert seconds == pytest.approx(6 * uses * 60 / 50e9 + 2e-9 * 270_608 + 0.5e-3 * 22)


def test_the_plan_names_the_engine(store: Store) -> None:
    content = summary(planned(engine="reference"), store, workers=2)["engine"]
    assert content == {"name": "reference", "why": "as asked for", "unmeasured": False, "sparse_below": {}}


def test_an_experiment_in_a_basis_has_one_engine(store: Store) -> None:
    told = plan_text(summary(planned(prune={"basis": "dct"}), store, workers=2))
    assert told.count("Engine") == 1 and "Engine: reference" in told


def test_counts_of_runs_stand_below_each_other_whatever_their_kinds_are_called() -> None:
    count = {"asked": 60, "wanted": 60, "stored": 0, "missing": 1234}
    lines = _runs_text({"train": count, "stretched_weights": count})
    assert len({line.index("asked for") for line in lines}) == 1 and max(map(len, lines)) < 80


def test_a_plan_is_made_without_torch(tmp_path: Path) -> None:
    """Which takes 2 s to import: a plan is text, compiled before anything is touched."""
    program = (
        "import sys; from pathlib import Path\n"
        "from tombola.lab.plan import plan, summary; from tombola.lab.spec_file import read\n"
        "from tombola.lab.store import Store\n"
        "summary(plan(read('digits')), Store(Path(sys.argv[1])), 1); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "none")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n" and list(tmp_path.iterdir()) == []


def test_under_torchrun_the_plan_names_no_kernels(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    content = summary(planned(), store, workers=1)["engine"]
    assert content["name"] == "data-parallel" and "2 processes" in content["why"] and not content["unmeasured"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"augment": "flip-crop"}, "augmentation"),
        ({"precision": "bfloat16"}, "mixed precision"),
    ],
)
def test_the_plan_says_what_keeps_the_kernels_out(store: Store, changes: dict[str, Any], word: str) -> None:
    content = summary(planned(recipe=RECIPE | changes), store, workers=2)["engine"]
    assert content["name"] == "reference" and content["why"].startswith(f"the kernels know no {word}; ")


def test_a_plan_counts_what_studies_ask(store: Store) -> None:
    asked = {"connectivity": {"levels": [0, 2], "orders": 3}, "stability": {"levels": [2]}}
    content, plain = (summary(planned(study=study), store, workers=1) for study in (asked, {}))
    assert content["runs"]["line"]["wanted"] == 2 * 2 * 3 and content["runs"]["distance"]["wanted"] == 2 * 2 * 2
    more = content["runs"]["train"]["wanted"] - plain["runs"]["train"]["wanted"]
    assert more == 2 * (2 + 2 + 1), "dense and ticket in two more orders, the random mask (a control already) in one"
    assert content["rows"] == plain["rows"] and content["estimated_seconds"] > plain["estimated_seconds"]


@pytest.mark.skipif(not kernels.sets(), reason="the kernels were not compiled here")
def test_a_training_that_moves_its_mask_is_expected_to_take_what_its_own_engine_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels train tickets, and the plain loop what has dynamics."""
    monkeypatch.setattr(calibrate, "known", lambda shapes: dict.fromkeys(shapes, calibrate.ASSUMED))
    wanted = plan(read("lenet-mnist-quick", ["levels=1", "arms=ticket,rigl", "replicates=1"]))
    seconds = run_seconds(wanted, Store(tmp_path / "none"))
    by_arm = {row.arm: seconds(row.run) for row in wanted.rows}
    plain = plan(read("lenet-mnist-quick", ["levels=1", "arms=ticket", "replicates=1", "engine=reference"]))
    of_plain = {row.arm: run_seconds(plain, Store(tmp_path / "none"))(row.run) for row in plain.rows}
    assert by_arm["ticket"] != by_arm["rigl"] == pytest.approx(of_plain["ticket"], rel=0.01)


@pytest.mark.parametrize("collecting", [True, False])
def test_planning_leaves_the_collector_of_cycles_as_it_was_also_where_it_fails(
    collecting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        planned()
        assert gc.isenabled() == collecting
        monkeypatch.setattr("tombola.lab.plan.ancestry", lambda runs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            planned()
        assert gc.isenabled() == collecting
    finally:
        (gc.enable if was else gc.disable)()
