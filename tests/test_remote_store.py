"""A store of objects: an outcome is complete when its last object is there, whoever writes it, and however often.

The objects are those of a file system in memory, which a test can make slow, forgetful or unwilling.
"""

import errno
import json
import os
import pickle
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from test_store import DESCRIBED, OUTCOME, PROVENANCE, RUN

from tombola import cli
from tombola.errors import StoreError, StoreLost
from tombola.lab import copies, leases, objects, remote_store
from tombola.lab.leases import Leases
from tombola.lab.objects import Objects
from tombola.lab.remote_store import RemoteStore
from tombola.lab.runs import Outcome, Stored
from tombola.lab.store import Store
from tombola.lab.stores import store_at

fsspec_memory = pytest.importorskip("fsspec.implementations.memory", reason="fsspec is not installed")

ADDRESS = "mem://bucket/pre"
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

    def objects(self) -> Objects:
        return Objects(ADDRESS, self, "/bucket/pre", patience_s=0.5)

    def names(self, folder: str = "") -> list[str]:
        found = (name.removeprefix("/bucket/pre/") for name in self.system.store)
        return sorted(name for name in found if name.startswith(folder))

    def age(self, seconds: float, folder: str = "") -> None:
        """Let what is there have been written so much earlier."""
        for name in self.names(folder):
            file = self.system.store[f"/bucket/pre/{name}"]
            file.created = datetime.fromtimestamp(file.created.timestamp() - seconds, UTC)


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
        store = RemoteStore(bucket.objects(), tmp_path / uuid.uuid4().hex)
        store.tell = said.append
        return store

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


def test_who_comes_second_drops_his_with_its_tensors(store: RemoteStore, a_machine: Callable[[], RemoteStore]) -> None:
    store.save(RUN, OUTCOME, PROVENANCE)
    other = a_machine().open()
    other.save(RUN, Outcome({"loss": 99}, {"weights": {"a": torch.zeros(1)}}), {"seconds": 9})
    assert complete(store) and complete(other) and complete(a_machine())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(4))
def test_what_ends_between_any_two_requests_leaves_all_or_nothing(
    store: RemoteStore, a_machine: Callable[[], RemoteStore], bucket: Bucket, number: int, when: str
) -> None:
    """As a kill would: what is raised here is no error of the network, and nothing tidies up."""
    asked = iter(range(100))

    def end(verb: str, name: str) -> None:
        if next(asked) == number:
            raise KeyboardInterrupt

    setattr(bucket, when, end)
    if number < 3:
        with pytest.raises(KeyboardInterrupt):
            store.save(RUN, OUTCOME, PROVENANCE)
    else:
        store.save(RUN, OUTCOME, PROVENANCE)
    setattr(bucket, when, lambda verb, name: None)
    assert complete(a_machine()) == (number == 3 or (number, when) == (2, "after"))
    another = a_machine().open()
    another.save(RUN, OUTCOME, PROVENANCE)
    assert complete(another) and complete(a_machine())


def test_a_number_that_is_not_finite_is_not_written(store: RemoteStore) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        store.save(RUN, Outcome({"loss": float("nan")}), PROVENANCE)
    assert not complete(store)


def test_checkpoints_and_failures_are_seen_by_other_machines_until_the_run_is_done(
    store: RemoteStore, a_machine: Callable[[], RemoteStore], bucket: Bucket
) -> None:
    other, state = a_machine().open(), Outcome({"step": 3}, {"weights": {"a": torch.ones(2)}})
    assert store.kept(RUN) is None and store.failure(RUN) is None
    store.keep(RUN, state)
    failure = store.fail(RUN, "once", "its log")
    kept = other.kept(RUN)
    assert kept and kept.values == state.values and torch.equal(kept.tensors["weights"]["a"], torch.ones(2))
    assert other.failed() == {RUN.key} and other.failure(RUN) == "once" and failure.log.read_text() == "its log"
    content = json.loads(bucket.system.store[f"/bucket/pre/failed/{RUN.key}.json"].getvalue())
    assert content == {"run": DESCRIBED, "status": "failed", "reason": "once"}
    other.save(RUN, OUTCOME, PROVENANCE)
    assert store.failed() == set() and store.kept(RUN) is None, "success wins"


