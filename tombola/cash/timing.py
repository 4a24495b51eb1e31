"""How long calls take, compared with each other: in turn, so that what slows the machine down slows all of them.

The first calls of a turn are not counted. They find in the caches what others left there; and where others have given
memory back, the second one may have to ask the system for every page of its result anew. For 16 MB of outputs that took
6 ms, which a call pays that comes alone in its turn, and no call that comes again and again.
"""

from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter

ROUNDS = 11
ROUND_S = 0.03  # of each call in each round
LEAD = 2  # calls at the beginning of a turn that do not count


def seconds(
    calls: Mapping[str, Callable[[], object]], rounds: int = ROUNDS, round_s: float = ROUND_S
) -> dict[str, float]:
    """The median time of each call over `rounds` in which all have their turn.

    Args:
        calls: each is made as often in its turn as fits into `round_s`, once at least, after LEAD that do not count.
        rounds: > 0.

    >>> found = seconds({"short": lambda: sum(range(10)), "long": lambda: sum(range(100_000))}, rounds=3, round_s=0.001)
    >>> found["short"] < found["long"]
    True
    """
    often = {name: max(1, int(round_s / max(_once(call), 1e-9))) for name, call in calls.items()}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            for _ in range(LEAD):
                call()
            begin = perf_counter()
            for _ in range(often[name]):
                call()
            taken[name].append((perf_counter() - begin) / often[name])
    return {name: median(times) for name, times in taken.items()}


def _once(call: Callable[[], object]) -> float:
    """After a first call, which may have something to prepare."""
    call()
    begin = perf_counter()
    call()
    return perf_counter() - begin
