"""How long calls take, compared with each other: in turn, so that what slows the machine down slows all of them.

Each call is timed by itself: where the system gives the processor to another program in the middle of some of them, the
median does not move. The first calls of a turn are not counted. They find in the caches what others left there; and
where others have given memory back, the second one may have to ask the system for every page of its result anew. For
16 MB of outputs that took 6 ms, which a call pays that comes alone in its turn, and no call that comes again and again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

ROUNDS = 11
ROUND_S = 0.03  # of each call in each round
AGREE = 0.75  # of the rounds: where fewer say what their median says, they disagree
LEAD = 2  # calls at the beginning of a turn that do not count


@dataclass(frozen=True)
class Timing:
    """How long a call takes, in seconds.

    Attributes:
        median_s: of all single calls.
        quartiles_s: a quarter of them take less than the first, a quarter more than the second.
        rounds_s: the median of each round, in their order.
    """

    median_s: float
    quartiles_s: tuple[float, float]
    rounds_s: tuple[float, ...]

    @property
    def text(self) -> str:
        """In milliseconds, with the quartiles where they are not the same three digits.

        >>> Timing(1e-3, (0.9e-3, 1.2e-3), (1e-3,)).text
        '1.000 [0.900, 1.200]'
        """
        middle, low, high = (f"{1e3 * each:.3f}" for each in (self.median_s, *self.quartiles_s))
        return middle if low == high else f"{middle} [{low}, {high}]"

    def overlaps(self, other: "Timing") -> bool:
        """Whether their quartiles overlap, in the digits that `text` shows.

        >>> Timing(5.1e-6, (5.1e-6, 5.1e-6), ()).overlaps(Timing(5.3e-6, (5.3e-6, 5.4e-6), ()))
        True
        """
        (low, high), (lower, higher) = ([round(1e3 * each, 3) for each in one.quartiles_s] for one in (self, other))
        return low <= higher and lower <= high


def timed(
    calls: Mapping[str, Callable[[], object]], rounds: int = ROUNDS, round_s: float = ROUND_S
) -> dict[str, Timing]:
    """The time of each call over `rounds` in which all have their turn.

    Args:
        calls: each is made as often in its turn as fits into `round_s`, once at least, after LEAD that do not count.
        rounds: > 0.

    >>> found = timed({"short": lambda: sum(range(10)), "long": lambda: sum(range(100_000))}, rounds=3, round_s=0.001)
    >>> found["short"].median_s < found["long"].median_s
    True
    """
    often = {name: max(1, int(round_s / max(_once(call), 1e-9))) for name, call in calls.items()}
    taken: dict[str, list[list[float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            for _ in range(LEAD):
                call()
            taken[name].append([_lasted(call) for _ in range(often[name])])
    return {name: _timing(times) for name, times in taken.items()}


def _timing(rounds: list[list[float]]) -> Timing:
    low, middle, high = np.quantile(np.concatenate(rounds), [0.25, 0.5, 0.75]).tolist()
    return Timing(middle, (low, high), tuple(median(each) for each in rounds))


def _lasted(call: Callable[[], object]) -> float:
    begin = perf_counter()
    call()
    return perf_counter() - begin


def _once(call: Callable[[], object]) -> float:
    """After a first call, which may have something to prepare."""
    call()
    return _lasted(call)
