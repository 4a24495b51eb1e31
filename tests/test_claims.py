"""Claims and leftovers in a folder that several hosts share: here all hosts are this process, under other names."""

import errno
import os
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tombola.files import turn
from tombola.lab import claims, owner
from tombola.lab.kinds import Init
from tombola.lab.owner import Owner
from tombola.lab.queue import RunQueue, Tally
from tombola.lab.runs import Network, Outcome
from tombola.lab.store import Store

RUN = Init(Network("lenet-20-10", (1, 8, 8), 10), "glorot-normal", init_seed=0)
OUTCOME = Outcome({"loss": 0.1}, {"weights": {"a": torch.ones(2, 3)}})
DAY_S = 86_400.0
HERE, THERE = "a" * 12, "b" * 12


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").open()


@pytest.fixture
def be(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Be that host from now on."""

    def be(host: str) -> None:
        monkeypatch.setattr(owner, "_host", lambda: host)

    be(HERE)
    return be


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let seconds pass."""
    ahead = 0.0
    monotonic = time.monotonic

    def passes(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + ahead)
    return passes


def held_by(store: Store, name: str) -> Path:
    """A claim on `RUN` by that owner, who is alive as far as others can see; what shows it."""
    (store.root / "claims" / RUN.key).write_text(name)
    shows = store.root / "processes" / name
    shows.touch()
    return shows


def claimable(store: Store) -> bool:
    with store.claim(RUN) as ours:
        return ours


def aged(path: Path, seconds: float) -> None:
    before = path.stat().st_mtime
    os.utime(path, (before - seconds, before - seconds))


# ---------------------------------------------------------------- who is alive


def test_a_claim_of_another_host_holds_while_its_owner_moves_and_is_free_after_a_minute_without(
    store: Store, be: Callable[[str], None], passes: Callable[[float], None]
) -> None:
    shows = held_by(store, f"{THERE}-{os.getpid()}-1-{'0' * 16}")
    assert not claimable(store)
    for moment in range(1, 5):
        passes(claims.SILENT_S / 2)
        os.utime(shows, ns=(0, moment))  # by whatever clock: that it moves is all that counts
        assert not claimable(store)
    passes(claims.SILENT_S / 2)
    assert not claimable(store)
    passes(claims.SILENT_S)
    assert claimable(store) and not (store.root / "claims" / RUN.key).exists()


def test_a_claim_of_another_host_whose_process_has_ended_is_free_at_once(
    store: Store, be: Callable[[str], None]
) -> None:
    held_by(store, f"{THERE}-1-1-{'0' * 16}").unlink()
    assert claimable(store)


def test_a_claim_of_a_dead_process_of_this_host_is_free_at_once(store: Store, be: Callable[[str], None]) -> None:
    """Also where its number is another process's by now."""
    began = Owner.new().began
    for pid, since, free in ((2**22 + 1, 1, True), (os.getpid(), began + 1, bool(began)), (os.getpid(), began, False)):
        held_by(store, f"{HERE}-{pid}-{since}-{'0' * 16}")
        assert claimable(store) == free, (pid, since)


def test_equal_numbers_in_two_containers_are_not_one_process(store: Store, be: Callable[[str], None]) -> None:
    """A process that cannot be seen from here is not dead because its number is nobody's here."""
    held_by(store, f"{THERE}-{2**22 + 1}-1-{'0' * 16}")
    assert not claimable(store)


@pytest.mark.parametrize("text", ["", "a1b2", "{}", "0-0-0-0", "\0" * 20])
def test_a_claim_that_nobody_can_read_holds_for_a_minute(
    store: Store, passes: Callable[[float], None], text: str
) -> None:
    (store.root / "claims" / RUN.key).write_text(text)
    assert not claimable(store)
    passes(claims.SILENT_S + 1)
    assert claimable(store)


def test_who_lives_shows_it_and_not_under_the_same_name_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "TOUCHED_EVERY_S", 0.01)
    names = []
    for _ in range(2):
        with store.claim(RUN):
            (shows,) = (store.root / "processes").iterdir()
            names.append(shows.name)
            assert (store.root / "claims" / RUN.key).read_text() == shows.name
            os.utime(shows, ns=(0, 0))
            end = time.monotonic() + 60
            while shows.stat().st_mtime_ns == 0 and time.monotonic() < end:
                time.sleep(0.01)
            assert shows.stat().st_mtime_ns > 0, "touched, by the clock of the file system"
        assert not list((store.root / "processes").iterdir())
    assert names[0] != names[1], "file systems remember for a while that a name is not there"


