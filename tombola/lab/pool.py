"""Do what a plan lacks with workers that take one run at a time: the loop that all executors with such workers share.

A worker gets one run, performs it, writes the outcome into the store and asks for the next. It claims the run first, so
that two plans on one store never do the same run twice. If it dies, its run is tried once more; if the run itself
fails, that is its outcome, the runs that need it are left out and the rest goes on.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from tombola import data
from tombola.data import variants
from tombola.data.shared import publish
from tombola.engine import Choice, shapes
from tombola.engine.native import calibrate
from tombola.engine.native.layer_formats import Timed
from tombola.engine.training import Training
from tombola.errors import TombolaError
from tombola.lab.attempt import no_room
from tombola.lab.executor import Offer, Resources
from tombola.lab.interrupts import unheard
from tombola.lab.queue import Announce, RunQueue, Tally
from tombola.lab.runs import Run, shallow
from tombola.lab.serving import READY, TOLD, Equipment, Message
from tombola.recipe import Recipe

W = TypeVar("W")
STILLBORN = 3  # workers that may end one after another before any is ready, beside as many as there are at once


@dataclass(frozen=True)
class Gone:
    """A worker is gone.

    Attributes:
        reason: why, after "its worker".
        log: the end of what it said.
        to_blame: whether it may be gone because of what it did: such a run is tried only once more.
        out_of_time: whether it had to leave; see `RunQueue.halted`.
    """

    reason: str
    log: str = ""
    to_blame: bool = True
    out_of_time: bool = False


class Staff(Protocol[W]):
    """How workers of one sort are hired, spoken to and dismissed."""

    def hire(self, device: str) -> W:
        """A new worker, which will say that it is ready: it may take long to start, or to get its place."""

    def give(self, worker: W, runs: list[Run]) -> None:
        """Let it do these runs. Where it is gone by now, `listen` says so."""

    def listen(self, workers: Sequence[W], timeout: float | None) -> Iterable[tuple[W, Message | Gone]]:
        """Wait until some of them have something to say or are gone, at most so many seconds; what, in order."""

    def dismiss(self, idle: Sequence[W], busy: Sequence[W]) -> None:
        """End them all: the idle ones by themselves, so that what they hold of the system is given back."""


@dataclass(eq=False)
class Post(Generic[W]):
    """A worker, and what it has to do."""

    worker: W
    device: str
    ready: bool = False
    runs: dict[str, Run] = field(default_factory=dict)  # by key: those it has not answered for
    since: float = 0.0  # when it was ready, by this process's clock
    given: float = 0.0  # when it was given these

    @property
    def had_most(self) -> bool:
        """Whether its runs have had most of the time for which it has been ready."""
        return self.given - self.since <= time.monotonic() - self.given


class Pool(Generic[W]):
    """Workers, and the runs that they do.

    Args:
        engine: what trains.
    """

    def __init__(self, staff: Staff[W], offer: Offer, queue: RunQueue, engine: Choice) -> None:
        self._staff, self._offer, self._queue, self._engine = staff, offer, queue, engine
        self.posts: list[Post[W]] = []
        self._stillborn = 0
        self._told: set[str] = set()

    def __enter__(self) -> "Pool[W]":
        return self

    def __exit__(self, *_: object) -> None:
        idle = [post.worker for post in self.posts if post.ready and not post.runs]
        busy = [post.worker for post in self.posts if not post.ready or post.runs]
        self._staff.dismiss(idle, busy)

    def fill(self) -> None:
        """Hire as many as there is work for."""
        while len(self.posts) < min(self._offer.processes, self._queue.left) and self._queue.ready:
            busy = [post.device for post in self.posts]
            device = min(self._offer.devices, key=busy.count)
            with unheard():
                self.posts.append(Post(self._staff.hire(device), device))

    def work(self) -> Tally:
        """What becomes of the runs."""
        while not self._queue.over:
            self.fill()
            self._hand_out()
            self._listen()
        return self._queue.result

    def _hand_out(self) -> None:
        """Give the idle ones what is ready."""
        idle = [post for post in self.posts if post.ready and not post.runs]
        for count, post in zip(range(len(idle), 0, -1), idle, strict=True):
            if given := self._queue.next(self._stack_size(post.device), count):
                post.runs, post.given = {run.key: run for run in given}, time.monotonic()
                self._staff.give(post.worker, [shallow(run) for run in given])

    def _stack_size(self, device: str) -> Callable[[Run], int]:
        """How many runs like a given one a worker of that device does at once."""
        return lambda run: run.stack_size(self._engine, device)

    def _listen(self) -> None:
        """Wait until some worker has something to say, or is gone, and act on it."""
        posts = {id(post.worker): post for post in self.posts}
        for worker, said in self._staff.listen([post.worker for post in self.posts], self._queue.pause_s):
            if isinstance(said, Gone):
                self._bury(posts[id(worker)], said)
            else:
                self._hear(posts[id(worker)], *said)

    def _hear(self, post: Post[W], key: str, what: str, *details: Any) -> None:
        queue = self._queue
        if (key, what) == READY:
            post.ready, post.since, self._stillborn = True, time.monotonic(), 0
            return
        if (key, what) == TOLD:
            self._pass_on(*details)
            return
        if what == "looked":
            queue.looked(post.runs[key], *details)
            return
        if what == "apart":
            queue.apart(post.runs[key], *details)
            return
        if what == "waits":
            queue.waits(*details)
            return
        if what == "halted":  # why is said when it is gone, right away
            return
        run = post.runs.pop(key)
        match what:
            case "stored":
                queue.stored(run)
            case "elsewhere":
                queue.elsewhere(run)
            case "failed":
                queue.failed(run, *details)
            case "stop":
                raise details[0]

    def _pass_on(self, text: str) -> None:
        """Say what a worker has to say of the store, but not what another one has said already."""
        if text not in self._told:
            self._told.add(text)
            self._queue.store.tell(text)

    def _bury(self, post: Post[W], gone: Gone) -> None:
        self.posts.remove(post)
        if not post.ready:
            self._stillborn += 1
            if self._stillborn > STILLBORN + self._offer.processes:
                raise TombolaError(
                    f"no worker gets as far as to take a run: the last one {gone.reason}. What is finished is kept."
                    f"\n{gone.log}".rstrip()
                )
        reason = f"its worker {gone.reason}"
        for run in post.runs.values():
            if gone.out_of_time:
                self._queue.halted(run, reason, f"{reason}\n{gone.log}", post.had_most)
            elif gone.to_blame:
                self._queue.died(run, reason, f"{reason}\n{gone.log}")
            else:
                self._queue.given_back(run, reason)


def execute(
    staff: Callable[[Equipment], Staff[Any]],
    resources: Resources,
    offer: Offer,
    runs: Iterable[Run],
    tell: Announce,
    scratch: Callable[[str], AbstractContextManager[Path]] | None = None,
) -> Tally:
    """Perform `runs`, inputs before what needs them, and store their outcomes.

    Args:
        staff: how workers are hired.
        offer: how many, and for which devices.
        runs: those that are missing, inputs first.
        tell: is told of every event, in this process.
        scratch: makes folders of a name that all workers see; by default the store does.

    Raises:
        NoRoom, StoreError, DataError: nothing more can be done - the disk is full, the data are damaged. What is
            done is kept.
        TombolaError: no worker gets as far as to take a run.
        KeyboardInterrupt: passed on after the workers have been stopped.
    """
    store, engine = resources.store, resources.engine
    queue = RunQueue(list(runs), store, tell)
    with ExitStack() as stack:
        try:
            shared = stack.enter_context((scratch or store.scratch)("data"))
            # Here, and sent along, so that all workers of all machines go by one measurement.
            measured = calibrate.times(timed_shapes(queue.recipes, engine, offer.devices))
            pool = stack.enter_context(Pool(staff(Equipment(resources, shared, measured)), offer, queue, engine))
            pool.fill()
            for name in queue.data_sets:  # once for all workers, while they start
                if not variants.drawn(name):  # of which there may be many: each when the first one asks for it
                    publish(name, resources.data_dir, shared)
        except OSError as error:
            raise no_room(error, store) from error
        return pool.work()


def timed_shapes(recipes: Iterable[Recipe], engine: Choice, devices: tuple[str, ...]) -> list[Timed]:
    """Of which layers the engines will ask the times."""
    trainings = [
        Training.of(recipe, data.facts(recipe.data), engine, device) for recipe in recipes for device in devices
    ]
    return [shape for training in trainings for shape in shapes(training)]
