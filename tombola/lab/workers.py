"""Do what a plan lacks: worker processes with one thread each, one run at a time, nothing finished ever lost.

A worker gets one run, performs it, writes the outcome into the store and asks for the next. It claims the run first, so
that two plans on one store never do the same run twice. If it dies, its run is tried once more; if the run itself
fails, that is its outcome, the runs that need it are left out and the rest goes on.
"""

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tombola import data
from tombola.allocator import thrifty
from tombola.data import variants
from tombola.data.shared import publish
from tombola.engine import Choice, shapes
from tombola.engine.native import calibrate
from tombola.engine.native.layer_formats import Timed
from tombola.engine.training import Training
from tombola.lab.attempt import do_all, no_room, one_thread
from tombola.lab.executor import Executor, Resources, Team
from tombola.lab.queue import BUSY_POLL_S, Announce, RunQueue, Tally
from tombola.lab.runs import Run, Stored, shallow
from tombola.recipe import Recipe
from tombola.sparse.times import Times

GRACE_S = 5
LOG_TAIL = 4000


@dataclass(frozen=True)
class _Equipment:
    """What each worker is given."""

    resources: Resources
    shared: Path
    measured: Mapping[Timed, Times]


@dataclass(eq=False)
class _Process:
    process: Any
    pipe: "Connection[Any, Any]"
    log: Path
    device: str
    runs: dict[str, Run] = field(default_factory=dict)  # by key: those it has not answered for


@contextmanager
def _team(resources: Resources) -> Iterator[Team]:
    yield Team(resources.processes, resources.devices, partial(execute, resources))


WORKERS = Executor("workers", "Worker processes on this machine, one thread each", lambda: True, _team)


def execute(resources: Resources, runs: Iterable[Run], tell: Announce) -> Tally:
    """Perform `runs`, inputs before what needs them, and store their outcomes.

    Args:
        runs: those that are missing, inputs first.
        tell: is told of every event, in this process.

    Raises:
        NoRoom, StoreError, DataError: nothing more can be done - the disk is full, the data are damaged. What is
            done is kept.
        KeyboardInterrupt: passed on after the workers have been stopped.
    """
    store, engine, workers = resources.store, resources.engine, resources.processes
    queue = RunQueue(list(runs), store, tell)
    processes: list[_Process] = []
    with ExitStack() as stack:
        stack.callback(_dismiss, processes)
        try:
            shared = stack.enter_context(store.scratch("data"))
            # Here, and sent along: a second measurement may choose other formats, which give other last bits.
            measured = calibrate.times(_shapes(queue.recipes, engine, resources.devices))
            equipment = _Equipment(resources, shared, measured)
            _fill(processes, queue, workers, equipment)
            for name in queue.data_sets:  # once for all workers, while they start
                if not variants.drawn(name):  # of which there may be many: each when the first one asks for it
                    publish(name, resources.data_dir, shared)
        except OSError as error:
            raise no_room(error, store) from error
        while not queue.over:
            _fill(processes, queue, workers, equipment)
            _hand_out(processes, queue, engine)
            _listen(processes, queue)
        return queue.result


def _hand_out(processes: list[_Process], queue: RunQueue, engine: Choice) -> None:
    """Give the idle ones what is ready."""
    for worker in list(processes):
        idle = sum(not each.runs for each in processes)
        if not worker.runs and (given := queue.next(_stack_size(engine, worker.device), idle)):
            worker.runs = {run.key: run for run in given}
            try:
                worker.pipe.send([shallow(run) for run in given])
            except OSError:
                _bury(worker, processes, queue)


def _stack_size(engine: Choice, device: str) -> Callable[[Run], int]:
    """How many runs like a given one a worker of that device does at once."""
    return lambda run: run.stack_size(engine, device)


def _shapes(recipes: Iterable[Recipe], engine: Choice, devices: tuple[str, ...]) -> list[Timed]:
    """Of which layers the engines will ask the times."""
    trainings = [
        Training.of(recipe, data.facts(recipe.data), engine, device) for recipe in recipes for device in devices
    ]
    return [shape for training in trainings for shape in shapes(training)]


def _dismiss(processes: list[_Process]) -> None:
    """End them: those that are idle by themselves, so that what they hold of the system is given back."""
    for worker in processes:
        if worker.runs:
            worker.process.terminate()
        else:
            worker.pipe.close()
    for worker in processes:
        worker.process.join(timeout=GRACE_S)
        worker.process.terminate()
        worker.process.join()
        worker.log.unlink(missing_ok=True)


