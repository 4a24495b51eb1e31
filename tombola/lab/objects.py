"""An object store by its address: five verbs, each of them tried again while the network fails, up to a limit.

Such a store has no folders, no locks and no renaming. What it has is this: an object is there as a whole or not at all,
and can be written on the condition that none of its name exists. All else is built on these two.
"""

import errno
import inspect
import random
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from tombola.errors import StoreError, StoreLost, not_installed

PATIENCE_S = 300.0  # a training of hours is not given up for a router that starts anew
FIRST_PATIENCE_S = 6.0  # at the first contact, where the address may be wrong and somebody waits
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 15.0
CLOCK_LASTS_S = 600.0
_CONNECTING = {"connect_timeout": 10, "read_timeout": 60, "retries": {"total_max_attempts": 1}}
# Of each protocol what its file system is made with: here is who tries again, and says so.
_OPTIONS: Mapping[str, Mapping[str, Any]] = {name: {"config_kwargs": _CONNECTING} for name in ("s3", "s3a")}
_NO_STORES = {"memory": "another process sees nothing of it", "http": "it cannot be written", "https": "it cannot be"}
_MODIFIED = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
_VERSION = ("ETag", "etag", "generation", "content_md5")
_CLIENTS = {"aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "requests", "s3fs", "urllib3"}
_NO_CREDENTIALS = ("Credential", "SSOToken", "TokenRetrieval", "RefreshError")
_LASTING = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENAMETOOLONG, errno.ENOENT, getattr(errno, "EREMCHG", -1))

_T = TypeVar("_T")


@dataclass(frozen=True)
class Entry:
    """What a listing says of an object.

    Attributes:
        modified: when it was written, in seconds, by the server's clock.
        version: changes whenever it is written with other content.
    """

    modified: float
    version: str


def connect(address: str) -> "Objects":
    """The object store at an address; nothing is asked of it yet.

    Args:
        address: `PROTOCOL://BUCKET/PREFIX`, as fsspec has them.

    Raises:
        BadInput: no such protocol, or the package that speaks it is not installed.
    """
    protocol, _, place = address.partition("://")
    address, place = f"{protocol}://{place.rstrip('/')}", place.rstrip("/")
    if "@" in place.partition("/")[0]:
        raise _no_address(f"{protocol}://...@...", "one with a password in it, which would be shown and passed on")
    if why := _NO_STORES.get(protocol):
        raise _no_address(address, f"{protocol}://, and {why}")
    if "::" in address or not place.partition("/")[0]:
        raise _no_address(address, "a chain of them" if "::" in address else "one that names no bucket")
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise not_installed(address, "s3fs, which speaks to such stores", "remote") from error
    try:
        options = {"use_listings_cache": False, "skip_instance_cache": True, **_OPTIONS.get(protocol, {})}
        system, root = url_to_fs(address, **options)
    except ImportError as error:
        if protocol in _OPTIONS:
            raise not_installed(address, "s3fs, which speaks to such stores", "remote") from error
        expected, todo = "a package of fsspec's that speaks to it", "Install it into this environment."
        raise StoreError(where=address, expected=expected, found=f"none: {error}", todo=todo) from error
    except ValueError as error:
        raise _no_address(address, f"another: {error}") from error
    if protocol in _OPTIONS:
        system.retries = 1
    return Objects(address, system, root)


def _no_address(address: str, found: str) -> StoreError:
    return StoreError(
        where=address,
        expected="a folder, or an address like s3://bucket/prefix",
        found=found,
        todo="Name another one with --store.",
    )


