"""What trackers are told: read back from them, told twice, interrupted and completed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tombola.cli import main
from tombola.lab.plan import plan
from tombola.lab.results import Results, results
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.trackers.mask_images import SIDE, picture
from tombola.trackers.record import begun, summary, trainings

# MLflow asks SQLAlchemy in a way that the newest one no longer likes.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:mlflow", "ignore:.*loader strategy:DeprecationWarning"
)

CHANGES = [
    *("recipe.model=lenet-20-10", "recipe.length=40it", "levels=2", "replicates=2"),
    *("evaluate.every=10it", "evaluate.test_every=20it", "arms=ticket,reinit"),
]
TINY = [argument for change in CHANGES for argument in ("--set", change)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which a tiny experiment is finished."""
    root = tmp_path_factory.mktemp("trackers") / "store"
    command = [sys.executable, "-m", "tombola", "run", "digits-lenet", "--store", str(root), *TINY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def found(store: Path) -> Results:
    return results(plan(read("digits-lenet", CHANGES)), Store(store))


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# ---------------------------------------------------------------- what is told


def test_each_row_of_the_table_has_an_entry_of_its_own_with_its_numbers(found: Results) -> None:
    entries = list(trainings(found, "first"))
    assert len({entry.id for entry in entries}) == len(entries) == len(found.table)
    for entry, row in zip(entries, found.table, strict=True):
        assert (entry.params["arm"], entry.params["level"], entry.params["key"]) == (
            row["arm"],
            row["level"],
            row["key"],
        )
        assert entry.metrics["density"] == row["density"]
        assert entry.metrics["final_test_accuracy"] == row["final_test_accuracy"]
        (loss,) = [curve for curve in entry.curves if curve.name == "validation_loss"]
        assert loss.steps == (0, 10, 20, 30, 40)


def test_what_is_told_while_a_training_goes_on_is_the_same_entry(found: Results) -> None:
    for entry, row in zip(trainings(found, "none"), found.plan.rows, strict=True):
        early = begun(row)
        assert (early.id, early.path, early.params) == (entry.id, entry.path, entry.params)


def test_verdicts_are_tags_of_tickets_and_of_the_experiment(found: Results) -> None:
    tickets = [entry for entry in trainings(found, "none") if entry.params["arm"] == "ticket"]
    words = {verdict.level: verdict.label for verdict in found.verdicts}
    assert [entry.tags["verdict"] for entry in tickets] == [words[int(entry.params["level"])] for entry in tickets]
    assert summary(found).tags["verdict.ticket.level 2"] == words[2]


def test_masks_and_tickets_go_along_of_the_replicates_asked_for(found: Results) -> None:
    def having(which: Any) -> set[Any]:
        return {entry.params["replicate"] for entry in trainings(found, which) if entry.files}

    assert (having("none"), having("first"), having("all")) == (set(), {0}, {0, 1})


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 99))
def test_a_mask_s_picture_is_bounded_and_as_bright_as_the_mask_is_dense(sizes: list[int], seed: int) -> None:
    alive = np.random.default_rng(seed).random(sizes) < 0.5
    shades = picture(alive)
    assert max(shades.shape) <= SIDE
    if max(picture(np.ones_like(alive)).shape) < SIDE:  # each weight has its own pixels
        assert shades.mean() / 255 == pytest.approx(alive.mean())


def test_a_picture_shows_which_weights_are_kept() -> None:
    alive = np.zeros((4, 8), bool)
    alive[1, 6] = True
    shades = picture(alive)
    side = shades.shape[0] // 4
    assert shades[side : 2 * side, 6 * side : 7 * side].min() == 255 and shades.sum() == 255 * side**2
    halves = np.zeros((3 * SIDE, 10), bool)
    halves[: 3 * SIDE // 2] = True
    assert (picture(halves)[: SIDE // 2] == 255).all() and not picture(halves)[SIDE // 2 :].any()


# ---------------------------------------------------------------- MLflow


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a data base of MLflow's; its files go beside it."""
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed, which MLflow's data bases need")
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path}/mlflow.db"


def runs_of(address: str) -> dict[str, Any]:
    """MLflow's runs, by name, with all points of their metrics."""
    from mlflow import MlflowClient

    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("digits-lenet")
    assert experiment
    runs = {}
    for run in client.search_runs([experiment.experiment_id]):
        points = {
            name: [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        files = {each.path for each in client.list_artifacts(run.info.run_id)}
        assert run.info.run_name not in runs
        runs[run.info.run_name] = (run.info.status, run.data.params, run.data.tags, points, files)
    return runs


def test_mlflow_has_it_all_and_is_told_nothing_twice(
    store: Path, found: Results, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [*("log", "digits-lenet", "--store", str(store), *TINY), "--to", f"mlflow={address}"]
    status, out, _ = ask(capsys, *told)
    assert status == 0 and "Logged 10 trainings to mlflow." in out and f"--backend-store-uri {address}" in out
    runs = runs_of(address)
    for entry in trainings(found, "first"):
        state, params, tags, points, files = runs[entry.name]
        assert state == "FINISHED" and params["recipe.optimizer.name"] == "adam"
        for curve in entry.curves:
            assert sorted(points[curve.name]) == list(zip(curve.steps, curve.values, strict=True))
        assert points["density"] == [(0, entry.metrics["density"])]
        assert tags.get("verdict") == entry.tags.get("verdict")
        assert files == {attachment.name.partition("/")[0] for attachment in entry.files}
    _, _, tags, points, files = runs["experiment"]
    assert files == {"report"} and len(points["early_stop_test_accuracy.ticket"]) == 2
    assert "- " in tags["mlflow.note.content"]
    status, out, _ = ask(capsys, *told)
    assert status == 0 and "Logged 0 trainings to mlflow (10 were there already)" in out
    assert runs_of(address) == runs
