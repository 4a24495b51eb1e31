"""A job's life, on its node: take runs from its mailbox, until there are no more or its time is over."""

import os
import platform
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import tombola
from tombola.lab import mailbox
from tombola.lab.mailbox import Receiver, Sender
from tombola.lab.runs import Run
from tombola.lab.serving import Equipment, Message, serve

GRACE_S = 20.0  # for a job to keep a checkpoint when the command ends
POLL_S = (0.05, 1.0)  # between two looks into a mailbox: at first, and where nothing has come for long
WATCH_S = 0.5  # between two looks of a worker at whether the command lives
LOOKED_S = 1.0  # between two lines on how runs go

_WHYS = {"SIGUSR2": "its job's time limit was near", "SIGTERM": "its job was told to end"}


def facts() -> dict[str, str]:
    """What must be alike on all machines."""
    return {"Python": ".".join(platform.python_version_tuple()[:2]), "Tombola": tombola.__version__}


def live(folder: Path, place: int, equipment: Equipment, device: str, silent_s: float) -> None:
    """A job's life: take runs from its mailbox, do them and say so, until there are no more, or its time is over.

    Args:
        folder: of the mailboxes.
        place: its number.
        silent_s: how long the command may be silent until it counts as gone.
    """
    asked, says = mailbox.opened(folder / str(place))
    leaving = _Leaving(says)
    for name in _WHYS:
        signal.signal(getattr(signal, name), leaving.heard)
    threading.Thread(target=leaving.watch, args=(mailbox.Pulse(folder / "pulse", silent_s),), daemon=True).start()
    store = equipment.resources.store
    seen = not store.is_folder or (store.root / "runs").is_dir()
    sees = {"host": socket.gethostname(), "pid": os.getpid(), "store": seen}
    says.send(["", "here", facts() | sees])
    take = partial(next, _asked(asked, leaving), None)
    serve(equipment, device, folder / str(place) / "log", take, _Saying(says, leaving), leaving)
    with suppress(OSError):
        says.send(["", "gone", leaving.why or "there was no more to do"])


class _Leaving:
    """Whether a worker is to leave, and why."""

    def __init__(self, says: Sender) -> None:
        self._says, self.why = says, ""

    def __call__(self) -> bool:
        return bool(self.why)

    def heard(self, number: int, frame: object) -> None:
        """Slurm has sent a signal: some time before the limit, or when somebody wants the place, or the job away."""
        self.why = self.why or _WHYS[signal.Signals(number).name]

    def watch(self, pulse: mailbox.Pulse) -> None:
        """Say it when the worker is to leave, as it may be killed before it can; leave when the command is gone."""
        told = False
        while pulse.beats():
            if self.why and not told:
                with suppress(OSError):
                    self._says.send(["", "leaving", self.why])
                told = True
            time.sleep(WATCH_S)
        self.why = self.why or "the command was gone"
        time.sleep(GRACE_S)  # in which the run may keep a checkpoint
        os._exit(1)


def _asked(asked: Receiver, leaving: _Leaving) -> Iterator[Sequence[Run]]:
    """The runs that a worker is to do, as they come, until there are no more or it is to leave."""
    since = time.monotonic()
    while not leaving():
        with suppress(OSError):
            for message in asked.new():
                if message is None:
                    return
                yield mailbox.runs_received(message)
                since = time.monotonic()
        time.sleep(pause(time.monotonic() - since, workers=1))


class _Saying:
    """How a worker says things: what becomes of a run in any case, and how it goes at first, and now and then."""

    def __init__(self, says: Sender, leaving: _Leaving) -> None:
        self._says, self._leaving = says, leaving
        self._looked: dict[str, float] = {}  # by key: when it was last said how it goes

    def __call__(self, message: Message) -> None:
        if message[1] == "looked":
            if time.monotonic() - self._looked.get(message[0], -LOOKED_S) < LOOKED_S:
                return
            self._looked[message[0]] = time.monotonic()
        else:
            self._looked.pop(message[0], None)
        while not self._said(message) and not self._leaving():
            time.sleep(WATCH_S)

    def _said(self, message: Message) -> bool:
        try:
            self._says.send(mailbox.said(message))
        except OSError:  # the file system is not there for a moment, or the command is gone, as will be seen
            return False
        return True


def pause(waited: float, workers: int) -> float:
    """How long to wait before looking again: short at first, and not too short for a file server."""
    return min(POLL_S[1], max(POLL_S[0], waited / 10, workers / 200))