class Objects:
    """The objects below an address.

    Args:
        address: for people.
        system: a file system of fsspec's.
        root: what its names begin with.
        patience_s: for how long to try again what fails in a way that may pass.
        say: is told, at most once in that time, that something is being tried again.
    """

    def __init__(
        self,
        address: str,
        system: Any,
        root: str,
        patience_s: float = PATIENCE_S,
        say: Callable[[str], object] = lambda text: sys.stderr.write(f"tombola: {text}\n"),
    ) -> None:
        self.address, self.patience_s, self.say = address, patience_s, say
        self._system, self._root = system, root.rstrip("/")
        self._told_at = self._measured_at = -float("inf")
        self._ahead_s = 0.0

    def get(self, name: str) -> bytes | None:
        """The content of an object; None where there is none."""
        try:
            return bytes(self._tried(lambda: self._system.cat_file(self._path(name))))
        except FileNotFoundError:
            return None

    def put(self, name: str, content: bytes) -> None:
        """Write an object, or write it anew."""
        self._tried(lambda: self._system.pipe_file(self._path(name), content), writing=True)

    def put_new(self, name: str, content: bytes) -> bool:
        """Write an object if there is none of that name; whether it is this one that is there now.

        Args:
            content: no other writer's may be the same: by it an object is known again whose writing was not answered.
        """
        tries = 0

        def write() -> bool:
            nonlocal tries
            tries += 1
            try:
                self._system.pipe_file(self._path(name), content, mode="create")
                return True
            except OSError as error:
                if not _is_refused(error):
                    raise
                return tries > 1 and self._system.cat_file(self._path(name)) == content

        return self._tried(write, writing=True)

    def entry(self, name: str) -> Entry | None:
        """What there is to say of an object; None where there is none."""
        try:
            return _entry(self._tried(lambda: self._system.info(self._path(name))))
        except FileNotFoundError:
            return None

    def entries(self, folder: str, beginning: str = "") -> dict[str, Entry]:
        """All objects below a folder, by their names in it.

        Args:
            beginning: of the names that are asked for.
        """
        path = self._path(folder)
        try:
            found = self._tried(lambda: self._system.find(path, detail=True, prefix=beginning))
        except FileNotFoundError:
            return {}
        start = len(path) + 1
        each = ((name[start:], info) for name, info in found.items())
        return {name: _entry(info) for name, info in each if name.startswith(beginning) and name}

    def names(self) -> set[str]:
        """What there is right below the address: objects and folders."""
        try:
            found = self._tried(lambda: self._system.ls(self._root, detail=False))
        except FileNotFoundError:
            return set()
        return {each.rstrip("/").rpartition("/")[2] for each in found} - {""}

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects, those that are not there too."""
        paths = [self._path(name) for name in names]
        if paths:
            with suppress(FileNotFoundError):
                self._tried(lambda: self._system.rm(paths))

    def now(self) -> float:
        """The time in seconds by the server's clock, which is the one that objects are dated by."""
        here = time.monotonic()
        if here - self._measured_at > CLOCK_LASTS_S:
            name = f"clock/{uuid.uuid4().hex}"
            self.put(name, b"")
            written = self.entry(name)
            self.delete([name])
            self._ahead_s, self._measured_at = (written.modified if written else time.time()) - here, here
        return here + self._ahead_s

    @property
    def is_conditional(self) -> bool:
        """Whether `put_new` holds where two write at the same moment, as far as the file system can say."""
        system = type(self._system)
        write = getattr(system, "_pipe_file", None) or system.pipe_file
        return "mode" in inspect.signature(write).parameters and not write.__module__.startswith("fsspec.spec")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _tried(self, act: Callable[[], _T], writing: bool = False) -> _T:
        """What `act` gives, tried again while it fails in a way that may pass.

        Raises:
            FileNotFoundError: there is no such object.
            StoreLost: it fails in a way that does not pass, or not soon enough.
        """
        failing_since, pause = None, FIRST_PAUSE_S
        while True:
            try:
                return act()
            except Exception as error:
                if isinstance(error, FileNotFoundError) and not (writing or _code(error) == "NoSuchBucket"):
                    raise
                if not _comes_from_outside(error):
                    raise
                if not _may_pass(error):
                    raise self._lost(error) from error
                failing_since = failing_since or time.monotonic()  # the first call imports a client, which takes long
                if time.monotonic() + pause - failing_since > self.patience_s:
                    raise self._unanswered(error) from error
                self._tell(error)
            time.sleep(pause * random.uniform(0.5, 1.5))  # so that many who are refused do not come back at once
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _tell(self, error: Exception) -> None:
        if time.monotonic() - self._told_at > self.patience_s:
            self._told_at = time.monotonic()
            self.say(f"{self.address}: {_text(error)}. Tried again for up to {self.patience_s:.0f} s.")

    def _lost(self, error: Exception) -> StoreLost:
        expected, found, todo = "a store that answers", _text(error), "See to it."
        if isinstance(error, FileNotFoundError):
            expected, found = "a bucket", "none of that name"
            todo = "Make it, or name another one with --store."
        elif isinstance(error, PermissionError):
            expected, found = "the right to list, read, write and delete there", f"a refusal ({_text(error)})"
            todo = "Ask whoever owns it for the right, or see whether the credentials still hold."
        elif any(word in type(error).__name__ for word in _NO_CREDENTIALS):
            expected, found = "credentials", f"none ({_text(error)})"
            todo = "Give them as the store's other tools take them: for S3 by AWS_PROFILE or AWS_ACCESS_KEY_ID."
        return StoreLost(where=self.address, expected=expected, found=found, todo=todo)

    def _unanswered(self, error: Exception) -> StoreLost:
        found = f"none within {self.patience_s:.0f} s ({_text(error)})"
        todo = "See whether the address is right, and whether it can be reached from here."
        return StoreLost(where=self.address, expected="an answer", found=found, todo=todo)


def _entry(info: Mapping[str, Any]) -> Entry:
    written = next((info[name] for name in _MODIFIED if info.get(name) is not None), None)
    if isinstance(written, str):
        written = datetime.fromisoformat(written)
    seconds = written.timestamp() if isinstance(written, datetime) else written
    if seconds is None:
        raise StoreError(
            where=str(info.get("name")),
            expected="a store that says when an object was written",
            found="one that does not",
            todo="Name another one with --store.",
        )
    version = next((info[name] for name in _VERSION if info.get(name)), f"{seconds} {info.get('size')}")
    return Entry(float(seconds), str(version))


def _code(error: BaseException) -> str:
    """What the server calls it."""
    answer = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, Mapping) else ""


def _is_refused(error: OSError) -> bool:
    """Whether an object was not written since there is one of its name."""
    return isinstance(error, FileExistsError) or _code(error) in ("PreconditionFailed", "412")


def _comes_from_outside(error: Exception) -> bool:
    """Whether an error is one of the network or of its client, and no fault of this program."""
    return isinstance(error, OSError) or any(kind.__module__.split(".")[0] in _CLIENTS for kind in type(error).__mro__)


def _may_pass(error: Exception) -> bool:
    if isinstance(error, PermissionError | FileNotFoundError):
        return False
    if isinstance(error, OSError) and error.errno in _LASTING:
        return False
    return not any(word in type(error).__name__ for word in (*_NO_CREDENTIALS, "ParamValidation", "InvalidRegion"))


def _text(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (said or type(error).__name__).strip().rstrip(".")
