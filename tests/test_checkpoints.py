"""Long runs survive: a training that is stopped at any moment ends with the bytes of an undisturbed one."""

import itertools
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tombola.engine import kernels
from tombola.lab import checkpoints, recorder
from tombola.lab.attempt import do, do_all
from tombola.lab.kinds import Line, Train
from tombola.lab.plan import Plan, plan
from tombola.lab.runs import Outcome, ancestry
from tombola.lab.spec import Experiment, Spec
from tombola.lab.store import Store
from tombola.lab.worker import Worker

RECIPES: dict[str, dict[str, Any]] = {
    "adam": {"model": "lenet-20-10", "optimizer": {"name": "adam", "lr": 1e-2}},
    "momentum": {"model": "lenet-20-10", "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}},
    "decay": {"model": "lenet-20-10", "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 1e-3}},
    "convolutions": {"model": "conv-2", "optimizer": {"name": "adam", "lr": 1e-3}},
    # Its best step lies before most of its stops, so that what was best has to be kept too.
    "passed": {
        "model": "lenet-20-10",
        "optimizer": {"name": "sgd", "lr": 0.8, "momentum": 0.9},
        "schedule": {"name": "constant"},
    },
    "adversarial": {
        "model": "lenet-20-10",
        "optimizer": {"name": "adam", "lr": 1e-2},
        "objective": {"name": "adversarial", "steps": 2},
    },
    "norms": {"model": "resnet-8-w2", "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}, "batch": 100},
}


class Stopped(BaseException):
    """What no code catches: as near to `kill -9` as a test in one process comes."""


def planned(recipe: dict[str, Any], **changes: Any) -> Plan:
    recipe = {"data": "digits", "length": "24it", "batch": 60, "schedule": {"name": "cosine"}} | recipe
    spec: dict[str, Any] = {
        "replicates": 1,
        "levels": 1,
        "arms": ["ticket"],
        "recipe": recipe,
        "prune": {"rate": 0.5},
        "evaluate": {"every": "6it", "test_every": "12it"},
    }
    return plan(Experiment(name="tiny", spec=Spec.model_validate(spec | changes)))


def outcomes(store: Store) -> dict[str, bytes]:
    return {
        str(path.relative_to(store.root)): path.read_bytes()
        for path in (store.root / "runs").rglob("*")
        if path.is_file() and path.name != "provenance.json"
    }


@pytest.fixture(autouse=True)
def stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "STOPS", 4)


def bench_of(root: Path, engine: Any) -> Worker:
    """One whose clock is always late: it keeps a checkpoint at every stop."""
    ticks = itertools.count()
    return Worker(Store(root).open(), None, engine, clock=lambda: 1000.0 * next(ticks))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("engine", ["reference", "auto"])
def test_a_training_that_is_stopped_again_and_again_has_the_bytes_of_an_undisturbed_one(
    name: str, engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # S2 S4 R9
    wanted = planned(RECIPES[name], rewind="3it", carry_optimizer=True)
    undisturbed = Worker(Store(tmp_path / "whole").open(), None, engine)
    for run in wanted.runs:
        assert do(run, undisturbed, lambda *seen: None) == ("stored",)

    store, kept = Store(tmp_path / "parts").open(), Store.keep
    at: list[int] = []

    def keep(self: Store, run: Any, state: Outcome) -> None:
        kept(self, run, state)
        at.append(state.values["step"])
        raise Stopped

    monkeypatch.setattr(Store, "keep", keep)
    for run in wanted.runs:
        at.clear()
        while not store.has(run):
            try:
                assert do(run, bench_of(store.root, engine), lambda *seen: None) == ("stored",)
            except Stopped:
                continue
        if isinstance(run, Train) and run.begin:
            assert at == sorted({4, 6, 8, 12, 16, 18, 20} - {run.begin}), "it was stopped at every stop"
    assert outcomes(store) == outcomes(undisturbed.store)
    assert not list((store.root / "checkpoints").iterdir()), "nothing is left behind"
    best = [store.values(row.run)["early_stop_step"] for row in wanted.rows]
    assert name != "passed" or max(best) < 20


@pytest.mark.parametrize("name", ["adam", "norms"])
def test_a_line_that_is_stopped_again_and_again_has_the_bytes_of_an_undisturbed_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # S2
    wanted = planned(RECIPES[name], study={"connectivity": {"levels": [0], "orders": 2, "points": 4}})
    (line,) = (run for run in wanted.runs if isinstance(run, Line))
    worker = bench_of(tmp_path / "whole", "reference")
    worker.clock = lambda: 0.0
    for run in ancestry([line]):
        assert do(run, worker, lambda *seen: None) == ("stored",)
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    store, kept, at = Store(tmp_path / "parts").open(), Store.keep, list[int]()
    shutil.rmtree(store.root / "runs" / line.key)

    def keep(self: Store, run: Any, state: Outcome) -> None:
        kept(self, run, state)
        at.append(state.values["step"])
        raise Stopped

    monkeypatch.setattr(Store, "keep", keep)
    while not store.has(line):
        assert len(at) <= 3, "it goes on from where it was"
        with suppress(Stopped):
            assert do(line, bench_of(store.root, "reference"), lambda *seen: None) == ("stored",)
    assert at == [1, 2, 3], "each point was measured once"
    assert outcomes(store) == outcomes(worker.store)
    assert store.provenance(line)["resumed"] == [1, 2, 3] and store.provenance(line)["seconds"] > 3000
    assert not list((store.root / "checkpoints").iterdir())


def test_what_is_kept_is_what_comes_back(tmp_path: Path) -> None:
    store, run = Store(tmp_path).open(), planned(RECIPES["adam"]).runs[0]
    assert store.kept(run) is None
    tensors = {"weights": {"a:b": torch.randn(3, 2), "n": torch.tensor(3)}, "optimizer": {"x/y": torch.ones(1)}}
    store.keep(run, Outcome({"step": 3, "losses": [0.1, 1 / 3]}, tensors))
    found = store.kept(run)
    assert found is not None and found.values == {"step": 3, "losses": [0.1, 1 / 3]}
    assert all(
        torch.equal(found.tensors[group][name], value) for group in tensors for name, value in tensors[group].items()
    )


@pytest.mark.parametrize("damage", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"nonsense, and more of it than eight bytes"])
def test_a_checkpoint_that_cannot_be_read_is_none(damage: bytes, tmp_path: Path) -> None:
    store, run = Store(tmp_path).open(), planned(RECIPES["adam"]).runs[0]
    (tmp_path / "checkpoints" / f"{run.key}.safetensors").write_bytes(damage)
    assert store.kept(run) is None


def test_a_checkpoint_outlives_a_failure_that_its_run_may_not_be_to_blame_for(tmp_path: Path) -> None:
    store, run = Store(tmp_path).open(), planned(RECIPES["adam"]).runs[0]
    store.keep(run, Outcome({"step": 3}))
    store.fail(run, "its worker was killed by SIGKILL, twice", "")
    assert store.open().kept(run) is not None


def test_what_nobody_needs_of_checkpoints_goes_when_the_store_is_opened(tmp_path: Path) -> None:
    store, (run, other, *_) = Store(tmp_path).open(), planned(RECIPES["adam"]).runs
    store.save(run, Outcome({}), {})
    for each in (run, other):
        store.keep(each, Outcome({"step": 3}))
    store.open()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"{other.key}.safetensors"]


def test_a_resumed_training_names_both_engines(tmp_path: Path) -> None:
    wanted = planned(RECIPES["adam"])
    init, dense = wanted.runs[0], wanted.rows[0].run

    def stopped(done: int, total: int, loss: float) -> None:
        if done >= 12:
            raise Stopped

    worker = bench_of(tmp_path, "reference")
    do(init, worker, lambda *seen: None)
    with pytest.raises(Stopped):
        do(dense, worker, stopped)
    assert do(dense, bench_of(tmp_path, "auto"), lambda *seen: None) == ("stored",)
    assert worker.store.provenance(dense)["engine"].startswith("reference, then native") or not kernels.sets()


def test_seconds_before_the_interruption_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = planned(RECIPES["adam"])
    init, dense = wanted.runs[0], wanted.rows[0].run
    worker = bench_of(tmp_path / "store", "auto")
    do(init, worker, lambda *seen: None)
    monkeypatch.setattr(checkpoints, "CHECKPOINT_S", 20_000.0)
    assert do(dense, worker, lambda *seen: None) == ("stored",)
    assert "resumed" not in worker.store.provenance(dense)

    def stopped(done: int, total: int, loss: float) -> None:
        if done >= 12:
            raise Stopped

    other = bench_of(tmp_path / "other", "auto")
    monkeypatch.setattr(checkpoints, "CHECKPOINT_S", 1.0)
    do(init, other, lambda *seen: None)
    with pytest.raises(Stopped):
        do(dense, other, stopped)
    assert do(dense, other, lambda *seen: None) == ("stored",)
    how = other.store.provenance(dense)
    assert how["resumed"] == [8] and how["seconds"] > 1000
    assert outcomes(other.store) == outcomes(worker.store)


def leaving_at_once(root: Path, engine: Any) -> Worker:
    """A worker that has to leave as soon as it has begun something."""
    asked = itertools.count()
    return Worker(Store(root).open(), None, engine, leaving=lambda: next(asked) > 0)


@pytest.mark.parametrize("name", ["adam", "passed"])
def test_a_training_that_worker_after_worker_leaves_at_a_checkpoint_has_the_bytes_of_an_undisturbed_one(
    name: str, tmp_path: Path
) -> None:
    wanted = planned(RECIPES[name])
    undisturbed, store = Worker(Store(tmp_path / "whole").open(), None), Store(tmp_path / "parts").open()
    for run in wanted.runs:
        assert do(run, undisturbed, lambda *seen: None) == ("stored",)
        halted = 0
        while not store.has(run):
            said = do(run, leaving_at_once(store.root, "auto"), lambda *seen: None)
            assert said in (("stored",), ("halted",))
            halted += said == ("halted",)
        if isinstance(run, Train):
            assert halted == 7, "at every stop but the ends"
            assert store.provenance(run)["resumed"] == [4, 6, 8, 12, 16, 18, 20]
    assert outcomes(store) == outcomes(undisturbed.store)


def test_trainings_of_a_stack_all_keep_the_same_step_before_their_worker_leaves(tmp_path: Path) -> None:
    wanted = planned(RECIPES["adam"], replicates=3, levels=0)
    undisturbed, store = Worker(Store(tmp_path / "whole").open(), None, "stacked"), Store(tmp_path / "parts").open()
    stack = [row.run for row in wanted.rows]
    for worker in (undisturbed, Worker(store, None, "stacked")):
        for run in stack:
            do(run.start, worker, lambda *seen: None)
    do_all(stack, undisturbed, lambda *said: None)
    said: list[tuple[str, str]] = []
    while not all(map(store.has, stack)):
        assert len({found and found.values["step"] for found in map(store.kept, stack)}) == 1, "they stand at one step"
        do_all(stack, leaving_at_once(store.root, "stacked"), lambda run, what, *more: said.append((run.key, what)))
    told = [[what for key, what in said if key == run.key and what != "looked"] for run in stack]
    assert told == [["halted"] * 3 + ["stored"]] * 3, "at every second stop, and of each it is said"
    assert outcomes(store) == outcomes(undisturbed.store)


def test_a_worker_that_is_leaving_begins_nothing(tmp_path: Path) -> None:
    store, run = Store(tmp_path).open(), planned(RECIPES["adam"]).runs[0]
    assert do(run, Worker(store, None, leaving=lambda: True), lambda *seen: None) == ("halted",)
    assert not store.has(run)
