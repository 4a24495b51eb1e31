"""A worker that is this process: `--on slurm:debug`."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tombola.lab import mailbox
from tombola.lab.attempt import do_all
from tombola.lab.mailbox import Receiver, Sender
from tombola.lab.pool import Gone
from tombola.lab.runs import Run
from tombola.lab.serving import READY, Equipment, Message, equipped

if TYPE_CHECKING:
    from tombola.lab.worker import Worker


@dataclass(eq=False)
class Helper:
    """A worker that is this process."""

    to: Sender
    asked: Receiver
    says: Sender
    of: Receiver
    worker: "Worker"
    ready: bool = False


class InThisProcess:
    """A worker that does in this process what a job would do: whatever happens, a debugger sees it.

    Args:
        folder: for its mailbox.
        equipment: what it is given.
    """

    def __init__(self, folder: Path, equipment: Equipment) -> None:
        self._folder, self._equipment = folder, equipment

    def hire(self, device: str) -> Helper:
        """The only one."""
        to, of = mailbox.made(self._folder / "1")
        return Helper(to, *mailbox.opened(self._folder / "1"), of, equipped(self._equipment, device))

    def give(self, worker: Helper, runs: list[Run]) -> None:
        """Write it into its mailbox."""
        worker.to.send(mailbox.runs_sent(runs))

    def listen(self, workers: Sequence[Helper], timeout: float | None) -> Iterable[tuple[Helper, Message | Gone]]:
        """What it says of what it has been given, which it does now."""
        for worker in workers:
            if not worker.ready:
                worker.ready = True
                return [(worker, READY)]
            _do_given(worker)
            if said := [(worker, mailbox.heard(message)) for message in worker.of.new()]:
                return said
        time.sleep(timeout or 0)
        return []

    def dismiss(self, idle: Sequence[Helper], busy: Sequence[Helper]) -> None:
        """There is nothing to end."""


def _do_given(helper: Helper) -> None:
    for message in helper.asked.new():
        do_all(
            mailbox.runs_received(message),
            helper.worker,
            lambda run, *said: helper.says.send(mailbox.said((run.key, *said))),
        )
