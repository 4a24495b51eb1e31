"""Files that are there completely or not at all, and say so of themselves."""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

try:
    import fcntl
except ImportError:  # Windows, where files can always be locked
    fcntl = None  # type: ignore[assignment]

from tombola.errors import BadInput

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
ZEROS = "0" * 64  # where the digest of a file stands while the digest is computed


def beginning(path: Path, size: int) -> bytes:
    """The first `size` bytes of a file, or all where it has fewer; what is beyond them is not read.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(size)


def parsed(text: str | bytes) -> Any:
    """What JSON says.

    Raises:
        ValueError: it is none, or has more brackets in each other than can be read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON too deep to be read") from error


def write(path: Path, content: bytes) -> None:
    """Write a file that is on the disk when this returns."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def fill(folder: Path, contents: Iterable[tuple[str, bytes]]) -> None:
    """Make a folder of these files, by name, that is on the disk, each entry too, when this returns.

    The disk is asked for all of them at the same time, and waited for about as long as for one: file systems bring
    down together what is asked for together.

    Raises:
        OSError: it cannot be made; what there is of it may be anything.
    """
    folder.mkdir()
    with ExitStack() as opened:
        handles = []
        for name, content in contents:
            file = opened.enter_context((folder / name).open("wb"))
            file.write(content)
            file.flush()
            handles.append(file.fileno())
        if os.name != "nt":  # Windows opens no folders
            handles.append(os.open(folder, os.O_RDONLY))
            opened.callback(os.close, handles[-1])
        with ThreadPoolExecutor(len(handles)) as pool:
            for _ in pool.map(os.fsync, handles):
                pass


def settle(folder: Path) -> None:
    """Wait until the entries of a folder are on the disk: what was renamed into it stays there."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(path: Path, content: bytes) -> None:
    """Write beside `path` and rename into place: a reader finds the old content or the new one, never a part.

    Raises:
        OSError: it cannot be written; what was there before still is, and nothing else.
    """
    temporary = _beside(path)
    try:
        write(temporary, content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def first(path: Path, content: bytes) -> None:
    """Write a file whole and at once, unless there is one: of several processes, on several hosts, the first one wins.

    Args:
        path: where; locks are not needed for it.
    """
    temporary = _beside(path)
    write(temporary, content)
    try:
        with suppress(FileExistsError):
            os.link(temporary, path)
    except OSError:  # a file system without links
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A name for what will be `path`: of no other process, and two hosts may have processes of equal numbers."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")


@contextmanager
def turn(path: Path) -> Iterator[bool]:
    """One process after another, where the file system has locks, by the file `path`; where it has none, all at once.

    It saves work, or has one measure undisturbed: what is done in here is right also where others do it meanwhile, on
    another host if not on this one. It is given whether no other process of this host does.

    Raises:
        OSError: the file cannot be written.
    """
    with ExitStack() as stack:
        alone = _has_locks(path)
        if alone:
            stack.enter_context(FileLock(path))
        yield alone


def _has_locks(path: Path) -> bool:
    """Whether files can be locked there, asked before filelock is: it makes do with a file that is there as long as
    somebody is at it, which outlives a process that is killed."""
    if fcntl is None:
        return True
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True  # somebody has it locked
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return False
    return True


def deliver(path: str | os.PathLike[str], content: bytes) -> None:
    """`replace`, where a user has named the file.

    Raises:
        BadInput: it cannot be written.
    """
    try:
        replace(Path(path), content)
    except OSError as error:
        raise BadInput(
            where=str(path),
            expected="a file that can be written",
            found=str(error.strerror),
            todo="Name another one.",
        ) from error


def sealed(content: bytes) -> bytes:
    """`content` with its SHA-256 in place of the first 64 zeros in it."""
    place = content.index(ZEROS.encode())
    return b"".join((content[:place], _digest(content, place).encode(), memoryview(content)[place + 64 :]))


def intact(content: bytes, digest: object) -> bool:
    """Whether `digest` is what `sealed` has put into the file."""
    if not isinstance(digest, str) or len(digest) != 64:
        return False
    place = content.find(digest.encode())
    return place >= 0 and _digest(content, place) == digest


def _digest(content: bytes, place: int) -> str:
    """The SHA-256 of a file whose 64 digits at `place` are zeros."""
    found = hashlib.sha256(content[:place])
    found.update(ZEROS.encode())
    found.update(memoryview(content)[place + 64 :])
    return found.hexdigest()
