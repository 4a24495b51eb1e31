"""The runs of a plan that are not done yet: which are ready, which go first, what becomes of them."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from tombola.lab.attempt import no_room
from tombola.lab.runs import Run, data_sets
from tombola.lab.store import Failure, Store
from tombola.recipe import Recipe

BUSY_POLL_S = 0.2


@dataclass(frozen=True)
class Event:
    """Something that happened to a run.

    Attributes:
        what: `started` (a worker that is ready has been given it), `looked` (there is something to tell of how it
            goes), `stored`, `retried` (its worker is gone), `failed`, `skipped` (an input failed), `apart` (its stack
            did not work, and each of it is done alone), `elsewhere` (another process is at it), `halted` (its worker
            had to leave, and another one goes on), `waits` (for workers that are not there yet).
        done, total: steps of a training or points of a line, where that is known.
        loss: the latest validation loss, of a line the latest test error.
        note: why, for what went wrong.
        together: how many runs one worker was given at once with it, itself included.
    """

    what: str
    run: Run
    done: int = 0
    total: int = 0
    loss: float = 0.0
    note: str = ""
    together: int = 1


Announce = Callable[[Event], None]


@dataclass
class Tally:
    """What came of it: how many runs were done, which failed and which were left out because of those."""

    done: int = 0
    failed: dict[Run, Failure] = field(default_factory=dict)
    skipped: list[Run] = field(default_factory=list)


_Queue = OrderedDict[str, Run]  # by key


class _ReadyRuns:
    """The runs that can be done now, in the order in which they go; nothing in here looks at all of them.

    Those whose worker died go first, then what others wait for - so that the many controls at the end fill every worker
    evenly -, then all else, and last what another process is at, once it is time to look again.
    """

    def __init__(self) -> None:
        # Ordered, as the first of a plain dict is found by walking over all that was there before it.
        self._again = _Queue()
        self._needed = _Queue()
        self._leaves = _Queue()
        self._quick = _Queue()  # of the needed and the leaves, all that is done alone
        self._stackable: dict[tuple[Any, ...], _Queue] = {}  # of the same, all others, by their stack
        self._elsewhere: OrderedDict[str, tuple[Run, float]] = OrderedDict()  # and when to look again, earliest first

    def __bool__(self) -> bool:
        return bool(self._again or self._needed or self._leaves or self._elsewhere)

    def add(self, run: Run, leaf: bool, first: bool = False) -> None:
        queue = self._leaves if leaf else self._needed
        queue[run.key] = run
        if first:
            queue.move_to_end(run.key, last=False)
        if stack := run.stack:
            self._stackable.setdefault(stack, _Queue())[run.key] = run
        else:
            self._quick[run.key] = run

    def again(self, run: Run) -> None:
        """Its worker died."""
        self._again[run.key] = run
        self._again.move_to_end(run.key, last=False)

    def elsewhere(self, run: Run) -> None:
        """Another process is at it."""
        self._elsewhere[run.key] = run, time.monotonic() + BUSY_POLL_S

    @property
    def is_elsewhere(self) -> bool:
        """Whether another process is at any of them."""
        return bool(self._elsewhere)

    def first(self) -> Run | None:
        """The one that goes first; None if all are elsewhere."""
        for queue in (self._again, self._needed, self._leaves):
            if queue:
                return next(iter(queue.values()))
        return next(self._back(), None)

    def _back(self) -> Iterator[Run]:
        now = time.monotonic()
        for run, until in self._elsewhere.values():
            if until > now:
                return
            yield run

    def quick(self) -> Run | None:
        """One that is done alone."""
        return next(iter(self._quick.values()), None)

    def like(self, run: Run) -> tuple[int, Iterator[Run]]:
        """How many others can be done in one stack with it, but for those whose worker died, and which."""
        same = self._same_stack(run)
        back = [each for each in self._back() if each.stack and each.stack == run.stack]
        others = (each for each in chain(same.values(), back) if each != run)
        return len(same) - (run.key in same) + len(back) - (run in back), others

    def _same_stack(self, run: Run) -> _Queue:
        return self._stackable.get(run.stack, _Queue()) if run.stack else _Queue()

    def take(self, run: Run) -> bool:
        """Take it out; whether it was elsewhere before."""
        for queue in (self._again, self._needed, self._leaves, self._quick):
            queue.pop(run.key, None)
        self._same_stack(run).pop(run.key, None)
        return self._elsewhere.pop(run.key, None) is not None


class RunQueue:
    """Which runs are waiting, ready, out and over."""

    def __init__(self, runs: list[Run], store: Store, tell: Announce) -> None:
        self.store, self._tell = store, tell
        self._waiting = {run.key: run for run in runs}
        self._inputs = {run.key: {needed.key for needed in run.inputs} & self._waiting.keys() for run in runs}
        self._dependants: dict[str, list[Run]] = {run.key: [] for run in runs}
        for run in runs:
            for needed in self._inputs[run.key]:
                self._dependants[needed].append(run)
        self.ready = _ReadyRuns()
        for run in runs:
            if not self._inputs[run.key]:
                self._is_ready(run)
        self._tried: set[str] = set()
        self._elsewhere: set[str] = set()  # whatever becomes of it: it is told once
        self._reached: dict[str, int | None] = {}  # of those that a worker has left: the step of their checkpoint
        self._stuck: set[str] = set()  # of these, those that got no further
        self.result = Tally()

    def _is_ready(self, run: Run, first: bool = False) -> None:
        self.ready.add(run, not self._dependants[run.key], first)

    @property
    def left(self) -> int:
        return len(self._waiting)

    @property
    def data_sets(self) -> list[str]:
        """The names of those that trainings need."""
        return data_sets(self._waiting.values())

    @property
    def recipes(self) -> list[Recipe]:
        """The recipes of trainings."""
        return list(dict.fromkeys(filter(None, (run.recipe_trained for run in self._waiting.values()))))

    @property
    def over(self) -> bool:
        return not self._waiting

    @property
    def pause_s(self) -> float | None:
        """How long to listen: until something happens, or until a run that another process has may be done."""
        return BUSY_POLL_S if self.ready.is_elsewhere else None

    def next(self, most: Callable[[Run], int] = lambda run: 1, idle: int = 1) -> list[Run]:
        """What to do now: a run, or runs of one stack, `most` of them at most; nothing if all are elsewhere.

        They are shared among as many workers as are `idle`. Where runs may be done at once all else goes first, so that
        many are ready. One whose worker died is done alone: if it was to blame, it takes no others along a second
        time.
        """
        first = self.ready.first()
        if first is None:
            return []
        given = [first]
        if first.stack and first.key not in self._tried and (count := most(first)) > 1:
            if quick := self.ready.quick():
                given = [quick]
            else:
                number, same = self.ready.like(first)
                share = -(-(1 + number) // idle)
                untried = (run for run in same if run.key not in self._tried)
                given = [first, *islice(untried, min(count, share) - 1)]
        new = [run for run in given if not self.ready.take(run)]
        for run in new:
            self._tell(Event("started", run, together=len(new)))
        return given

    def elsewhere(self, run: Run) -> None:
        """Another process is at it: look again a little later."""
        if run.key not in self._elsewhere:
            self._elsewhere.add(run.key)
            self._tell(Event("elsewhere", run))
        self.ready.elsewhere(run)

    def looked(self, run: Run, done: int, total: int, loss: float) -> None:
        self._tell(Event("looked", run, done, total, loss))

    def apart(self, run: Run, reason: str) -> None:
        self._tell(Event("apart", run, note=reason))

    def stored(self, run: Run) -> None:
        del self._waiting[run.key]
        self.result.done += 1
        self._tell(Event("stored", run))
        for dependant in self._dependants[run.key]:
            self._inputs[dependant.key].discard(run.key)
            if not self._inputs[dependant.key] and dependant.key in self._waiting:
                self._is_ready(dependant)

    def died(self, run: Run, reason: str, log: str) -> None:
        if run.key in self._tried:
            self.failed(run, f"{reason}, twice", log)
            return
        self._tried.add(run.key)
        self._tell(Event("retried", run, note=reason))
        self.ready.again(run)

    def given_back(self, run: Run, reason: str) -> None:
        """Its worker is gone, and not because of it."""
        self._tell(Event("retried", run, note=reason))
        self.ready.again(run)

    def halted(self, run: Run, reason: str, log: str, whole: bool) -> None:
        """Its worker had to leave, and another one goes on from its checkpoint, if there is one.

        Args:
            whole: whether it had most of the worker's time. A run that gets no further in that fails, if it is so twice
                in a row.
        """
        before, kept = self._reached.get(run.key), self.store.kept(run)
        step = self._reached[run.key] = kept.values["step"] if kept else None
        if step != before:
            self._stuck.discard(run.key)
        elif whole and run.key in self._stuck:
            self.failed(run, f"{reason}, and it got no further, twice", log)
            return
        elif whole:
            self._stuck.add(run.key)
        self._tell(
            Event("halted", run, note=f"{reason}; it goes on from {f'step {step}' if kept else 'its beginning'}")
        )
        self._is_ready(run, first=True)

    def waits(self, why: str) -> None:
        """Workers are not there yet; it is told of the run that would be the first to be done."""
        if run := self.ready.first():
            self._tell(Event("waits", run, note=why))

    def failed(self, run: Run, reason: str, log: str) -> None:
        if self.store.has(run):  # another process has done it, with more memory, say
            self.stored(run)
            return
        try:
            self.result.failed[run] = self.store.fail(run, reason, log)
        except OSError as error:
            raise no_room(error, self.store) from error
        self._tell(Event("failed", run, note=reason))
        del self._waiting[run.key]
        lost = list(self._dependants[run.key])
        while lost:
            dependant = lost.pop()
            if self._waiting.pop(dependant.key, None):
                self.result.skipped.append(dependant)
                self._tell(Event("skipped", dependant, note=f"needs {run.key}, which failed"))
                lost.extend(self._dependants[dependant.key])
