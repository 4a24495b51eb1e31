"""What an executor is: who does what a plan lacks, with what, and when it is the one to do it."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from tombola.engine import Choice
from tombola.errors import BadInput
from tombola.lab.extension import Extension
from tombola.lab.members import Members, extended
from tombola.lab.queue import Announce, Tally
from tombola.lab.runs import Run
from tombola.lab.store import Store


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What runs are done with.

    Attributes:
        store: where their outcomes go.
        data_dir: where data sets lie.
        engine: `auto`, `reference` for the plain loop, or another one by name.
        devices: where; workers share them evenly.
        workers: processes at work at once, >= 1; None for one per core, or one per GPU.
        extensions: files of members that every process executes before it sees a run.
        address: where the executor finds its machines: what follows the colon in `--on NAME:ADDRESS`.
        options: what else has been asked of the executor, by name: `--with NAME=VALUE`.
    """

    store: Store
    data_dir: Path | None = None
    engine: Choice = "auto"
    devices: tuple[str, ...] = ("cpu",)
    workers: int | None = None
    extensions: tuple[Extension, ...] = ()
    address: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def members(self) -> Members:
        """What runs may name: the built-in members, and those of the extensions."""
        return extended(self.extensions)

    @property
    def processes(self) -> int:
        """How many workers there are.

        Raises:
            BadInput: none were asked for.
        """
        if self.workers is None and self.devices != ("cpu",):
            return len(self.devices)
        if self.workers is None:
            return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if self.workers < 1:
            expected, todo = "at least 1", "Leave it out for one per core."
            raise BadInput(where="--workers", expected=expected, found=str(self.workers), todo=todo)
        return self.workers


@dataclass(frozen=True)
class Offer:
    """What an executor has for a plan.

    Attributes:
        processes: how many runs it does at once.
        devices: where.
        about: a sentence on it for `tombola plan`; none where there is nothing to say.
    """

    processes: int
    devices: tuple[str, ...]
    about: str = ""


@dataclass(frozen=True)
class Team:
    """Processes that stand ready.

    Attributes:
        offer: what they are.
        execute: performs runs, inputs first, and stores their outcomes; its second argument is told of every event.
    """

    offer: Offer
    execute: Callable[[Iterable[Run], Announce], Tally]


@dataclass(frozen=True, kw_only=True)
class Executor:
    """One way to do what a plan lacks.

    Attributes:
        name: by which `--on` asks for it.
        about: it, in one sentence.
        applies: whether it is the one to do it here and now, where none is named.
        offer: what it has; starts nothing that lasts.
        team: brings the processes together, and lets them go at the end. It gives None to a process that is one of
            them and has done its part: there is nothing more for it to do.
        options: what `--with` may say to it: name -> what it means.
        elsewhere: whether its machines may have GPUs where this one has none.
    """

    name: str
    about: str
    applies: Callable[[], bool]
    offer: Callable[[Resources], Offer]
    team: Callable[[Resources], AbstractContextManager[Team | None]]
    options: Mapping[str, str] = field(default_factory=dict)
    elsewhere: bool = False
