"""The connection with a cluster: one that is there, or one of this machine's own."""

import importlib
import os
import platform
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from tombola.errors import BadInput, TombolaError
from tombola.lab.executor import Resources
from tombola.lab.interrupts import unheard

ANSWER_S = 5.0  # within which an address has to answer
HEAD_S = 15.0  # without an answer of the head after which the cluster is taken for lost
POLL_S = 1.0  # within which a head that is well answers
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anybody
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a client that lost its cluster does not start one of its own
    "RAY_worker_niceness": "0",  # by default workers give way to everything else on their node
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a worker without a GPU leaves CUDA's variable as it is
}


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


def package() -> ModuleType:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise BadInput(
            where="--on ray", expected="the package ray", found="none", todo="pip install 'tombola[ray]'"
        ) from error


def asked(resources: Resources) -> str:
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
    address = asked(resources)
    with _environment(not address), _workplace(not address) as folder:
        ray = package()
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
        except Exception as error:  # Ray has no class of its own for most of them
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
    if not address:
        return TombolaError(
            f"{where} did not start: {text[:600]} Where the machine is busy, the same command may do later on."
        )
    return BadInput(
        where=f"--on ray:{address}",
        expected=f"{where} to take this machine in",
        found=text[:600],
        todo="Type the command on a node of the cluster. If the cluster asks for a token: RAY_AUTH_MODE=token, and the "
        "token in ~/.ray/auth_token; if it asks for none: RAY_AUTH_MODE=disabled.",
    )
