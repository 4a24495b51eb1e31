"""How exactly a metric is known: the step between two values that it can take, found from those that it took."""

from collections.abc import Iterable

import numpy as np

MOST = 100_000  # examples; beyond that a step decides nothing
ROUNDING = 2.0**-23  # of a float32, relative: what reports a mean may have gone through one


def grain(values: Iterable[float], examples: int | None = None) -> float:
    """The largest g = 1 / D of which all `values` are multiples, up to a float32's rounding; 0 where there is none.

    Counts of examples have D that divides their number, of which few values may show a divisor only: the grain is then
    larger than it need be, which decides less, and never wrongly.

    Args:
        values: of the metric, all that were reported.
        examples: how many the metric is a mean over, where that is known: 1 / examples is taken where it fits.

    >>> grain([0.5, 0.75, 0.875])
    0.125
    >>> grain([0.5, 0.75, 0.875], examples=400)
    0.0025
    >>> grain([0.31415926, 0.27182818, 0.70710678])
    0.0
    """
    distinct = sorted({abs(value) for value in values})
    fitting = np.arange(1, MOST + 1, dtype=np.float64)
    if examples is not None and all(_multiples(value, np.array([float(examples)])).all() for value in distinct):
        return 1 / examples
    for value in distinct:
        fitting = fitting[_multiples(value, fitting)]
    return max(1 / float(fitting[0]) if len(fitting) else 0.0, 1 / examples if examples else 0.0)


def _multiples(
    value: float, counts: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Of how many parts of 1 `value` is a whole number, of each of `counts`."""
    parts = value * counts
    error = ROUNDING * parts
    near: np.ndarray[tuple[int], np.dtype[np.bool_]] = (np.abs(parts - np.round(parts)) <= error + 1e-9) & (
        error < 0.05
    )
    return near
