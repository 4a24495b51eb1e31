"""Ray: two nodes in a network namespace of their own, workers, a node and the head killed, and the same bytes."""

import importlib.util
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from tombola import __version__
from tombola.cli import main
from tombola.errors import BadInput, StoreError, TombolaError
from tombola.lab import ray_cluster
from tombola.lab.executor import Resources
from tombola.lab.ray_cluster import actors, cluster, nodes
from tombola.lab.ray_cluster.need import Need, offer_of
from tombola.lab.store import Store

HEAD, SECOND, PORT = "127.0.0.1", "127.0.0.2", 6399
ON = f"ray:{HEAD}:{PORT}"
DEADLINE_S = 300
STARTS = 5
MOST_TRIES = 5
FEW = ["--include-dashboard=false", "--no-monitor"]  # what nobody asks is not started
SPACE = ["unshare", "--net", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]
# A shell lets nothing that it starts in the background hear a Ctrl-C.
HEARING = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
SMALL = ["replicates=1", "levels=1", "recipe.model=lenet-20-10", "recipe.length=4000it", "arms=ticket,reinit"]
OFTEN = ["evaluate.every=200it", "evaluate.test_every=2000it"]
LONG = ["recipe.length=10000000it", "evaluate.every=200it", "evaluate.test_every=10000000it"]
BRIEF = [*SMALL[:3], "recipe.length=400it", "arms=ticket,reinit"]
ENDLESS = [*SMALL[:3], "arms=ticket,reinit", *LONG]


