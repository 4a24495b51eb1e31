"""Does the test accuracy at the end fall, rise again and fall once more as weights go? Sparse double descent.

Over levels 0, 1, ..., L the mean accuracy of replicates is a curve a. How deep the valley at level j is,

    depth_j = min(max_{i < j} a_i, max_{k > j} a_k) - a_j,

is above 0 where the curve is lower at j than at one level before and one behind. The dip is where the valley is
deepest, and the peak the highest level behind it. Of many noisy levels some three always make a valley. So the first
half of the replicates chooses the levels (i, j, k), by their mean curve, and the rest judges them: without a valley,
not both a_i - a_j and a_k - a_j can be above 0 in the mean, whichever levels were chosen, and a dip is shown where both
are, by one-sided t tests, of which the larger p-value counts (an intersection-union test; Berger, 1982). The peak is
judged by the same replicates, against the dense network and against the last level.

To leave out one replicate at a time, and to judge by it what all others have chosen, would not do: these judgements
depend on each other, and claim a dip of noise two to three times as often as they should.

Sparse Double Descent: Where Network Pruning Aggravates Overfitting (He, Xie, Zhu & Qin, 2022).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import mean
from typing import NamedTuple

from tombola.study.paired import Difference, paired
from tombola.study.written import points

LEAST = 3  # replicates: of those that judge there are two


class Valley(NamedTuple):
    """Three levels of a curve: the highest before the dip, the dip, and the highest behind it."""

    before: int
    dip: int
    peak: int


def valley(curve: Sequence[float]) -> Valley:
    """Where a curve is deepest between two higher places; of equals the first.

    Args:
        curve: three values at least.

    >>> valley([5, 4, 1, 3, 9, 2, 2])
    Valley(before=0, dip=2, peak=4)
    """
    behind = list(accumulate(reversed(curve), max))[::-1]
    before = list(accumulate(curve, max))
    depths = [min(before[j - 1], behind[j + 1]) - curve[j] for j in range(1, len(curve) - 1)]
    dip = 1 + max(range(len(depths)), key=depths.__getitem__)
    highest = max(range(dip + 1, len(curve)), key=curve.__getitem__)
    return Valley(max(range(dip), key=curve.__getitem__), dip, highest)


@dataclass(frozen=True)
class Descent:
    """What the curves of several replicates say.

    Attributes:
        levels: that the first half of the replicates has chosen: before the dip, the dip, the peak.
        curve: the mean at each level, of all.
        fall, rise: from the level before to the dip, and from the dip to the peak, by the other half.
        p: that of a dip as deep by chance; 1 where there are too few replicates.
        above: the peak less the dense network, by these.
        end: the last level less the peak, by these.
        n: replicates in all.
        confidence: of the intervals, and of a dip.
    """

    levels: Valley
    curve: tuple[float, ...]
    fall: Difference
    rise: Difference
    p: float
    above: Difference
    end: Difference
    n: int
    confidence: float

    @property
    def dips(self) -> bool:
        """Whether a dip is shown."""
        return self.p < (1 - self.confidence)


def descent(curves: Mapping[int, Sequence[float]], confidence: float, grain: float = 0.0) -> Descent:
    """Whether there is a dip, and what comes behind it.

    Args:
        curves: by replicate, the test accuracy at each level from the dense network on, three levels at least.
        confidence: in (0.5, 1).
        grain: the step between two accuracies.

    >>> noise = [0.0, 0.001, -0.001, 0.002]
    >>> found = descent({r: [0.85 + e, 0.80 - e, 0.95, 0.90 + e] for r, e in enumerate(noise)}, 0.95)
    >>> found.dips, found.levels.dip, round(found.above.mean, 3)
    (True, 1, 0.099)
    """
    own = list(curves.values())
    middle, half = _mean(own), len(own) // 2
    at = valley(_mean(own[:half] or own))
    judges = own[half:] if len(own) >= LEAST else own[-1:]

    def over(left: int, right: int) -> Difference:
        return paired([curve[left] - curve[right] for curve in judges], confidence, grain)

    fall, rise = over(at.before, at.dip), over(at.peak, at.dip)
    p = max(_risen(fall), _risen(rise)) if len(judges) > 1 else 1.0
    return Descent(at, middle, fall, rise, p, over(at.peak, 0), over(-1, at.peak), len(own), confidence)


def _mean(curves: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(mean(level) for level in zip(*curves, strict=True))


def _risen(difference: Difference) -> float:
    """The one-sided p-value of a mean above 0."""
    return difference.p / 2 if difference.mean > 0 else 1 - difference.p / 2


def sentence(
    found: Descent,
    densities: Sequence[float],
    training: Sequence[float],
    arm: str = "ticket",
    clean: float | None = None,
    measure: str = "accuracy",
) -> str:
    """Whether there is a dip and a peak, where, and how sure.

    Args:
        found: as `descent` gives it.
        densities: P_m of each level.
        training: the mean training accuracy at each level.
        arm: whose.
        clean: the share of the training labels that is true; None where all are.
        measure: what the curves are of.

    >>> curves = {r: [0.85 + e, 0.80, 0.95, 0.90] for r, e in enumerate([0.0, 0.001, -0.001, 0.002])}
    >>> print(sentence(descent(curves, 0.95), [1.0, 0.5, 0.1, 0.02], [1.0, 1.0, 0.8, 0.79], clean=0.8))
    Sparse double descent of ticket: a dip, a peak above the dense network, and a fall behind it (dip: p = 0.009).
    Test accuracy at the end, the mean of all replicates: 85.05% dense, 80.00% at 50.0% (dip), 95.00% at 10.0% (peak),
    90.00% at 2.0%. In those that judged, the dip is -5.05 [-6.96, -3.14] points from the dense network and -15.00
    [-15.00, -15.00] points from the peak, the peak +9.95 [+8.04, +11.86] points from the dense network, the last
    level -5.00 [-5.00, -5.00] points from the peak. Training accuracy of all there: 100.0%, 100.0%, 80.0%, 79.0%, of
    labels of which 80.0% are true. n = 4, of which 2 chose the levels and 2 judged.
    """
    before, dip, peak = found.levels
    last = len(densities) - 1
    names = {0: "dense", dip: f"at {densities[dip]:.1%} (dip)", peak: f"at {densities[peak]:.1%} (peak)"}
    names.setdefault(last, f"at {densities[last]:.1%}")
    course = ", ".join(f"{found.curve[place]:.2%} {name}" for place, name in names.items())
    origin = "the dense network" if before == 0 else f"the level before it, {densities[before]:.1%}"
    judged = "In those that judged, the dip" if found.n >= LEAST else "In the last replicate, the dip"
    judged = judged if found.n > 1 else "The dip"
    fall, rise = (points(_turned(each)) for each in (found.fall, found.rise))
    steps = [f"{judged} is {fall} points from {origin} and {rise} points from the peak"]
    steps.append(f"the peak {points(found.above)} points from the dense network")
    if peak != last:
        steps.append(f"the last level {points(found.end)} points from the peak")
    trained = ", ".join(f"{training[place]:.1%}" for place in names)
    share = f", of labels of which {clean:.1%} are true" if clean is not None else ""
    return (
        f"Sparse double descent of {arm}: {_verdict(found, peak != last)}. "
        f"Test {measure} at the end, the mean of all replicates: {course}. "
        f"{', '.join(steps)}. Training {measure} of all there: {trained}{share}. {_count(found.n)}."
    )


def _verdict(found: Descent, falls: bool) -> str:
    if found.n < LEAST:
        return f"too few replicates to say, of {LEAST} at least"
    above, down = found.above.low > 0, falls and found.end.high < 0
    if not found.dips:
        return f"no dip is shown (p = {found.p:.2g})"
    parts = [
        "a dip",
        *(["a peak above the dense network"] if above else ["a rise"]),
        *(["a fall behind it"] if down else []),
    ]
    return f"{_listed(parts)} (dip: p = {found.p:.1g})"


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])}{',' if len(parts) > 2 else ''} and {parts[-1]}"


def _count(n: int) -> str:
    return f"n = {n}, of which {n // 2} chose the levels and {n - n // 2} judged" if n >= LEAST else f"n = {n}"


def _turned(difference: Difference) -> Difference:
    return replace(difference, mean=-difference.mean, low=-difference.high, high=-difference.low)