def test_a_worker_on_a_machine_where_nobody_opened_the_store_can_work(
    store: RemoteStore, a_machine: Callable[[], RemoteStore]
) -> None:
    worker = a_machine()
    with worker.claim(Stored("its log")), worker.scratch("data") as folder, worker.claim(RUN) as ours:
        assert ours and folder.is_dir() and worker.kept(RUN) is None
        worker.keep(RUN, Outcome({"step": 3}, {"weights": {"a": torch.ones(2)}}))
        worker.settle()
        worker.save(RUN, OUTCOME, PROVENANCE)
    assert complete(store) and complete(worker)


def test_which_experiments_go_on_until_decided_is_remembered(
    store: RemoteStore, a_machine: Callable[[], RemoteStore]
) -> None:
    store.note_until(RUN)
    assert a_machine().until() == {RUN.key}


# ---------------------------------------------------------------- copies


def test_what_was_read_once_is_not_fetched_again(a_machine: Callable[[], RemoteStore], bucket: Bucket) -> None:
    a_machine().open().save(RUN, OUTCOME, PROVENANCE)
    reader = a_machine()
    reader.values(RUN)
    assert not [name for verb, name in bucket.asked if verb == "cat_file" and name.startswith("tensors")], "a table"
    assert complete(reader)
    bucket.asked.clear()
    same = RemoteStore(bucket.objects(), reader.root)
    assert same.values(RUN) == OUTCOME.values and same.tensors(RUN, "weights").keys() == {"a", "b"}
    assert not same.holds(RUN, "held") and bucket.asked == []


def test_many_are_listed_in_one_request_and_fetched_at_once(store: RemoteStore, bucket: Bucket) -> None:
    runs = [Stored(f"train-{number}") for number in range(50)]
    for run in runs:
        store.save(run, Outcome({"loss": 1.0}), PROVENANCE)
    reader = RemoteStore(bucket.objects(), store.root.with_name("reader"))
    bucket.asked.clear()
    assert reader.keys() == {run.key for run in runs} and bucket.asked == [("find", "runs")]
    at_once, most, lock = 0, 0, threading.Lock()

    def enter(verb: str, name: str) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.002)

    def leave(verb: str, name: str) -> None:
        nonlocal at_once
        with lock:
            at_once -= 1

    bucket.before, bucket.after = enter, leave
    reader.ahead(run.key for run in runs)
    assert most > 1
    bucket.asked.clear()
    assert all(reader.values(run) == {"loss": 1.0} for run in runs) and bucket.asked == []


def test_a_copy_of_an_outcome_that_was_removed_or_made_anew_goes(
    store: RemoteStore, a_machine: Callable[[], RemoteStore], bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, anew = a_machine(), Outcome({"loss": 7.0}, {"weights": {"a": torch.zeros(1)}})
    store.save(RUN, OUTCOME, PROVENANCE)
    assert complete(reader), "which lists it, and then reads it"
    for name in (MARKER, *bucket.names("tensors")):
        bucket.system.rm(f"/bucket/pre/{name}")
    a_machine().open().save(RUN, anew, PROVENANCE)
    assert reader.keys() == {RUN.key} and reader.values(RUN) == OUTCOME.values, "somebody may be reading it"
    monkeypatch.setattr(copies, "IN_USE_S", 0.0)
    assert reader.keys() == {RUN.key} and reader.values(RUN) == anew.values
    assert torch.equal(reader.tensors(RUN, "weights")["a"], torch.zeros(1))


def test_tensors_that_are_gone_with_their_outcome_are_not_mixed_with_the_new_ones(
    store: RemoteStore, a_machine: Callable[[], RemoteStore], bucket: Bucket
) -> None:
    reader, anew = a_machine(), Outcome({"loss": 7.0}, {"weights": {"a": torch.zeros(1)}})
    store.save(RUN, OUTCOME, PROVENANCE)
    assert reader.values(RUN) == OUTCOME.values
    for name in (MARKER, *bucket.names("tensors")):
        bucket.system.rm(f"/bucket/pre/{name}")
    a_machine().open().save(RUN, anew, PROVENANCE)
    assert torch.equal(reader.tensors(RUN, "weights")["a"], torch.zeros(1)) and reader.values(RUN) == anew.values


def test_copies_are_bounded_and_what_was_used_last_stays(tmp_path: Path) -> None:
    kept = copies.Copies(tmp_path, most=1000)
    for number in range(5):
        kept.keep(f"k{number}", {copies.LISTING: b"x" * 300})
    for number in range(5):
        os.utime(tmp_path / "runs" / f"k{number}", (number, number))
    kept.used("k0")
    kept.trim()
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"k0", "k3", "k4"}
    copies.Copies(tmp_path, most=0).trim()
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"k0"}, "it was used a moment ago"


