"""Files that are there completely or not at all."""

import os
from pathlib import Path

from tombola.errors import BadInput


def write(path: Path, content: bytes) -> None:
    """Write a file that is on the disk when this returns."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, content: bytes) -> None:
    """Write beside `path` and rename into place: a reader finds the old content or the new one, never a part.

    Raises:
        OSError: it cannot be written; what was there before still is, and nothing else.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary, content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
