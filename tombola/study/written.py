"""Numbers with their intervals, as sentences have them: `+0.97 [+0.35, +1.59]`."""

from collections.abc import Callable
from math import inf, isfinite

from tombola.study.paired import Difference, Estimate, Ratio

Form = str | Callable[[float], str]  # a format specification, or what writes a number


def written(found: Estimate, form: Form, scale: float = 1, within: tuple[float, float] = (-inf, inf)) -> str:
    """The mean and its interval, which ends where no value can be; of one replicate the mean alone.

    Args:
        form: how a number is written.
        scale: what numbers are multiplied with before.
        within: the least and the largest value that there can be.

    >>> written(Estimate(0.5, 0.25, 0.75, 5), ".2f")
    '0.50 [0.25, 0.75]'
    >>> written(Estimate(0.9, 0.7, 1.1, 5), ".2f", within=(0, 1))
    '0.90 [0.70, 1.00]'
    >>> written(Estimate(0.5, -inf, inf, 1), ".2f")
    '0.50'
    """
    write = form if callable(form) else f"{{:{form}}}".format
    if not (isfinite(found.low) and isfinite(found.high)):
        return write(scale * found.mean)
    low, high = (scale * min(max(end, within[0]), within[1]) for end in (found.low, found.high))
    return f"{write(scale * found.mean)} [{write(low)}, {write(high)}]"


def points(difference: Difference, digits: int = 2) -> str:
    """A difference of shares in percentage points.

    >>> points(Difference(0.0012, -0.0005, 0.0029, 5))
    '+0.12 [-0.05, +0.29]'
    """
    return written(difference, f"+.{digits}f", 100)


def share(found: Estimate) -> str:
    """A share in [0, 1] as percent.

    >>> share(Estimate(0.98, 0.95, 1.01, 5))
    '98.0% [95.0%, 100.0%]'
    """
    return written(found, ".1%", within=(0, 1))


def times(ratio: Ratio) -> str:
    """A ratio.

    >>> times(Ratio(0.594, 0.521, 0.678, 5))
    '0.59 [0.52, 0.68] times'
    """
    return f"{written(ratio, _factor)} times"


def _factor(number: float) -> str:
    return f"{number:.2f}" if 0.01 <= number < 1000 else f"{number:.1g}"


def three_digits(number: float, sign: str = "") -> str:
    """A number of any size.

    >>> [three_digits(number) for number in (0.01234, 1.234, 123.4, 12345.6, 0.0)]
    ['0.0123', '1.23', '123', '12,346', '0']
    """
    if abs(number) >= 100:
        return f"{number:{sign},.0f}"
    return f"{number:{sign}.2f}" if abs(number) >= 1 else f"{number:{sign}.3g}"
