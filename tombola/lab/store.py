"""The folder of finished runs, by key. Present means complete: written beside, then renamed into place.

store.json                 the format of the store
runs/KEY/outcome.json      the run's description and its numbers: the same bytes whenever it is done again
        /NAME.safetensors  its tensors, likewise
        /provenance.json   how it came about: seconds, memory, versions, device
checkpoints/KEY.safetensors    a training that is under way, or was interrupted
failed/KEY/outcome.json    the last failure of a run that is not done: status and reason
          /log.txt         what it said
until/KEY          the experiment whose first training this is had replicates added until it was decided
claims/, processes/, tmp/  work in progress, as `claims.py` says; of no use afterwards
"""

import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola import files
from tombola.errors import StoreError
from tombola.lab import claims
from tombola.lab.claims import Claims
from tombola.lab.runs import Outcome, Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from tombola.mask import Mask

FORMAT = 1
SEEN_WITHIN_S = 120.0  # file systems between machines show late what another one has written
SHOWN_WITHIN_S = 1.0  # and late, too, what is in a folder that they show already
POLL_S = 0.2


@dataclass(frozen=True)
class Failure:
    """Why a run is not done, and where its log is."""

    reason: str
    log: Path


class Store:
    """Finished runs in a folder that any number of processes may share.

    Args:
        root: the folder; `open` makes it, reading needs only that it exists.

    Attributes:
        tell: is told what a user should know of how the store is doing; by default it writes that on standard error.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tell: Callable[[str], object] = lambda text: sys.stderr.write(f"tombola: {text}\n")
        self._claims = Claims(root)

    def __reduce__(self) -> tuple[Callable[..., "Store"], tuple[Path | str]]:
        return Store, (self.root,)

    @property
    def address(self) -> str:
        """What names it after --store."""
        return str(self.root)

    @property
    def is_folder(self) -> bool:
        """Whether all machines that see its folder have the same in it; of a bucket each has copies."""
        return True

    def absolute(self) -> "Store":
        """The same store, by what names it wherever a process is started."""
        made = Store(self.root.absolute())
        made.tell = self.tell
        return made

    @property
    def reports(self) -> Path:
        """The folder for reports of what is in it."""
        return self.root / "reports"

    def open(self) -> "Store":
        """Make the folder ready for writing, and remove what processes that are gone left behind.

        Raises:
            StoreError: it cannot be written, or a newer version of Tombola made it.
        """
        self.check()
        try:
            for folder in ("runs", "failed", "checkpoints", *claims.FOLDERS):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            if not (self.root / "store.json").exists():
                self._replace(self.root / "store.json", as_json({"format": FORMAT}))
                files.settle(self.root)
                with suppress(PermissionError):  # it may be a folder that is not to be listed
                    files.settle(self.root.absolute().parent)
            self.settle()
            with self._temporary("probe") as probe:
                probe.mkdir()
            self._sweep()
        except OSError as error:
            raise StoreError(
                where=str(self.root),
                expected="a folder that can be written",
                found=f"{error.strerror}: {error.filename}",
                todo="Name another one with --store, or make room or give the right to write.",
            ) from error
        return self

    def check(self) -> None:
        """Raise StoreError if this is a store of another format, or no store at all but a folder of other things."""
        marker = self.root / "store.json"
        try:
            if not marker.exists():
                if self.root.exists() and not self._may_become_one():
                    raise no_store(self.root)
                return
            made = files.parsed(marker.read_text())["format"]
        except OSError as error:
            raise _unreadable(self.root, error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise no_format(marker, error) from error
        if made != FORMAT:
            raise another_format(self.root, made)

    def _may_become_one(self) -> bool:
        # A process that was killed while it made the store may have left the folders without the marker.
        return self.root.is_dir() and ((self.root / "runs").is_dir() or not any(self.root.iterdir()))

    def has(self, run: Run) -> bool:
        """Whether the outcome of `run` is here, complete."""
        return (self.root / "runs" / run.key).is_dir()

    def await_seen(self, what: str, seen: Callable[[], bool]) -> None:
        """Wait for what the first of several processes that train together has written, maybe on another machine.

        Args:
            what: it is, for people.
            seen: whether it is to be seen from here.

        Raises:
            StoreError: it does not come within `SEEN_WITHIN_S`.
        """
        until = time.monotonic() + SEEN_WITHIN_S
        while not seen():
            if time.monotonic() > until:
                raise StoreError(
                    where=self.address,
                    expected=f"{what}, which the first process has written",
                    found="nothing of it",
                    todo="All machines need the store on one file system that they share: name it with --store.",
                )
            time.sleep(POLL_S)

    def keys(self) -> set[str]:
        """The keys of all finished runs."""
        return self._names("runs")

    def failed(self) -> set[str]:
        """The keys of all runs whose last attempt failed."""
        return self._names("failed")

    def note_until(self, run: Run) -> None:
        """Remember that replicates of the experiment whose first training is `run` are added until it is decided."""
        folder = self.root / "until"
        folder.mkdir(exist_ok=True)
        (folder / run.key).touch()

    def until(self) -> set[str]:
        """The keys that `note_until` was told of."""
        return self._names("until")

    def _names(self, kept: str) -> set[str]:
        folder = self.root / kept
        return {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()

    def failure(self, run: Run) -> str | None:
        """Why the last attempt at `run` failed; None if there was none."""
        path = self.root / "failed" / run.key / "outcome.json"
        try:
            return str(files.parsed(path.read_text())["reason"]) if path.is_file() else None
        except (ValueError, KeyError, TypeError):
            return f"{path} is damaged and does not say it"

    def values(self, run: Run) -> dict[str, Any]:
        """The numbers of a finished run."""
        values = self._read(run.key, "outcome.json", "values")
        return values

    def provenance(self, run: Run) -> dict[str, Any]:
        """How a finished run came about."""
        return self._read(run.key, "provenance.json")

    def mask(self, run: Run) -> "Mask":
        """The mask that a finished run made."""
        import torch

        from tombola.mask import Mask

        return Mask({name: torch.from_numpy(alive) for name, alive in self.alive(run).items()})

    def alive(self, run: Run) -> "dict[str, NDArray[np.bool_]]":
        """The same as arrays, for those who need no torch, which takes seconds to import."""
        import numpy as np
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = self._file(run.key, "mask.safetensors")
        try:
            packed = load_file(_shown(path))
            shapes = self.values(run)["shapes"]
            for name, shape in shapes.items():
                if packed[name].shape != (-(-prod(shape) // 8),):  # else it would be made of what is not there
                    raise ValueError(f"{name}: {packed[name].size} bytes for {prod(shape)} flags")
            return {
                name: np.unpackbits(packed[name], count=prod(shape)).astype(bool).reshape(shape)
                for name, shape in shapes.items()
            }
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise self._damaged(path, error) from error

    def weights(self, run: Run) -> dict[str, "Tensor"]:
        """The weights that a finished run made, pruned ones 0, or what they were held at."""
        from tombola import mask_codec

        kept, mask = self.tensors(run, "weights"), self.living(run)
        if mask is None:
            return kept
        try:
            whole = mask_codec.expand(kept, mask)
        except ValueError as error:
            raise self._damaged(self._file(run.key, "weights.safetensors"), error) from error
        held = self.tensors(run, "held") if self.holds(run, "held") else {}
        return whole | {name: whole[name].masked_scatter(~mask[name], values) for name, values in held.items()}

    def masked_by(self, run: Run) -> Run | None:
        """The run that made the mask of a run's weights: itself, or else the one whose mask it was given; None for all.

        A training that changes its mask while it trains has one of its own in its outcome.
        """
        return run if self.holds(run, "mask") else run.compressed_by

    def holds(self, run: Run, name: str) -> bool:
        """Whether a finished run has the file of tensors `name`."""
        return self._file(run.key, f"{name}.safetensors").exists()

    def living(self, run: Run) -> "Mask | None":
        """What lives of the weights that a finished run made; None for all of them."""
        made = self.masked_by(run)
        return self.mask(made) if made else None

    def tensors(self, run: Run, name: str) -> dict[str, "Tensor"]:
        """The file of tensors `name` of a finished run."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._file(run.key, f"{name}.safetensors")
        try:
            # clone: torch's own memory is aligned, on which the last bits of a matrix product depend.
            return {key: value.clone() for key, value in load_file(_shown(path)).items()}
        except (OSError, SafetensorError) as error:
            raise self._damaged(path, error) from error

    def save(self, run: Run, outcome: Outcome, provenance: Mapping[str, Any]) -> None:
        """Make `run` finished. All of its files appear at once; if another process was faster, ours is dropped.

        When this returns it is on the disk, and at no time is a part of it in its place, whatever loses power: what
        is in the files is on the disk before they are renamed into place, and then their new name.
        """
        target = self.root / "runs" / run.key
        with self._temporary(run.key) as temporary:
            files.fill(temporary, _files_of(run, outcome, provenance))
            try:
                temporary.rename(target)
            except OSError as error:
                # Another process was faster; or the answer that we were got lost between machines, and we asked again.
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) and not _shown(target).is_dir():
                    raise
            files.settle(target.parent)
        shutil.rmtree(self.root / "failed" / run.key, ignore_errors=True)
        self.forget(run)

    def settle(self) -> None:
        """Wait until all outcomes that are here are on the disk: whoever wrote one may have been killed before that."""
        files.settle(self.root / "runs")

    def keep(self, run: Run, state: Outcome) -> None:
        """Keep how far `run` is, for `kept`; it replaces what was kept before, and goes when the run is over."""
        from safetensors.torch import save

        tensors = {f"{group}:{name}": one for group, each in state.tensors.items() for name, one in each.items()}
        self._replace(self.checkpoint(run), save(tensors, {"values": as_json(state.values).decode()}))

    def kept(self, run: Run) -> Outcome | None:
        """What the last `keep` kept of `run`; None where nothing is kept, or nothing that can be read."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        tensors: dict[str, dict[str, Tensor]] = {}
        try:
            # Read, not mapped: if another host replaces it meanwhile, pages of the old one may be gone.
            content = self.checkpoint(run).read_bytes()
            for path, value in load(content).items():
                group, _, name = path.partition(":")
                tensors.setdefault(group, {})[name] = value.clone()
            header = files.parsed(content[8 : 8 + int.from_bytes(content[:8], "little")])
            return Outcome(files.parsed(header["__metadata__"]["values"]), tensors)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None

    def checkpoint(self, run: Run) -> Path:
        """The file of what `keep` keeps of `run`."""
        return self.root / "checkpoints" / f"{run.key}.safetensors"

    def forget(self, run: Run) -> None:
        """Remove what `keep` has kept of `run`."""
        self.checkpoint(run).unlink(missing_ok=True)

    def fail(self, run: Run, reason: str, log: str) -> Failure:
        """Keep why `run` failed. The next attempt at it replaces this, its success removes it."""
        folder = self.root / "failed" / run.key
        folder.mkdir(parents=True, exist_ok=True)
        failed = {"run": run.described, "status": "failed", "reason": reason}
        try:
            self._replace(folder / "log.txt", log.encode())
            self._replace(folder / "outcome.json", as_json(failed))
        except FileNotFoundError:  # another process has done it meanwhile, and its success wins
            if not self.has(run):
                raise
        if self.has(run):
            shutil.rmtree(folder, ignore_errors=True)
        return Failure(reason, folder / "log.txt")

    def claim(self, run: Run) -> AbstractContextManager[bool]:
        """Hold `run` for this process; False if another one has it. The claim ends with the process: at once for others
        of its host, after a minute for those of other hosts."""
        return self.hold(run.key)

    def hold(self, name: str) -> AbstractContextManager[bool]:
        """Hold a name that is no run's as `claim` holds a run: there, one process at a time does what it stands for.

        Args:
            name: of letters, digits and dashes.
        """
        return self._own.claim(name)

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """A folder of this process's own, gone afterwards, however it ends."""
        with self._temporary(name) as folder:
            folder.mkdir()
            yield folder

    def _temporary(self, name: str) -> AbstractContextManager[Path]:
        return self._own.temporary(name)

    def _replace(self, path: Path, content: bytes) -> None:
        """Write a file and rename it into place: a reader finds the old content or the new one, never a part."""
        with self._temporary(path.name) as temporary:
            files.write(temporary, content)
            temporary.replace(path)

    @property
    def _own(self) -> Claims:
        """This process's claims, and not those of the one that it was forked from."""
        if not self._claims.ours:
            self._claims = Claims(self.root)
        return self._claims

    def _sweep(self) -> None:
        """Remove what is of no use any more: what those who are gone left behind, and checkpoints of finished runs."""
        self._own.sweep()
        finished = self.keys()
        for entry in (self.root / "checkpoints").iterdir():
            if entry.stem in finished:  # even where another host is at it still: it finds the run stored
                entry.unlink(missing_ok=True)

    def ahead(self, keys: Iterable[str]) -> None:
        """Make ready to read the numbers of many finished runs; in a folder they are."""

    def _file(self, key: str, name: str) -> Path:
        """Where a file of a finished run can be read."""
        return self.root / "runs" / key / name

    def _read(self, key: str, name: str, part: str | None = None) -> dict[str, Any]:
        path = self._file(key, name)
        try:
            content = files.parsed(_shown(path).read_text())
            table = content if part is None else content[part]
            if not isinstance(table, dict):
                raise ValueError(f"no table, but {table!r:.60}")
            return table
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(path, error) from error

    def _damaged(self, path: Path, error: Exception) -> StoreError:
        return StoreError(
            where=str(path),
            expected="a complete outcome",
            found=f"a damaged one ({error})",
            todo=f"Remove the folder {path.parent}, and the run is done again.",
        )


