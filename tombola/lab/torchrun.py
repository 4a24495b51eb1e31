"""Do what a plan lacks, each training by all processes together, where `torchrun` has started Tombola several times.

The first process leads: it alone takes the runs one after another, writes the store, prints and reports. It names every
training to the others, which do it with it and say how it ended; all other runs it does alone. The store has to be on a
file system that all machines share.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from tombola.engine.machine import processes
from tombola.errors import BadInput, DataError, NoRoom, StoreError, StoreLost, TombolaError
from tombola.lab.attempt import do, one_thread
from tombola.lab.executor import Executor, Offer, Resources, Team
from tombola.lab.queue import BUSY_POLL_S, Announce, RunQueue, Tally
from tombola.lab.runs import Outcome, Run, Tell, shallow

if TYPE_CHECKING:
    from tombola.engine.data_parallel.crew import Crew
    from tombola.lab.worker import Worker

_OF_THIS_PROCESS = (DataError, StoreError, StoreLost, NoRoom)  # other errors come of the run itself, and to all alike


@contextmanager
def _team(resources: Resources) -> "Iterator[Team | None]":
    """The leader's team; the others follow it until it dismisses them."""
    from tombola.engine.data_parallel.crew import joined

    _offer(resources)
    one_thread()
    with joined(resources.devices) as crew:
        if crew.rank:
            follow(resources, crew)
            yield None
            return
        interrupted = False

        def execute(runs: Iterable[Run], tell: Announce) -> Tally:
            nonlocal interrupted
            try:
                return _execute(resources, crew, runs, tell)
            except KeyboardInterrupt:
                interrupted = True
                raise

        yield Team(Offer(1, (crew.device,)), execute)
        if interrupted:
            raise SystemExit(130)  # the others are in the midst of something: torchrun ends them
        crew.hear(None)


def _offer(resources: Resources) -> Offer:
    """All processes do one run at a time.

    Raises:
        BadInput: there are no others.
    """
    if processes() == 1:
        raise BadInput(
            where="--on torchrun",
            expected="processes that torchrun has started",
            found="this one alone",
            todo="torchrun --nproc-per-node=2 -m tombola run SPEC, for one; it needs no --on.",
        )
    return Offer(1, resources.devices)


TORCHRUN = Executor(
    name="torchrun",
    about="All processes that torchrun has started, each training by all of them together",
    applies=lambda: processes() > 1,
    offer=_offer,
    team=_team,
)


def _execute(resources: Resources, crew: "Crew", runs: Iterable[Run], tell: Announce) -> Tally:
    """Perform `runs`, and store their outcomes: the leader's part."""
    from tombola.lab.worker import Worker

    store, clock = resources.store, time.perf_counter
    worker = Worker(
        store,
        resources.data_dir,
        resources.engine,
        device=crew.device,
        clock=clock,
        crew=crew,
        scores=resources.members.scores,
    )
    queue = RunQueue(list(runs), store, tell)
    while not queue.over:
        for run in (given := queue.next()):
            _lead(run, worker, queue)
        if not given:  # another plan on this store has what is left
            time.sleep(BUSY_POLL_S)
    return queue.result


def _lead(run: Run, worker: "Worker", queue: RunQueue) -> None:
    alone = False

    def performing(run: Run, worker: "Worker", looked: Tell) -> Outcome:
        nonlocal alone
        if not run.data_parallel:
            return run.perform(worker.alone, looked)
        assert worker.crew
        worker.crew.hear(shallow(run))
        alone = True
        ended = _all(run, worker, looked)
        alone = False
        if isinstance(ended, TombolaError):
            raise ended
        return ended

    what, *details = do(run, worker, lambda *seen: queue.looked(run, *seen), performing)
    match what:
        case "stored":
            queue.stored(run)
        case "elsewhere":
            queue.elsewhere(run)
        case "stop":
            raise details[0]
        case "failed" if alone:  # no failure of the run, whose checkpoint is still good
            raise TombolaError(
                f"{run.key} was left: {details[0]}. This process failed by itself, or another one is gone. What is "
                "finished is kept; the same command goes on from here."
            )
        case "failed":
            queue.failed(run, *details)


def follow(resources: Resources, crew: "Crew") -> None:
    """Do every training that the leader names, until it names no more.

    Raises:
        StoreError: what the training needs is not to be seen in the store.
    """
    from tombola.lab.worker import Worker

    store = resources.store
    worker = Worker(store, resources.data_dir, device=crew.device, crew=crew, scores=resources.members.scores)
    while run := crew.hear():
        for needed in run.inputs:
            store.await_seen(needed.key, partial(store.has, needed))
        _all(run, worker, lambda *seen: None)


def _all(run: Run, worker: "Worker", looked: Tell) -> Outcome | TombolaError:
    """The outcome of a training by all processes, or how it failed, once all have said that it ended so for them too.

    What only this process failed of is raised: it ends, and torchrun ends the others.
    """
    ended: Outcome | TombolaError
    try:
        ended = run.perform(worker, looked)
    except _OF_THIS_PROCESS:
        raise
    except TombolaError as error:
        ended = error
    assert worker.crew
    worker.crew.agree(str(ended) if isinstance(ended, TombolaError) else "", f"the end of {run.key}")
    return ended