def _fill(processes: list[_Process], queue: RunQueue, workers: int, equipment: "_Equipment") -> None:
    while len(processes) < min(workers, queue.left) and queue.ready:
        busy = [worker.device for worker in processes]
        with _unheard():
            processes.append(_hire(equipment, min(equipment.resources.devices, key=busy.count)))


@contextmanager
def _unheard() -> Iterator[None]:
    """A Ctrl-C in here is heard at the end; processes that are started in here never hear one.

    It reaches the whole group, and a new process would die of it, loudly, before its first line could ignore it.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which unblocks SIGINT when it starts
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))  # of what other threads receive
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which children inherit, unlike the handler
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, handler)
    if came:
        signal.raise_signal(signal.SIGINT)


def _listen(processes: list[_Process], queue: RunQueue) -> None:
    """Wait until some worker has something to say, or is dead, and act on it."""
    at_work = [worker for worker in processes if worker.runs]
    sources = [source for worker in at_work for source in (worker.pipe, worker.process.sentinel)]
    if not sources:
        time.sleep(BUSY_POLL_S)
        return
    heard = wait(sources, timeout=queue.pause_s)
    for worker in at_work:
        if worker.pipe in heard:
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                _bury(worker, processes, queue)
            else:
                _hear(worker, queue, *message)
        elif worker.process.sentinel in heard:
            _bury(worker, processes, queue)


def _hear(worker: _Process, queue: RunQueue, key: str, what: str, *details: Any) -> None:
    if what == "looked":
        queue.looked(worker.runs[key], *details)
        return
    if what == "apart":
        queue.apart(worker.runs[key], *details)
        return
    run = worker.runs.pop(key)
    match what:
        case "stored":
            queue.stored(run)
        case "elsewhere":
            queue.elsewhere(run)
        case "failed":
            queue.failed(run, *details)
        case "stop":
            raise details[0]


def _bury(worker: _Process, processes: list[_Process], queue: RunQueue) -> None:
    processes.remove(worker)
    worker.process.join(timeout=GRACE_S)
    worker.process.kill()  # of no effect on one that is gone, as nearly all are by now
    worker.process.join()
    code = worker.process.exitcode
    reason = (
        f"its worker was killed by {signal.Signals(-code).name}"
        if code < 0
        else f"its worker ended with exit status {code}"
    )
    log = worker.log.read_text(errors="replace")[-LOG_TAIL:] if worker.log.exists() else ""
    worker.log.unlink(missing_ok=True)
    for run in worker.runs.values():
        queue.died(run, reason, f"{reason}\n{log}")


def _hire(equipment: _Equipment, device: str) -> _Process:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    log = equipment.resources.store.root / "tmp" / f"worker-{os.getpid()}-{time.monotonic_ns()}"
    process = context.Process(target=_serve, args=(theirs, equipment, device, log), daemon=True)
    with thrifty():
        process.start()
    theirs.close()
    return _Process(process, ours, log, device)


def _serve(pipe: "Connection[Any, Any]", equipment: _Equipment, device: str, log: Path) -> None:
    """A worker's life: take a run, do it, say so, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for good, and where `_unheard` could not see to it
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    resources = equipment.resources
    store = resources.store
    with store.claim(Stored(log.name)):  # else another process would take the log for a leftover
        with log.open("w") as file:
            os.dup2(file.fileno(), sys.stderr.fileno())
        faulthandler.enable()
        one_thread()
        if device != "cpu":
            import torch

            torch.cuda.set_device(device)  # else what asks for no device in particular would ask the first one
        if resources.engine == "reference":
            _warm_up()
        from tombola.lab.worker import Worker

        worker = Worker(
            store,
            resources.data_dir,
            resources.engine,
            equipment.shared,
            device,
            time.perf_counter,
            measured=equipment.measured,
            scores=resources.members.scores,
        )
        while True:
            try:
                runs = pipe.recv()
            except EOFError:
                return
            do_all(runs, worker, lambda run, *message: pipe.send((run.key, *message)))


def _warm_up() -> None:
    """One training step of nothing: torch imports half of itself at the first one, which is no run's time."""
    import torch

    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    model(torch.zeros(1, 1)).sum().backward()
    optimizer.step()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        wait([parent.sentinel])
        os._exit(1)
