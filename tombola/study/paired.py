"""Paired differences and ratios over replicates: intervals, several at once, and how many replicates would decide.

Arms of one replicate share all but the declared factor, so that what is compared is paired. The mean of n differences
has a Student t interval (The Probable Error of a Mean, Student, 1908). Several hypotheses are tested together by
A Simple Sequentially Rejective Multiple Test Procedure (Holm, 1979). That a difference is not shown does not say that
there is none: that it is small is a claim of its own, tested by two one-sided tests (A Comparison of the Two One-Sided
Tests Procedure and the Power Approach, Schuirmann, 1987).
Where replicates are added until something is shown, intervals and p-values are those of `study.sequential`.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite, nan, sqrt
from statistics import mean, stdev

from tombola.study.sequential import Looks

POWER = 0.8
MOST = 1000  # replicates: whoever would need more will not be helped by the number


@dataclass(frozen=True)
class Estimate:
    """A mean over n replicates, its interval at some confidence, and the p-value of what it would be by chance."""

    mean: float
    low: float
    high: float
    n: int
    p: float = 1.0


class Difference(Estimate):
    """The mean of n paired differences, its interval (infinite where n = 1), and the p-value of no difference."""


class Ratio(Estimate):
    """The geometric mean of n paired ratios, its interval (0 to infinity where n = 1), and the p-value of ratio 1."""


def paired(
    differences: Sequence[float], confidence: float, grain: float = 0.0, looks: Looks | None = None
) -> Difference:
    """The mean of paired differences with its Student t interval, mean ± t s / sqrt(n) with n - 1 degrees of freedom.

    The standard deviation s is taken to be at least grain / sqrt(6), that of the difference of two values which are
    rounded to `grain`: differences that agree by rounding are no certainty. Where one is no number, nor is the mean,
    and the interval is infinite.

    Args:
        looks: of differences, in the order in which they came, that were added until something was shown: the interval
            is then what the intervals of all looks so far have in common, which hold together, and the p-value that of
            the look that speaks most for the mean's sign. The interval is infinite before the first look, and always
            reaches to the mean.

    >>> paired([1.0, 2.0, 3.0], confidence=0.95)
    Difference(mean=2.0, low=-0.484..., high=4.484..., n=3, p=0.0741...)
    """
    n, middle = len(differences), mean(differences) if all(map(isfinite, differences)) else nan
    if n < (looks.first if looks else 2) or not isfinite(middle):
        return Difference(middle, -inf, inf, n)
    if looks:
        return _repeated(differences, looks, confidence, grain)
    from scipy.special import stdtr, stdtrit  # scipy.stats would take a second to import

    error = max(stdev(differences), grain / sqrt(6)) / sqrt(n)
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * error
    p = 2 * float(stdtr(n - 1, -abs(middle) / error)) if error else float(middle == 0)
    return Difference(middle, middle - half, middle + half, n, p)


def _repeated(differences: Sequence[float], looks: Looks, confidence: float, grain: float) -> Difference:
    """`paired` of differences that were looked at again and again."""
    import numpy as np
    from scipy.special import stdtr, stdtrit

    n = np.arange(1, min(len(differences), looks.last) + 1)
    values = np.asarray(differences[: len(n)], float)
    middle = float(values.mean())
    apart = values - middle  # so that the squares lose no digits
    means = apart.cumsum() / n
    squares = (apart**2).cumsum() - n * means**2
    n, means, squares = n[looks.first - 1 :], means[looks.first - 1 :] + middle, squares[looks.first - 1 :]
    errors = np.sqrt(np.maximum(squares / (n - 1), grain**2 / 6) / n)
    half = -stdtrit(n - 1, looks.nominal(1 - confidence) / 2) * errors
    low, high = float((means - half).max()), float((means + half).min())
    alike = means * middle > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stdtr(n - 1, -np.abs(means) / errors)[alike]
    overall = looks.overall(float(p.min())) if len(p) else 1.0
    return Difference(middle, min(low, middle), max(high, middle), len(values), overall)


def ratio(logarithms: Sequence[float], confidence: float, grain: float = 0.0, looks: Looks | None = None) -> Ratio:
    """The geometric mean of paired ratios with its interval: `paired` of their natural logarithms, exponentiated.

    >>> ratio([-0.5, -0.7, -0.9], confidence=0.95)
    Ratio(mean=0.496..., low=0.302..., high=0.816..., n=3, p=0.0261...)
    """
    log_ratio = paired(logarithms, confidence, grain, looks)
    return Ratio(exp(log_ratio.mean), _exp(log_ratio.low), _exp(log_ratio.high), log_ratio.n, log_ratio.p)


def _exp(logarithm: float) -> float:
    return exp(logarithm) if logarithm < 700 else inf


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which of several hypotheses are rejected when all are tested at level `alpha` together.

    The i-th smallest of m p-values is held against alpha / (m - i), i from 0, until the first that is larger.

    >>> holm([0.01, 0.04, 0.03], alpha=0.05)
    [True, False, False]
    """
    rejected = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > alpha / (len(p_values) - place):
            break
        rejected[index] = True
    return rejected