def test_damage_is_seen_and_said_with_what_to_remove(
    store: RemoteStore, a_machine: Callable[[], RemoteStore], bucket: Bucket
) -> None:
    store.save(RUN, OUTCOME, PROVENANCE)
    name = next(name for name in bucket.names("tensors") if "weights" in name)
    bucket.system.pipe_file(f"/bucket/pre/{name}", b"other bytes")
    with pytest.raises(StoreError, match="with other bytes than were written") as caught:
        a_machine().tensors(RUN, "weights")
    assert caught.value.where == f"{ADDRESS}/{MARKER}" and "Remove this object" in caught.value.todo
    bucket.system.rm(f"/bucket/pre/{name}")
    with pytest.raises(StoreError, match="tensors are not all there"):
        a_machine().tensors(RUN, "weights")
    bucket.system.pipe_file(f"/bucket/pre/{MARKER}", b"{")
    with pytest.raises(StoreError, match="Remove this object"):
        a_machine().values(RUN)


# ---------------------------------------------------------------- claims


def test_of_two_machines_one_has_a_run(
    store: RemoteStore, a_machine: Callable[[], RemoteStore], bucket: Bucket
) -> None:
    other = a_machine().open()
    with store.claim(RUN) as ours:
        with other.claim(RUN) as theirs, store.claim(RUN) as again:
            assert (ours, theirs, again) == (True, False, False)
        with other.claim(Stored("another run, by its key")), other.claim(replace(RUN, init_seed=9)) as another:
            assert another
    assert bucket.names("claims") == []
    with a_machine().open().claim(RUN) as theirs:
        assert theirs


@pytest.mark.parametrize("dead_for", [80.0, 100.0])
def test_a_claim_of_a_lost_machine_is_taken_over_when_it_has_expired_and_by_one(
    store: RemoteStore, a_machine: Callable[[], RemoteStore], bucket: Bucket, dead_for: float
) -> None:
    lost = Leases(bucket.objects(), "a machine that is lost")
    assert lost.take(RUN.key)
    bucket.age(dead_for, "claims")
    with ExitStack() as stack:
        got = [stack.enter_context(machine.claim(RUN)) for machine in (store, a_machine().open(), a_machine().open())]
        assert got == [dead_for > leases.LASTS_S, False, False]
    assert bucket.names("claims") == ([] if dead_for > leases.LASTS_S else [f"claims/{RUN.key}.0"])


def test_several_who_find_a_claim_expired_at_once_do_not_all_get_it(bucket: Bucket) -> None:
    dead, *others = (Leases(bucket.objects(), str(owner)) for owner in range(9))
    assert dead.take(RUN.key)
    bucket.age(1000, "claims")
    meet = threading.Barrier(len(others))

    def wait(verb: str, name: str) -> None:
        if verb.startswith("pipe") and name.endswith(".1"):
            meet.wait(timeout=60)

    bucket.before = wait
    got: list[str | None] = []
    threads = [threading.Thread(target=lambda each=each: got.append(each.take(RUN.key))) for each in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(bool, got)) == [False] * 7 + [True]


