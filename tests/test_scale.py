"""It grows straight: what each run costs, counted and not timed; and what is on the disk before it is said to be."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from tombola.lab.attempt import do
from tombola.lab.kinds import Init, Train
from tombola.lab.plan import Plan, complete, missing, plan
from tombola.lab.queue import RunQueue
from tombola.lab.results import results
from tombola.lab.runs import Network, Outcome, Run
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.worker import Worker
from tombola.recipe import Recipe
from tombola.value import sorted_text

TINY = Init(Network("lenet-20-10", (1, 8, 8), 10), "glorot-normal", init_seed=0)
FEW, SLACK = 20, 1.05  # replicates; how much more than straight is still straight


def planned(replicates: int, *changes: str) -> Plan:
    return plan(read("digits", (f"replicates={replicates}", *changes)))


def calls(act: Callable[[], object]) -> int:
    """How many functions are called, those in C too, until it is done."""
    counted = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(before)
    return counted


def straight(act: Callable[[int], object]) -> None:
    """Make sure that four times as much takes no more than four times as many calls, but for what is done once."""
    act(1)  # what is kept from the first time on
    once, twice, four = (calls(partial(act, size)) for size in (FEW, 2 * FEW, 4 * FEW))
    assert four - twice <= 2 * SLACK * (twice - once), f"{once}, {twice}, {four} calls"


# ---------------------------------------------------------------- plans


@pytest.mark.parametrize("changes", [(), ("recipe.label_noise=0.2",), ("rewind=0it,10it",), ("arms=ticket",)])
def test_twice_the_replicates_take_twice_the_calls_to_plan(changes: tuple[str, ...]) -> None:
    straight(lambda size: planned(size, *changes))


def test_what_all_runs_share_is_written_as_json_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, dump = list[Recipe](), Recipe.model_dump

    def noted(self: Recipe, **how: Any) -> dict[str, Any]:
        counted.append(self)
        return dump(self, **how)

    with monkeypatch.context() as patched:
        patched.setattr(Recipe, "model_dump", noted)
        wanted = planned(FEW)
    trained = {run.key for run in wanted.runs if run.recipe_trained}
    assert len(trained) > 100 and len(counted) == 1


def test_equal_values_are_written_each_as_it_is() -> None:
    """0.0 equals -0.0, and a plan must not give to one what was kept of the other."""
    start, recipe = TINY, read("digits").spec.recipe
    zero, minus = (
        recipe.model_copy(update={"optimizer": recipe.optimizer.model_copy(update={"weight_decay": decay})})
        for decay in (0.0, -0.0)
    )

    def key(each: Recipe) -> str:
        return Train(start, None, each, "85eb", 1, 2, 0, 4, 1, 1).key

    assert zero == minus and key(zero) != key(minus)


def test_a_key_is_the_hash_of_what_a_run_is_described_as() -> None:
    """Which is written by pieces, most of them kept: other pieces, or in another order, would lose all that is done."""
    strange = Network('"née"\\', (1, 8, 8), 10)
    a_float = replace(strange, classes=10.0)  # type: ignore[arg-type]
    starts = [replace(TINY, network=network) for network in (strange, a_float, TINY.network)]
    for run in (*planned(2).runs, *starts):
        text = json.dumps(run.described, sort_keys=True, separators=(",", ":"))
        assert run.key == f"{run.kind}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"
    assert len(set(starts)) == 3


def test_what_is_kept_of_a_record_is_never_taken_for_that_of_another_one() -> None:
    """Records come and go, and a new one may lie where one has been."""
    recipe, places = read("digits").spec.recipe, set[int]()
    for number in range(2000):
        one = recipe.model_copy(update={"batch": number})
        places.add(id(one))
        assert f'"batch":{number},' in sorted_text(one)
    assert len(places) < 2000, "none has lain where another one has been"


def test_a_record_that_can_change_is_written_as_it_is() -> None:
    class Changing(BaseModel):
        number: int

    one = Changing(number=1)
    assert sorted_text(one) == '{"number":1}'
    one.number = 2
    assert sorted_text(one) == '{"number":2}'


def test_a_run_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what a plan makes on its way to a run nothing may be left out of its key; but it is not made many times."""
    made, post = list[Run](), Run.__post_init__

    def noted(self: Run) -> None:
        made.append(self)
        post(self)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "__post_init__", noted)
        wanted = planned(FEW)
        assert len(made) <= 1.5 * len(wanted.runs)
        before = len(made)
        missing(wanted, _Nothing())
        assert len(made) == before


class _Nothing(Store):
    """A store in which nothing is done, and which counts how often it is asked for all that is."""

    def __init__(self) -> None:
        super().__init__(Path())
        self.asked = 0

    def keys(self) -> set[str]:
        self.asked += 1
        return set()

    def failed(self) -> set[str]:
        self.asked += 1
        return set()

    def has(self, run: Run) -> bool:
        raise AssertionError("asked about each run")


