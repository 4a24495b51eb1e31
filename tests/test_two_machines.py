"""Two hosts on one store, each in mount, name and process namespaces of its own, and with a start of its own.

Neither sees the other's processes; what one locks the other does not know of. The folder is all that they share.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tombola.lab.store import Store

CHANGES = [
    *("--set", "levels=1", "--set", "replicates=1", "--set", "recipe.length=20it", "--set", "arms=ticket"),
    *("--set", "evaluate.every=10it", "--set", "evaluate.test_every=10it", "--set", "engine=reference"),
]
RUN = [sys.executable, "-m", "tombola", "run", "digits", *CHANGES]
WITHIN_S = 300
ENTERED = ("unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child=KILL")

# Python reads this before anything else: what becomes of locks on file systems between machines, and of a machine.
MANNERS = {
    "shared locks": "",
    "local locks": "import fcntl\nfcntl.flock = lambda *_: None\n",
    "no locks": (
        "import errno, fcntl\ndef flock(*_): raise OSError(errno.ENOLCK, 'No locks available')\nfcntl.flock = flock\n"
    ),
    "stuck while it writes a training": """
import os, shutil, time
from tombola import files
fill, awake = files.fill, os.path.join(os.path.dirname(__file__), "awake")
def stuck(folder, contents):
    if folder.name.startswith("train-") and not os.path.exists(awake):
        folder.mkdir()
        (folder / "half").touch()
        while not os.path.exists(awake):
            time.sleep(0.05)
        shutil.rmtree(folder)
    return fill(folder, contents)
files.fill = stuck
""",
    "a minute is short": "from tombola.lab import claims\nclaims.SILENT_S = 2.0\n",
}


def _namespaces() -> str:
    """Why there are none here; nothing where there are."""
    if sys.platform != "linux" or not shutil.which("unshare"):
        return "no namespaces on this system"
    tried = subprocess.run(
        [*ENTERED, "sh", "-c", "hostname other && mount --bind /dev/null /proc/sys/kernel/random/boot_id"],
        capture_output=True,
        text=True,
    )
    return tried.stderr.strip() if tried.returncode else ""


pytestmark = pytest.mark.skipif(bool(_namespaces()), reason=f"namespaces are missing: {_namespaces()}")


@contextmanager
def host(folder: Path, name: str, manners: str, *command: str) -> Iterator["subprocess.Popen[str]"]:
    """A host that runs a command; all of its processes are gone at the end, as if its power were."""
    own = folder / f"host-{name}-{time.monotonic_ns()}"
    own.mkdir()
    (own / "boot_id").write_text(f"{name}\n")
    (own / "sitecustomize.py").write_text(MANNERS[manners])
    beginning = (
        f"hostname same && mount --bind {own}/boot_id /proc/sys/kernel/random/boot_id && mount -t tmpfs none /dev/shm"
        ' && exec "$@"'
    )
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(own), str(Path(__file__).parents[1])]),
        "XDG_CACHE_HOME": str(own / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [*ENTERED, "sh", "-c", beginning, "sh", *command],
        env=environment,
        cwd=own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def finished(process: "subprocess.Popen[str]") -> str:
    said, _ = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0, said
    return said


def wait_for(what: Callable[[], bool], *processes: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + WITHIN_S
    while not what():
        assert time.monotonic() < end, "in time"
        assert all(process.poll() is None for process in processes), [process.communicate() for process in processes]
        time.sleep(0.01)


def outcomes(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in (root / "runs").rglob("*")
        if path.is_file() and path.name != "provenance.json"
    }


def nothing_left(root: Path) -> None:
    for folder in ("tmp", "claims", "processes", "failed", "checkpoints"):
        assert not list((root / folder).iterdir()), folder


def send(process: "subprocess.Popen[str]", number: int) -> None:
    """A signal to all processes of a host."""
    (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    theirs = Path(f"/proc/{first}/ns/pid").readlink()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # gone meanwhile
            if entry.name.isdigit() and (entry / "ns/pid").readlink() == theirs:
                os.kill(int(entry.name), number)


def command(root: Path) -> list[str]:
    return [*RUN, "--store", str(root), "--workers", "1"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("alone")
    with host(folder, "alone", "shared locks", *command(folder / "store")) as process:
        finished(process)
    return outcomes(folder / "store")


@pytest.mark.parametrize("locks", ["shared locks", "local locks", "no locks"])
def test_two_hosts_at_once_make_the_bytes_of_one_alone(locks: str, tmp_path: Path, alone: dict[str, bytes]) -> None:
    root = tmp_path / "store"
    with ExitStack() as stack:
        processes = [stack.enter_context(host(tmp_path, name, locks, *command(root))) for name in ("first", "second")]
        for process in processes:
            finished(process)
    assert outcomes(root) == alone
    nothing_left(root)


@contextmanager
def stuck(folder: Path, root: Path) -> Iterator["subprocess.Popen[str]"]:
    """A host in the midst of writing a training."""
    with host(folder, "first", "stuck while it writes a training", *command(root)) as first:
        wait_for(lambda: any(root.glob("tmp/train-*/half")), first)
        yield first


def test_a_host_that_sleeps_over_its_minute_goes_on_where_another_one_has_done_its_run(
    tmp_path: Path, alone: dict[str, bytes]
) -> None:
    root = tmp_path / "store"
    with stuck(tmp_path, root) as first:
        send(first, signal.SIGSTOP)
        with host(tmp_path, "second", "a minute is short", *command(root)) as second:
            finished(second)
        assert outcomes(root) == alone
        (folder,) = tmp_path.glob("host-first-*")
        (folder / "awake").touch()
        send(first, signal.SIGCONT)
        finished(first)
    assert outcomes(root) == alone
    nothing_left(root)


def test_a_host_that_dies_costs_the_other_one_a_minute_and_its_leftovers_go_when_they_are_old(
    tmp_path: Path, alone: dict[str, bytes]
) -> None:
    root = tmp_path / "store"
    with stuck(tmp_path, root) as first:
        send(first, signal.SIGKILL)
        first.wait()
    left = {path for folder in ("claims", "processes", "tmp") for path in (root / folder).iterdir()}
    assert {path.parent.name for path in left} == {"claims", "processes", "tmp"}
    with host(tmp_path, "second", "a minute is short", *command(root)) as second:
        finished(second)
    assert outcomes(root) == alone and not any((root / "claims").iterdir())
    stayed = {path for path in left if path.parent.name != "claims"}
    assert all(path.exists() for path in stayed), "nobody sweeps what another host may be writing"
    for path in stayed:
        os.utime(path, (path.stat().st_mtime - 2 * 86_400,) * 2)
    Store(root).open()
    assert not any(path.exists() for path in left)
