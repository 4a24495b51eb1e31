"""Who does what a plan lacks: how it is asked for, and the loop that all pools of workers share."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tombola.cli import main
from tombola.errors import BadInput, TombolaError
from tombola.lab.executor import Offer
from tombola.lab.executors import EXECUTORS, choose, options
from tombola.lab.pool import Gone, Pool
from tombola.lab.queue import Event, RunQueue
from tombola.lab.runs import Run, Stored
from tombola.lab.serving import READY, Message
from tombola.lab.store import Store
from tombola.lab.workers import WORKERS

# ---------------------------------------------------------------- how it is asked for


@pytest.mark.parametrize(
    ("asked", "name", "address"),
    [(None, "workers", ""), ("workers", "workers", ""), ("workers:here", "workers", "here")],
)
def test_an_executor_is_named_with_its_address(asked: str | None, name: str, address: str) -> None:
    executor, found = choose(asked)
    assert (executor.name, found) == (name, address)


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--on", "moon"], "--on: expected one of torchrun, "),
        (["--on", "torchrun"], "expected processes that torchrun has started, found this one alone. torchrun --nproc"),
        (["--on", "workers", "--with", "speed=high"], "--with speed: expected nothing, as --on workers has no options"),
        (["--with", "speed"], "--with speed: expected nothing"),
    ],
)
def test_what_nobody_offers_is_bad_input(
    command: str, given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "digits", "--store", str(tmp_path / "store"), *given]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "store" / "runs").exists()


def test_a_process_of_torchrun_is_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    assert choose()[0].name == choose("torchrun")[0].name == "torchrun"
    with pytest.raises(BadInput, match="torchrun, which has started this process and others, found workers"):
        choose("workers")


def test_every_executor_says_what_it_is_and_what_it_may_be_asked() -> None:
    for name, executor in EXECUTORS.items():
        assert executor.name == name and executor.about and all(executor.options.values())
        assert options(executor, [f"{option}=1" for option in executor.options]).keys() == executor.options.keys()
    assert list(EXECUTORS.values())[-1] is WORKERS, "the one that always applies"


# ---------------------------------------------------------------- the loop


@dataclass(eq=False)
class Played:
    """A worker that somebody plays."""

    number: int
    said: list[Message | Gone] = field(default_factory=lambda: [READY])
    given: list[str] = field(default_factory=list)


@dataclass
class Cast:
    """Plays workers: what each says when it is hired, and of the runs that it is given."""

    beginning: Callable[[int], Sequence[Message | Gone]] = lambda number: [READY]
    answer: Callable[[Played, str], Sequence[Message | Gone]] = lambda worker, key: [(key, "stored")]
    hired: list[Played] = field(default_factory=list)
    dismissed: tuple[int, int] = (0, 0)

    def hire(self, device: str) -> Played:
        worker = Played(len(self.hired), list(self.beginning(len(self.hired))))
        self.hired.append(worker)
        return worker

    def give(self, worker: Played, runs: list[Run]) -> None:
        for run in runs:
            worker.given.append(run.key)
            worker.said.extend(self.answer(worker, run.key))

    def listen(self, workers: Sequence[Played], timeout: float | None) -> Iterator[tuple[Played, Message | Gone]]:
        assert any(worker.said for worker in workers), "somebody is waited for who will never say anything"
        for worker in workers:
            while worker.said:
                yield worker, worker.said.pop(0)

    def dismiss(self, idle: Sequence[Played], busy: Sequence[Played]) -> None:
        self.dismissed = len(idle), len(busy)


def play(cast: Cast, store: Store, runs: int = 6, workers: int = 2) -> tuple[Any, list[Event]]:
    events: list[Event] = []
    queue = RunQueue([Stored(f"run-{number}") for number in range(runs)], store, events.append)
    with Pool(cast, Offer(workers, ("cpu",)), queue, "auto") as pool:
        return pool.work(), events


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").open()


def test_a_worker_is_given_its_first_run_when_it_is_ready(store: Store) -> None:
    """One that waits for its place in somebody's queue holds up no run, and none is said to be under way there."""
    cast = Cast(beginning=lambda number: [] if number else [READY])
    tally, events = play(cast, store)
    assert tally.done == 6 and len(cast.hired) == 2 and cast.hired[1].given == []
    assert [event.what for event in events] == ["started", "stored"] * 6
    assert cast.dismissed == (1, 1), "who never came is not waited for at the end"


def test_a_run_is_not_to_blame_for_a_place_that_was_lost(store: Store) -> None:
    lost = Gone("was on a machine that is gone", to_blame=False)
    cast = Cast(answer=lambda worker, key: [lost] if key == "run-0" and worker.number < 5 else [(key, "stored")])
    tally, events = play(cast, store, workers=1)
    assert tally.done == 6 and not tally.failed and len(cast.hired) == 6
    assert [(event.run.key, event.note) for event in events if event.what == "retried"] == [
        ("run-0", "its worker was on a machine that is gone")
    ] * 5


def test_a_run_that_kills_its_worker_twice_has_failed(store: Store) -> None:
    cast = Cast(answer=lambda worker, key: [Gone("was killed", "last words")] if key == "run-3" else [(key, "stored")])
    tally, _ = play(cast, store)
    (failure,) = tally.failed.values()
    assert failure.reason == "its worker was killed, twice" and "last words" in failure.log.read_text()
    assert tally.done == 5


def test_where_no_worker_ever_gets_ready_it_is_said_and_not_tried_for_ever(store: Store) -> None:
    cast = Cast(beginning=lambda number: [Gone("ended with exit status 1", "No module named torch")])
    with pytest.raises(TombolaError, match=r"no worker gets as far .*ended with exit status 1(.|\n)*torch"):
        play(cast, store)
    assert len(cast.hired) < 10


def test_an_idle_worker_that_is_gone_is_replaced_when_there_is_work(store: Store) -> None:
    """Its end is no run's."""
    cast = Cast(beginning=lambda number: [READY] if number else [READY, Gone("was killed")])
    tally, events = play(cast, store, runs=1, workers=1)
    assert tally.done == 1 and len(cast.hired) == 2 and [event.what for event in events] == ["started", "stored"]
