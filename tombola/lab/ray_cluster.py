"""Workers on a Ray cluster: actors on its nodes, each of which does one run at a time.

Ray starts processes on other machines and carries short messages, no more: a run travels as its description in bytes,
its inputs and its outcome go through the store, which all nodes see. So whatever Ray loses - a worker, a node, its head
- what is finished is kept, and the same command does the rest.
"""

import importlib
import os
import pickle
import platform
import queue
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from math import floor
from pathlib import Path
from types import ModuleType
from typing import Any

from tombola import __version__, allocator
from tombola.errors import BadInput, StoreError, TombolaError
from tombola.lab import pool
from tombola.lab.attempt import commit
from tombola.lab.executor import Executor, Offer, Resources, Team
from tombola.lab.interrupts import unheard
from tombola.lab.pool import Gone
from tombola.lab.queue import Announce, Tally
from tombola.lab.runs import Run
from tombola.lab.serving import LOG_TAIL, Equipment, Message, serve
from tombola.lab.store import Store

ANSWER_S = 5.0  # within which an address has to answer
HEAD_S = 15.0  # without an answer of the head after which the cluster is taken for lost
PROBE_S = 120.0  # a node may have to start a process first, on a machine that is busy
SEEN_S = 20.0  # within which a node has to see what the command has written into the store
POLL_S = 1.0
GRACE_S = 5.0
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anybody
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a client that lost its cluster does not start one of its own
    "RAY_worker_niceness": "0",  # by default workers give way to everything else on their node
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a worker without a GPU leaves CUDA's variable as it is
}


# ---------------------------------------------------------------- what is asked of a cluster, and what it has


@dataclass(frozen=True)
class Need:
    """What one worker takes of its node.

    Attributes:
        cpus, gpus: how many; parts of a GPU where several workers share one.
        others: of what the cluster calls by names of its own.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    others: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, resources: Resources) -> "Need":
        """What has been asked, by default one core, and a GPU where training is on GPUs.

        Raises:
            BadInput: that is no number, or none that Ray can share out.
        """
        asked = resources.options
        gpus = _number("gpus", asked.get("gpus", "0" if resources.devices == ("cpu",) else "1"))
        if gpus > 1:
            raise BadInput(
                where="--with gpus",
                expected="a part of a GPU, or 1: each worker trains on one",
                found=asked["gpus"],
                todo="gpus=0.25 lets four workers share one.",
            )
        name, _, count = asked.get("resource", "").partition(":")
        others = {name: _number("resource", count or "1")} if name else {}
        return cls(_number("cpus", asked.get("cpus", "1")), gpus, others)

    @property
    def items(self) -> dict[str, float]:
        """By Ray's names, what is needed at all."""
        return {
            name: count for name, count in {"CPU": self.cpus, "GPU": self.gpus, **dict(self.others)}.items() if count
        }

    def places(self, node: Mapping[str, float]) -> int:
        """How many workers a node has room for."""
        return min(floor(node.get(name, 0.0) / count + 1e-9) for name, count in self.items.items())

    @property
    def text(self) -> str:
        """In words."""
        return _counted(self.items)


