"""How long it takes: before anything is started, and while it goes on."""

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tombola.engine import kernels
from tombola.engine.native import calibrate
from tombola.engine.native.guess import guessed
from tombola.engine.native.layer_formats import Shape
from tombola.lab.makespan import Work
from tombola.lab.plan import END_S, MEASURING_S, RUN_S, START_S, missing, plan, run_seconds, summary, wall_seconds
from tombola.lab.queue import Event, RunQueue
from tombola.lab.runs import Run
from tombola.lab.spec_file import read
from tombola.lab.store import Store
from tombola.lab.time_left import TimeLeft
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
        found = work.makespan(left, workers, over, [(number,) for _, number in busy])
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
    runs = missing(asked, store)
    shared = sum(each(run) + RUN_S for run in runs) / 2
    assert content["estimated_seconds"] > START_S + shared + END_S - 0.01
    assert wall_seconds(runs, each, 2, unmeasured=True) == pytest.approx(wall_seconds(runs, each, 2) + MEASURING_S)
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


@dataclass
class Lab:
    """Workers that exist on paper only: they do runs on a clock that is moved from event to event.

    Attributes:
        runs: inputs first.
        takes: seconds that each run takes its worker, by itself or as one of a stack, which ends as one.
        expected: seconds that each was expected to take.
        workers, there: at how many an estimate is made, and how many there are.
        at_once: runs that a worker is given at once.
        looks: how often a run tells of itself.
        resumed: how much of each run was done before.
    """

    runs: list[Run]
    takes: Callable[[Run], float]
    expected: Callable[[Run], float]
    workers: int = 2
    there: int = 2
    at_once: int = 1
    looks: int = 10
    resumed: float = 0.0
    now: float = 0.0
    seen: list[tuple[float, float | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left = TimeLeft(self.runs, self.expected, self.workers, lambda: self.now)
        self.queue = RunQueue(self.runs, Store(Path("none")), self.left)

    def work(self, until: float = float("inf")) -> "Lab":
        """Do them; note what is said to be left whenever one of them tells of itself."""
        count, coming = itertools.count(), list[tuple[float, int, list[Run], float]]()
        busy, self.now = 0, 3.0  # the workers start
        while not self.queue.over:
            while busy < self.there and (given := self.queue.next(lambda run: self.at_once, self.there - busy)):
                busy, taken = busy + 1, max(map(self.takes, given)) * (1 - self.resumed)
                for look in range(self.looks + 1):
                    share = self.resumed + (1 - self.resumed) * look / self.looks
                    heapq.heappush(coming, (self.now + taken * look / self.looks, next(count), given, share))
                heapq.heappush(coming, (self.now + taken, next(count), given, 2.0))
            if coming[0][0] > until:
                self.now = until
                return self
            self.now, _, given, share = heapq.heappop(coming)
            for run in given:
                if share > 1:
                    self.queue.stored(run)
                elif run.steps:
                    self.queue.looked(run, round(1000 * share), 1000, 0.0)
            busy -= share > 1
            self.seen.append((self.now, self.left.seconds()))
        return self

    def ratios(self, after: float = 0.0, before: float = 1.0) -> list[float]:
        """What was said to be left, over what was, in a part of the time: but for the last seconds, which are few."""
        return [
            said / (self.now - then)
            for then, said in self.seen
            if after * self.now <= then <= before * self.now and self.now - then > 20 and said is not None
        ]


@dataclass(frozen=True, eq=False, repr=False)
class Long(Some):
    """One that tells of itself, and may be done in a stack."""

    kind = "long"
    steps = 1000
    stack = ("all alike",)


def replicates(count: int, levels: int, leaves: int = 2) -> list[Run]:
    """Chains of trainings, and others that nobody waits for."""
    runs: list[Run] = []
    for number in range(count):
        chain: tuple[Run, ...] = (Some(1000 + number),)
        runs.append(chain[0])
        for level in range(levels):
            chain = (Long(number * 100 + level, chain),)
            runs += [*chain, *(Long(number * 100 + level + 1000 * (leaf + 1), chain) for leaf in range(leaves))]
    return runs


def seconds_of(long: float) -> Callable[[Run], float]:
    return lambda run: long if run.steps else 0.01


@pytest.mark.parametrize("factor", [0.2, 1.0, 6.0])
def test_the_time_left_comes_from_the_pace_of_what_is_under_way(factor: float) -> None:
    lab = Lab(replicates(3, 6), seconds_of(20 * factor), seconds_of(20.0)).work()
    ratios = lab.ratios(after=0.15)
    assert ratios and min(ratios) > 0.75 and max(ratios) < 1.35
    assert lab.left.share == pytest.approx(1.0)


def test_the_time_left_is_never_less_than_the_longest_chain_takes() -> None:
    lab = Lab(replicates(1, 20, leaves=0), seconds_of(20.0), seconds_of(20.0), workers=8, there=8).work()
    assert min(lab.ratios()) > 0.9 and max(lab.ratios()) < 1.2, "and not an eighth of it"


@pytest.mark.parametrize("at_once", [4, 16])
def test_runs_of_a_stack_share_their_time(at_once: int) -> None:
    """A stack takes as long as one of its trainings would by itself, and each of them was expected to take that."""
    lab = Lab(replicates(64, 3), seconds_of(30.0), seconds_of(30.0), 1, 1, at_once).work()
    ratios = lab.ratios(after=0.1)
    assert ratios and min(ratios) > 0.6 and max(ratios) < 1.7, "not as many times too long as a stack is high"


def test_workers_that_wait_for_their_place_are_not_counted_on() -> None:
    lab = Lab(replicates(16, 4), seconds_of(20.0), seconds_of(20.0), workers=16, there=2).work()
    ratios = lab.ratios(after=0.1)
    assert ratios and min(ratios) > 0.8 and max(ratios) < 1.2


def test_what_was_done_before_an_interruption_says_nothing_of_the_pace() -> None:
    lab = Lab(replicates(1, 20), seconds_of(20.0), seconds_of(20.0), resumed=0.8).work(until=12.0)
    (_, said) = lab.seen[-1]
    assert said is not None and said > 300, "some 60 trainings with 20 s each are left"


@pytest.mark.parametrize("factor", [0.3, 1.0, 5.0])
def test_the_time_left_does_not_jump(factor: float) -> None:
    """From one look to the next it changes by the time between, and by a part of itself."""
    lab = Lab(replicates(6, 8), seconds_of(20 * factor), seconds_of(20.0)).work()
    began = [(then, said) for then, said in lab.seen if said is not None and then > 0.02 * lab.now]
    for (before, first), (after, second) in itertools.pairwise(began):
        assert abs(second - (first - (after - before))) < 0.3 * first + 5


def test_one_quick_look_does_not_turn_the_estimate_over() -> None:
    now = 0.0
    runs: list[Run] = [Long(number) for number in range(20)]
    left = TimeLeft(runs, seconds_of(100.0), 1, lambda: now)
    left(Event("started", runs[0]))
    left(Event("looked", runs[0], 0, 1000))
    now = 0.1
    left(Event("looked", runs[0], 5, 1000))
    said = left.seconds()
    assert said is not None and said > 1800, "five times the pace, for a tenth of a second"


def test_what_takes_longer_than_expected_says_so() -> None:
    now = 0.0
    (run,) = runs = [Long(0)]
    left = TimeLeft(runs, seconds_of(10.0), 1, lambda: now)
    assert left.seconds() == pytest.approx(10 + 5 + 2.5, abs=0.1)
    left(Event("started", run))
    left(Event("looked", run, 0, 1000))
    now = 5.0
    assert left.seconds() == pytest.approx(5 + 2.5, abs=0.1)
    now = 100.0
    assert left.seconds() is None
    left(Event("looked", run, 500, 1000))
    now = 102.0
    said = left.seconds()
    assert said is not None and 30 < said < 110, "half of it took 100 s"


def test_what_another_process_is_at_is_not_under_way_here() -> None:
    now = 0.0
    runs: list[Run] = [Long(0), Long(1)]
    left = TimeLeft(runs, seconds_of(10.0), 1, lambda: now)
    for run in runs:
        left(Event("started", run))
        left(Event("elsewhere", run))
    now = 500.0
    assert left.seconds() == pytest.approx(20 + 2.5, abs=0.1), "nothing has been seen of their pace"
    left(Event("stored", runs[0]))
    now = 505.0
    assert left.seconds() == pytest.approx(10 + 2.5, abs=0.1)
    left(Event("looked", runs[1], 500, 1000))
    left(Event("stored", runs[1]))
    assert left.share == 1.0


def test_a_stack_is_told_as_one_and_what_is_elsewhere_once(tmp_path: Path) -> None:
    told: list[Event] = []
    runs: list[Run] = [Long(number) for number in range(5)]
    queue = RunQueue(runs, Store(tmp_path), told.append)
    given = queue.next(lambda run: 3, 1)
    assert [(event.what, event.together) for event in told] == [("started", 3)] * 3
    for _ in range(3):
        queue.elsewhere(given[0])
    assert [event.what for event in told[3:]] == ["elsewhere"]
