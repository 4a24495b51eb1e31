"""The finished runs in a bucket, or whatever else fsspec has an address for. Present means complete here too.

store.json                      the format of the store
runs/KEY.json                   an outcome: its description, its numbers, how it came about, and where its tensors are
tensors/KEY/TOKEN/NAME.safetensors      its tensors, as one attempt at it wrote them
checkpoints/KEY.safetensors     a training that is under way, or was interrupted
failed/KEY.json, KEY.txt        the last failure of a run that is not done, and its log
until/KEY                       as in a folder
claims/KEY.N                    who is at it: `lab.leases`
swept                           when leftovers were last looked for

Nothing can be renamed there, so an outcome is complete when its last object is there, runs/KEY.json, which is written
on the condition that there is none. Tensors come before it, each attempt's under a name of its own: of two attempts
at one run the first to end is the outcome, and what the other one wrote goes when it is old.

On this machine a folder keeps copies (`lab.copies`), scratch files and locks between its processes. It can be removed
at any time when nobody is at work.
"""

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from tombola import files
from tombola.data.download import cache_dir
from tombola.errors import StoreError, StoreLost
from tombola.lab import claims
from tombola.lab.copies import LISTING, Copies
from tombola.lab.leases import Leases
from tombola.lab.objects import FIRST_PATIENCE_S, Objects, connect
from tombola.lab.runs import Outcome, Run, Stored
from tombola.lab.store import FORMAT, Failure, Store, another_format, as_json, no_format, no_store

LEFT_OVER_S = 24 * 3600.0  # after which what no outcome names is taken for a dead attempt's
SWEPT_EVERY_S = 24 * 3600.0
AT_ONCE = 16  # objects that are fetched together: most of the time is waiting
_NAMES = {"store.json", "runs", "tensors", "checkpoints", "failed", "until", "claims", "clock", "probe", "swept"}


def remote_store(address: str) -> "RemoteStore":
    """The store at an address like `s3://bucket/prefix`, with its folder on this machine.

    Raises:
        BadInput: no such protocol, or the package that speaks it is not installed.
    """
    objects = connect(address)
    named = os.environ.get("TOMBOLA_CACHE")
    folder = Path(named) if named else cache_dir() / "stores"
    digest = hashlib.sha256(f"{os.environ.get('AWS_ENDPOINT_URL', '')} {objects.address}".encode()).hexdigest()[:16]
    return RemoteStore(objects, folder / digest)


