"""Tell a tracker of an experiment what it does not have yet."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tombola.errors import TombolaError
from tombola.lab.results import Results
from tombola.lab.store import Store
from tombola.trackers.entry import Entry
from tombola.trackers.record import Files, report_files, summary, trainings
from tombola.trackers.tracker import Asked, Log

EVERY = 25  # entries between two words of how far it is
PATIENCE_S = 60.0  # for which one process waits for another one that tells the same tracker of the same experiment
POLL_S = 0.2


@dataclass(frozen=True)
class Told:
    """What came of it.

    Attributes:
        logged: how many trainings it was told of.
        there: of how many it knew already.
    """

    logged: int
    there: int


def tell(results: Results, log: Log, files: Files, report: Callable[[], Path], say: Callable[[str], None]) -> Told:
    """Tell a tracker of all finished trainings, and of what they say together.

    Args:
        results: of one finished training at least.
        files: of which replicates masks and tickets go along.
        report: writes the report, and gives its folder.
        say: is told how far it is, now and then.

    Raises:
        TombolaError: the tracker cannot be reached any more. What was told stays there, and the next call goes on.
    """
    count = len(results.rows)
    lacking = [entry for entry in trainings(results, files) if log.complete.get(entry.id) != entry.digest]
    for number, entry in enumerate(lacking):
        if number and number % EVERY == 0:
            say(f"{number} of {len(lacking)} trainings")
        _write(log, entry, count - len(lacking) + number, count)
    whole = summary(results)
    if log.complete.get(whole.id) != whole.digest:
        say("what they say together, and the report")
        _write(log, replace(whole, files=report_files(report())), count, count)
    return Told(len(lacking), count - len(lacking))


def _write(log: Log, entry: Entry, there: int, of: int) -> None:
    try:
        log.write(entry)
    except TombolaError as error:
        told = f"{there} of {of} training{'' if of == 1 else 's'} {'is' if there == 1 else 'are'} there"
        raise TombolaError(f"{str(error).rstrip('.')}. {told}; `tombola log` goes on with what is not.") from error


@contextmanager
def alone(
    to: Asked, project: str, store: Store, say: Callable[[str], None], patience: float = PATIENCE_S
) -> Iterator[Log]:
    """A tracker, ready for a project of which no other process that works on the store tells it meanwhile.

    Two at once would each make a run that is not there yet.

    Args:
        patience: for how many seconds to wait for the other one.
        say: is told of the first wait.

    Raises:
        TombolaError: another one is at it for longer, or the tracker cannot be reached.
    """
    until, waited = time.monotonic() + patience, False
    while True:
        with ExitStack() as held:
            if _is_ours(to, project, store, held):
                yield held.enter_context(to.open(project))
                return
        if time.monotonic() >= until:
            raise TombolaError(
                f"Another process tells {to.tracker.name} of {project}, perhaps `tombola run --log` or `tombola log "
                "--live`, and one does so at a time. When it has ended, `tombola log` completes what it left."
            )
        if not waited:
            say(f"another process tells {to.tracker.name} of {project}: waiting for it")
            waited = True
        time.sleep(POLL_S)


def _is_ours(to: Asked, project: str, store: Store, held: ExitStack) -> bool:
    name = hashlib.sha256(project.encode()).hexdigest()[:20]
    try:
        return held.enter_context(store.hold(f"log-{to.tracker.name}-{name}"))
    except OSError:  # in a store that cannot be written nobody can hold anything
        return True


def told_text(told: Told, name: str, where: str) -> str:
    """What came of it, for people.

    >>> print(told_text(Told(1, 9), "mlflow", "mlflow ui"))
    Logged 1 training to mlflow (9 were there already).
    Look at it: mlflow ui
    """
    there = f" ({told.there} {'was' if told.there == 1 else 'were'} there already)" if told.there else ""
    return f"Logged {told.logged} training{'' if told.logged == 1 else 's'} to {name}{there}.\nLook at it: {where}"
