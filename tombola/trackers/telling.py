"""Tell a tracker of an experiment what it does not have yet."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tombola.lab.results import Results
from tombola.trackers.record import Files, report_files, summary, trainings
from tombola.trackers.tracker import Log

EVERY = 25  # entries between two words of how far it is


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
    for number, entry in enumerate(lacking, 1):
        log.write(entry)
        if number % EVERY == 0:
            say(f"{number} of {len(lacking)} trainings")
    whole = summary(results)
    if log.complete.get(whole.id) != whole.digest:
        say("what they say together, and the report")
        log.write(replace(whole, files=report_files(report())))
    return Told(len(lacking), count - len(lacking))


def told_text(told: Told, name: str, where: str) -> str:
    """What came of it, for people.

    >>> print(told_text(Told(1, 9), "mlflow", "mlflow ui"))
    Logged 1 training to mlflow (9 were there already).
    Look at it: mlflow ui
    """
    there = f" ({told.there} {'was' if told.there == 1 else 'were'} there already)" if told.there else ""
    return f"Logged {told.logged} training{'' if told.logged == 1 else 's'} to {name}{there}.\nLook at it: {where}"
