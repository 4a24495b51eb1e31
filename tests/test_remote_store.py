"""A store of objects: an outcome is complete when its last object is there, whoever writes it, and however often.

The objects are those of a file system in memory, which a test can make slow, forgetful or unwilling.
"""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_store import OUTCOME, PROVENANCE, RUN

from tombola.lab import objects, remote_store
from tombola.lab.objects import Objects
from tombola.lab.remote_store import RemoteStore
from tombola.lab.store import Store

fsspec_memory = pytest.importorskip("fsspec.implementations.memory", reason="fsspec is not installed")

MARKER = f"runs/{RUN.key}.json"


class Bucket:
    """A file system in memory that counts what is asked of it, and lets a test come between.

    Attributes:
        asked: the verbs and names, one after another.
        before: is called with verb and name before each; what it raises is the answer.
        after: likewise after it: the deed is done, and what it raises is the answer all the same.
    """

    def __init__(self) -> None:
        self.system = fsspec_memory.MemoryFileSystem(skip_instance_cache=True)
        self.system.store, self.system.pseudo_dirs = {}, [""]  # by default those of the whole process
        self.asked: list[tuple[str, str]] = []
        self.before: Callable[[str, str], object] = lambda verb, name: None
        self.after: Callable[[str, str], object] = lambda verb, name: None

    def pipe_file(self, path: str, content: bytes, mode: str = "overwrite") -> object:
        return self._done(f"pipe {mode}", path, lambda: self.system.pipe_file(path, content, mode=mode))

    def __getattr__(self, verb: str) -> Callable[..., object]:
        return lambda path, **how: self._done(verb, path, lambda: getattr(self.system, verb)(path, **how))

    def _done(self, verb: str, path: Any, act: Callable[[], object]) -> object:
        name = path if isinstance(path, str) else " ".join(path)
        self.asked.append((verb, name.replace("/bucket/pre/", "")))
        self.before(*self.asked[-1])
        given = act()
        self.after(verb, self.asked[-1][1])
        return given

    def names(self) -> list[str]:
        return sorted(name.removeprefix("/bucket/pre/") for name in self.system.store)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(objects, "LONGEST_PAUSE_S", 0.01)
    monkeypatch.setattr(remote_store, "FIRST_PATIENCE_S", 0.2)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def a_machine(bucket: Bucket, tmp_path: Path, said: list[str]) -> Callable[[], RemoteStore]:
    """Another machine that works on the bucket: it has a folder of its own."""

    def another() -> RemoteStore:
        seen = Objects("mem://bucket/pre", bucket, "/bucket/pre", patience_s=0.5, say=said.append)
        return RemoteStore(seen, tmp_path / uuid.uuid4().hex)

    return another


@pytest.fixture
def store(a_machine: Callable[[], RemoteStore]) -> RemoteStore:
    return a_machine().open()


def complete(store: Store) -> bool:
    """Whether the run is there with all that it has; if it is not there, nothing at all of it may be visible."""
    if not store.has(RUN):
        assert store.keys() == set()
        return False
    assert store.keys() == {RUN.key}
    assert store.values(RUN) == OUTCOME.values and store.provenance(RUN) == PROVENANCE
    return all(
        torch.equal(value, store.tensors(RUN, name)[key])
        for name, tensors in OUTCOME.tensors.items()
        for key, value in tensors.items()
    )


# ---------------------------------------------------------------- there and back


def test_what_one_machine_saves_another_one_reads(store: RemoteStore, a_machine: Callable[[], RemoteStore]) -> None:
    assert not complete(store)
    store.save(RUN, OUTCOME, PROVENANCE)
    assert complete(store) and complete(a_machine())


def test_the_files_are_those_of_a_folder(
    store: RemoteStore, a_machine: Callable[[], RemoteStore], tmp_path: Path
) -> None:
    folder = Store(tmp_path / "folder").open()
    for each in (store, folder):
        each.save(RUN, OUTCOME, PROVENANCE)
    for machine in (store, a_machine()):
        for path in (folder.root / "runs" / RUN.key).iterdir():
            assert machine._file(RUN.key, path.name).read_bytes() == path.read_bytes()


def test_an_outcome_is_complete_when_its_last_object_is_there(store: RemoteStore, bucket: Bucket) -> None:
    store.save(RUN, OUTCOME, PROVENANCE)
    written = [name for verb, name in bucket.asked if verb.startswith("pipe")]
    assert written[-1] == MARKER and ("pipe create", MARKER) in bucket.asked
    assert {name.rpartition("/")[2] for name in written[-3:-1]} == {"mask.safetensors", "weights.safetensors"}
