"""What can go wrong, and what it tells the person in front of it.

    TombolaError
    ├── BadInput          something given to Tombola is not usable       (exit status 2)
    │   ├── SpecError     a spec: every fault at once, each with its path
    │   ├── DataError     a data set: absent, damaged, not what it says
    │   └── StoreError    a store: not writable, from a newer version, damaged
    ├── NoRoom            the disk is full, or may not be written any more (exit status 1)
    ├── StoreLost         a store's server does not answer, or refuses   (exit status 1)
    ├── Diverged          a training went to infinity or NaN             (the run fails)
    └── GuardLost         a pruned weight was found alive                (the run fails)

A message says what was expected, what was found, where, and what to do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


class TombolaError(Exception):
    """The root of every error that Tombola raises on purpose."""


class BadInput(TombolaError):
    """Something given to Tombola is not usable; nothing was written."""

    def __init__(self, *, where: str, expected: str, found: str, todo: str) -> None:
        super().__init__(f"{where}: expected {expected}, found {found}. {todo}")
        self.where, self.expected, self.found, self.todo = where, expected, found, todo

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not survive the way from a worker otherwise.
        return _rebuild, (type(self), self.where, self.expected, self.found, self.todo)


def _rebuild(kind: Callable[..., TombolaError], where: str, expected: str, found: str, todo: str) -> TombolaError:
    return kind(where=where, expected=expected, found=found, todo=todo)


def not_installed(where: str, package: str, extra: str) -> BadInput:
    """What to raise where a package is needed that only an extra brings.

    >>> print(not_installed("the hub", "huggingface_hub, its client", "hub"))
    the hub: expected huggingface_hub, its client, found no such package. Install it: pip install '.[hub]' in a clone.
    """
    return BadInput(
        where=where,
        expected=package,
        found="no such package",
        todo=f"Install it: pip install '.[{extra}]' in a clone.",
    )


def shown(value: object, most: int = 100) -> str:
    """`value` as a message has it: its first `most` characters, however long a file or a caller has made it.

    >>> shown("resnet-20"), shown(10**9, most=4)
    ('resnet-20', '1000...')
    """
    text = str(value)
    return text if len(text) <= most else f"{text[:most]}..."


class DataError(BadInput):
    """A data set is absent, damaged, or not what its name says."""


class StoreError(BadInput):
    """A store cannot be used."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a spec: where, what was expected, what came, what to do."""

    path: str
    expected: str
    found: str
    todo: str = ""

    def __str__(self) -> str:
        hint = f" ({self.todo})" if self.todo else ""
        return f"{self.path}: expected {self.expected}, found {self.found}{hint}"


class SpecError(BadInput):
    """A spec has faults; all of them are in `faults`."""

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        count = f"{len(faults)} fault{'s' if len(faults) != 1 else ''}"
        Exception.__init__(self, "\n".join([f"{source}: {count}", *(f"  {fault}" for fault in faults)]))
        self.source, self.faults = source, tuple(faults)

    def __reduce__(self) -> tuple[object, ...]:
        return SpecError, (self.source, self.faults)


class NoRoom(TombolaError):
    """An outcome could not be written; what is finished is kept."""


class StoreLost(TombolaError):
    """The server of a store does not answer, or refuses; what is finished is kept where it was."""

    def __init__(self, *, where: str, expected: str, found: str, todo: str) -> None:
        super().__init__(f"{where}: expected {expected}, found {found}. {todo} The same command goes on then.")
        self.where, self.expected, self.found, self.todo = where, expected, found, todo

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.where, self.expected, self.found, self.todo)


class Diverged(TombolaError):
    """A training produced a number that is not finite."""


class GuardLost(TombolaError):
    """A pruned weight, or its optimiser state, was found different from 0."""