def _number(option: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e6:
        raise BadInput(
            where=f"--with {option}",
            expected="a number, 0 or more",
            found=repr(text),
            todo="Leave it out, say.",
        )
    return number


def _counted(items: Mapping[str, float]) -> str:
    """So many cores, GPUs and others, in words."""
    names = {"CPU": ("core", "cores"), "GPU": ("GPU", "GPUs")}
    parts = [f"{count:g} {names.get(name, (name, name))[count != 1]}" for name, count in items.items()]
    return " and ".join(parts) or "nothing"


def _having(items: Mapping[str, float]) -> dict[str, float]:
    """Of a node's resources those that somebody may ask for: not its memory, nor the name of the node."""
    own = ("memory", "object_store_memory")
    return {
        name: count
        for name, count in sorted(items.items())
        if name not in own and not name.startswith(("node:", "accelerator_type:"))
    }


def offer_of(nodes: Sequence[Mapping[str, float]], need: Need, workers: int | None, where: str) -> Offer:
    """What these nodes have for workers with this need.

    Args:
        nodes: the resources of each, by Ray's names.
        workers: how many are asked for; None for as many as there is room for.
        where: the cluster, in words.

    Raises:
        BadInput: no node has room for one, so that it would be waited for without end; or none is asked for.
    """
    places = [need.places(node) for node in nodes]
    if not any(places):
        found = "; ".join(_counted(_having(node)) for node in nodes) or "no node"
        raise BadInput(
            where="--on ray",
            expected=f"a node with {need.text} for a worker",
            found=found,
            todo="Ask for less with --with, or add such a node to the cluster. Nothing has been started.",
        )
    if workers is not None and workers < 1:
        raise BadInput(
            where="--workers", expected="at least 1", found=str(workers), todo="Leave it out for all that have room."
        )
    count = min(workers or sum(places), sum(places))
    total: dict[str, float] = {}
    for node in nodes:
        for name, amount in _having(node).items():
            total[name] = total.get(name, 0.0) + amount
    runs = "1 run at a time" if count == 1 else f"{count} runs at once"
    less = f", fewer than the {workers} asked for, as there is no room" if workers and count < workers else ""
    about = (
        f"{where}: {len(nodes)} node{'' if len(nodes) == 1 else 's'} with {_counted(total)}; {runs}, "
        f"each on {need.text}{less}."
    )
    return Offer(count, ("cuda:0",) if need.gpus else ("cpu",), about)


# ---------------------------------------------------------------- a worker, on its node


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

    def __init__(self, cluster: "Cluster", need: Need, equipment: Equipment) -> None:
        self._cluster, self._need = cluster, need
        assert equipment.shared
        store, self._logs = equipment.resources.store, equipment.shared
        # Nobody sees a scratch folder of a bucket's but this machine: each worker then reads the data for itself.
        self._bytes = pickle.dumps(equipment if _is_folder(store) else replace(equipment, shared=None))
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
            wait_s = POLL_S if until is None else max(0.0, min(POLL_S, until - time.monotonic()))
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


# ---------------------------------------------------------------- the cluster


@dataclass(eq=False)
class Cluster:
    """A cluster that this process is connected with.

    Attributes:
        ray: the package.
        where: it, in words.
        head: host and port of its head.
        gone: whether it has been lost.
    """

    ray: ModuleType
    where: str
    head: tuple[str, int]
    gone: bool = False
    silent_since: float | None = None

    @property
    def lost(self) -> tuple[type[Exception], ...]:
        """What Ray raises where a worker is gone."""
        return (self.ray.exceptions.RayError,)

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """Those that are alive, by Ray's description."""
        return [node for node in self.ray.nodes() if node["Alive"]]

    def has_lost(self, node: str) -> bool:
        """Whether a node is gone, or the head, which knows of the nodes.

        Args:
            node: its identity; empty where nobody has said it.
        """
        return not _answers(*self.head, POLL_S) or (bool(node) and node not in {each["NodeID"] for each in self.nodes})

    def check(self) -> None:
        """Make sure that the head is there.

        Raises:
            TombolaError: it has not answered for `HEAD_S`.
        """
        if _answers(*self.head, POLL_S):
            self.silent_since = None
            return
        now = time.monotonic()
        self.silent_since = self.silent_since or now
        if now - self.silent_since > HEAD_S:
            self.gone = True
            raise TombolaError(
                f"the head of {self.where} is gone: nothing answers at {self.head[0]}:{self.head[1]}. What is finished "
                "is kept. Start the cluster again, then the same command: it does the rest."
            )


def _answers(host: str, port: int, within_s: float) -> bool:
    try:
        with socket.create_connection((host, port), timeout=within_s):
            return True
    except OSError:
        return False


def _package() -> ModuleType:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise BadInput(
            where="--on ray", expected="the package ray", found="none", todo="pip install 'tombola[ray]'"
        ) from error


def _asked(resources: Resources) -> str:
    """The cluster's address; none for one of this machine's own.

    Raises:
        BadInput: it is one of Ray's client server, through which what is lost is not noticed.
    """
    address = resources.address or os.environ.get("RAY_ADDRESS", "")
    if address.startswith("ray://"):
        raise BadInput(
            where="--on ray",
            expected="the address of a cluster that this machine is a node of",
            found=f"{address}, which is one for programs outside",
            todo="Type the command on a node, with --on ray:HOST:PORT as `ray status` says it. `ray start "
            "--address=HOST:PORT --num-cpus=0` makes this machine a node that does no runs.",
        )
    return "" if address == "local" else address


def _place(address: str) -> tuple[str, int]:
    """Host and port of an address.

    Raises:
        BadInput: it has none.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise BadInput(
            where="--on ray",
            expected="ray:HOST:PORT of a cluster's head",
            found=address,
            todo="`ray status` on a node says the address; RAY_ADDRESS may hold it.",
        )
    return host.strip("[]"), int(port)


@cache
def _token() -> str:
    """What the processes of a cluster of this machine's own know each other by; Ray keeps it for the whole process."""
    return secrets.token_hex(32)


@contextmanager
def _environment(ours: bool) -> Iterator[None]:
    """Ray is told by variables of the environment, when it is imported and when processes are started.

    Args:
        ours: whether the cluster is one of this machine's own: its token is made up, where Ray would write one into
            the home folder.
    """
    told = dict(ENVIRONMENT)
    if ours and not any(name.startswith("RAY_AUTH_") for name in os.environ):
        told |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}
    before = {name: os.environ.get(name) for name in told}
    for name, value in told.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name, was in before.items():
            if was is None:
                os.environ.pop(name, None)


