"""What trackers are told: read back from them, told twice, interrupted and completed."""

import io
import json
import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tombola.cli import main
from tombola.errors import TombolaError
from tombola.lab.executor import Offer, Team
from tombola.lab.plan import plan
from tombola.lab.queue import Event, Tally
from tombola.lab.results import Results, results
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.report import folder
from tombola.trackers import live, mlflow, tensorboard, wandb
from tombola.trackers.entry import Curve, Entry
from tombola.trackers.live import Follower
from tombola.trackers.mask_images import SIDE, picture
from tombola.trackers.record import begun, summary, trainings
from tombola.trackers.telling import alone
from tombola.trackers.tracker import Asked, Tracker

# MLflow asks SQLAlchemy in a way that the newest one no longer likes.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:mlflow", "ignore:.*loader strategy:DeprecationWarning"
)

CHANGES = [
    *("recipe.model=lenet-20-10", "recipe.length=40it", "levels=2", "replicates=2"),
    *("evaluate.every=10it", "evaluate.test_every=20it", "arms=ticket,reinit"),
    "engine=reference",
]
FEW = [*(change for change in CHANGES if not change.startswith(("levels", "replicates"))), "levels=1", "replicates=1"]
TINY, TINIER = ([argument for change in each for argument in ("--set", change)] for each in (CHANGES, FEW))


LIMIT_S = 300


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, subprocess.CompletedProcess[str]]":
    """A store in which a tiny experiment is finished, and what was said; TensorBoard, if it is here, was told of it."""
    root = tmp_path_factory.mktemp("trackers") / "store"
    logged = ["--log", f"tensorboard={root.parent}/live"] if find_spec("tensorboard") else []
    command = [sys.executable, "-m", "tombola", "run", "digits-lenet", "--store", str(root), "--workers", "1", *TINY]
    done = subprocess.run([*command, *logged], capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    return root, done


@pytest.fixture(scope="module")
def store(searched: "tuple[Path, subprocess.CompletedProcess[str]]") -> Path:
    return searched[0]


@pytest.fixture(scope="module", autouse=True)
def a_report_is_written_once() -> Iterator[None]:
    """Its figures take seconds, and they are another test's."""
    written, write = dict[tuple[Path, int], Path](), folder.write

    def once(found: Results) -> Path:
        place = folder.of(found), len(found.rows)
        if place not in written:
            written[place] = write(found)
        return written[place]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "write", once)
        yield


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


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data base of MLflow's in which nothing is yet: to make one takes it seconds."""
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed, which MLflow's data bases need")
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        with mlflow.TRACKER.opens(f"sqlite:///{path}", "another"):
            pass
    return path


