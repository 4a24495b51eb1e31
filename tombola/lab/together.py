"""Do what a plan lacks, each training by all processes together, where `torchrun` has started Tombola several times.

The first process leads: it alone takes the runs one after another, writes the store, prints and reports. It names every
training to the others, which do it with it and say how it ended; all other runs it does alone. The store has to be on a
file system that all machines share.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tombola.engine import Choice
from tombola.errors import DataError, NoRoom, StoreError, TombolaError
from tombola.lab.execute import BUSY_POLL_S, Execute, Looked, Result, Tell, Work, do, one_thread
from tombola.lab.runs import Run, Train, shallow
from tombola.lab.store import Outcome, Store

if TYPE_CHECKING:
    from tombola.engine.parallel import Crew
    from tombola.lab.perform import Bench

_OF_THIS_PROCESS = (DataError, StoreError, NoRoom)  # other errors come of the run itself, and to all alike


@contextmanager
def joined(devices: tuple[str, ...]) -> "Iterator[Crew]":
    """As `engine.parallel.joined`; at the end the leader dismisses the others."""
    from tombola.engine import parallel

    one_thread()
    with parallel.joined(devices) as crew:
        yield crew
        if crew.rank == 0:
            crew.hear(None)


def led(crew: "Crew") -> Execute:
    """What the leader has in the place of `execute`."""

    def execute(
        runs: Iterable[Run],
        store: Store,
        data_dir: Path | None,
        workers: int,
        tell: Tell,
        engine: Choice = "auto",
        devices: tuple[str, ...] = ("cpu",),
    ) -> Result:
        from tombola.lab.perform import Bench

        bench = Bench(store, data_dir, engine, device=crew.device, clock=time.perf_counter, crew=crew)
        work = Work(list(runs), store, tell)
        while not work.over:
            for run in (given := work.next()):
                _lead(run, bench, work)
            if not given:  # another plan on this store has what is left
                time.sleep(BUSY_POLL_S)
        return work.result

    return execute


def _lead(run: Run, bench: "Bench", work: Work) -> None:
    alone = False

    def performing(run: Run, bench: "Bench", looked: Looked) -> Outcome:
        nonlocal alone
        from tombola.lab.perform import perform

        if not isinstance(run, Train):
            return perform(run, bench, looked)
        assert bench.crew
        bench.crew.hear(shallow(run))
        alone = True
        ended = _all(run, bench, looked)
        alone = False
        if isinstance(ended, TombolaError):
            raise ended
        return ended

    what, *details = do(run, bench, lambda *seen: work.looked(run, *seen), performing)
    match what:
        case "stored":
            work.stored(run)
        case "elsewhere":
            work.elsewhere(run)
        case "stop":
            raise details[0]
        case "failed" if alone:  # no failure of the run, whose checkpoint is still good
            raise TombolaError(
                f"{run.key} was left: {details[0]}. This process failed by itself, or another one is gone. What is "
                "finished is kept; the same command goes on from here."
            )
        case "failed":
            work.failed(run, *details)


def follow(store: Store, data_dir: Path | None, crew: "Crew") -> None:
    """Do every training that the leader names, until it names no more.

    Raises:
        StoreError: what the training needs is not to be seen in the store.
    """
    from tombola.lab.perform import Bench

    bench = Bench(store, data_dir, device=crew.device, crew=crew)
    while run := crew.hear():
        for needed in run.inputs:
            store.await_seen(needed.key, partial(store.has, needed))
        _all(run, bench, lambda *seen: None)


def _all(run: Train, bench: "Bench", looked: Looked) -> Outcome | TombolaError:
    """The outcome of a training by all processes, or how it failed, once all have said that it ended so for them too.

    What only this process failed of is raised: it ends, and torchrun ends the others.
    """
    from tombola.lab.perform import perform

    ended: Outcome | TombolaError
    try:
        ended = perform(run, bench, looked)
    except _OF_THIS_PROCESS:
        raise
    except TombolaError as error:
        ended = error
    assert bench.crew
    bench.crew.agree(str(ended) if isinstance(ended, TombolaError) else "", f"the end of {run.key}")
    return ended