@pytest.mark.parametrize("ask", [missing, complete, lambda wanted, store: results(wanted, store).rows])
def test_what_is_missing_is_asked_for_once(ask: Callable[[Plan, Store], object]) -> None:
    few, many = _Nothing(), _Nothing()
    ask(planned(2), few)
    ask(planned(FEW), many)
    assert 0 < many.asked == few.asked <= 2


# ---------------------------------------------------------------- the scheduler


def _scheduled(wanted: Plan, at_once: int = 1, lost: int = 0) -> None:
    """Do nothing with all runs, two at a time; every `lost`th one dies once."""
    queue, out, died, number = RunQueue(list(wanted.runs), _Nothing(), lambda event: None), list[Run](), set[str](), 0
    while not queue.over:
        for _ in range(2):
            out += queue.next(lambda run: at_once, 2)
        for _ in range(min(len(out), 2)):
            run, number = out.pop(0), number + 1
            if lost and number % lost == 0 and run.key not in died:
                died.add(run.key)
                queue.died(run, "gone", "")
            else:
                queue.looked(run, 1, 2, 0.5)
                queue.stored(run)
    assert queue.result.done == len(wanted.runs)


@pytest.mark.parametrize(("at_once", "lost"), [(1, 0), (8, 0), (1, 7), (8, 7)])
def test_twice_the_runs_take_twice_the_calls_to_schedule(at_once: int, lost: int) -> None:
    plans = {size: planned(size) for size in (1, FEW, 2 * FEW, 4 * FEW)}
    straight(lambda size: _scheduled(plans[size], at_once, lost))


def test_a_failure_leaves_out_what_needs_it_in_as_many_calls_as_there_are_of_those(tmp_path: Path) -> None:
    store = Store(tmp_path / "store").open()

    def failed(size: int) -> None:
        wanted = planned(2 * size, "levels=1")
        queue = RunQueue(list(wanted.runs), store, lambda event: None)
        first = next(run for run in wanted.runs if run.kind == "init")
        queue.failed(first, "no", "")
        assert queue.result.skipped

    straight(failed)


# ---------------------------------------------------------------- the disk


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int, int]]]:
    """What is brought to the disk (its inode, how long it was), and what is renamed (its inode), in this order."""
    seen: list[tuple[str, int, int]] = []
    sync, rename = os.fsync, os.rename

    def fsync(handle: int) -> None:
        sync(handle)
        found = os.fstat(handle)
        seen.append(("synced", found.st_ino, found.st_size))

    def renamed(source: Any, target: Any) -> None:
        seen.append(("renamed", Path(source).stat().st_ino, 0))
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        patched.setattr(os, "rename", renamed)
        yield seen


OUTCOME = Outcome({"loss": 0.1}, {"weights": {"a": torch.ones(300)}, "mask": {"a": torch.ones(3, dtype=torch.uint8)}})


def test_nothing_is_in_its_place_before_all_of_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store").open()
    with recorded(monkeypatch) as seen:
        store.save(TINY, OUTCOME, {"seconds": 1.0})
    folder = store.root / "runs" / TINY.key
    place = seen.index(("renamed", folder.stat().st_ino, 0))
    before, after = seen[:place], seen[place + 1 :]
    for path in folder.iterdir():
        assert ("synced", path.stat().st_ino, path.stat().st_size) in before, f"{path.name} as it is"
    assert any(inode == folder.stat().st_ino for _, inode, _ in before), "its entries"
    assert [inode for _, inode, _ in after] == [folder.parent.stat().st_ino], "its name, once it has it"


def test_a_run_is_said_to_be_stored_when_its_name_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store").open()
    worker, place = Worker(store, None), (store.root / "runs").stat().st_ino
    for _ in range(2):  # the second time it is there, and whoever renamed it may have been killed right after that
        with recorded(monkeypatch) as seen:
            assert do(TINY, worker, lambda *seen: None) == ("stored",)
        assert seen[-1][:2] == ("synced", place)


def test_what_another_command_left_in_its_place_is_on_the_disk_when_a_store_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recorded(monkeypatch) as seen:
        store = Store(tmp_path / "store").open()
    synced = {inode for what, inode, _ in seen if what == "synced"}
    assert {path.stat().st_ino for path in (tmp_path, store.root, store.root / "runs")} <= synced
    with recorded(monkeypatch) as seen:
        store.open()
    assert (store.root / "runs").stat().st_ino in {inode for _, inode, _ in seen}


@pytest.mark.parametrize("size", [1, 3])
def test_the_disk_is_waited_for_twice_however_many_files_there_are(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is asked of it before the rename is asked for at the same time: each waits here for all the others."""
    from threading import Barrier

    store = Store(tmp_path / "store").open()
    outcome = Outcome({}, {f"tensors{number}": {"a": torch.ones(3)} for number in range(size)})
    together, alone, sync = Barrier(size + 3), [], os.fsync  # both JSON files, and the folder
    place = (store.root / "runs").stat().st_ino

    def fsync(handle: int) -> None:
        if os.fstat(handle).st_ino == place:
            alone.append(handle)
        else:
            together.wait(timeout=60)
        sync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        store.save(TINY, outcome, {})
    assert store.has(TINY) and len(alone) == 1