@contextmanager
def _workplace(ours: bool) -> Iterator[Path | None]:
    """A folder for what Ray writes on this machine while a cluster of its own is there; the names of sockets are short.

    None where the cluster is somebody else's.
    """
    if not ours or "RAY_TMPDIR" in os.environ:
        yield None
        return
    short = Path("/tmp")
    folder = Path(tempfile.mkdtemp(prefix="tombola-ray-", dir=short if short.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def connected(resources: Resources) -> Iterator[Cluster]:
    """The cluster that has been asked for; one of this machine's own, as long as this lasts, where none has been.

    Raises:
        BadInput: Ray is not installed, nothing answers at the address, or the cluster is of another version.
    """
    address = _asked(resources)
    with _environment(not address), _workplace(not address) as folder:
        ray = _package()
        where = f"the Ray cluster at {address}" if address else "Ray on this machine"
        if address not in ("", "auto") and not _answers(*_place(address), ANSWER_S):
            raise BadInput(
                where=f"--on ray:{address}",
                expected="a Ray cluster that answers",
                found=f"nothing there within {ANSWER_S:g} s",
                todo="Is `ray start --head` running there, and its port open to this machine?",
            )
        quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
        stop = signal.getsignal(signal.SIGTERM)
        try:
            with unheard():
                if address:
                    ray.init(address, **quiet)
                else:
                    own: dict[str, Any] = {"num_cpus": resources.processes, "_node_ip_address": "127.0.0.1"}
                    own |= {"_temp_dir": str(folder)} if folder else {}
                    ray.init("local", include_dashboard=False, **own, **quiet)
        except (RuntimeError, ConnectionError, ValueError, TimeoutError, ray.exceptions.RayError) as error:
            raise _refused(address, where, error) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, stop)
        cluster = Cluster(ray, where, _place(ray.get_runtime_context().gcs_address))
        try:
            yield cluster
        finally:
            _disconnect(ray, cluster.gone)


def _disconnect(ray: ModuleType, gone: bool) -> None:
    """Leave the cluster; one that is lost is left as it is, since every word to it is waited for in vain."""
    if not gone:
        with unheard():
            ray.shutdown()


def _refused(address: str, where: str, error: Exception) -> TombolaError:
    text = " ".join(str(error).split())
    if "ersion" in text and ("mismatch" in text or "differ" in text):
        return BadInput(
            where=f"--on ray:{address}",
            expected=f"a cluster with Python {platform.python_version()} and the Ray of this machine",
            found=text,
            todo="Install the same versions of Python, Ray and Tombola on all machines.",
        )
    return BadInput(
        where=f"--on ray:{address}" if address else "--on ray",
        expected=f"{where} to take this machine in",
        found=text[:600],
        todo="Type the command on a node of the cluster. If the cluster asks for a token: RAY_AUTH_MODE=token, and the "
        "token in ~/.ray/auth_token; if it asks for none: RAY_AUTH_MODE=disabled.",
    )


# ---------------------------------------------------------------- what each node has to have


def _probe(marker: str, within_s: float) -> Any:
    """A function that a node executes; it travels as it is, since a node may have another Tombola, or none."""

    def facts() -> dict[str, Any]:
        import importlib.metadata
        import platform
        import socket
        import time
        from pathlib import Path

        try:
            import tombola

            version = tombola.__version__
        except Exception as error:
            version = f"none ({type(error).__name__}: {error})"
        try:
            from tombola.lab.attempt import commit

            checkout = commit()
        except ImportError:
            checkout = None
        try:
            torch = importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            torch = "none"
        until = time.monotonic() + within_s
        while not (seen := Path(marker).exists()) and time.monotonic() < until:
            time.sleep(0.2)
        return {
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "tombola": version,
            "commit": checkout,
            "torch": torch,
            "seen": seen,
        }

    return facts


def look_at_nodes(cluster: Cluster, store: Store) -> None:
    """Make sure that every node has this Tombola and sees the store; one that is lost meanwhile does not count.

    Raises:
        BadInput: one has another version, or none.
        StoreError: one does not see the store.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    with store.scratch("seen") as marker:
        ask = cluster.ray.remote(_probe(str(marker), SEEN_S if _is_folder(store) else 0.0))
        asked = {
            ask.options(
                num_cpus=0,
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote(): node
            for node in cluster.nodes
        }
        for one, node in asked.items():
            address = node["NodeManagerAddress"]
            try:
                facts = cluster.ray.get(one, timeout=PROBE_S)
            except cluster.lost as error:
                if cluster.has_lost(node["NodeID"]):  # which takes Ray some seconds to see
                    continue
                raise TombolaError(
                    f"the node {address} of {cluster.where} does not answer: {' '.join(str(error).split())[:300]}. "
                    "Nothing has been started."
                ) from error
            _judge(facts, f"the node {facts['host']} ({address}) of {cluster.where}", store)


def _judge(facts: Mapping[str, Any], node: str, store: Store) -> None:
    """See what `_probe` has found."""
    if facts["tombola"] != __version__:
        raise BadInput(
            where="--on ray",
            expected=f"Tombola {__version__} on {node}",
            found=facts["tombola"],
            todo=f"pip install tombola=={__version__} there, with the Python that Ray runs with.",
        )
    if facts["commit"] and (ours := commit()) and facts["commit"] != ours:  # two versions in the making
        raise BadInput(
            where="--on ray",
            expected=f"Tombola of commit {ours} on {node}",
            found=facts["commit"],
            todo="Check out the same commit there.",
        )
    if not facts["seen"] and _is_folder(store):
        raise StoreError(
            where=str(store.root.absolute()),
            expected=f"a folder that {node} sees, too",
            found="one of this machine alone, or one that is mounted elsewhere there",
            todo="Name one on a file system that all nodes share, by the same path: --store.",
        )


# ---------------------------------------------------------------- the executor


def offer(resources: Resources) -> Offer:
    """What the cluster has; a local one is not started for it."""
    need = Need.of(resources)
    if not _asked(resources):
        _package()
        return offer_of([_local(resources)], need, resources.workers, "On Ray on this machine")
    with connected(resources) as cluster:
        return _offered(cluster, resources)


def _local(resources: Resources) -> dict[str, float]:
    gpus = sum(device != "cpu" for device in resources.devices)
    return {"CPU": float(resources.processes), **({"GPU": float(gpus)} if gpus else {})}


def _offered(cluster: Cluster, resources: Resources) -> Offer:
    nodes = [node["Resources"] for node in cluster.nodes]
    return offer_of(nodes, Need.of(resources), resources.workers, f"On {cluster.where}")


@contextmanager
def _team(resources: Resources) -> Iterator[Team]:
    need = Need.of(resources)
    if _is_folder(resources.store):
        resources = replace(resources, store=Store(resources.store.root.absolute()))
    with connected(resources) as cluster:
        _offered(cluster, resources)  # before anything is waited for
        look_at_nodes(cluster, resources.store.open())
        found = _offered(cluster, resources)  # by the nodes that have answered
        yield Team(found, partial(_execute, cluster, need, resources, found))


def _is_folder(store: Store) -> bool:
    """Whether a store is a folder that all nodes see, and not a bucket, of which each machine has copies."""
    return store.address == str(store.root)


def _execute(
    cluster: Cluster, need: Need, resources: Resources, offered: Offer, runs: Iterable[Run], tell: Announce
) -> Tally:
    return pool.execute(partial(Actors, cluster, need), resources, offered, runs, tell)


RAY = Executor(
    name="ray",
    about="Workers on the nodes of a Ray cluster, or on one of this machine's own",
    applies=lambda: False,
    offer=offer,
    team=_team,
    options={
        "cpus": "cores of a worker, by default 1",
        "gpus": "GPUs of a worker, by default 0, or 1 where this machine has one; 0.25 lets four share one",
        "resource": "NAME or NAME:COUNT, what else a worker takes of its node",
    },
)
