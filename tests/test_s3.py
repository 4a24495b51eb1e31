"""Experiments in a bucket of S3, as Moto plays it on this machine: the outcomes are the bytes of those in a folder."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("s3fs", reason="s3fs is not installed")
pytest.importorskip("moto.server", reason="moto's server is not installed")

from tombola import cli
from tombola.lab import remote_store
from tombola.lab.remote_store import RemoteStore
from tombola.lab.store import Store
from tombola.lab.stores import store_at
from tombola.ticket import Ticket

FEW = ["digits", "--set", "replicates=1", "--set", "levels=1", "--set", "arms=ticket,random"]
TINY = [*FEW, "--set", "recipe.length=60it", "--set", "evaluate.every=20it"]
LONG = [*FEW, "--set", "recipe.length=250it", "--set", "engine=reference"]  # so that there is time to harm it
WAIT_S = 300.0


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of the server."""
    script = Path(__file__).parent / "s3_server.py"
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


@pytest.fixture
def environment(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "THEKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "THESECRET")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)  # where the reports go


@pytest.fixture
def bucket(server: str, environment: None) -> str:
    """The name of a new bucket."""
    name = f"b{uuid.uuid4().hex[:16]}"
    urllib.request.urlopen(urllib.request.Request(f"{server}/{name}", method="PUT")).close()
    return name


def in_a_folder(spec: list[str], root: Path) -> Store:
    """An experiment in a folder."""
    assert cli.main(["run", *spec, "--store", str(root), "--workers", "1"]) == 0
    return Store(root)


def fail(server: str, times: int, status: int = 503, code: str = "SlowDown") -> None:
    asked = f"{server}/fail?times={times}&status={status}&code={code}"
    urllib.request.urlopen(urllib.request.Request(asked, method="POST")).close()


def outcomes(store: Store) -> dict[str, bytes]:
    """What must be the same however often it is done."""
    names = ("outcome.json", "weights.safetensors", "mask.safetensors")
    paths = {f"{key}/{name}": store._file(key, name) for key in sorted(store.keys()) for name in names}
    return {name: path.read_bytes() for name, path in paths.items() if path.exists()}


def another_machine(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RemoteStore:
    """The same store with nothing of it on this machine."""
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path / uuid.uuid4().hex))
    store = store_at(address)
    assert isinstance(store, RemoteStore)
    return store


def started(address: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tombola", "run", *LONG, "--store", address, "--workers", "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(seen: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    """Wait until something is seen while a process is at work."""
    limit = time.monotonic() + WAIT_S
    while not seen():
        assert process.poll() is None, f"it was over before: {process.communicate()}"
        assert time.monotonic() < limit, "it never comes"
        time.sleep(0.02)


def children(process: int) -> list[int]:
    """The workers of a driver."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(each) for each in found if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]


def test_an_experiment_in_a_bucket_is_the_one_in_a_folder_also_when_it_is_throttled(
    server: str,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    address, folder = f"s3://{bucket}/a/prefix", tmp_path / "folder"
    alike = in_a_folder(TINY, folder)
    capfd.readouterr()
    fail(server, 3)
    assert cli.main(["run", *TINY, "--store", address, "--workers", "1"]) == 0
    said = capfd.readouterr().err
    assert (
        said.count("Tried again for up to") == 1
        and said.count(f"{address}: Service Unavailable.") == 1
        and "SECRET" not in said
    )
    assert outcomes(another_machine(address, monkeypatch, tmp_path)) == outcomes(alike)
    assert (tmp_path / "tombola-reports" / bucket / "a" / "prefix").is_dir()

    def printed(store: str, *command: str) -> str:
        assert cli.main([*command, *TINY, "--store", store]) == 0
        return capfd.readouterr().out

    tables = [json.loads(printed(store, "table", "--format", "json")) for store in (address, str(folder))]
    remote, local = ([{name: row[name] for name in row if "seconds" not in name} for row in table] for table in tables)
    assert remote == local
    assert printed(address, "verdict") == printed(str(folder), "verdict")
    tickets = [tmp_path / name for name in ("remote.safetensors", "local.safetensors")]
    for store, ticket in zip((address, str(folder)), tickets, strict=True):
        printed(store, "ticket", "--level", "1", "-o", str(ticket))
    one, other = map(Ticket.load, tickets)  # the files say when each was made
    assert one.mask == other.mask and one.weights.keys() == other.weights.keys()
    assert all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())
    plan = json.loads(printed(address, "plan", "--format", "json"))
    assert plan["total"]["missing"] == 0
    assert cli.main(["study", *TINY, "--store", address]) == 2
    assert "no [study] table" in capfd.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="there is no /proc to find workers in")
def test_a_worker_and_a_driver_killed_and_two_drivers_at_once_give_the_same_bytes(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address = f"s3://{bucket}"
    store = store_at(address)
    with started(address) as first:
        until(lambda: children(first.pid), first)
        os.kill(children(first.pid)[0], signal.SIGKILL)
        until(store.keys, first)
        with started(address) as second:
            until(lambda: children(second.pid), second)
            first.kill()
            _, said = second.communicate(timeout=WAIT_S)
    assert second.returncode == 0, said
    alike = in_a_folder(LONG, tmp_path / "folder")
    assert outcomes(another_machine(address, monkeypatch, tmp_path)) == outcomes(alike)
    assert not isinstance(store, RemoteStore) or store._objects.entries("claims") == {}


def test_a_bucket_that_disappears_ends_it_with_a_message(server: str, bucket: str) -> None:
    address = f"s3://{bucket}/x"
    store = store_at(address)
    with started(address) as process:
        until(store.keys, process)
        assert isinstance(store, RemoteStore)
        fail(server, 10**9, 404, "NoSuchBucket")
        try:
            _, said = process.communicate(timeout=WAIT_S)
        finally:
            fail(server, 0)
    assert process.returncode == 1 and "expected a bucket, found none of that name" in said
    assert "The same command goes on then" in said and "Traceback" not in said
    assert store.keys(), "what was finished is kept"


@pytest.mark.parametrize("command", ["run", "table"])
def test_without_the_right_it_says_so_at_once(
    server: str, bucket: str, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    fail(server, 10**9, 403, "AccessDenied")
    try:
        assert cli.main([command, *TINY, "--store", f"s3://{bucket}"]) == 2
    finally:
        fail(server, 0)
    said = capfd.readouterr().err
    assert "expected the right to list, read, write and delete there, found a refusal" in said
    assert "SECRET" not in said and "Tried again" not in said


def test_a_bucket_that_is_not_there_is_bad_input(environment: None, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", *TINY, "--store", "s3://no-such-bucket/x"]) == 2
    assert "expected a bucket, found none of that name. Make it" in capfd.readouterr().err


def test_without_credentials_it_says_how_to_give_them(
    environment: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert cli.main(["table", *TINY, "--store", "s3://bucket/x"]) == 2
    assert "expected credentials, found none" in capfd.readouterr().err


def test_an_address_that_nobody_answers_is_bad_input(
    environment: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote_store, "FIRST_PATIENCE_S", 0.3)
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unheard.getsockname()[1]}")
        assert cli.main(["table", *TINY, "--store", "s3://bucket/x"]) == 2
    assert "expected an answer, found none" in capfd.readouterr().err
