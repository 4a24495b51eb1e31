"""The executors there are. To add one: write a module like `lab.workers`, and list its executor here."""

from collections.abc import Iterable, Mapping

from tombola.errors import BadInput
from tombola.lab.executor import Executor
from tombola.lab.ray_cluster import RAY
from tombola.lab.slurm import SLURM
from tombola.lab.torchrun import TORCHRUN
from tombola.lab.workers import WORKERS

# In order of preference: the last one always applies.
EXECUTORS: dict[str, Executor] = {executor.name: executor for executor in (TORCHRUN, RAY, SLURM, WORKERS)}


def choose(on: str | None = None) -> tuple[Executor, str]:
    """The executor that is asked for, and where it finds its machines; the first one that applies where none is named.

    Args:
        on: NAME, NAME:ADDRESS or NAME://HOST:PORT.

    Raises:
        BadInput: there is none of this name, or torchrun has started this process, which is then one of its own.

    >>> executor, address = choose()
    >>> executor.name, address
    ('workers', '')
    """
    applies = next(executor for executor in EXECUTORS.values() if executor.applies())
    if on is None:
        return applies, ""
    name, _, address = on.partition(":")
    if name not in EXECUTORS:
        raise BadInput(
            where="--on",
            expected=f"one of {', '.join(EXECUTORS)}",
            found=repr(on),
            todo="Leave it out for this machine's own processes.",
        )
    if applies is TORCHRUN and name != TORCHRUN.name:
        raise BadInput(
            where="--on",
            expected="torchrun, which has started this process and others",
            found=name,
            todo="Leave out --on, or start one process without torchrun.",
        )
    return EXECUTORS[name], on if address.startswith("//") else address


def options(executor: Executor, given: Iterable[str]) -> Mapping[str, str]:
    """What has been asked of an executor, by name.

    Args:
        given: NAME=VALUE each.

    Raises:
        BadInput: it knows no such option.
    """
    pairs = dict(each.partition("=")[::2] for each in given)
    for name, value in pairs.items():
        if name not in executor.options or not value:
            known = "; ".join(f"{option}=... ({meaning})" for option, meaning in executor.options.items())
            raise BadInput(
                where=f"--with {name}",
                expected=f"one of {known}" if known else f"nothing, as --on {executor.name} has no options",
                found=repr(f"{name}={value}"),
                todo="Leave it out, or see `tombola run --help`.",
            )
    return pairs