def no_store(root: Path | str) -> StoreError:
    """What to raise where there is something, but no store."""
    return StoreError(
        where=str(root),
        expected="a store or an empty folder",
        found="something else",
        todo="Name another folder with --store.",
    )


def _unreadable(root: Path | str, error: OSError) -> StoreError:
    return StoreError(
        where=str(root),
        expected="a folder that can be read",
        found=f"{error.strerror}: {error.filename}",
        todo="Name another one with --store, or give the right to read.",
    )


def no_format(marker: Path | str, error: Exception) -> StoreError:
    """What to raise where the store's format cannot be read."""
    return StoreError(
        where=str(marker),
        expected="the store's format",
        found=f"an unreadable file ({error})",
        todo='If the folder runs/ is fine, write {"format": 1} into it.',
    )


def another_format(root: Path | str, made: object) -> StoreError:
    """What to raise of a store in a format that this version does not read."""
    newer = isinstance(made, int) and made > FORMAT
    todo = "A newer version of Tombola made it: use that one" if newer else "That format is unknown: correct store.json"
    return StoreError(
        where=str(root),
        expected=f"a store of format {FORMAT}",
        found=f"format {made}",
        todo=f"{todo}; or name another folder with --store.",
    )


def _shown(path: Path) -> Path:
    """`path`, once it is to be seen: what is in a folder that another machine has renamed into place may show late."""
    until = time.monotonic() + SHOWN_WITHIN_S
    while not path.exists() and path.parent.is_dir() and time.monotonic() < until:
        time.sleep(POLL_S)
    return path


def as_json(content: Mapping[str, Any]) -> bytes:
    """The same bytes for the same content."""
    return json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":")).encode()


def _files_of(run: Run, outcome: Outcome, provenance: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    from safetensors.torch import save

    for name, tensors in outcome.tensors.items():
        yield f"{name}.safetensors", save(dict(tensors))
    yield "outcome.json", as_json({"run": run.described, "values": dict(outcome.values)})
    yield "provenance.json", as_json(provenance)
