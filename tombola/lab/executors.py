"""The executors there are. To add one: write a module like `lab.workers`, and list its executor here."""

from tombola.lab.executor import Executor
from tombola.lab.torchrun import TORCHRUN
from tombola.lab.workers import WORKERS

# In order of preference: the last one always applies.
EXECUTORS: dict[str, Executor] = {executor.name: executor for executor in (TORCHRUN, WORKERS)}


def choose() -> Executor:
    """The first executor that applies.

    >>> choose().name
    'workers'
    """
    return next(executor for executor in EXECUTORS.values() if executor.applies())