@pytest.fixture
def address(tmp_path: Path, empty: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a data base of MLflow's; its files go beside it."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


def runs_of(address: str, kept: Path | None = None) -> dict[str, Any]:
    """MLflow's runs, by name, with all points of their metrics.

    Args:
        kept: where the server keeps files that only it gives out.
    """
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
        if kept:
            files = {each.name for each in kept.glob(f"*/{run.info.run_id}/artifacts/*")}
        else:
            files = {each.path for each in client.list_artifacts(run.info.run_id)}
        assert run.info.run_name not in runs
        runs[run.info.run_name] = (run.info.status, run.data.params, run.data.tags, points, files)
    return runs


def told_to(tracker: str, store: Path, which: Sequence[str] = TINY) -> list[str]:
    return [*("log", "digits-lenet", "--store", str(store), *which), "--to", tracker]


class Whole(NamedTuple):
    """Where it is, what was said, and what is there."""

    address: str
    said: str
    runs: dict[str, Any]


@pytest.fixture(scope="module")
def whole(store: Path, empty: Path, tmp_path_factory: pytest.TempPathFactory) -> "Whole":
    """A data base of MLflow's that was told of the experiment."""
    place = tmp_path_factory.mktemp("whole")
    shutil.copy(empty, place / "mlflow.db")
    address = f"sqlite:///{place}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.chdir(place)
        assert main(told_to(f"mlflow={address}", store)) == 0
    return Whole(address, out.getvalue(), runs_of(address))


def test_mlflow_has_it_all_and_is_told_nothing_twice(
    store: Path, found: Results, whole: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    address, said, runs = whole
    assert "Logged 10 trainings to mlflow." in said and f"--backend-store-uri {address}" in said
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
    status, out, _ = ask(capsys, *told_to(f"mlflow={address}", store))
    assert status == 0 and "Logged 0 trainings to mlflow (10 were there already)" in out
    assert runs_of(address) == runs


Trouble = Callable[[Path, pytest.MonkeyPatch], AbstractContextManager[None]]


@contextmanager
def refusing(path: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody answers any more."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def refused(*given: Any, **named: Any) -> Any:
        raise MlflowException("the server is gone")

    for method in CALLS:
        patch.setattr(MlflowClient, method, refused)
    yield


@contextmanager
def moved(path: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """The data base can only be read: to SQLite a file that is not where it was opened is one of these."""
    path.rename(path.with_suffix(".aside"))
    yield
    path.unlink(missing_ok=True)
    path.with_suffix(".aside").rename(path)


@contextmanager
def locked(path: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Somebody else writes to the data base for longer than MLflow waits, which is 20 s and here less."""
    from sqlalchemy import sql

    hurried = SimpleNamespace(text=lambda asked: sql.text(asked.replace("busy_timeout = 20000", "busy_timeout = 20")))
    patch.setattr("mlflow.store.db.utils.sql", hurried)
    other = sqlite3.connect(path)
    other.execute("BEGIN EXCLUSIVE")
    yield
    other.rollback()
    other.close()


CALLS = ("create_run", "log_batch", "set_tag", "set_terminated", "log_artifacts")


@pytest.mark.parametrize(
    "calls, trouble, words",
    [
        (3, refusing, "the server is gone"),
        (6, moved, "attempt to write a readonly database"),
        (30, locked, "database is locked"),
    ],
)
def test_what_was_interrupted_is_completed_by_the_same_command_and_nothing_is_there_twice(
    *, store: Path, whole: Whole, address: str, capfd: Any, calls: int, trouble: Trouble, words: str
) -> None:
    from mlflow import MlflowClient

    left, path = iter(range(calls)), Path(address.removeprefix("sqlite:///"))
    with ExitStack() as ends:
        patch = ends.enter_context(pytest.MonkeyPatch.context())

        def failing(method: str) -> Any:
            usual = getattr(MlflowClient, method)

            def call(*given: Any, **named: Any) -> Any:
                if next(left, None) is None:
                    patch.undo()
                    ends.enter_context(trouble(path, patch))
                    return getattr(MlflowClient, method)(*given, **named)
                return usual(*given, **named)

            return call

        for method in CALLS:
            patch.setattr(MlflowClient, method, failing(method))
        status, out, err = ask(capfd, *told_to(f"mlflow={address}", store))
    assert status == 1 and "Traceback" not in err and "Logged" not in out and len(err.splitlines()) == 1, err
    half = runs_of(address)
    told = half_told(half, whole.runs)
    assert words in err and f"{told} of 10 trainings {'is' if told == 1 else 'are'} there" in err
    status, out, _ = ask(capfd, *told_to(f"mlflow={address}", store))
    assert status == 0 and f"Logged {10 - told} trainings" in out
    assert _but_for_the_clock(runs_of(address)) == _but_for_the_clock(whole.runs)


def half_told(runs: dict[str, Any], complete: dict[str, Any]) -> int:
    """How many trainings count as told, each of which has to be there completely."""
    told = {name: run for name, run in runs.items() if run[2].get(mlflow.LOGGED)}
    assert _but_for_the_clock(told) == _but_for_the_clock({name: complete[name] for name in told})
    assert len(told) < len(complete)
    return len(told)


def test_a_server_of_mlflow_s_that_is_killed_again_and_again_is_told_all_of_it_once(
    store: Path, whole: Whole, empty: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("flask", reason="flask is not installed, which MLflow's server needs")
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    shutil.copy(empty, tmp_path / "served.db")
    base, program = f"sqlite:///{tmp_path}/served.db", Path(__file__).with_name("mlflow_server.py")
    with (
        (tmp_path / "said").open("wb") as said,
        subprocess.Popen(
            [sys.executable, str(program), base, f"file://{tmp_path}/kept"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        ) as server,
    ):
        assert server.stdin and server.stdout
        told, before = told_to(f"mlflow=http://127.0.0.1:{server.stdout.readline().strip()}", store), 0
        for after in (2, 3, 25, 0):  # a run is made, and nobody hears of it; its first numbers arrived; in the midst
            server.stdin.write(f"{after}\n")
            server.stdin.flush()
            assert server.stdout.readline() == "ready\n", (tmp_path / "said").read_text()
            status, out, err = ask(capfd, *told)
            if after:
                now = half_told(runs_of(base, tmp_path / "kept"), whole.runs)
                assert status == 1 and f"{now} of 10 trainings" in err and now >= before and len(err.splitlines()) == 1
                before = now
            else:
                assert status == 0 and f"Logged {10 - before} trainings to mlflow" in out, err
                assert len(out.splitlines()) == 3, "MLflow adds no words of its own"
        completed = runs_of(base, tmp_path / "kept")
        assert _but_for_the_clock(completed) == _but_for_the_clock(whole.runs) and before > 1


def test_a_run_that_a_server_made_twice_is_there_once_after_the_next_time(found: Results, address: str) -> None:
    from mlflow import MlflowClient

    entry = next(trainings(found, "none"))
    with mlflow.TRACKER.opens(address, "digits-lenet") as log:
        log.write(entry)
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("digits-lenet")
    assert experiment
    for _ in range(3):  # one of them would come before the complete one, by chance
        client.create_run(experiment.experiment_id, None, {mlflow.ID: entry.id}, run_name=entry.name)
    with mlflow.TRACKER.opens(address, "digits-lenet") as log:
        assert log.complete == {entry.id: entry.digest}
    assert runs_of(address)[entry.name][2][mlflow.LOGGED] == entry.digest


WITHOUT_FIGURES = """
import sys
from tombola.cli import main
from tombola.report import folder
folder.write = lambda found: folder.of(found) / "report.html"
sys.exit(main(sys.argv[1:]))
"""


def test_two_processes_that_log_at_once_make_no_run_twice(store: Path, whole: Whole, address: str) -> None:
    command = [sys.executable, "-c", WITHOUT_FIGURES, *told_to(f"mlflow={address}", store, TINIER)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=LIMIT_S) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    trainings_only = {name: run for name, run in runs_of(address).items() if name != "experiment"}
    assert len(trainings_only) == 3 and all(run[2][mlflow.LOGGED] for run in trainings_only.values())
    assert [run[3:] for run in trainings_only.values()] == [whole.runs[name][3:] for name in trainings_only]
    (late,) = [out for out, _ in said if "Logged 0 trainings to mlflow (3 were there already)" in out]
    (first,) = [out for out, _ in said if out != late]
    assert "Logged 3 trainings to mlflow." in first
    assert late.startswith("  another process tells mlflow of digits-lenet: waiting for it")


def test_one_process_waits_for_another_one_for_a_while_and_then_says_so(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, said = Recorded(), list[str]()
    recorded = Asked(Tracker("recorded", "A test's", "json", lambda address, project: nullcontext(log)))
    with alone(recorded, "p", Store(store), said.append), alone(recorded, "other", Store(store), said.append):
        second = alone(recorded, "p", Store(store), said.append, patience=0.3)
        with pytest.raises(TombolaError, match=r"one does so at a time.*`tombola log` completes"), second:
            pass
        assert said == ["another process tells recorded of p: waiting for it"]
        with monkeypatch.context() as patch:
            patch.setattr(Store, "hold", refused)
            with alone(recorded, "p", Store(store), said.append, patience=0.0) as opened:
                assert opened is log, "a store that cannot be written is no reason not to log it"
    with alone(recorded, "p", Store(store), said.append, patience=0.0):
        assert len(said) == 1


def refused(store: Store, name: str) -> Any:
    raise PermissionError(13, "Permission denied")


def _but_for_the_clock(runs: dict[str, Any]) -> dict[str, Any]:
    """Without what MLflow adds of its own, and the points of each curve in the order of its steps."""
    return {
        name: (
            *(state, params, {tag: value for tag, value in tags.items() if not tag.startswith("mlflow.")}),
            *({metric: sorted(each) for metric, each in points.items()}, files),
        )
        for name, (state, params, tags, points, files) in runs.items()
    }


def test_a_verdict_that_becomes_another_one_is_told_and_numbers_are_not_told_again(
    found: Results, address: str
) -> None:
    entry = next(entry for entry in trainings(found, "first") if "verdict" in entry.tags)
    other = replace(entry, tags={**entry.tags, "verdict": "winning"})
    for told in (entry, other):
        with mlflow.TRACKER.opens(address, "digits-lenet") as log:
            log.write(told)
    ((_, _, tags, points, _),) = runs_of(address).values()
    assert tags["verdict"] == "winning" and len(points["validation_loss"]) == 5
    whole = summary(found)
    for told in (whole, replace(whole, metrics={"difference": 0.5})):
        with mlflow.TRACKER.opens(address, "digits-lenet") as log:
            log.write(told)
    assert runs_of(address)["experiment"][3]["difference"] == [(0, 0.5)], "a run in its place, not a second one"


def test_values_and_names_that_mlflow_would_refuse_arrive_in_its_own_way(address: str) -> None:
    entry = Entry("id-1", ("mine: k=5%",), {"long?": "x" * 9000}, {"a, b": "y" * 9000}, {"a=b": 1.0}, ended=5.0)
    many = replace(entry, id="id-2", path=("many",), curves=(Curve("loss", tuple(range(2500)), (0.5,) * 2500),))
    with mlflow.TRACKER.opens(address, "digits-lenet") as log:
        log.write(entry)
        log.write(many)
    runs = runs_of(address)
    assert runs["mine: k=5%"][3] == {"a-b": [(0, 1.0)]} and runs["mine: k=5%"][1]["long-"].startswith("xxx")
    assert len(runs["many"][3]["loss"]) == 2500


# ---------------------------------------------------------------- TensorBoard


def read_back(folder: Path) -> tuple[dict[str, Any], dict[str, bytes], set[str]]:
    """What TensorBoard's own reader finds in a folder: scalars, images, and which other tags."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), {"images": 0, "scalars": 0, "tensors": 0}).Reload()
    tags = events.Tags()
    scalars = {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in tags["scalars"]}
    return scalars, {tag: events.Images(tag)[0].encoded_image_string for tag in tags["images"]}, set(tags["tensors"])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def test_tensorboard_s_own_reader_finds_it_all_and_a_second_time_changes_no_byte(
    store: Path, found: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    status, out, _ = ask(capsys, *told_to(f"tensorboard={tmp_path}/runs", store))
    assert status == 0 and "Logged 10 trainings" in out and f"tensorboard --logdir {tmp_path}/runs" in out
    root = tmp_path / "runs" / "digits-lenet"
    for entry in trainings(found, "first"):
        (folder,) = root.joinpath(*entry.path[:-1]).glob(f"{entry.path[-1]}, *")
        scalars, images, others = read_back(folder)
        for curve in entry.curves:
            steps, values = zip(*scalars[curve.name], strict=True)
            assert steps == curve.steps and values == pytest.approx(curve.values, rel=1e-6)  # float32
        assert scalars["result/density"] == [(40, pytest.approx(entry.metrics["density"]))]
        masks = {each.name.removesuffix(".png"): each.content() for each in entry.files if each.name.endswith(".png")}
        assert images == masks and others == {"_hparams_/session_start_info", "about"}
        assert (folder / "ticket.safetensors").exists() == (entry.params["arm"] == "ticket" and bool(entry.files))
    (whole,) = root.glob("experiment, *")
    assert (whole / "report" / "report.html").is_file() and "report/figures/accuracy" in " ".join(read_back(whole)[1])
    before = contents(tmp_path)
    status, out, _ = ask(capsys, *told_to(f"tensorboard={tmp_path}/runs", store))
    assert status == 0 and "Logged 0 trainings to tensorboard (10 were there already)" in out
    assert contents(tmp_path) == before


def test_a_file_of_events_that_was_not_finished_is_none_and_what_went_on_gives_way(
    found: Results, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    entry = next(trainings(found, "none"))
    early = replace(begun(found.plan.rows[0]), curves=(Curve("validation_loss", (0, 10), (9.0, 8.0)),))
    with tensorboard.TRACKER.opens(str(tmp_path / "one"), "p") as log:
        log.grow(early)
        (folder,) = (tmp_path / "one").rglob("replicate 0, *")
        assert read_back(folder)[0] == {"validation_loss": [(0, 9.0), (10, 8.0)]}
        assert not log.complete
        log.write(entry)
    with tensorboard.TRACKER.opens(str(tmp_path / "two"), "p") as log:
        log.write(entry)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


# ---------------------------------------------------------------- Weights & Biases


def records(path: Path) -> Iterator[Any]:
    """What is in a file of an offline run: a head, then blocks of 32 KiB with pieces of records."""
    from wandb.proto import wandb_internal_pb2

    proto: Any = wandb_internal_pb2  # whose classes no checker of types finds
    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 2**15 - place % 2**15) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            record = proto.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def offline(folder: Path) -> dict[str, Any]:
    """The offline runs of a folder, by id: config, rows of numbers, summary, artifacts."""
    runs: dict[str, Any] = {}
    for path in folder.glob("wandb/offline-run-*/*.wandb"):
        config, rows, kinds = dict[str, Any](), [], Counter[str]()
        for record in records(path):
            kinds[record.WhichOneof("record_type")] += 1
            for update in (*record.run.config.update, *record.config.update):
                config[update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
            if record.history.item:
                items = {each.key or "/".join(each.nested_key): each.value_json for each in record.history.item}
                rows.append({name: json.loads(text) for name, text in items.items() if name[0] != "_"})
        ident = path.stem.removeprefix("run-")
        assert ident not in runs, "a run is there once"
        runs[ident] = config, rows, kinds
    return runs


def points_of(rows: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    return sorted((row["step"], row[name]) for row in rows if name in row)


def test_wandb_s_offline_files_have_it_all_once(
    store: Path, found: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    few, told = results(plan(read("digits-lenet", FEW)), Store(store)), told_to(f"wandb={tmp_path}", store, TINIER)
    status, out, _ = ask(capsys, *told)
    assert status == 0 and f"Logged {len(few.rows)} trainings to wandb" in out and f"wandb sync {tmp_path}" in out
    runs = offline(tmp_path)
    for entry in trainings(few, "first"):
        config, rows, kinds = runs[entry.id]
        assert config["arm"] == entry.params["arm"] and config.get("verdict") == entry.tags.get("verdict")
        for curve in entry.curves:
            assert points_of(rows, curve.name) == list(zip(curve.steps, curve.values, strict=True))
        pictures = {name for row in rows for name in row if name.startswith("masks/")}
        assert bool(pictures) == bool(entry.files)
        assert bool(kinds["artifact"] + kinds["request"]) or not any("ticket" in each.name for each in entry.files)
    assert summary(few).id in runs
    status, out, _ = ask(capsys, *told)
    again = offline(tmp_path)
    assert "Logged 0 trainings" in out and {ident: run[:2] for ident, run in again.items()} == {
        ident: run[:2] for ident, run in runs.items()
    }


def test_a_run_of_wandb_that_was_interrupted_is_written_anew(found: Results, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    entry = next(trainings(found, "none"))
    (whole,) = [curve for curve in entry.curves if curve.name == "validation_loss"]
    early = replace(begun(found.plan.rows[0]), curves=(Curve(whole.name, whole.steps[:2], whole.values[:2]),))
    with wandb.TRACKER.opens(str(tmp_path), "p") as log:
        log.grow(early)
    with wandb.TRACKER.opens(str(tmp_path), "p") as log:
        assert not log.complete
        log.grow(early)
        log.write(entry)
    ((_, rows, _),) = offline(tmp_path).values()
    assert points_of(rows, whole.name) == list(zip(whole.steps, whole.values, strict=True))


# ---------------------------------------------------------------- while it runs


def test_what_is_logged_while_it_runs_is_in_the_end_what_is_logged_afterwards(
    searched: "tuple[Path, subprocess.CompletedProcess[str]]", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    store, done = searched
    assert "Logged 10 trainings to tensorboard" in done.stdout, done.stdout + done.stderr
    assert ask(capsys, *told_to(f"tensorboard={tmp_path}/after", store))[0] == 0

    def told(root: Path) -> dict[str, bytes]:
        return {name: content for name, content in contents(root).items() if "/report/" not in name}

    assert told(store.parent / "live") == told(tmp_path / "after")


def test_a_tracker_that_nobody_answers_for_neither_stops_nor_slows_the_search(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    command = [sys.executable, "-m", "tombola", "run", "digits-lenet", "--store", str(tmp_path / "store"), *TINIER]
    command += ["--workers", "1", "--log", f"mlflow=http://127.0.0.1:{free_port()}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0 and "Report: " in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("Not logged: ") <= 1 and "`tombola log` completes it" in done.stdout
    made = outcomes(tmp_path / "store")
    assert made and made.items() <= outcomes(store).items()


def outcomes(store: Path) -> dict[str, bytes]:
    return {each.parent.name: each.read_bytes() for each in store.glob("runs/*/outcome.json")}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def beside(said: list[str], execute: Callable[..., Tally], spec: str = "digits-lenet") -> Tally | None:
    """What a search comes to beside which a tracker is told; None where it is interrupted, as the command has it."""
    order = live.Order(spec, tuple(CHANGES), (), "no-such-store", "tensorboard")
    with live.beside(order, Team(Offer(1, ("cpu",)), execute), said.append) as team:
        try:
            return team.execute([], lambda event: None)
        except KeyboardInterrupt:
            return None


def test_after_an_interruption_nobody_waits_long_for_a_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = list[float]()
    monkeypatch.setattr(live._Heard, "wait", lambda heard, patience: waited.append(patience))

    def interrupted(runs: Any, tell: Any) -> Tally:
        raise KeyboardInterrupt

    assert beside([], interrupted) is None
    assert beside([], lambda runs, tell: Tally(done=3)) == Tally(done=3)
    assert waited == [live.HURRY_S, live.SILENCE_S] and live.HURRY_S <= 5


def test_a_process_that_dies_beside_the_search_is_told_of_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "WAITING", 100)
    said, run = list[str](), plan(read("digits-lenet", CHANGES)).rows[0].run

    def searched(runs: Any, tell: Any) -> Tally:
        for _ in range(10_000):
            tell(Event("looked", run, 1, 2, 0.5))
        return Tally(done=1)

    assert beside(said, searched, spec="no-such-spec") == Tally(done=1)
    assert len(said) == 1 and "no-such-spec" in said[0] and "`tombola log` completes it" in said[0], said


class Recorded:
    """A tracker that notes what it is told, and fails when it is told to."""

    where = "nowhere"

    def __init__(self) -> None:
        self.complete: dict[str, str] = {}
        self.grown: list[Entry] = []
        self.fails = False

    def grow(self, entry: Entry) -> None:
        self._may_fail()
        self.grown.append(entry)

    def write(self, entry: Entry) -> None:
        self._may_fail()
        self.complete[entry.id] = entry.digest

    def _may_fail(self) -> None:
        if self.fails:
            raise TombolaError("gone.")


def followed(found: Results, log: Recorded, said: list[str]) -> Follower:
    tracker = Tracker("recorded", "A test's", "json", lambda address, project: nullcontext(log))
    return Follower(found.plan, found.store, Asked(tracker), "none", said.append)


def test_looks_are_told_of_trainings_that_go_on_and_only_of_these(found: Results) -> None:
    log, said = Recorded(), list[str]()
    follower, rows = followed(found, log, said), found.plan.rows
    follower.looked(rows[0].run.key, 10, 0.5)
    follower.looked(rows[1].run.key, 10, 0.25)
    follower.looked(rows[0].run.key, 20, float("nan"))
    follower.looked("line-of-a-study", 1, 0.0)
    follower.stored(rows[1].run.key)
    follower.tell()
    assert [(each.params["key"], each.curves) for each in log.grown] == [
        (rows[0].run.key, (Curve("validation_loss", (10,), (0.5,)),))
    ]
    assert len(log.complete) == 1 and not said


def test_a_tracker_that_fails_is_complained_of_once_and_is_told_all_in_the_end(
    found: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "AGAIN_S", 0.0)
    log, said = Recorded(), list[str]()
    follower, log.fails = followed(found, log, said), True
    for row in found.plan.rows:
        follower.stored(row.run.key)
        follower.tell()
    assert len(said) == 1 and "Not logged: gone." in said[0] and not log.complete
    log.fails = False
    follower.finish()
    assert log.complete == {entry.id: entry.digest for entry in [*trainings(found, "none"), summary(found)]}


# ---------------------------------------------------------------- what can be wrong


def test_what_cannot_be_is_said_with_what_to_do(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, err = ask(capsys, *told_to("excel", store))
    assert status == 2 and "one of mlflow, tensorboard, wandb" in err
    status, _, err = ask(capsys, *told_to("mlflow=", store))
    assert status == 2 and "NAME=ADDRESS" in err
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    status, _, err = ask(capsys, *told_to("tensorboard", tmp_path / "none"))
    assert status == 2 and "finished runs of digits-lenet, found none" in err
    (tmp_path / "file").touch()
    for tracker in ("tensorboard", "wandb"):
        pytest.importorskip(tracker, reason=f"{tracker} is not installed")
        status, _, err = ask(capsys, *told_to(f"{tracker}={tmp_path}/file", store))
        assert status == 2 and "a folder that can be written" in err and "Name another one" in err
    monkeypatch.setattr("tombola.trackers.tracker.find_spec", lambda name: None)
    for option in (["log", "digits-lenet", "--to"], ["run", "digits-lenet", "--log"]):
        status, _, err = ask(capsys, *option, "wandb", "--store", str(tmp_path / "untouched"))
        assert status == 2 and "[wandb]" in err and not (tmp_path / "untouched").exists()


@pytest.mark.parametrize("uri, status", [("nonsense://here", 2), ("sqlite:///file/in/it.db", 2), ("http", 1)])
def test_an_address_of_mlflow_that_is_none_or_that_nobody_answers_at(
    store: Path, address: str, capsys: pytest.CaptureFixture[str], uri: str, status: int
) -> None:
    uri = f"http://127.0.0.1:{free_port()}" if uri == "http" else uri
    Path("file").touch()  # in which no folder can be
    ended, _, err = ask(capsys, *told_to(f"mlflow={uri}", store))
    assert ended == status and uri in err and "Traceback" not in err, err
