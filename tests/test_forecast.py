"""How long it takes: before anything is started, and while it goes on."""

import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tombola.engine import kernels
from tombola.engine.native import calibrate
from tombola.engine.native.guess import guessed
from tombola.engine.native.layer_formats import Shape
from tombola.lab.makespan import Work
from tombola.lab.plan import missing, plan, run_seconds, summary, wall_seconds
from tombola.lab.queue import RunQueue
from tombola.lab.runs import Run
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.report.text import plan_text


@dataclass(frozen=True, eq=False, repr=False)
class Some(Run):
    """A run that needs some others."""

    kind = "some"
    version = 1

    number: int
    needed: tuple[Run, ...] = ()


def graph(draw: random.Random, most: int = 12) -> list[Run]:
    """Runs that need some of those before them."""
    runs: list[Run] = []
    for number in range(draw.randint(1, most)):
        runs.append(Some(number, tuple(draw.sample(runs, draw.randint(0, min(2, number))))))
    return runs


def by_the_queue(runs: Sequence[Run], seconds: Sequence[float], workers: int) -> float:
    """When all is done where `RunQueue` itself hands the runs out, as the executors have it do."""
    each = {run.key: taken for run, taken in zip(runs, seconds, strict=True)}
    queue = RunQueue(list(runs), Store(Path("none")), lambda event: None)
    now, busy, count = 0.0, list[tuple[float, int, Run]](), itertools.count()
    while not queue.over:
        while len(busy) < workers and (given := queue.next()):
            heapq.heappush(busy, (now + each[given[0].key], next(count), given[0]))
        now, _, run = heapq.heappop(busy)
        queue.stored(run)
    return now


def longest_chain(runs: Sequence[Run], seconds: Sequence[float]) -> float:
    """What no number of workers can do faster."""
    each = {run.key: taken for run, taken in zip(runs, seconds, strict=True)}
    chain: dict[str, float] = {}
    for run in runs:
        chain[run.key] = each[run.key] + max((chain[needed.key] for needed in run.inputs), default=0.0)
    return max(chain.values())


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_runs_are_over_when_the_queue_hands_out_the_last(seed: int, workers: int) -> None:
    draw = random.Random(seed)
    runs = graph(draw)
    seconds = [draw.random() for _ in runs]
    found = Work.of(runs).makespan(seconds, workers)
    chain, shared = longest_chain(runs, seconds), sum(seconds) / workers
    assert found == pytest.approx(by_the_queue(runs, seconds, workers))
    assert max(chain, shared) <= found + 1e-9 and found <= shared + chain + 1e-9, "Graham's bounds of a list schedule"
    if workers == 1:
        assert found == pytest.approx(sum(seconds))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("workers", [1, 3])
def test_from_the_middle_it_takes_what_is_left(seed: int, workers: int) -> None:
    """Of runs that are over nothing, of those under way the rest; the order of the others may be another one."""
    draw = random.Random(seed)
    runs = graph(draw)
    work, seconds = Work.of(runs), [draw.random() for _ in runs]
    place = {run.key: number for number, run in enumerate(runs)}
    queue = RunQueue(list(runs), Store(Path("none")), lambda event: None)
    now, busy, over = 0.0, list[tuple[float, int]](), set[int]()
    while not queue.over:
        while len(busy) < workers and (given := queue.next()):
            heapq.heappush(busy, (now + seconds[place[given[0].key]], place[given[0].key]))
        left = [0.0 if number in over else each for number, each in enumerate(seconds)]
        for until, number in busy:
            left[number] = until - now
        found = work.makespan(left, workers, over, [number for _, number in busy])
        chain, shared = longest_chain(runs, left), sum(left) / workers
        assert max(chain, shared) <= found + 1e-9 and found <= shared + chain + 1e-9
        now, number = heapq.heappop(busy)
        over.add(number)
        queue.stored(runs[number])
    assert work.makespan(seconds, workers, over) == 0.0


def test_levels_of_one_replicate_cannot_be_shared_among_workers(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    chain = plan(read("lenet-mnist-quick", ["replicates=1", "arms=ticket"]))
    runs = missing(chain, store)
    each = run_seconds(chain, store)
    one, two, many = (wall_seconds(runs, each, workers) for workers in (1, 2, 64))
    assert one == pytest.approx(two, rel=0.05) and many == pytest.approx(two, rel=0.05)
    whole = plan(read("lenet-mnist-quick"))
    runs = missing(whole, store)
    each = run_seconds(whole, store)
    one, two, many = (wall_seconds(runs, each, workers) for workers in (1, 2, 64))
    assert two == pytest.approx(one / 2, rel=0.1), "three replicates with their controls"
    assert many > one / 30, "64 workers wait for the last levels"


def test_the_estimate_counts_what_is_around_the_trainings(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    asked = plan(read("digits"))
    content = summary(asked, store, 2)
    each = run_seconds(asked, store)
    assert content["estimated_seconds"] > sum(map(each, missing(asked, store))) / 2 + 3
    assert wall_seconds([], each, 2) == 0.0


def test_the_plan_says_what_its_estimate_goes_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, store = plan(read("lenet-mnist-quick")), Store(tmp_path / "none")
    monkeypatch.setattr(calibrate, "known", lambda shapes: {})
    content = summary(asked, store, 2)
    assert content["estimated_by"] == "guessed"
    assert plan_text(content).splitlines()[0].endswith("on a machine that is idle, guessed from the model's size.")
    if not kernels.sets():
        return
    monkeypatch.setattr(calibrate, "known", lambda shapes: dict.fromkeys(shapes, calibrate.ASSUMED))
    content = summary(asked, store, 2)
    assert content["estimated_by"] == "measured"
    assert plan_text(content).splitlines()[0].endswith("as its layers were measured here.")


@pytest.mark.skipif(not kernels.sets(), reason="the kernels were not compiled here")
@pytest.mark.parametrize("shape", [Shape(784, 300, 60, True), Shape(300, 100, 60, False), Shape(1024, 256, 60, False)])
def test_the_guess_of_a_layer_is_of_the_size_of_what_is_measured(shape: Shape) -> None:
    """Formats take some times as long as guessed at the most: processors differ, and this one is shared."""
    found, guess = calibrate._measured(shape), guessed(shape)
    assert guess.dense / 8 < found.dense < guess.dense * 8
    assert guess.sparse_at(0.1) / 8 < found.sparse_at(0.1) < guess.sparse_at(0.1) * 8


@pytest.mark.skipif(not kernels.sets(), reason="the kernels were not compiled here")
def test_before_anything_is_measured_kernels_are_not_taken_for_the_plain_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They train late levels in a fraction of its time."""
    monkeypatch.setattr(calibrate, "known", lambda shapes: {})
    asked, store = plan(read("lenet-mnist-quick")), Store(tmp_path / "none")
    plain = plan(read("lenet-mnist-quick", ["engine=reference"]))
    last, same = asked.rows[-1].run, plain.rows[-1].run
    assert run_seconds(asked, store)(last) < run_seconds(plain, store)(same) / 4
