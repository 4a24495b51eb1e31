"""Looking again after every replicate without claiming more than was promised: one boundary for all looks.

Whoever adds a replicate, looks, and adds another until something is shown finds something where there is nothing: a
95 % interval that is looked at after each of 5, 6, ..., 20 replicates leaves the true value out in 19 experiments of
100, not in 5. The cure is that of Group Sequential Methods in the Design and Analysis of Clinical Trials (Pocock,
1977): every look has the same, smaller nominal level, so small that all looks together keep the promise. What is
reported are repeated confidence intervals (Interim Analyses: The Repeated Confidence Interval Approach, Jennison &
Turnbull, 1989): those of all looks hold together, so it does not matter after which replicates somebody looks, nor why
he stops.

The level is exact for normal differences of unknown spread. With S the sum of n differences and Q that of their
squares, y = S / sqrt(Q) has under the null hypothesis, whatever the spread, the transition

    y_{n+1} = y_n cos(phi) + sin(phi),    phi in [-pi/2, pi/2] with a density proportional to cos(phi)^(n-1),

as sin(phi) = x_{n+1} / sqrt(Q_{n+1}) is a coordinate of a point on a sphere, which knows nothing of the direction of
the first n. Student's t is a function of y, so that one integral after another gives the probability that some look
crosses (Exact Calculations for Sequential t, chi^2 and F Tests, Jennison & Turnbull, 1991).
"""

from dataclasses import dataclass
from functools import cache
from math import asin, exp, gamma, log, pi, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

FIRST, LAST = 5, 20  # replicates at the first look, and at the last where nobody says otherwise
GRID, NODES = 200, 32  # places at which a probability is known as a function of y, and of an integral
LEAST_LEVEL, MOST_LEVEL, PLACES = 1e-7, 0.5, 25  # nominal levels between which a rule is tabled, at so many places


@dataclass(frozen=True)
class Looks:
    """The replicates after which somebody may look: first, first + 1, ..., last.

    Whoever looks after some of them only, as where several replicates are added at once, errs more rarely still: to
    cross at one of these is to cross at one of all.

    >>> round(Looks(5, 20).nominal(0.05) / 2, 4)
    0.0049
    """

    first: int = FIRST
    last: int = LAST

    def nominal(self, alpha: float) -> float:
        """The two-sided level of each single look with which all looks together err with probability `alpha`."""
        if self.first == self.last:
            return alpha
        import numpy as np

        levels, probabilities = _table(self.first, self.last)
        return exp(float(np.interp(log(alpha), probabilities, levels)))

    def overall(self, level: float) -> float:
        """The probability that at some look a difference of nothing has a two-sided p-value of at most `level`.

        Of the smallest p-value so far it is the p-value that holds in spite of the looks.
        """
        if self.first == self.last or level >= MOST_LEVEL:
            return min(level, 1.0) if self.first == self.last else 1.0
        import numpy as np

        levels, probabilities = _table(self.first, self.last)
        return min(1.0, exp(float(np.interp(log(max(level, LEAST_LEVEL)), levels, probabilities))))


@cache
def _table(first: int, last: int) -> "tuple[Values, Values]":
    """Logarithms of levels, and those of `crossing` at them, between which a straight line is as good as a permille."""
    import numpy as np

    levels = np.linspace(log(LEAST_LEVEL), log(MOST_LEVEL), PLACES)
    return levels, np.log([crossing(exp(level), first, last) for level in levels])


def crossing(level: float, first: int, last: int, grid: int = GRID) -> float:
    """The probability that some look from `first` to `last` crosses, each at the two-sided nominal `level`.

    Backwards from the last look, with the probability to cross later on as a function of |y| at a look that did not.

    Args:
        grid: how many places that function is held at, between which it is a straight line.
    """
    import numpy as np

    places = np.sin(np.linspace(0, pi / 2, grid))  # densest at the bound
    later = np.zeros(grid)  # nothing comes after the last look
    for n in range(last, first, -1):
        y = places * _bound(level, n - 1)
        bound, angle = _bound(level, n), np.arctan(y)
        edge = np.arcsin(np.minimum(bound / np.sqrt(1 + y**2), 1))  # of phi + angle, where the next look crosses
        held = _held(np.maximum(-edge, angle - pi / 2), edge, angle, n - 2, bound, later)
        again = angle + pi / 2 > pi - edge  # where it may go so far past the bound that it is within it once more
        held[again] += _held(pi - edge[again], angle[again] + pi / 2, angle[again], n - 2, bound, later)
        later = 1 - held
    edge = np.array([asin(_bound(level, first) / sqrt(first))])
    inside = _held(-edge, edge, np.zeros(1), first - 2, _bound(level, first) / sqrt(first), later)
    return 1 - float(inside[0])


def _held(low: "Values", high: "Values", angle: "Values", power: int, bound: float, later: "Values") -> "Values":
    """The probability, for each start, that phi + angle lies between `low` and `high` and no later look crosses."""
    import numpy as np
    from numpy.polynomial.legendre import leggauss

    nodes, weights = leggauss(NODES)
    turned = (low + high)[:, None] / 2 + (high - low)[:, None] / 2 * nodes
    y = np.abs(np.sin(turned)) / np.cos(angle)[:, None]  # sqrt(1 + y^2) is 1 / cos of the angle whose tangent is y
    held = 1 - np.interp(y / bound, np.sin(np.linspace(0, pi / 2, len(later))), later)
    density = np.cos(turned - angle[:, None]) ** power
    whole = sqrt(pi) * gamma((power + 1) / 2) / gamma(power / 2 + 1)  # of cos^power from -pi/2 to pi/2
    return (high - low) / 2 * ((density * held) @ weights) / whole


def _bound(level: float, n: int) -> float:
    """|y| = sqrt(n) |t| / sqrt(n - 1 + t^2) at which Student's t of n differences has the two-sided p-value `level`."""
    from scipy.special import stdtrit

    t = -float(stdtrit(n - 1, level / 2))
    return sqrt(n) * t / sqrt(n - 1 + t * t)