def test_a_claim_that_was_taken_over_is_not_given_back_by_the_one_who_lost_it(
    store: Store, be: Callable[[str], None]
) -> None:
    with store.claim(RUN) as ours:
        other = f"{THERE}-1-1-{'0' * 16}"
        held_by(store, other)
        assert ours
    assert (store.root / "claims" / RUN.key).read_text() == other


def test_of_several_who_take_a_dead_claim_the_slow_one_gives_the_quick_one_his_back(
    store: Store, be: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between this process's look at the claim and its hand on it another one takes it."""
    held_by(store, f"{HERE}-{2**22 + 1}-1-{'0' * 16}")
    quick, rename = f"{THERE}-1-1-{'1' * 16}", Path.rename

    def late(path: Path, target: Path) -> Path:
        if path.parent.name == "claims" and path.read_text() != quick:
            held_by(store, quick)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    assert not claimable(store)
    assert (store.root / "claims" / RUN.key).read_text() == quick and not list((store.root / "tmp").iterdir())


def touching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == claims.TOUCHING]


def test_nobody_shows_that_he_lives_who_holds_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the thread that shows it keeps no process from ending."""
    monkeypatch.setattr(claims, "TOUCHED_EVERY_S", 0.01)
    store = Store(store.root)
    before = set(touching())
    with store.claim(RUN):
        (thread,) = set(touching()) - before
        assert thread.daemon
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_shows_that_it_lives_by_itself(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork takes no threads along, and what its parent holds is not its own."""
    monkeypatch.setattr(claims, "TOUCHED_EVERY_S", 0.01)
    with store.claim(RUN):
        child = os.fork()
        if not child:
            code = 1
            try:
                with store.claim(RUN) as ours, store.scratch("data") as folder:
                    name = folder.name.split("@")[1]
                    shows = store.root / "processes" / name
                    os.utime(shows, ns=(0, 0))
                    end = time.monotonic() + 60
                    while shows.stat().st_mtime_ns == 0 and time.monotonic() < end:
                        time.sleep(0.01)
                    owner = Owner.parsed(name)
                    code = 0 if not ours and owner and owner.pid == os.getpid() and shows.stat().st_mtime_ns else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(list((store.root / "processes").iterdir())) == 1


def test_a_claim_survives_that_the_folder_goes_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds it goes on, and gives it back without an error; the thread that shows that he lives does, too."""
    monkeypatch.setattr(claims, "TOUCHED_EVERY_S", 0.01)
    store = Store(store.root)
    before = set(touching())
    with store.claim(RUN) as ours:
        (thread,) = set(touching()) - before
        store.root.rename(store.root.with_name("away"))
        tried: list[object] = []
        utime = os.utime

        def told(path: Path) -> None:
            tried.append(path)
            utime(path)

        monkeypatch.setattr(os, "utime", told)
        end = time.monotonic() + 60
        while len(tried) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        assert ours and thread.is_alive() and len(tried) >= 3
    thread.join(60)
    assert not thread.is_alive()


def test_a_claim_that_cannot_be_written_for_lack_of_room_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def full(path: Path, mode: str = "r", **how: Any) -> Any:
        file = opened(path, mode, **how)
        if mode == "x":
            file.close()
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return file

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space"), store.claim(RUN):
        pass
    assert not list((store.root / "claims").iterdir()) and not list((store.root / "processes").iterdir())


# ---------------------------------------------------------------- what is swept


def leftover(store: Store, name: str) -> Path:
    folder = store.root / "tmp" / f"{RUN.key}@{name}@0"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"half")
    return folder


def test_what_another_host_may_be_writing_stays_for_a_day_by_the_clock_of_the_file_system(
    store: Store, be: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{THERE}-{2**22 + 1}-1-{'0' * 16}"
    shows, folder = held_by(store, name), leftover(store, name)
    monkeypatch.setattr(time, "time", lambda: 1e12)  # this machine's clock says nothing
    store.open()
    assert shows.exists() and folder.exists()
    aged(folder, 2 * DAY_S)
    store.open()
    assert folder.exists(), "old, but its owner lives"
    aged(shows, DAY_S / 2)
    store.open()
    assert shows.exists() and folder.exists(), "the host may be cut off"
    aged(shows, DAY_S)
    store.open()
    assert not shows.exists() and not folder.exists() and not (store.root / "claims" / RUN.key).exists()


def test_a_young_leftover_stays_though_its_owner_is_not_to_be_seen(store: Store, be: Callable[[str], None]) -> None:
    """A file system between machines may show late who is there."""
    folder = leftover(store, f"{THERE}-1-1-{'0' * 16}")
    store.open()
    assert folder.exists()


def test_what_a_dead_process_of_this_host_left_goes_at_once(store: Store, be: Callable[[str], None]) -> None:
    name = f"{HERE}-{2**22 + 1}-1-{'0' * 16}"
    shows, folder = held_by(store, name), leftover(store, name)
    be(THERE)
    store.open()
    assert shows.exists() and folder.exists(), "to another host it is another host's"
    be(HERE)
    store.open()
    assert not shows.exists() and not folder.exists() and not list((store.root / "claims").iterdir())


def test_what_a_living_process_writes_is_swept_by_nobody(store: Store, be: Callable[[str], None]) -> None:
    with store.scratch("data") as folder:
        for host in (HERE, THERE):
            be(host)
            Store(store.root).open()
            assert folder.is_dir()


def test_what_versions_before_claims_left_goes_once_it_is_old(store: Store) -> None:
    """Some of them may be at work on it still."""
    (store.root / "locks").mkdir()
    left = [store.root / "locks" / f"{RUN.key}.lock", store.root / "checkpoints" / f".{RUN.key}.safetensors.4711"]
    left.append(store.root / "tmp" / f"{RUN.key}@localhost@4711@0")
    for path in left:
        path.touch()
    store.keep(RUN, OUTCOME)
    aged(store.checkpoint(RUN), 2 * DAY_S)
    store.open()
    assert all(path.exists() for path in left)
    for path in left:
        aged(path, 2 * DAY_S)
    store.open()
    assert not any(path.exists() for path in left) and store.kept(RUN), "a checkpoint stays, however old"


# ---------------------------------------------------------------- two at one run


def test_two_hosts_at_one_run_make_one_outcome_and_no_error(store: Store, be: Callable[[str], None]) -> None:
    """The second one comes to rename its own into place, and finds the other's there."""
    other = Store(store.root)
    store.save(RUN, OUTCOME, {"seconds": 1})
    be(THERE)
    other.save(RUN, OUTCOME, {"seconds": 2})
    assert store.provenance(RUN) == {"seconds": 1} and not list((store.root / "tmp").iterdir())


