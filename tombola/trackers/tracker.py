"""What a tracker is: where people keep the results of their experiments, and how it is told of them."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

from tombola.errors import BadInput, not_installed
from tombola.trackers.entry import Entry


class Log(Protocol):
    """A tracker that stands open for one project.

    Every method raises TombolaError where the tracker cannot be reached any more. What was told until then stays, and
    is completed by whoever tells the same entry again.
    """

    @property
    def where(self) -> str:
        """What to type or open to look at it."""

    @property
    def complete(self) -> Mapping[str, str]:
        """The digests of the entries that are there completely, by their id."""

    def grow(self, entry: Entry) -> None:
        """Add to the curves of an entry whose training goes on."""

    def write(self, entry: Entry) -> None:
        """Tell of an entry all that is not there yet; the mark that it is complete comes last."""


@dataclass(frozen=True)
class Tracker:
    """One tracker.

    Attributes:
        name: by which it is asked for.
        about: it, in one sentence.
        library: that it needs, which Tombola's extra of the tracker's name brings.
        opens: makes it ready for a project at an address; None for where its library would go by itself.
            It raises BadInput where the address can be none, and TombolaError where nobody answers there, both within
            seconds.
    """

    name: str
    about: str
    library: str
    opens: Callable[[str | None, str], AbstractContextManager[Log]]


@dataclass(frozen=True)
class Asked:
    """Which tracker a person asks for, and where."""

    tracker: Tracker
    address: str | None = None

    def open(self, project: str) -> AbstractContextManager[Log]:
        """The tracker, ready for a project."""
        return self.tracker.opens(self.address, project)


def asked(text: str, option: str, trackers: Mapping[str, Tracker]) -> Asked:
    """What `NAME` or `NAME=ADDRESS` asks for.

    Args:
        text: as a person wrote it.
        option: of the command, for the message.
        trackers: that there are.

    Raises:
        BadInput: there is no such tracker, or its library is missing.
    """
    name, equals, address = text.partition("=")
    if name not in trackers or (equals and not address):
        raise BadInput(
            where=option,
            expected=f"one of {', '.join(trackers)}, or NAME=ADDRESS",
            found=repr(text),
            todo=f"{option} mlflow=http://localhost:5000 for an address of one's own.",
        )
    tracker = trackers[name]
    if find_spec(tracker.library) is None:
        raise not_installed(f"{option} {name}", f"{tracker.library}, its library", name)
    return Asked(tracker, address or None)
