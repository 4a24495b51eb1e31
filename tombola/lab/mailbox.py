"""How a command and a worker on another machine speak where all they share is a folder.

Each of the two has a file that it alone appends to, a message a line, and that the other one reads on from where it has
come to. Both files are there before either is asked for, and none is ever replaced: over NFS what is appended to a file
is seen as soon as the file is opened again, while a new file in a folder may stay unseen for a minute.

    PLACE/asked    by the command: runs to do, or that there are no more
    PLACE/said     by the worker: messages, as `serving` has them
    pulse          by the command, over and over: whoever sees it stand still knows that the command is gone

What the command reads is JSON. What a worker reads are runs, pickled: it is handed its own first function in that way
too, so it trusts the command already, and the folder is its user's alone.
"""

import base64
import json
import pickle
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tombola import errors
from tombola.errors import BadInput, NoRoom, TombolaError
from tombola.lab.runs import Run
from tombola.lab.serving import Message

PULSE_S = 5.0  # between two beats
_ENDINGS: dict[str, type[BadInput]] = {"DataError": errors.DataError, "StoreError": errors.StoreError}


class Sender:
    """The end of a file of messages that writes."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()

    def send(self, message: Any) -> None:
        """Append a message, which is JSON; any thread may.

        Raises:
            OSError: the file cannot be written.
        """
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(message) + "\n")


class Receiver:
    """The end of a file of messages that reads."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def new(self) -> list[Any]:
        """The messages that have come since the last time.

        Raises:
            OSError: the file cannot be read.
        """
        with self._path.open("rb") as file:
            file.seek(self._read)
            *lines, _ = file.read().split(b"\n")  # the last one is not complete
        messages = []
        for line in lines:
            try:
                messages.append(json.loads(line))
            except ValueError:  # the length of a file may be seen before what it holds
                break
            self._read += len(line) + 1
        return messages


def made(folder: Path) -> tuple[Sender, Receiver]:
    """A new mailbox: the command's ends of it."""
    folder.mkdir(mode=0o700)
    for name in ("asked", "said"):
        (folder / name).touch()
    return Sender(folder / "asked"), Receiver(folder / "said")


def opened(folder: Path) -> tuple[Receiver, Sender]:
    """A worker's ends of its mailbox."""
    return Receiver(folder / "asked"), Sender(folder / "said")


def runs_sent(runs: Sequence[Run]) -> str:
    """Runs as a message.

    >>> from tombola.lab.runs import Stored
    >>> runs_received(runs_sent([Stored("train-1")]))
    [Stored(train-1)]
    """
    return base64.b64encode(pickle.dumps(list(runs))).decode()


def runs_received(message: str) -> list[Run]:
    """The runs that a message is."""
    runs: list[Run] = pickle.loads(base64.b64decode(message))
    return runs


def said(message: Message) -> list[Any]:
    """What a worker says, as JSON: an error as its class and what it is made of.

    >>> heard(said(("train-1", "stop", NoRoom("No space left on device"))))
    ('train-1', 'stop', NoRoom('No space left on device'))
    """
    return [_plain(part) for part in message]


def heard(message: Sequence[Any]) -> Message:
    """The same as it was said."""
    return tuple(_error(part["error"], part["of"]) if _is_error(part) else part for part in message)


def _is_error(part: Any) -> bool:
    return isinstance(part, dict) and part.keys() == {"error", "of"}


def _plain(part: Any) -> Any:
    if isinstance(part, BadInput):
        of = {"where": part.where, "expected": part.expected, "found": part.found, "todo": part.todo}
        return {"error": type(part).__name__, "of": of}
    return {"error": type(part).__name__, "of": str(part)} if isinstance(part, Exception) else part


def _error(name: str, of: Any) -> TombolaError:
    if isinstance(of, dict):
        return _ENDINGS.get(name, BadInput)(**of)
    return NoRoom(of) if name == "NoRoom" else TombolaError(of)


@contextmanager
def beating(path: Path) -> Iterator[None]:
    """Write the pulse of this process into a file, over and over, for as long as this lasts."""
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.wait(PULSE_S):
            count += 1
            with suppress(OSError):  # a full disk, say, which may be over at the next beat
                path.write_text(f"{count}\n")

    path.write_text("0\n")
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Pulse:
    """The pulse of another process, felt in a file.

    Args:
        silent_s: how long it may stand still, by this machine's clock, until that process counts as gone.
    """

    def __init__(self, path: Path, silent_s: float) -> None:
        self._path, self._silent_s = path, silent_s
        self._last, self._since = "", time.monotonic()

    def beats(self) -> bool:
        """Whether the other process lives, as far as one can know."""
        try:
            now = self._path.read_text()
        except FileNotFoundError:  # it has removed its folder
            return False
        except OSError:  # a file system that is not there for a moment is as good as silence
            now = self._last
        if now != self._last:
            self._last, self._since = now, time.monotonic()
        return time.monotonic() - self._since < self._silent_s
