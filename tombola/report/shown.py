"""Which of many levels figures show."""

from collections.abc import Sequence

from tombola.lab.results import Result

MOST = 6  # levels shown at most: more lines cannot be told apart
MANY = 6  # arms whose bands can be told apart where they overlap


def few(levels: Sequence[int]) -> list[int]:
    """Levels spread over all of these, as many as can be told apart.

    >>> few(range(21))
    [0, 4, 8, 12, 16, 20]
    """
    if len(levels) <= MOST:
        return list(levels)
    return sorted({levels[round(place * (len(levels) - 1) / (MOST - 1))] for place in range(MOST)})


def living(rows: Sequence[Result]) -> list[int]:
    """The levels at which something lives."""
    return sorted({result.row.level for result in rows if result.values["alive"]})
