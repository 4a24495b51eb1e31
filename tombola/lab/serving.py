"""A worker's life, wherever it runs: set its process up, then take runs, do them and say so until there are no more."""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola.engine.native.layer_formats import Timed
from tombola.lab.attempt import do_all, one_thread
from tombola.lab.checkpoints import staying
from tombola.lab.executor import Resources
from tombola.lab.runs import Run
from tombola.sparse.times import Times

if TYPE_CHECKING:
    from tombola.lab.worker import Worker

# What a worker says: the key of a run, what there is to say of it, and what belongs to that. See `attempt.do_all`.
Message = tuple[Any, ...]
LOG_TAIL = 4000  # characters of what a worker said that are kept with a run it died of
READY: Message = ("", "ready")  # the first that it says: from now on it can be given runs
TOLD: Message = ("", "told")  # and a text: what the user should know of the store


@dataclass(frozen=True)
class Equipment:
    """What each worker is given.

    Attributes:
        resources: those of the command.
        shared: a folder that all workers see, with the data sets of the command; None where each reads them itself.
        measured: how long layers take, measured once, by the command: a second measurement may choose other formats,
            which give other last bits.
    """

    resources: Resources
    shared: Path | None
    measured: Mapping[Timed, Times]


def serve(
    equipment: Equipment,
    device: str,
    log: Path,
    take: Callable[[], Sequence[Run] | None],
    say: Callable[[Message], None],
    leaving: Callable[[], bool] = staying,
) -> None:
    """Take runs, do them and say so, until there are no more.

    Args:
        device: where they are done.
        log: a file that gets what this process writes on standard error.
        take: waits for the next runs, done at once where they are several; None where there are no more.
        say: passes on what there is to say.
        leaving: whether its time is running out; see `checkpoints`.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # for good, and where `interrupts.unheard` could not see to it
    store, one_at_a_time = equipment.resources.store, threading.Lock()

    def told(text: str) -> None:
        with one_at_a_time:  # a store has threads
            say((*TOLD, text))

    def answer(run: Run, *message: Any) -> None:
        with one_at_a_time:
            say((run.key, *message))

    store.tell = told
    with log.open("w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    faulthandler.enable()
    worker = equipped(equipment, device, leaving)
    say(READY)
    while (runs := take()) is not None:
        do_all(runs, worker, answer)


def equipped(equipment: Equipment, device: str, leaving: Callable[[], bool] = staying) -> "Worker":
    """This process, set up to compute, as a worker with this equipment."""
    resources = equipment.resources
    one_thread()
    if device != "cpu":
        import torch

        torch.cuda.set_device(device)  # else what asks for no device in particular would ask the first one
    if resources.engine == "reference":
        _warm_up()
    from tombola.lab.worker import Worker

    return Worker(
        resources.store,
        resources.data_dir,
        resources.engine,
        equipment.shared,
        device,
        time.perf_counter,
        measured=equipment.measured,
        scores=resources.members.scores,
        leaving=leaving,
    )


def _warm_up() -> None:
    """One training step of nothing: torch imports half of itself at the first one, which is no run's time."""
    import torch

    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    model(torch.zeros(1, 1)).sum().backward()
    optimizer.step()
