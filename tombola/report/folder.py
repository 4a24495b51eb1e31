"""Where the report of an experiment is: a folder of the store, no two experiments in one."""

import hashlib
import os
from pathlib import Path

from tombola.errors import NoRoom
from tombola.lab.results import Results


def of(results: Results) -> Path:
    """The folder of its report, which is made.

    Raises:
        OSError: it cannot be.
    """
    folder = results.store.reports / results.experiment.folder
    origin = os.fsencode(results.experiment.origin)
    if _claimed(folder, origin):
        return folder
    folder = folder.with_name(f"{folder.name}-{hashlib.sha256(origin).hexdigest()[:8]}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write(results: Results) -> Path:
    """Write the report there; the path of its page.

    Raises:
        NoRoom: it cannot be written.
    """
    from tombola.report import page

    try:
        return page.write(results, of(results))
    except OSError as error:
        where = results.store.reports
        raise NoRoom(f"no report in {where}: {error}. The runs are kept: see to it, then `tombola report`.") from error


def _claimed(folder: Path, origin: bytes) -> bool:
    """Whether the folder's report is of the spec at `origin`, which takes it where it is nobody's yet."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "source.txt"
    try:
        with source.open("xb") as file:
            file.write(origin)
    except FileExistsError:
        return source.read_bytes() == origin
    return True
