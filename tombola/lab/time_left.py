"""The time that is left while runs are done: from what is under way, at the pace that it has shown."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tombola.lab.makespan import Work
from tombola.lab.plan import END_S, RUN_S, START_S
from tombola.lab.queue import Event
from tombola.lab.runs import Run

TRUSTED_S = 5.0  # of workers' time, after which what was measured counts as much as what was expected
TRUSTED_SHARE = 0.05  # of all work, where that is less
RUNS_A_SECOND = 5000  # for which the schedule is made anew: a hundredth of the driver's time
AWAITED_S = 30.0  # workers that take no run for so long, although there are some, are not counted on


@dataclass(eq=False)
class _Given:
    """What a worker was given at once: a run, or the runs of a stack.

    Attributes:
        since: when.
        looked: when any of them last told of itself.
        first, share: by place, how much of a run was done when it first told of itself and how much is, in [0, 1].
    """

    since: float
    looked: float
    first: dict[int, float] = field(default_factory=dict)
    share: dict[int, float] = field(default_factory=dict)


class TimeLeft:
    """How long runs still take, of which it is told all events.

    What they were expected to take is scaled by the pace so far: seconds of workers over expected seconds of what these
    have done in them. A run is under way from its start on, and not while its worker waits for a place; runs of a stack
    share their worker's time; what was done before an interruption counts for nothing.

    Args:
        runs: those that are missing, inputs first.
        seconds: that each of them is expected to take.
        workers: how many are at work, >= 1.
        clock: the time in seconds.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        seconds: Callable[[Run], float],
        workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work, self._workers, self._clock = Work.of(runs), workers, clock
        self._place = {run.key: place for place, run in enumerate(runs)}
        self._expected = [seconds(run) + RUN_S for run in runs]
        self._all = self._open = sum(self._expected)  # of all runs, and of those that are not over
        self._trusted = min(TRUSTED_S, TRUSTED_SHARE * self._all)
        self._over: set[int] = set()
        self._given: dict[int, _Given] = {}  # by place: the runs that are under way
        self._stack, self._untold = _Given(0.0, 0.0), 0  # that is handed out, and how many of it are to come
        self._spent = self._done = 0.0  # seconds of workers, and expected seconds of what they have done in them
        self._needs = list(self._work.needs)
        self._ready = self._needs.count(0)
        self._began = clock()
        self._idle_since = float("inf")  # while there is a run for each worker that is not at work
        self._at_work = 0  # workers, when the last of them took a run
        self._left: tuple[float, float | None] = float("-inf"), None  # what was last found, and when

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        place, now = self._place[event.run.key], self._clock()
        match event.what:
            case "started":
                self._start(place, event.together, now)
            case "looked":
                self._look(place, event.done / max(event.total, 1), now)
            case "retried" | "elsewhere":
                self._stop(place, now)
                self._ready += event.what == "retried"
            case "stored":
                self._stop(place, now, whole=True)
                self._end(place)
                for dependant in self._work.dependants[place]:
                    self._needs[dependant] -= 1
                    self._ready += not self._needs[dependant]
            case "failed" | "skipped":
                self._stop(place, now)
                self._end(place)
        idle = self._ready > 0 and len(self._teams) < self._workers
        self._idle_since = min(self._idle_since, now) if idle else float("inf")

    def _start(self, place: int, together: int, now: float) -> None:
        if not self._untold:
            self._stack, self._untold = _Given(now, now), together
        self._untold -= 1
        self._ready -= 1
        self._given[place] = self._stack
        self._stack.share[place] = 0.0
        self._at_work = len(self._teams)

    def _look(self, place: int, share: float, now: float) -> None:
        given = self._given.setdefault(place, _Given(now, now))  # another process had it, and is gone
        given.first.setdefault(place, share)
        given.share[place], given.looked = share, now

    def _stop(self, place: int, now: float, whole: bool = False) -> None:
        """It is no longer under way."""
        if not (given := self._given.pop(place, None)):
            return
        share = given.share.pop(place)
        self._done += self._expected[place] * ((1.0 if whole else share) - given.first.get(place, 0.0))
        given.looked = now
        if not given.share:
            self._spent += now - given.since

    def _end(self, place: int) -> None:
        self._over.add(place)
        self._open -= self._expected[place]

    @property
    def _teams(self) -> list[_Given]:
        """What each worker that is at work was given."""
        return list({id(given): given for given in self._given.values()}.values())

    @property
    def share(self) -> float:
        """How much of the work is done, in [0, 1]."""
        under_way = sum(self._expected[place] * given.share[place] for place, given in self._given.items())
        return min(max(1 - (self._open - under_way) / max(self._all, 1e-9), 0.0), 1.0)

    def seconds(self) -> float | None:
        """Seconds until all is done and told; None where what is under way takes longer than expected, and no end of it
        is known."""
        now, (then, left) = self._clock(), self._left
        if now - then >= max(1.0, (len(self._place) - len(self._over)) / RUNS_A_SECOND):
            self._left = now, left = now, self._seconds(now)
            return left
        return left and max(left - (now - then), 0.0)

    def _seconds(self, now: float) -> float | None:
        teams = self._teams
        spent = self._spent + sum(each.looked - each.since for each in teams)
        done = self._done + sum(
            self._expected[place] * (share - each.first.get(place, 0.0))
            for each in teams
            for place, share in each.share.items()
        )
        pace = self._pace(spent, done)
        # Since they last told of themselves they went on at that pace - until they should have been over long ago.
        gained: dict[int, float] = {}
        for each in teams:
            part = (now - each.looked) / pace / len(each.share)
            for place, share in each.share.items():
                gained[place] = min(part, self._expected[place] * (1 - share))
        pace = self._pace(spent + sum(now - each.looked for each in teams), done + sum(gained.values()))
        left = [pace * expected for expected in self._expected]
        for each in teams:
            for place, share in each.share.items():
                left[place] = pace * (self._expected[place] * (1 - share) - gained[place])
        rest = self._work.makespan(left, self._counted_on(now), self._over, [tuple(each.share) for each in teams])
        if teams and rest <= 0.0:
            return None
        starting = 0.0 if teams or self._over else max(START_S - (now - self._began), 0.0)
        return starting + rest + END_S

    def _pace(self, spent: float, done: float) -> float:
        """Seconds that an expected second takes: 1 until something has been seen, then more and more as it was seen."""
        if spent <= 0.0 or done <= 0.0:
            return 1.0
        return float((spent / done) ** (spent / (spent + self._trusted)))

    def _counted_on(self, now: float) -> int:
        """Workers that do what is left: of those that wait for their place, say in a cluster, nobody knows when."""
        if self._at_work and now - self._idle_since > AWAITED_S:
            return self._at_work
        return self._workers