def _lacking() -> str:
    """What there is not, for a cluster in a namespace."""
    if importlib.util.find_spec("ray") is None:
        return "Ray is not installed"
    if any(shutil.which(tool) is None for tool in ("unshare", "ip")):
        return "no unshare or no ip"
    tried = subprocess.run([*SPACE, "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    return f"no namespaces: {tried.stderr.strip()}" if tried.returncode else ""


LACKING = _lacking()
cluster_wanted = pytest.mark.skipif(bool(LACKING), reason=LACKING)


def outcomes(root: Path) -> dict[str, bytes]:
    """Every file of finished runs whose bytes must not depend on how they came about."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in (root / "runs").rglob("*")
        if path.is_file() and path.name != "provenance.json"
    }


def asked(command: str, store: Path, *more: str, changed: Sequence[str] = (*SMALL, *OFTEN)) -> list[str]:
    """The command line."""
    changes = [part for change in changed for part in ("--set", change)]
    return [command, "digits", "--store", str(store), *changes, *more]


def until(seen: Callable[[], Any], what: str) -> Any:
    """What is seen, once it is."""
    end = time.monotonic() + DEADLINE_S
    while not (found := seen()):
        assert time.monotonic() < end, what
        time.sleep(0.05)
    return found


@dataclass(frozen=True)
class Started:
    """A process in the namespace; its exit status is written beside what it says."""

    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    @property
    def status(self) -> int | None:
        """None while it runs."""
        ending = self.output.with_suffix(".status")
        return int(text) if ending.exists() and (text := ending.read_text().strip()) else None

    def wait(self) -> int:
        until(lambda: self.status is not None, "it ends")
        assert self.status is not None
        return self.status


class Space:
    """A network of its own, without a way out, and everything that runs in it; at its end all of that is killed.

    Its first process is a shell that starts what it is told to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        environment = os.environ | {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "RAY_TMPDIR": str(folder),
            "RAY_prestart_worker_first_driver": "0",
            "RAY_worker_niceness": "0",  # else they would wait for all other tests of this machine
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        self._shell = subprocess.Popen([*SPACE, "sh"], stdin=subprocess.PIPE, text=True, env=environment)
        self.start("ip", "link", "set", "lo", "up").wait()

    def start(self, *line: str) -> Started:
        """A process in it."""
        self._count += 1
        started = Started(self._folder / f"{self._count}.said")
        ending = started.output.with_suffix(".status")
        assert self._shell.stdin
        self._shell.stdin.write(f"({shlex.join(line)} >{started.output} 2>&1 </dev/null; echo $? >{ending}) &\n")
        self._shell.stdin.flush()
        return started

    def ray(self, *line: str) -> Started:
        """A command of Ray's."""
        return self.start(sys.executable, "-c", "from ray.scripts.scripts import main; main()", *line)

    def tombola(self, *line: str) -> Started:
        """Tombola's command."""
        return self.start(sys.executable, "-c", HEARING, sys.executable, "-m", "tombola", *line)

    def processes(self, *words: str) -> list[int]:
        """Those whose command line has all these words, by the numbers that they have outside."""
        (first,) = Path(f"/proc/{self._shell.pid}/task/{self._shell.pid}/children").read_text().split()
        space, found = Path(f"/proc/{first}/ns/pid").readlink(), []
        for entry in Path("/proc").iterdir():
            try:
                ours = entry.name.isdigit() and (entry / "ns/pid").readlink() == space
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace") if ours else ""
            except OSError:
                continue
            if ours and all(word in line for word in words):
                found.append(int(entry.name))
        return found

    def end(self) -> None:
        """Everything in it dies with its first process."""
        self._shell.kill()
        self._shell.wait(timeout=DEADLINE_S)
        assert self._shell.stdin
        self._shell.stdin.close()


def node(space: Space, *line: str, of: str) -> None:
    """A node; on a machine that is busy Ray may lose patience with it, and then it is started anew."""
    for _ in range(STARTS):
        place = [f"--node-ip-address={of}", "--num-cpus=1", "--include-log-monitor=false"]
        started = space.ray("start", *line, *place)
        if started.wait() == 0:
            return
        kill_node(space, of)
    raise AssertionError(started.said)


def head(space: Space) -> None:
    node(space, "--head", f"--port={PORT}", *FEW, of=HEAD)


def second(space: Space) -> None:
    node(space, f"--address={HEAD}:{PORT}", of=SECOND)


def kill(*processes: int) -> None:
    """End them at once; those that are gone by now are."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def kill_node(space: Space, of: str) -> None:
    """A node with all of its processes; with the head all that is left of a cluster, too."""
    if of == HEAD:
        kill(*space.processes("/ray/"), *space.processes("ray::"))
    for raylet in space.processes("raylet/raylet", f"--node_ip_address={of}"):
        with suppress(FileNotFoundError):
            children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
            kill(raylet, *map(int, children))


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    folder = Path("/tmp") / f"ray-{os.getpid()}"  # the names of sockets may not be long
    folder.mkdir()
    space = Space(folder)
    try:
        head(space)
        second(space)
        yield space
    finally:
        space.end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the pool of this machine makes."""
    store = tmp_path_factory.mktemp("pool") / "store"
    done = subprocess.run(
        [sys.executable, "-m", "tombola", *asked("run", store, "--workers", "2")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return outcomes(store)


# ---------------------------------------------------------------- what a cluster has room for

NODES = [{"CPU": 4.0, "GPU": 2.0, "memory": 1e9, "node:10.0.0.1": 1.0}, {"CPU": 8.0, "big": 1.0}, {"CPU": 1.0}]


@pytest.mark.parametrize(
    ("options", "workers", "places"),
    [
        ({}, None, 13),
        ({}, 5, 5),
        ({"cpus": "2"}, None, 6),
        ({"gpus": "1"}, None, 2),
        ({"gpus": "0.5"}, None, 4),
        ({"gpus": "0.1", "cpus": "0"}, None, 20),
        ({"resource": "big"}, None, 1),
        ({"resource": "big:0.25"}, 100, 4),
    ],
)
def test_a_cluster_does_as_many_runs_at_once_as_its_nodes_have_room_for(
    options: Mapping[str, str], workers: int | None, places: int, tmp_path: Path
) -> None:
    resources = Resources(store=Store(tmp_path), options=options, workers=workers)
    offer = offer_of(NODES, Need.of(resources), workers, "On a cluster")
    assert offer.processes == places and offer.devices == (("cuda:0",) if "gpus" in options else ("cpu",))
    assert offer.about.startswith("On a cluster: 3 nodes with 13 cores and 2 GPUs and 1 big; ")
    assert ("fewer than the 100 asked for" in offer.about) == (workers == 100)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gpus": "1", "cpus": "5"}, "expected a node with 5 cores and 1 GPU for a worker, found 4 cores and 2 GPUs; "),
        ({"resource": "tpu"}, "expected a node with 1 core and 1 tpu"),
        ({"gpus": "2"}, "a part of a GPU, or 1: each worker trains on one"),
        ({"cpus": "many"}, "--with cpus: expected a number"),
        ({"gpus": "nan"}, "--with gpus: expected a number"),
    ],
)
def test_what_no_node_has_room_for_is_bad_input(options: Mapping[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        offer_of(NODES, Need.of(Resources(store=Store(tmp_path), options=options)), None, "On a cluster")
    assert said in str(caught.value)


# ---------------------------------------------------------------- bad input


def test_without_the_extra_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for command in ("plan", "run"):
        assert main(asked(command, tmp_path / "store", "--on", "ray")) == 2
        assert "--on ray: expected the package ray, found none. pip install 'tombola[ray]'" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.parametrize(
    ("on", "said"),
    [
        ("ray:127.0.0.1:9", "expected a Ray cluster that answers, found nothing there within 5 s"),
        (
            "ray://127.0.0.1:9",
            "--on ray: expected the address of a cluster that this machine is a node of, found ray://",
        ),
        ("ray:nowhere", "expected ray:HOST:PORT of a cluster's head"),
    ],
)
def test_an_address_that_nobody_answers_is_bad_input(
    on: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("plan", "run"):
        assert main(asked(command, tmp_path / "store", "--on", on)) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "store" / "runs").exists()


def test_a_node_with_another_tombola_or_without_the_store_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"host": "b", "python": "3.12.1", "tombola": __version__, "torch": "2.6.0", "commit": None, "seen": True}
    store = Store(tmp_path / "store")
    nodes._judge(facts, "the node b (10.0.0.2)", store)
    with pytest.raises(BadInput, match=rf"Tombola {__version__} on the node b \(10.0.0.2\), found 0.0.9. pip install"):
        nodes._judge(facts | {"tombola": "0.0.9"}, "the node b (10.0.0.2)", store)
    with pytest.raises(BadInput, match=r"of commit .* on the node b .*, found 0123456789ab. Check out the same"):
        monkeypatch.setattr(nodes, "commit", lambda: "abcdefabcdef")
        nodes._judge(facts | {"commit": "0123456789ab"}, "the node b (10.0.0.2)", store)
    with pytest.raises(StoreError, match=r"that the node b .* sees, too, found one of this machine alone"):
        nodes._judge(facts | {"seen": False}, "the node b (10.0.0.2)", store)


def test_a_cluster_of_another_version_is_bad_input() -> None:
    error = RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.50.0\n    Python: 3.12.1")
    refused = cluster._refused("h:1", "the Ray cluster at h:1", error)
    assert isinstance(refused, BadInput) and "Ray: 2.50.0" in str(refused) and "same versions" in str(refused)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_where_ray_does_not_start_on_this_machine_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def late(*_: object, **__: object) -> None:
        raise Exception("The current node timed out during startup.")  # as Ray does

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster.package(), "init", late)
    assert main(asked("run", tmp_path / "store", "--on", "ray")) == 1
    said = capsys.readouterr().err
    assert "Ray on this machine did not start: The current node timed out during startup. " in said
    assert "Traceback" not in said


# ---------------------------------------------------------------- one process

ONE = SimpleNamespace(nodes=lambda: [{"Alive": True, "NodeID": "there", "Resources": {"CPU": 1.0}}])


def test_nodes_are_looked_at_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def connected(_: Resources) -> Iterator[cluster.Cluster]:
        yield cluster.Cluster(cast(ModuleType, ONE), "the Ray cluster at h:1", ("h", 1))

    def look(*_: object) -> None:
        raise StoreError(where="the store", expected="a folder that all nodes see", found="none", todo="Name one.")

    monkeypatch.setattr(ray_cluster, "connected", connected)
    monkeypatch.setattr(ray_cluster, "look_at_nodes", look)
    with (
        pytest.raises(StoreError, match="a folder that all nodes see"),
        ray_cluster.RAY.team(Resources(store=Store(tmp_path))),
    ):
        pytest.fail("it begins")


@pytest.mark.parametrize("node", ["there", "gone"])
def test_a_worker_is_to_blame_for_its_end_only_where_its_node_is_there(
    node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[object] = []
    exceptions = SimpleNamespace(OutOfMemoryError=MemoryError)
    ray = SimpleNamespace(nodes=ONE.nodes, kill=lambda actor, no_restart: killed.append(actor), exceptions=exceptions)
    monkeypatch.setattr(cluster, "_answers", lambda *_: True)
    staff = object.__new__(actors.Actors)
    staff._cluster = cluster.Cluster(cast(ModuleType, ray), "the Ray cluster at h:1", ("h", 1))
    log = tmp_path / "log"
    log.write_text("its last words")
    gone = staff._buried(actors.Hired("an actor", None, log, node), RuntimeError("what Ray says"))
    assert gone.to_blame == (node == "there") == bool(killed) and "its last words" in gone.log and not log.exists()


def test_a_head_that_does_not_answer_for_long_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, now = iter([False, True, False, False, False]), iter([0.0, 100.0, 101.0, 120.0])
    monkeypatch.setattr(cluster, "_answers", lambda *_: next(answers))
    monkeypatch.setattr(cluster, "time", SimpleNamespace(monotonic=lambda: next(now)))
    lost = cluster.Cluster(cast(ModuleType, ONE), "the Ray cluster at h:1", ("h", 1))
    for _ in range(4):  # silent, well, silent, silent for a second
        lost.check()
    assert not lost.gone
    with pytest.raises(TombolaError, match=r"nothing answers at h:1\. What is finished is kept"):
        lost.check()
    assert lost.gone


# ---------------------------------------------------------------- two nodes


@cluster_wanted
def test_the_plan_says_what_the_cluster_has(space: Space, tmp_path: Path) -> None:
    process = space.tombola(*asked("plan", tmp_path / "store", "--on", ON))
    assert process.wait() == 0, process.said
    said = process.said
    assert f"On the Ray cluster at {HEAD}:{PORT}: 2 nodes with 2 cores; 2 runs at once, each on 1 core." in said
    assert "with 2 workers" in said and not (tmp_path / "store").exists()


@cluster_wanted
def test_what_no_node_has_is_said_at_once(space: Space, tmp_path: Path) -> None:
    process = space.tombola(*asked("run", tmp_path / "store", "--on", ON, "--with", "resource=tpu:4"))
    assert process.wait() == 2, process.said
    assert "expected a node with 1 core and 4 tpu for a worker, found 1 core; 1 core" in process.said
    assert not (tmp_path / "store" / "runs").exists()


@cluster_wanted
def test_a_worker_and_a_node_are_killed_and_the_bytes_are_the_same(
    space: Space, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """The workers, one of which is training, and then the second node with all of its processes."""
    store = tmp_path / "store"
    process = space.tombola(*asked("run", store, "--on", ON))

    def training() -> bool:
        assert process.status is None, process.said
        return any((store / "claims").glob("train-*"))

    def finished(count: int) -> bool:
        assert process.status is None, process.said
        return (store / "runs").is_dir() and len(list((store / "runs").iterdir())) >= count

    until(training, "a training is under way")
    kill(*space.processes("ray::Worker"))
    until(lambda: finished(3), "its outcome")
    kill_node(space, SECOND)
    assert process.wait() == 0, process.said
    said = process.said
    assert "tried once more" in said and "Traceback" not in said, said
    assert outcomes(store) == expected and not list((store / "tmp").glob("worker-*"))
    second(space)


@cluster_wanted
def test_ctrl_c_ends_the_workers_and_keeps_what_is_done(space: Space, tmp_path: Path) -> None:
    store = tmp_path / "store"
    process = space.tombola(*asked("run", store, "--on", ON, changed=ENDLESS))
    until(lambda: process.status is not None or list(store.glob("runs/*")), "the first outcome")
    assert process.status is None, process.said
    (command,) = space.processes("python", "-m tombola run", "--on", ON)
    os.kill(command, signal.SIGINT)
    assert process.wait() == 130 and "interrupted: " in process.said and "Traceback" not in process.said, process.said
    until(lambda: not space.processes("ray::Worker"), "no worker goes on alone")
    assert any((store / "runs").iterdir())


@cluster_wanted
def test_where_the_head_is_lost_it_is_said_and_the_same_command_does_the_rest_whoever_is_killed(
    space: Space, expected: dict[str, bytes], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    process = space.tombola(*asked("run", store, "--on", ON))
    until(lambda: process.status is not None or list(store.glob("runs/*")), "the first outcome")
    kill(*space.processes("gcs_server"), *space.processes("ray::Worker"))
    assert process.wait() == 1, process.said
    assert "the head of the Ray cluster" in process.said and "What is finished is kept" in process.said, process.said
    assert "Traceback" not in process.said
    before = outcomes(store)
    assert before and before.items() < expected.items()
    kill_node(space, HEAD)
    head(space)
    second(space)
    chance, kills = random.Random(0), 0
    for _ in range(MOST_TRIES):
        again = space.tombola(*asked("run", store, "--on", ON))
        end = time.monotonic() + DEADLINE_S
        while again.status is None:
            assert time.monotonic() < end, again.said
            time.sleep(chance.uniform(0.2, 1.0))
            if kills < 4 and (workers := space.processes("ray::Worker")):
                kill(chance.choice(workers))
                kills += 1
        assert again.status in (0, 1) and "Traceback" not in again.said, again.said
        if again.status == 0:
            break
    assert again.status == 0, again.said
    assert outcomes(store) == expected and not list((store / "failed").glob("*"))


@cluster_wanted
def test_a_cluster_of_this_machines_own_leaves_nothing_behind(space: Space, tmp_path: Path) -> None:
    """Neither in the home folder, whether there is a token in it or not, nor elsewhere, nor a process; two at once."""

    def left() -> set[Path]:
        return {*Path("/tmp").glob("tombola-ray-*"), *Path("/tmp").glob("ray")}

    homes = [tmp_path / "without", tmp_path / "with"]
    for home in homes:
        (home / ".ray").mkdir(parents=True)
    (homes[1] / ".ray/auth_token").write_text("0123456789abcdef" * 4)
    files, before, processes = list(tmp_path.rglob("*")), left(), set(space.processes("raylet/raylet"))
    away = [f"--unset={name}" for name in ("RAY_AUTH_MODE", "RAY_TMPDIR", "RAY_ADDRESS")]
    started = [
        space.start("env", *away, f"HOME={home}", sys.executable, "-m", "tombola", *line)
        for home in homes
        for line in [asked("run", home.with_suffix(".store"), "--on", "ray", "--workers", "1", changed=BRIEF)]
    ]
    for process in started:
        assert process.wait() == 0, process.said
    assert [path for path in tmp_path.rglob("*") if not any(".store" in part for part in path.parts)] == files
    assert left() <= before
    until(lambda: set(space.processes("raylet/raylet")) <= processes, "its processes end")
