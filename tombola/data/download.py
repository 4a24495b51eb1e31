"""Bring a file home: from the first home that has it, resuming what an earlier try left, checked before it counts."""

import http.client
import os
import platform
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from tombola import files
from tombola.errors import DataError

TIMEOUT_S = 30


def cache_dir() -> Path:
    """Where downloads go when no folder is named: `$XDG_CACHE_HOME/tombola`, by default `~/.cache/tombola`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tombola"


def fetch(folder: str, name: str, homes: Sequence[str], data_dir: Path | None, check: Callable[[Path], object]) -> Path:
    """The path of `name`, downloaded unless an earlier call left it complete.

    Args:
        folder, name: it is kept as `folder/name` below `data_dir`, or below the cache.
        homes: addresses of folders that hold the file, tried in turn.
        check: raises `DataError` for a file that is not the expected one.

    Raises:
        DataError: no home gave the expected file; says which were asked and what each answered. Or there is no
            `data_dir`: a misspelt name would get a second copy of everything.
    """
    if data_dir and not data_dir.exists():
        raise _no_data_folder(data_dir)
    target = (data_dir or cache_dir()) / folder / name
    answers = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.turn(target.with_name(name + ".lock")) as alone:  # several workers may want the same file
            if target.is_file():
                return target
            part = _part(target, alone)
            try:
                for home in homes:
                    answer = _try(home + name, part, check)
                    if not answer:
                        part.replace(target)
                        return target
                    answers.append(f"{home}: {answer}")
            finally:
                if not alone:  # nobody would go on with it
                    part.unlink(missing_ok=True)
    except OSError as error:
        answers = [f"{target.parent} cannot be written ({error.strerror})"]
    raise _no_file(folder, name, target, answers)


def _part(target: Path, alone: bool) -> Path:
    """What is there of a file that is on its way to this host, or, where others of it may do the same, to this process.

    Other hosts may have the same folder and know nothing of our locks.
    """
    host = re.sub(r"[^\w.-]", "-", platform.node())
    return target.with_name(f"{target.name}.{host}{'' if alone else '-' + secrets.token_hex(8)}.part")


def _no_file(folder: str, name: str, target: Path, answers: Sequence[str]) -> DataError:
    return DataError(
        where=folder,
        expected=f"{name} in {target.parent}",
        found="no such file there, and no download: " + "; ".join(answers),
        todo="Put the file into that folder by hand, or name a folder that has it with --data-dir or TOMBOLA_DATA.",
    )


def _no_data_folder(data_dir: Path) -> DataError:
    return DataError(
        where=str(data_dir),
        expected="a folder for data sets",
        found="none",
        todo="Make it, or name another one with --data-dir or TOMBOLA_DATA. Without a name the user's cache is it.",
    )


def _try(address: str, part: Path, check: Callable[[Path], object]) -> str:
    """Continue `part` from `address`; the reason why that gave no good file, or '' when it did."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
        # 206 continues where we are; any other success sends the whole file, whatever was asked.
        with answer, part.open("ab" if answer.status == 206 else "wb") as file:
            left = int(answer.headers.get("Content-Length", -1))
            while block := answer.read(1 << 16):
                left -= file.write(block)
        if left > 0:  # an early end looks like the end; what came is kept, to go on from
            return f"broke off {left:,} bytes before the end"
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is left to send; the check below decides
            return f"answered {error.code}"
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        return f"not reached ({getattr(error, 'reason', error)})"
    try:
        check(part)
    except DataError as error:
        part.unlink()
        return f"sent another file ({error.found})"
    return ""
