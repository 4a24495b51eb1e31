"""The numbers that say how much a round of pruning removes: a fraction, or n of every m."""

from math import floor

from tombola.errors import BadInput


def check_fraction(fraction: object, where: str, todo: str = "0.2 removes a fifth of the living weights.") -> None:
    """Make sure that `fraction` is one.

    Raises:
        BadInput: it is none; the message says `where`, and what one is for, `todo`.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float):
        raise BadInput(where=where, expected="a number", found=repr(fraction), todo=todo)
    if not 0 <= fraction <= 1:
        raise BadInput(where=where, expected="a fraction in [0, 1]", found=repr(fraction), todo=todo)


def check_n_of_m(n: object, m: object, where: str) -> None:
    """Make sure that n of m can stay: 0 <= n <= m, and m > 0.

    Raises:
        BadInput: they cannot; the message says `where`.
    """
    if type(n) is not int or type(m) is not int or not 0 <= n <= m or not m:
        expected = "n of m with 0 <= n <= m and m > 0"
        raise BadInput(where=where, expected=expected, found=f"{n} of {m}", todo="2 of 4 keeps half of the weights.")


def count(fraction: float, living: int) -> int:
    """How many of `living` weights a `fraction` in [0, 1] removes: floor(fraction * living + 1/2), in floating point.

    So 0.29 of 50 are 14 and not 15: the product in floating point is 14.499999999999998.

    >>> [count(fraction, 10) for fraction in (0, 0.1, 0.2, 0.25, 1)]
    [0, 1, 2, 3, 10]
    >>> count(0.29, 50)
    14
    """
    check_fraction(fraction, "prune")
    return floor(fraction * living + 0.5)
