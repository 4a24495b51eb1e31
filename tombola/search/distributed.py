"""Several processes that train one model together, each with a Search of its own."""

from typing import Any

from torch import distributed

from tombola.engine.data_parallel.crew import check_same


def world() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this one is; 0 writes."""
    return distributed.get_rank() if world() > 1 else 0


def gathered(value: Any) -> list[Any]:
    """The values of all processes, by rank; every process has to ask."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    distributed.all_gather_object(values, value)
    return values


def agree(value: Any, what: str) -> None:
    """Make sure that all processes have the same `value`.

    Raises:
        TombolaError: they have not; all of them raise it.
    """
    todo = "Their weights or their scores differ; parallel training should have kept them equal."
    check_same(gathered(value), what, todo)
