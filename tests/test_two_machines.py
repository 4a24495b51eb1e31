"""Two hosts on one store, each in mount, name and process namespaces of its own, and with a start of its own.

Neither sees the other's processes; what one locks the other does not know of. The folder is all that they share.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

CHANGES = [
    *("--set", "levels=1", "--set", "replicates=1", "--set", "recipe.length=60it", "--set", "arms=ticket,random"),
    *("--set", "evaluate.every=30it", "--set", "evaluate.test_every=30it", "--set", "engine=reference"),
]
RUN = [sys.executable, "-m", "tombola", "run", "digits", *CHANGES]
WITHIN_S = 300
ENTERED = ("unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child=KILL")

# Python reads this before anything else: locks that do nothing beyond their host, as
# file systems between machines may have them.
LOCKS = {
    "local": "import fcntl\nfcntl.flock = lambda *_: None\n",
    "shared": "",
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
def host(folder: Path, name: str, locks: str, *command: str) -> Iterator["subprocess.Popen[str]"]:
    """A host that runs a command; all of its processes are gone at the end, as if its power were."""
    own = folder / f"host-{name}-{time.monotonic_ns()}"
    own.mkdir()
    (own / "boot_id").write_text(f"{name}\n")
    (own / "sitecustomize.py").write_text(LOCKS[locks])
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


def outcomes(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in (root / "runs").rglob("*")
        if path.is_file() and path.name != "provenance.json"
    }


def command(root: Path) -> list[str]:
    return [*RUN, "--store", str(root), "--workers", "1"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("alone")
    with host(folder, "alone", "shared", *command(folder / "store")) as process:
        finished(process)
    return outcomes(folder / "store")


@pytest.mark.parametrize("locks", ["shared", "local"])
def test_two_hosts_at_once_make_the_bytes_of_one_alone(locks: str, tmp_path: Path, alone: dict[str, bytes]) -> None:
    root = tmp_path / "store"
    with ExitStack() as stack:
        processes = [stack.enter_context(host(tmp_path, name, locks, *command(root))) for name in ("first", "second")]
        for process in processes:
            finished(process)
    assert outcomes(root) == alone
    for folder in ("tmp", "claims", "processes", "failed", "checkpoints"):
        assert not list((root / folder).iterdir()), folder