def test_checkpoints_of_two_hosts_at_one_training_are_each_whole(
    store: Store, be: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have the same process number, and one writes while the other does."""
    other, fsync, inside = Store(store.root), os.fsync, [True]

    def second(handle: int) -> None:
        if inside.pop() if inside else False:
            be(THERE)
            other.keep(RUN, Outcome({"step": 2}, {"weights": {"a": torch.full((5,), 2.0)}}))
            kept = store.kept(RUN)
            assert kept and kept.values == {"step": 2}
            be(HERE)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", second)
    store.keep(RUN, Outcome({"step": 1}, {"weights": {"a": torch.ones(4)}}))
    kept = store.kept(RUN)
    assert kept and kept.values == {"step": 1} and torch.equal(kept.tensors["weights"]["a"], torch.ones(4))
    assert [path.name for path in (store.root / "checkpoints").iterdir()] == [f"{RUN.key}.safetensors"]


def test_success_wins_over_failure_whichever_comes_first(store: Store) -> None:
    store.fail(RUN, "no memory on one host", "log")
    store.save(RUN, OUTCOME, {})
    assert store.failed() == set()
    store.fail(RUN, "no memory on one host", "log")
    assert store.failed() == set() and store.has(RUN)


def test_names_differ_by_more_than_case() -> None:
    """Some file systems do not tell cases apart."""
    names = [RUN.key, Owner.new().name]
    assert [name.lower() for name in names] == names
    assert all(one != other for one, other in pairwise(sorted(Owner.new().name for _ in range(100))))


def test_a_run_that_failed_here_and_succeeded_elsewhere_is_done(store: Store) -> None:
    told: list[str] = []
    queue = RunQueue([RUN], store, lambda event: told.append(event.what))
    queue.next()
    store.save(RUN, OUTCOME, {})
    queue.failed(RUN, "no memory on this host", "log")
    assert queue.result == Tally(done=1) and queue.over and told == ["started", "stored"]


def test_what_is_in_a_folder_that_another_host_renamed_may_show_late(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(RUN, OUTCOME, {"seconds": 1})
    path = store.root / "runs" / RUN.key / "provenance.json"
    path.rename(path.with_name("hidden"))
    monkeypatch.setattr(time, "sleep", lambda seconds: path.with_name("hidden").rename(path))
    assert store.provenance(RUN) == {"seconds": 1}


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_a_file_system_has_no_locks_all_go_on_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: object) -> None:
        raise OSError(number, "No locks available")

    with turn(tmp_path / "lock") as alone:
        assert alone
    monkeypatch.setattr(fcntl, "flock", flock)
    with turn(tmp_path / "lock") as one, turn(tmp_path / "lock") as other:
        assert not one and not other
