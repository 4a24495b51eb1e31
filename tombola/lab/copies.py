"""Copies of outcomes in a folder of this machine, which its processes share: what was read once is not fetched again.

runs/KEY/outcome.json, provenance.json, NAME.safetensors       as in a store that is a folder
        /object.json     the object that they are of
        /version         which version of it, where that was known when it was fetched
versions.json            the same of all copies, as of the last listing

The copies are bounded: those that were used longest ago go first. No copy goes that was used a moment ago, as whoever
used it may be about to read it.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tombola import files

MOST_BYTES = 20 * 2**30
LISTING = "object.json"
IN_USE_S = 600.0


class Copies:
    """The copies in a folder.

    Args:
        root: the folder; it is made when there is something to keep.
        most: how many bytes they may have.
    """

    def __init__(self, root: Path, most: int = MOST_BYTES) -> None:
        self._root, self._most, self._untold = root, most, 0

    def has(self, key: str) -> bool:
        """Whether there is a copy; maybe one without its tensors."""
        return self.file(key, LISTING).exists()

    def file(self, key: str, name: str) -> Path:
        """Where a file of a copy is, or would be."""
        return self._root / "runs" / key / name

    def used(self, key: str) -> None:
        """Remember that a copy was of use now."""
        with suppress(OSError):
            os.utime(self._root / "runs" / key)

    def keep(self, key: str, content: Mapping[str, bytes], version: str | None = None) -> None:
        """Keep a copy, in place of the one that is there."""
        content = content if version is None else {**content, "version": version.encode()}
        folder = self._root / "runs" / key
        temporary = folder.with_name(f".{key}.{uuid.uuid4().hex}")
        temporary.mkdir(parents=True)
        try:
            for name, each in content.items():
                (temporary / name).write_bytes(each)
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # another process was faster
                temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._count(sum(map(len, content.values())))

    def add(self, key: str, name: str, content: bytes) -> None:
        """Add a file to a copy."""
        path = self.file(key, name)
        temporary = path.with_name(f".{name}.{uuid.uuid4().hex}")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self._count(len(content))

    def compare(self, versions: Mapping[str, str]) -> None:
        """Remove copies of objects that are gone, or were written anew since.

        Args:
            versions: those of all objects, by key.
        """
        here = self._root / "runs"
        if not here.is_dir():
            return
        path, seen = self._root / "versions.json", {}
        with suppress(OSError, ValueError):
            seen = files.parsed(path.read_text())
        known = {}
        for key in sorted(entry.name for entry in os.scandir(here)):
            now, before = versions.get(key), seen.get(key) or self._version(key)
            if now is not None and before in (None, now):
                known[key] = now
            elif not self._remove(here / key) and before is not None:
                known[key] = before
        if known != seen:
            with suppress(OSError):  # a folder that may only be read serves as well
                files.replace(path, json.dumps(known).encode())

    def _version(self, key: str) -> str | None:
        with suppress(OSError):
            return self.file(key, "version").read_text()
        return None

    def trim(self) -> None:
        """Remove copies that were used longest ago, until the rest is as small as it should be."""
        self._untold, folders = 0, self._root / "runs"
        each = [(entry.stat().st_mtime, Path(entry.path)) for entry in os.scandir(folders)] if folders.is_dir() else []
        sizes = {path: _size(path) for _, path in each}
        left = sum(sizes.values())
        for _, path in sorted(each):
            if left <= self._most:
                return
            left -= sizes[path] if self._remove(path) else 0

    def _count(self, added: int) -> None:
        self._untold += added
        if self._untold > self._most / 20:
            self.trim()

    def _remove(self, folder: Path) -> bool:
        """Remove a copy; False if it was used a moment ago."""
        try:
            if time.time() - folder.stat().st_mtime < IN_USE_S:
                return False
        except OSError:
            return True
        shutil.rmtree(folder, ignore_errors=True)
        return True


def _size(folder: Path) -> int:
    with suppress(OSError):
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    return 0