def beyond(difference: Difference, margin: float, confidence: float) -> float:
    """The p-value of a true mean that lies `margin` or more from 0, in either direction: two one-sided t tests.

    With the standard error s / sqrt(n), P(T > (margin - |mean|) sqrt(n) / s). It is (1 - confidence) / 2 where the
    interval just touches the margin: the interval lies within it where the p-value is smaller.

    Args:
        difference: with its interval at `confidence`.
        margin: in the same unit, >= 0.

    >>> round(beyond(paired([0.1, -0.1, 0.0, 0.2, -0.2], 0.95), margin=0.5, confidence=0.95), 4)
    0.0011
    """
    from scipy.special import stdtr, stdtrit

    half, near = (difference.high - difference.low) / 2, margin - abs(difference.mean)
    if difference.n < 2 or not isfinite(half):
        return 1.0
    if half == 0:
        return float(near <= 0)
    error = half / float(stdtrit(difference.n - 1, (1 + confidence) / 2))
    return float(stdtr(difference.n - 1, -near / error))


def last_level(p_values: Sequence[float], alpha: float) -> float:
    """The level at which `holm` tests the last: whose interval leaves the null value out is just what is rejected.

    >>> last_level([0.01, 0.04, 0.03], alpha=0.05)
    0.025
    """
    return alpha / max(len(p_values) - sum(holm(p_values, alpha)), 1)


def together(
    differences: Mapping[str, Sequence[float]], confidence: float, grains: Mapping[str, float] | None = None
) -> dict[str, Difference]:
    """`paired` of several quantities, with intervals that hold together: one that leaves 0 out is what `holm` rejects.

    Args:
        differences: by quantity, one at least of each.
        grains: by quantity, the step between two of its values where it is counted.

    >>> both = together({"rank": [1.0, 2.0, 3.0], "margin": [1.0, 2.0, 3.0]}, confidence=0.95)
    >>> both["rank"].low < paired([1.0, 2.0, 3.0], confidence=0.95).low
    True
    """
    steps = grains or {}
    alone = [paired(each, confidence, steps.get(name, 0.0)).p for name, each in differences.items()]
    at_once = 1 - last_level(alone, 1 - confidence)
    return {name: paired(each, at_once, steps.get(name, 0.0)) for name, each in differences.items()}


def more_replicates(difference: Difference, bound: float, confidence: float, power: float = POWER) -> int | None:
    """How many more replicates would set the interval apart from `bound` with probability `power`.

    As many as it takes if mean and standard deviation are those found: with n in all,
    P(T > t) >= power where T has the noncentral t distribution, n - 1 degrees of freedom, and
    noncentrality |mean - bound| sqrt(n) / s, and t is the interval's own quantile.

    Args:
        difference: over 2 replicates or more.
        bound: in the same unit.

    Returns:
        None where it would take more than `MOST`, or nothing is known of the spread.

    >>> more_replicates(paired([-0.5, 0.2, -0.1, 0.4, 0.0], 0.95), bound=-0.3, confidence=0.95)
    8
    """
    from scipy.special import nctdtr, stdtrit

    half, effect = (difference.high - difference.low) / 2, abs(difference.mean - bound)
    if difference.n < 2 or not isfinite(half) or half == 0:
        return None
    spread = half * sqrt(difference.n) / float(stdtrit(difference.n - 1, (1 + confidence) / 2))

    def enough(n: int) -> bool:
        beyond = float(stdtrit(n - 1, (1 + confidence) / 2))
        missed = float(nctdtr(n - 1, effect * sqrt(n) / spread, beyond))
        return not missed > 1 - power  # where it is smaller than any number, scipy gives nan

    tried = range(difference.n + 1, MOST + 1)
    place = bisect_left(tried, True, key=enough)
    return tried[place] - difference.n if place < len(tried) else None
