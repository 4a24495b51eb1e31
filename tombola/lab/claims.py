"""Who is at which run, and what was left behind, in a folder that processes of several hosts share.

A claim saves work and decides nothing: outcomes are right because a run's key names it and because they are renamed
into place. If two processes do one run after all, both make the same bytes, and the second one's are dropped.
No locks, therefore: between hosts they may be absent, hold on one host only, or outlive their host.

processes/OWNER    touched while that process holds anything
claims/NAME        its text is the owner of that name, of a run as a rule
tmp/NAME@OWNER@N   what that process is writing
"""

import itertools
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tombola.lab.owner import Owner

TOUCHED_EVERY_S = 10.0
SILENT_S = 60.0  # unmoved so long while somebody watches, a process counts as gone, and its claims are free
LEFT_S = 86_400.0  # what a process of another host left is removed when it is so old; it may be cut off for hours

FOLDERS = ("processes", "claims", "tmp")
TOUCHING = "tombola: shows that this process lives"  # the name of the thread that does


class Claims:
    """The claims of one process on a store, and what it writes there before that is renamed into place.

    Args:
        root: the store's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._pid = root, os.getpid()
        self._presence = _Presence(root / "processes")
        self._seen: dict[str, tuple[object, float]] = {}  # of others' claims: whose, how it last moved, and since when
        self._numbers = itertools.count()

    @property
    def ours(self) -> bool:
        """Whether this process made it, and not the one that it was forked from."""
        return self._pid == os.getpid()

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Hold `name` for this process; False if another one that is alive has it."""
        path = self._root / "claims" / name
        if self._held(path):  # before anything is written, as this is asked again and again of a run that takes hours
            yield False
            return
        with self._presence.held() as owner:
            if not self._acquired(path, owner):
                yield False
                return
            try:
                yield True
            finally:
                if _text(path) == owner.name:  # else it was taken for gone, and another one is at it
                    with suppress(OSError):  # which costs the next one a minute, and nothing else
                        path.unlink()

    def _acquired(self, path: Path, owner: Owner) -> bool:
        for _ in range(3):
            try:
                with path.open("x", encoding="ascii") as file:
                    file.write(owner.name)
            except FileExistsError:
                name = _text(path)
                if name is None:
                    continue
                if self._alive(name, path):
                    return False
                try:
                    self._free(path, name, owner)
                except PermissionError:  # another user's, and it stays; the run is done all the same
                    return True
            except OSError:
                with suppress(OSError):
                    path.unlink()
                raise
            else:
                self._seen.pop(path.name, None)
                return True
        return False  # others are faster

    def _held(self, path: Path) -> bool:
        name = _text(path)
        return name is not None and self._alive(name, path)

    def _alive(self, name: str, path: Path) -> bool:
        """Whether the owner of that name, which the claim at `path` has, is alive, by all that shows from here."""
        owner = Owner.parsed(name)
        if owner and owner.here and not owner.running:
            return False
        moved = _moved(self._root / "processes" / name if owner else path)  # itself, where it is half written
        if moved is None:
            return False
        before = self._seen.get(path.name)
        if before is None or before[0] != (name, moved):
            self._seen[path.name] = (name, moved), time.monotonic()
            return True
        return time.monotonic() - before[1] <= SILENT_S

    def _free(self, path: Path, name: str, owner: Owner) -> None:
        """Take away a claim whose owner, of that name, is gone; of several processes that do so at once one does it."""
        aside = self._path(path.name, owner)
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
        if _text(aside) == name:
            aside.unlink(missing_ok=True)
        else:
            aside.rename(path)  # another one was faster, and this is its claim

    @contextmanager
    def temporary(self, name: str) -> Iterator[Path]:
        """A path below `tmp/` that is this process's alone, with nothing there yet, nor afterwards, however it ends."""
        with self._presence.held() as owner:
            path = self._path(name, owner)
            try:
                yield path
            finally:
                _remove(path)

    def _path(self, name: str, owner: Owner) -> Path:
        return self._root / "tmp" / f"{name}@{owner.name}@{next(self._numbers)}"

    def sweep(self) -> None:
        """Remove what processes left behind: those of this host that are gone, and those of others, once it is old."""
        with self._presence.held() as owner:
            now = (self._root / "processes" / owner.name).stat().st_mtime  # by the clock of the file system
            for entry in _entries(self._root / "tmp"):
                self._sweep(entry, Owner.parsed(entry.name.partition("@")[2].partition("@")[0]), now)
            for entry in _entries(self._root / "processes"):
                self._sweep(entry, Owner.parsed(entry.name), now)
            for entry in self._of_older_versions():
                self._sweep(entry, None, now)
            for entry in _entries(self._root / "claims"):
                if (name := _text(entry)) is not None and not self._alive(name, entry):
                    with suppress(OSError):  # another user's
                        self._free(entry, name, owner)

    def _of_older_versions(self) -> list[Path]:
        """What versions before claims left behind: their locks, and checkpoints that were being written."""
        beside = [entry for entry in _entries(self._root / "checkpoints") if entry.name.startswith(".")]
        return _entries(self._root / "locks") + beside

    def _sweep(self, entry: Path, owner: Owner | None, now: float) -> None:
        if owner and owner.here:
            left = not owner.running
        else:
            times = (_modified(entry), _modified(self._root / "processes" / owner.name) if owner else None)
            left = all(each is None or now - each > LEFT_S for each in times)
        if left:
            _remove(entry)


class _Presence:
    """A file that shows others that this process lives: there while it holds anything, and touched meanwhile.

    Each time it is there anew it has another name: file systems between machines remember for a while that a name was
    not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._holders = 0
        self._owner: Owner | None = None
        self._touching: threading.Thread | None = None

    @contextmanager
    def held(self) -> Iterator[Owner]:
        with self._lock:
            owner = self._owner = self._owner or self._begun()
            self._holders += 1
        try:
            yield owner
        finally:
            with self._lock:
                self._holders -= 1
                if not self._holders:
                    self._owner = None
                    with suppress(OSError):
                        (self._folder / owner.name).unlink()

    def _begun(self) -> Owner:
        owner = Owner.new()
        (self._folder / owner.name).touch()
        if self._touching is None:
            self._touching = threading.Thread(target=self._touch, name=TOUCHING, daemon=True)
            self._touching.start()
        return owner

    def _touch(self) -> None:
        """Until nothing is held any more when it is time."""
        while True:
            time.sleep(TOUCHED_EVERY_S)
            with self._lock:
                if self._owner is None:
                    self._touching = None
                    return
                path = self._folder / self._owner.name
            with suppress(OSError):  # the network may be away for a while
                os.utime(path)  # which makes nothing anew: it may have been given back at this moment


def _text(path: Path) -> str | None:
    """What is written there; None where nothing is, or where it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None


def _moved(path: Path) -> object | None:
    """What changes whenever a file is touched; None where it is not there."""
    try:
        with path.open("rb") as file:  # opened, as what is only asked for may be remembered of a minute ago
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None
    except OSError as error:  # it is there, and cannot be looked at
        return error.errno


def _modified(path: Path) -> float | None:
    """When it was last written to, in seconds; None where nothing is there."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