class RemoteStore(Store):
    """Finished runs as objects that any number of machines may share.

    Args:
        objects: they.
        root: a folder of this machine's for what has been read, scratch files and locks.
    """

    def __init__(self, objects: Objects, root: Path) -> None:
        super().__init__(root)
        self._objects = objects
        self._here, self._copies = Store(root), Copies(root)
        self._leases: Leases | None = None
        self._versions: dict[str, str] = {}  # by key, as of the last listing
        self._checkpointed: set[str] = set()
        objects.say = lambda text: self.tell(text)

    def __reduce__(self) -> tuple[Callable[..., Store], tuple[Path | str]]:
        return remote_store, (self.address,)

    @property
    def is_folder(self) -> bool:
        return False

    def absolute(self) -> "RemoteStore":
        return self

    @property
    def address(self) -> str:
        return self._objects.address

    @property
    def reports(self) -> Path:
        """Reports are for people, and so among their files, not in the bucket."""
        return Path("tombola-reports", *self.address.partition("://")[2].split("/"))

    def open(self) -> "RemoteStore":
        self.check()
        try:
            self._here.open()
            self._copies.trim()
        except (StoreError, OSError) as error:
            raise self._no_folder(error) from error
        with self._first_contact():
            name = f"probe/{uuid.uuid4().hex}"
            self._objects.put_new(name, b"1")
            if self._objects.put_new(name, b"2") or not self._objects.is_conditional:
                self.tell(
                    f"{self.address}: this kind of store writes nothing on a condition, so that two who work on it at "
                    "once may do a run twice. They make the same outcome."
                )
            self._objects.delete([name])
            self._objects.put_new("store.json", as_json({"format": FORMAT}))
        self._sweep()
        return self

    def check(self) -> None:
        with self._first_contact():
            content = self._objects.get("store.json")
            if content is None:
                if (names := self._objects.names()) and not names & _NAMES:
                    raise no_store(self.address)
                return
        try:
            made = files.parsed(content)["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise no_format(f"{self.address}/store.json", error) from error
        if made != FORMAT:
            raise another_format(self.address, made)

    @contextmanager
    def _first_contact(self) -> Iterator[None]:
        """What does not answer now is bad input, and found out within seconds."""
        patience, self._objects.patience_s = self._objects.patience_s, FIRST_PATIENCE_S
        try:
            yield
        except StoreLost as error:
            raise StoreError(where=error.where, expected=error.expected, found=error.found, todo=error.todo) from error
        finally:
            self._objects.patience_s = patience

    def has(self, run: Run) -> bool:
        return self._objects.entry(f"runs/{run.key}.json") is not None

    def keys(self) -> set[str]:
        listed = self._objects.entries("runs")
        self._versions = {name.removesuffix(".json"): entry.version for name, entry in listed.items()}
        self._copies.compare(self._versions)
        return set(self._versions)

    def failed(self) -> set[str]:
        names = {name.removesuffix(".json") for name in self._objects.entries("failed") if name.endswith(".json")}
        return names - self.keys() if names else names

    def note_until(self, run: Run) -> None:
        self._objects.put(f"until/{run.key}", b"")

    def until(self) -> set[str]:
        return set(self._objects.entries("until"))

    def failure(self, run: Run) -> str | None:
        content = self._objects.get(name := f"failed/{run.key}.json")
        try:
            return None if content is None else str(files.parsed(content)["reason"])
        except (ValueError, KeyError, TypeError):
            return f"{self.address}/{name} is damaged and does not say it"

    def save(self, run: Run, outcome: Outcome, provenance: Mapping[str, Any]) -> None:
        from safetensors.torch import save

        tensors = {f"{name}.safetensors": save(dict(each)) for name, each in outcome.tensors.items()}
        content = as_json(
            {
                "outcome": {"run": run.described, "values": dict(outcome.values)},
                "provenance": dict(provenance),
                "tensors": self._put(run.key, tensors),
                "attempt": uuid.uuid4().hex,
            }
        )
        if self._objects.put_new(f"runs/{run.key}.json", content):
            with suppress(OSError):  # it can be fetched
                self._keep_copy(run.key, content, tensors)
        if run.key in self._checkpointed:
            self._objects.delete([_checkpoint(run.key)])
            self._checkpointed.discard(run.key)
            self._here.forget(run)

    def settle(self) -> None:
        """Nothing: what can be read from a bucket stays."""

    def _put(self, key: str, tensors: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
        """Write the tensors of an attempt; where they are, and their digests."""
        while True:
            began, token = time.time(), uuid.uuid4().hex
            placed = {name: f"tensors/{key}/{token}/{name}" for name in tensors}
            for name, content in tensors.items():
                self._objects.put(placed[name], content)
            if time.time() - began < LEFT_OVER_S / 2:  # else the machine slept, and they may have been swept
                return {
                    name: {"object": placed[name], "sha256": hashlib.sha256(content).hexdigest()}
                    for name, content in tensors.items()
                }

    def keep(self, run: Run, state: Outcome) -> None:
        self._here.keep(run, state)
        self._objects.put(_checkpoint(run.key), self._here.checkpoint(run).read_bytes())
        self._checkpointed.add(run.key)

    def kept(self, run: Run) -> Outcome | None:
        content = self._objects.get(_checkpoint(run.key))
        if content is None:
            return None
        self._checkpointed.add(run.key)
        files.replace(self._here.checkpoint(run), content)
        return self._here.kept(run)

    def fail(self, run: Run, reason: str, log: str) -> Failure:
        content = as_json({"run": run.described, "status": "failed", "reason": reason})
        self._objects.put(f"failed/{run.key}.txt", log.encode())
        self._objects.put(f"failed/{run.key}.json", content)
        return self._here.fail(run, reason, log)  # where somebody can look into it

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        self._make_folders()
        with self._here.scratch(name) as folder:
            yield folder

    def _make_folders(self) -> None:
        """Make them on a machine where nobody has opened the store: it came here by its address."""
        for folder in ("runs", "failed", "checkpoints", *claims.FOLDERS):
            (self.root / folder).mkdir(parents=True, exist_ok=True)

    def claim(self, run: Run) -> AbstractContextManager[bool]:
        if isinstance(run, Stored):  # which are names of files in the folder here
            self._make_folders()
            return self._here.claim(run)
        return self.hold(run.key)

    @contextmanager
    def hold(self, name: str) -> Iterator[bool]:
        self._make_folders()
        with self._here.hold(name) as ours:
            if not ours:
                yield False
                return
            if self._leases is None:
                self._leases = Leases(self._objects, machine(self.root))
            lease = self._leases.take(name)
            try:
                yield lease is not None
            finally:
                if lease is not None:
                    self._leases.give_back(lease)

    def ahead(self, keys: Iterable[str]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            lacking = [key for key in keys if not self._copies.has(key)]
            for _ in pool.map(self._fetch, lacking):
                pass

    def _file(self, key: str, name: str) -> Path:
        path = self._copies.file(key, name)
        try:
            there = path.exists() or (self._copies.has(key) and self._fetch_tensors(key, name))
            # Else there is no copy, or it is of an outcome that was removed since, with its tensors.
            if not there and self._fetch(key) and not path.exists() and not self._fetch_tensors(key, name):
                raise self._damaged_object(key, "one whose tensors are not all there")
        except OSError as error:
            raise self._no_folder(error) from error
        self._copies.used(key)
        return path

    def _fetch(self, key: str) -> bool:
        """Bring the numbers of an outcome here; whether there is one."""
        content = self._objects.get(f"runs/{key}.json")
        if content is not None:
            self._keep_copy(key, content, {}, self._versions.get(key))
        return content is not None

    def _fetch_tensors(self, key: str, name: str) -> bool:
        """Bring tensors here, if the outcome has any of that name; False if it says that it has, but they are gone."""
        listing = self._copies.file(key, LISTING)
        try:
            placed = files.parsed(listing.read_text())["tensors"].get(name)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(listing, error) from error
        if placed is None:
            return True
        content = self._objects.get(placed["object"])
        if content is None:
            return False
        if hashlib.sha256(content).hexdigest() != placed["sha256"]:
            raise self._damaged_object(key, f"{name} with other bytes than were written")
        self._copies.add(key, name, content)
        return True

    def _keep_copy(self, key: str, content: bytes, tensors: Mapping[str, bytes], version: str | None = None) -> None:
        try:
            made = files.parsed(content)
            parts = {"outcome.json": as_json(made["outcome"]), "provenance.json": as_json(made["provenance"])}
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged_object(key, f"a damaged one ({error})") from error
        self._copies.keep(key, {**parts, **tensors, LISTING: content}, version)

    def _no_folder(self, error: Exception) -> StoreError:
        return StoreError(
            where=str(self.root),
            expected=f"a folder for copies of what is in {self.address}",
            found=str(error),
            todo="Name another one with TOMBOLA_CACHE, or make room or give the right to write.",
        )

    def _damaged_object(self, key: str, found: str) -> StoreError:
        return StoreError(
            where=f"{self.address}/runs/{key}.json",
            expected="a complete outcome",
            found=found,
            todo="Remove this object, and the run is done again.",
        )

    def _damaged(self, path: Path, error: Exception) -> StoreError:
        return StoreError(
            where=str(path),
            expected=f"a complete copy of an outcome in {self.address}",
            found=f"a damaged one ({error})",
            todo=f"Remove the folder {path.parent}, and it is fetched again.",
        )

    def _sweep(self) -> None:
        """Remove what dead attempts left, once a day: what is old, and what no outcome needs."""
        now, swept = self._objects.now(), self._objects.entry("swept")
        if swept and now - swept.modified < SWEPT_EVERY_S:
            return
        self._objects.put("swept", b"")
        finished = self.keys()
        old = [
            f"{folder}/{name}"
            for folder in ("tensors", "checkpoints", "failed", "claims", "probe", "clock")
            for name, entry in self._objects.entries(folder).items()
            if now - entry.modified > LEFT_OVER_S and self._is_over(folder, name, finished)
        ]
        self._objects.delete(old)

    def _is_over(self, folder: str, name: str, finished: set[str]) -> bool:
        if folder in ("claims", "probe", "clock"):
            return True
        key = name.partition("/")[0].partition(".")[0]
        if folder == "tensors":
            return key not in finished or f"{folder}/{name}" not in self._placed(key)
        return key in finished

    def _placed(self, key: str) -> set[str]:
        content = self._objects.get(f"runs/{key}.json")
        return {each["object"] for each in files.parsed(content)["tensors"].values()} if content else set()


def _checkpoint(key: str) -> str:
    return f"checkpoints/{key}.safetensors"


def machine(root: Path) -> str:
    """What names the folder here and the start of its machine: locks in it are known to those of the same name."""
    path = root / "machine"
    with suppress(FileExistsError), path.open("x") as file:
        file.write(uuid.uuid4().hex)
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{path.read_text()}-{boot.read_text().strip() if boot.exists() else 'unknown'}"
