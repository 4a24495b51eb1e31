"""Workers that are actors on the nodes of a cluster, each of which does one run at a time."""

import os
import pickle
import queue
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tombola import allocator
from tombola.lab.pool import Gone
from tombola.lab.ray_cluster.cluster import Cluster
from tombola.lab.ray_cluster.need import Need
from tombola.lab.runs import Run
from tombola.lab.serving import LOG_TAIL, Equipment, Message, serve

LOOK_S = 1.0  # after which it is seen whether the head is there
GRACE_S = 5.0  # that idle workers have for leaving


class Worker:
    """A process on a node: an actor that Ray may call from two threads while a third one does the runs."""

    def __init__(self, equipment: bytes, device: str, log: str) -> None:
        with suppress(ValueError):  # where Ray makes it in another thread; then nothing can be set there
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        allocator.keep()
        self._inbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._life = threading.Thread(target=self._live, args=(equipment, device, log), daemon=True)
        self._life.start()

    def _live(self, equipment: bytes, device: str, log: str) -> None:
        try:
            given: Equipment = pickle.loads(equipment)
            if given.shared is None:  # a bucket has a folder on each machine
                given.resources.store.open()
            folder = given.shared or Path(tempfile.gettempdir())
            serve(given, device, folder / log, self._take, self._outbox.put)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    def _take(self) -> Sequence[Run] | None:
        given = self._inbox.get()
        return None if given is None else pickle.loads(given)

    def give(self, runs: bytes) -> None:
        """Let it do these runs."""
        self._inbox.put(runs)

    def hear(self) -> tuple[str, list[Message]]:
        """Wait for what it has to say next; the node's identity, and that."""
        import ray

        said = [self._outbox.get()]
        with suppress(queue.Empty):
            while True:
                said.append(self._outbox.get_nowait())
        return ray.get_runtime_context().get_node_id(), said

    def leave(self) -> None:
        """Come to an end after what it is at."""
        self._inbox.put(None)
        self._life.join()


@dataclass(eq=False)
class Hired:
    """A worker as the command sees it."""

    actor: Any
    heard: Any  # what it will say next, when it does
    log: Path
    node: str = ""  # where it is, as soon as it has said anything


class Actors:
    """Workers that are actors on the nodes of a cluster."""

    def __init__(self, cluster: Cluster, need: Need, equipment: Equipment) -> None:
        self._cluster, self._need = cluster, need
        assert equipment.shared
        store, self._logs = equipment.resources.store, equipment.shared
        # Nobody sees a scratch folder of a bucket's but this machine: each worker then reads the data for itself.
        self._bytes = pickle.dumps(equipment if store.is_folder else replace(equipment, shared=None))
        self._class = cluster.ray.remote(Worker)

    def hire(self, device: str) -> Hired:
        """A new actor, wherever there is room."""
        log = f"worker-{socket.gethostname()}-{os.getpid()}-{time.monotonic_ns()}"
        actor = self._class.options(
            num_cpus=self._need.cpus,
            num_gpus=self._need.gpus,
            resources=dict(self._need.others),
            max_restarts=0,
            max_concurrency=2,
            scheduling_strategy="SPREAD",
        ).remote(self._bytes, device, log)
        return Hired(actor, actor.hear.remote(), self._logs / log)

    def give(self, worker: Hired, runs: list[Run]) -> None:
        """Send it what to do, in bytes."""
        with suppress(*self._cluster.lost):  # as `listen` will say
            worker.actor.give.remote(pickle.dumps(runs))

    def listen(self, workers: Sequence[Hired], timeout: float | None) -> Iterator[tuple[Hired, Message | Gone]]:
        """What they say, and which are gone; a cluster without a head is noticed, too."""
        ray, pending = self._cluster.ray, {worker.heard: worker for worker in workers}
        until = None if timeout is None else time.monotonic() + timeout
        heard: list[Any] = []
        while not heard and (until is None or time.monotonic() < until):
            wait_s = LOOK_S if until is None else max(0.0, min(LOOK_S, until - time.monotonic()))
            heard, _ = ray.wait(list(pending), num_returns=1, timeout=wait_s)
            if not heard:
                self._cluster.check()
        if heard and len(pending) > 1:  # all that have something to say, so that none is heard late
            heard, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0)
        for one in heard:
            worker = pending[one]
            try:
                worker.node, said = ray.get(one)
            except self._cluster.lost as error:
                yield worker, self._buried(worker, error)
                continue
            worker.heard = worker.actor.hear.remote()
            for message in said:
                yield worker, message

    def _buried(self, worker: Hired, error: Exception) -> Gone:
        node_is_gone = self._cluster.has_lost(worker.node)
        if not node_is_gone:
            with suppress(Exception):  # of no effect on one that is gone
                self._cluster.ray.kill(worker.actor, no_restart=True)
        log = worker.log.read_text(errors="replace")[-LOG_TAIL:] if worker.log.exists() else ""
        worker.log.unlink(missing_ok=True)
        if node_is_gone:
            return Gone("was on a node that is gone", f"{log}\n{error}", to_blame=False)
        short = isinstance(error, self._cluster.ray.exceptions.OutOfMemoryError)
        return Gone("was ended by Ray, as its node ran out of memory" if short else "died", f"{log}\n{error}")

    def dismiss(self, idle: Sequence[Hired], busy: Sequence[Hired]) -> None:
        """Let the idle ones leave, end the others; not where the cluster is lost, and they with it."""
        ray = self._cluster.ray
        if not self._cluster.gone:
            left = []
            with suppress(Exception):  # lost in this moment
                left = [worker.actor.leave.remote() for worker in idle]
                for worker in busy:
                    ray.kill(worker.actor, no_restart=True)
                if left:
                    ray.wait(left, num_returns=len(left), timeout=GRACE_S)
                for worker in idle:
                    ray.kill(worker.actor, no_restart=True)
        for worker in (*idle, *busy):
            worker.log.unlink(missing_ok=True)
