"""Worker processes on this machine, one thread each."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tombola.allocator import thrifty
from tombola.lab import pool
from tombola.lab.executor import Executor, Offer, Resources, Team
from tombola.lab.pool import Gone
from tombola.lab.queue import Announce, Tally
from tombola.lab.runs import Run
from tombola.lab.serving import LOG_TAIL, Equipment, Message, serve

GRACE_S = 5


@dataclass(eq=False)
class Process:
    """A worker, and how it is spoken to."""

    process: Any
    pipe: "Connection[Any, Any]"
    log: Path


@dataclass(frozen=True)
class Processes:
    """Workers that are processes on this machine."""

    equipment: Equipment

    def hire(self, device: str) -> Process:
        """A new process."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        assert self.equipment.shared
        log = self.equipment.shared / f"worker-{time.monotonic_ns()}"
        process = context.Process(target=_live, args=(theirs, self.equipment, device, log), daemon=True)
        with thrifty():
            process.start()
        theirs.close()
        return Process(process, ours, log)

    def give(self, worker: Process, runs: list[Run]) -> None:
        """Send it what to do."""
        with suppress(OSError):  # it is gone, as its sentinel will say
            worker.pipe.send(runs)

    def listen(self, workers: Sequence[Process], timeout: float | None) -> Iterator[tuple[Process, Message | Gone]]:
        """What they say through their pipes, and which have ended."""
        sources = [source for worker in workers for source in (worker.pipe, worker.process.sentinel)]
        heard = wait(sources, timeout=timeout)
        for worker in workers:
            if worker.pipe in heard:
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    yield worker, _buried(worker)
                else:
                    yield worker, message
            elif worker.process.sentinel in heard:
                yield worker, _buried(worker)

    def dismiss(self, idle: Sequence[Process], busy: Sequence[Process]) -> None:
        """Close the pipes of the idle ones, terminate the others."""
        for worker in idle:
            worker.pipe.close()
        for worker in busy:
            worker.process.terminate()
        for worker in (*idle, *busy):
            worker.process.join(timeout=GRACE_S)
            worker.process.terminate()
            worker.process.join()
            worker.log.unlink(missing_ok=True)


def _buried(worker: Process) -> Gone:
    worker.process.join(timeout=GRACE_S)
    worker.process.kill()  # of no effect on one that is gone, as nearly all are by now
    worker.process.join()
    code = worker.process.exitcode
    reason = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
    log = worker.log.read_text(errors="replace")[-LOG_TAIL:] if worker.log.exists() else ""
    worker.log.unlink(missing_ok=True)
    return Gone(reason, log)


def _live(pipe: "Connection[Any, Any]", equipment: Equipment, device: str, log: Path) -> None:
    """A worker's life: take a run, do it, say so, until the pipe closes."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()

    def take() -> Sequence[Run] | None:
        try:
            runs: Sequence[Run] = pipe.recv()
        except EOFError:
            return None
        return runs

    serve(equipment, device, log, take, pipe.send)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        wait([parent.sentinel])
        os._exit(1)


def offer(resources: Resources) -> Offer:
    """What this machine has."""
    return Offer(resources.processes, resources.devices)


def execute(resources: Resources, runs: Iterable[Run], tell: Announce) -> Tally:
    """Perform `runs` by processes on this machine; see `pool.execute`."""
    return pool.execute(Processes, resources, offer(resources), runs, tell)


@contextmanager
def _team(resources: Resources) -> Iterator[Team]:
    yield Team(offer(resources), partial(execute, resources))


WORKERS = Executor(
    name="workers",
    about="Worker processes on this machine, one thread each",
    applies=lambda: True,
    offer=offer,
    team=_team,
)
