"""Which ways to a ticket nothing cheaper beats: the Pareto front of cost and accuracy at one density."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import comb, nan
from statistics import mean

from tombola.study.paired import Difference, paired
from tombola.study.written import points


@dataclass(frozen=True)
class Way:
    """One way to a ticket at some density, and what came of it.

    Attributes:
        name: that of its arm.
        cost: of search and training together, in dense trainings, > 0.
        accuracies: by replicate, fractions.
    """

    name: str
    cost: float
    accuracies: Mapping[int, float]

    @property
    def accuracy(self) -> float:
        """The mean over replicates."""
        return mean(self.accuracies.values())


def front(ways: Sequence[Way]) -> list[Way]:
    """Those that are more accurate, on average, than all that cost as much or less; the cheapest first.

    Costs are compared in hundredths of a dense training: what differs by less costs the same.

    >>> ways = [Way("dear", 3.0, {0: 0.9}), Way("cheap", 1.0, {0: 0.8}), Way("poor", 2.0, {0: 0.7})]
    >>> [way.name for way in front(ways)]
    ['cheap', 'dear']
    """
    found: list[Way] = []
    for way in sorted(ways, key=lambda way: (round(way.cost, 2), -way.accuracy)):
        if not found or way.accuracy > found[-1].accuracy:
            found.append(way)
    return found


def sentence(density: float, ways: Sequence[Way], confidence: float, better: str = "more accurate") -> str:
    """What the front says, in words: what it would take to be more accurate, and whether the difference is shown.

    Args:
        density: at which all are compared.
        ways: two at least.
        confidence: of the intervals of differences, paired by replicate, all pairs of ways together (Bonferroni): which
            of them are on the front is seen afterwards.
        better: what the dearer one has to be: higher in R2, where that is measured.

    >>> ways = [Way("ticket", 2.8, {0: 0.9, 1: 0.92}), Way("one-shot", 1.1, {0: 0.8, 1: 0.81})]
    >>> print(sentence(0.05, ways, 0.95).partition(": ")[2])
    ticket minus one-shot +10.50 [+4.15, +16.85] points, n = 2.
    """
    best, begin = front(ways), f"At {density:.1%} of the weights, of {len(ways)} ways compared,"
    if len(best) == 1:
        return (
            f"{begin} nothing is cheaper than {best[0].name} ({best[0].cost:.2f} dense trainings for search and "
            f"training), and nothing {better} on average ({best[0].accuracy:.2%})."
        )
    *_, cheap, dear = best
    sure = 1 - (1 - confidence) / comb(len(ways), 2)
    gains = [_gain(dear, cheap, sure) for cheap, dear in pairwise(best)]
    shown = [way.name for way, gain in zip(best[1:], gains, strict=True) if gain.low > 0]
    last = (
        f"nothing that costs less than {dear.cost:.2f} dense trainings ({dear.name}, {dear.accuracy:.2%}) is {better} "
        f"on average than {cheap.name} ({cheap.accuracy:.2%} for {cheap.cost:.2f}): {dear.name} minus "
        f"{cheap.name} {points(gains[-1])} points, n = {gains[-1].n}"
        f"{', the interval that of all pairs of ways together' if len(ways) > 2 else ''}"
    )
    if len(best) == 2:
        return f"{begin} {last}{'' if shown else ', so that no difference is shown'}."
    listed = ", ".join(f"{way.name} ({way.accuracy:.2%} for {way.cost:.2f})" for way in best)
    which = f"for {', '.join(shown)} only" if shown else "for none"
    return (
        f"{begin} these are {better} on average than all that cost as much or less: {listed}; a gain over the one "
        f"before is shown {which}. So {last}."
    )


def _gain(dear: Way, cheap: Way, confidence: float) -> Difference:
    """What the dearer one has more, over the replicates that both have."""
    both = [replicate for replicate in dear.accuracies if replicate in cheap.accuracies]
    return paired([dear.accuracies[each] - cheap.accuracies[each] for each in both] or [nan], confidence)