def test_the_clock_of_the_machine_plays_no_part(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Leases(bucket.objects(), "one machine").take(RUN.key)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e6)
    assert Leases(bucket.objects(), "another one, whose clock is days ahead").take(RUN.key) is None


def test_a_claim_that_a_dead_process_of_this_machine_left_is_not_waited_for(store: RemoteStore, bucket: Bucket) -> None:
    assert Leases(bucket.objects(), remote_store.machine(store.root)).take(RUN.key)
    with store.claim(RUN) as ours:
        assert ours


def test_a_claim_is_renewed_while_it_is_held_and_not_afterwards(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEWED_EVERY_S", 0.01)
    renewed, held = threading.Event(), Leases(bucket.objects(), "here")
    bucket.after = lambda verb, name: renewed.set() if verb == "pipe overwrite" else None
    name = held.take(RUN.key)
    assert name and renewed.wait(60)
    held.give_back(name)
    assert bucket.names("claims") == []
    asked = len(bucket.asked)
    time.sleep(0.05)
    assert len(bucket.asked) == asked and bucket.names("claims") == []


def test_who_slept_through_his_claim_leaves_that_of_his_successor(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept, awake, third = (Leases(bucket.objects(), owner) for owner in "abc")
    first = slept.take(RUN.key)
    bucket.age(1000, "claims")
    second = awake.take(RUN.key)
    with monkeypatch.context() as patched:
        patched.setattr(leases, "LASTS_S", -1.0)
        slept.give_back(str(first))
    assert second and third.take(RUN.key) is None


# ---------------------------------------------------------------- leftovers


def test_only_what_is_old_and_needed_by_nothing_is_swept(
    store: RemoteStore, a_machine: Callable[[], RemoteStore], bucket: Bucket
) -> None:
    store.save(RUN, OUTCOME, PROVENANCE)
    needed = bucket.names("tensors")
    a_machine().save(RUN, OUTCOME, PROVENANCE)  # the second attempt's tensors are nobody's
    young, checkpoint = replace(RUN, init_seed=9), Outcome({}, {"weights": {"a": torch.ones(2)}})
    for run in (RUN, young):
        store.keep(run, checkpoint)
    bucket.objects().put(f"tensors/{young.key}/token/weights.safetensors", b"under way")
    before = bucket.names()
    a_machine().open()
    assert bucket.names() == before, "a day has not passed since the last time"
    bucket.age(remote_store.SWEPT_EVERY_S + 1, "swept")
    a_machine().open()
    assert bucket.names() == before, "none of it is old"
    bucket.age(remote_store.LEFT_OVER_S + 1)
    bucket.objects().put(f"tensors/{young.key}/token2/weights.safetensors", b"under way")
    a_machine().open()
    assert bucket.names("tensors") == sorted([*needed, f"tensors/{young.key}/token2/weights.safetensors"])
    assert bucket.names("checkpoints") == [f"checkpoints/{young.key}.safetensors"]
    assert complete(a_machine())


def test_tensors_that_were_written_too_long_ago_are_written_again(
    store: RemoteStore, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine slept between the tensors and the outcome: another one may have swept them meanwhile."""
    now, clock = time.time(), iter([0.0, remote_store.LEFT_OVER_S, remote_store.LEFT_OVER_S])
    monkeypatch.setattr(time, "time", lambda: now + next(clock, remote_store.LEFT_OVER_S))
    store.save(RUN, OUTCOME, PROVENANCE)
    assert len(bucket.names("tensors")) == 4 and complete(store)


# ---------------------------------------------------------------- failures of the network


def failing(times: int, error: Callable[[], Exception]) -> Callable[[str, str], None]:
    left = iter(range(times))

    def fail(verb: str, name: str) -> None:
        if next(left, None) is not None:
            raise error()

    return fail


PASSING: list[Callable[[], Exception]] = [
    lambda: OSError(errno.EBUSY, "Please reduce your request rate."),
    lambda: ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    lambda: TimeoutError("timed out"),
]


@pytest.mark.parametrize("error", PASSING)
@pytest.mark.parametrize("when", ["before", "after"])
def test_every_failure_that_may_pass_is_tried_again_and_told_once(
    store: RemoteStore,
    a_machine: Callable[[], RemoteStore],
    bucket: Bucket,
    said: list[str],
    when: str,
    error: Callable[[], Exception],
) -> None:
    other = a_machine()
    acts: list[Callable[[], object]] = [
        lambda: store.save(RUN, OUTCOME, PROVENANCE),
        lambda: store.keys(),
        lambda: store.has(RUN),
        lambda: store.keep(RUN, OUTCOME),
        lambda: store.kept(RUN),
        lambda: store.fail(RUN, "why", "log"),
        lambda: other.tensors(RUN, "weights"),
    ]
    for act in acts:
        setattr(bucket, when, failing(3, error))
        act()
    setattr(bucket, when, lambda verb, name: None)
    assert complete(store)
    with store.claim(RUN):
        setattr(bucket, when, failing(2, error))
    assert bucket.names("claims") == []
    assert said and all("Tried again for up to" in text and text.startswith(ADDRESS) for text in said)
    assert len(said) <= 2 * 4, "each machine says it once in a while, and not at every failure"


def test_an_object_that_was_written_but_not_answered_for_is_ours(bucket: Bucket) -> None:
    ours, theirs = bucket.objects(), bucket.objects()
    bucket.after = failing(1, PASSING[1])
    assert ours.put_new("name", b"ours") and not theirs.put_new("name", b"theirs")
    bucket.before = failing(1, PASSING[1])
    assert not theirs.put_new("name", b"theirs") and ours.get("name") == b"ours"


def test_after_the_limit_it_ends_and_the_same_command_goes_on(
    store: RemoteStore, a_machine: Callable[[], RemoteStore], bucket: Bucket
) -> None:
    bucket.before = failing(10**9, PASSING[0])
    with pytest.raises(StoreLost, match=r"found none within 0 s .*The same command goes on then") as caught:
        store.save(RUN, OUTCOME, PROVENANCE)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value), "it comes from a worker"
    with pytest.raises(StoreError, match="whether the address is right"):
        a_machine().open()
    bucket.before = lambda verb, name: None
    assert not complete(a_machine())
    store.save(RUN, OUTCOME, PROVENANCE)
    assert complete(store)


def _no_bucket() -> Exception:
    """As a client raises it for S3's answer."""
    error, answer = FileNotFoundError("The specified bucket does not exist"), Exception()
    answer.response = {"Error": {"Code": "NoSuchBucket"}}  # type: ignore[attr-defined]
    error.__cause__ = answer
    return error


@pytest.mark.parametrize(
    ("error", "said_of_it"),
    [
        (lambda: PermissionError("Access Denied"), r"expected the right to .* found a refusal \(Access Denied\)"),
        (_no_bucket, "expected a bucket, found none of that name"),
        (lambda: OSError(errno.ENOSYS, "A header you provided implies"), "expected a store that answers"),
    ],
)
def test_what_does_not_pass_is_not_tried_again(
    store: RemoteStore,
    a_machine: Callable[[], RemoteStore],
    bucket: Bucket,
    error: Callable[[], Exception],
    said_of_it: str,
) -> None:
    acts: Iterable[Callable[[], object]] = (
        store.keys,
        lambda: store.has(RUN),
        lambda: store.values(RUN),
        lambda: store.save(RUN, OUTCOME, PROVENANCE),
    )
    for act in acts:
        bucket.before = failing(1, error)
        with pytest.raises(StoreLost, match=said_of_it):
            act()
    for first in (a_machine().check, a_machine().open):
        bucket.before = failing(1, error)
        with pytest.raises(StoreError, match=said_of_it):
            first()


def test_a_fault_of_the_program_is_not_taken_for_one_of_the_network(store: RemoteStore, bucket: Bucket) -> None:
    bucket.before = failing(1, lambda: AttributeError("no such thing"))
    with pytest.raises(AttributeError):
        store.keys()


# ---------------------------------------------------------------- which stores


def test_a_store_without_conditional_writing_says_so_and_keeps_one_outcome(
    a_machine: Callable[[], RemoteStore], bucket: Bucket, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = bucket.system.pipe_file
    monkeypatch.setattr(bucket, "pipe_file", lambda path, content, mode="overwrite": write(path, content))
    first, second = a_machine().open(), a_machine().open()
    assert len(said) == 2 and all("may do a run twice" in text for text in said)
    first.save(RUN, OUTCOME, PROVENANCE)
    second.save(RUN, OUTCOME, PROVENANCE)
    assert complete(first) and complete(second) and complete(a_machine())


def test_a_bucket_of_other_things_is_no_store(a_machine: Callable[[], RemoteStore], bucket: Bucket) -> None:
    bucket.system.pipe_file("/bucket/pre/holiday.jpg", b"")
    for act in (a_machine().check, a_machine().open):
        with pytest.raises(StoreError, match="expected a store or an empty folder, found something else"):
            act()
    assert bucket.names() == ["holiday.jpg"]


@pytest.mark.parametrize(
    ("content", "said_of_it"), [(b'{"format": 2}', r"found format 2\. A newer version"), (b"{", "an unreadable file")]
)
def test_another_format_is_refused(
    store: RemoteStore, bucket: Bucket, a_machine: Callable[[], RemoteStore], content: bytes, said_of_it: str
) -> None:
    bucket.system.pipe_file("/bucket/pre/store.json", content)
    with pytest.raises(StoreError, match=said_of_it):
        a_machine().open()


def test_to_look_at_a_store_that_is_not_there_makes_none(a_machine: Callable[[], RemoteStore], bucket: Bucket) -> None:
    machine = a_machine()
    machine.check()
    assert machine.keys() == machine.failed() == machine.until() == set() and not machine.has(RUN)
    assert bucket.names() == [] and not machine.root.exists()


def test_a_folder_for_copies_that_cannot_be_written_is_said_with_what_to_do(
    store: RemoteStore, bucket: Bucket, tmp_path: Path
) -> None:
    store.save(RUN, OUTCOME, PROVENANCE)
    (tmp_path / "file").write_text("")
    other = RemoteStore(bucket.objects(), tmp_path / "file" / "below")
    acts: Iterable[Callable[[], object]] = (other.open, lambda: other.values(RUN))
    for act in acts:
        with pytest.raises(StoreError, match="TOMBOLA_CACHE"):
            act()


@pytest.mark.parametrize(
    ("address", "said_of_it"),
    [
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("memory://bucket", "another process sees nothing of it"),
        ("https://example.org/x", "cannot be"),
        ("nope://bucket", "Protocol not known"),
        ("simplecache::s3://bucket", "a chain"),
        ("s3://key:secret@bucket/prefix", "a password"),
    ],
)
def test_addresses_that_cannot_be_are_bad_input(
    address: str, said_of_it: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["table", "digits", "--store", address]) == 2
    said = capsys.readouterr().err
    assert said_of_it in said and "--store" in said and "secret" not in said


def test_a_folder_is_a_folder_also_as_an_address(tmp_path: Path) -> None:
    assert store_at(f"file://{tmp_path}/a%20b").root == tmp_path / "a b"
    assert type(store_at(str(tmp_path))) is Store


def test_a_store_travels_by_its_address_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "THEKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "THESECRET")
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path))
    sent = pickle.dumps(store_at("s3://bucket/prefix/"))
    assert b"THEKEY" not in sent and b"THESECRET" not in sent
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path / "on another machine"))
    back = pickle.loads(sent)
    assert isinstance(back, RemoteStore) and back.address == "s3://bucket/prefix"
    assert back.root.parent == tmp_path / "on another machine"


def test_without_the_extra_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['fsspec'] = sys.modules['fsspec.core'] = None\n"
        "from tombola.cli import main; sys.exit(main(['table', 'digits', '--store', 's3://bucket/prefix']))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 2 and "[remote]" in ended.stderr and "Traceback" not in ended.stderr
