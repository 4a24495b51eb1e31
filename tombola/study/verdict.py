"""Is it a winning ticket? With effect, interval, n, and the reason as a sentence.

The formal definition (The Lottery Ticket Hypothesis, Frankle & Carbin, 2019): trained in isolation, the ticket reaches
its minimum validation loss at step j' with test accuracy a', the dense network at j with a; it wins if j' <= j and
a' >= a.

Every replicate compares its own arms, which share all but the declared factor, so the differences are paired. Their
mean has a Student t interval over the n replicates (The Probable Error of a Mean, Student, 1908); several draws of a
control are averaged inside their replicate first. The intervals hold level by level; they are not corrected for the
number of levels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import inf, sqrt
from statistics import mean, stdev
from typing import Literal

Word = Literal["winning", "matching", "losing", "not decided"]


@dataclass(frozen=True)
class Trial:
    """One training's result: where it belongs, its early-stop step and its test accuracy (a fraction) there."""

    arm: str
    replicate: int
    level: int
    density: float
    step: int
    accuracy: float


@dataclass(frozen=True)
class Criteria:
    """What counts as as good and as fast.

    Attributes:
        accuracy_margin: a' may lie this far (a fraction) below a.
        step_margin: j' may lie this many steps after j.
        confidence: of every interval.
    """

    accuracy_margin: float
    step_margin: int
    confidence: float = 0.95


@dataclass(frozen=True)
class Difference:
    """The mean of n paired differences, and the interval it lies in; infinite where n = 1."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """One arm less another at one level: of test accuracy at the early stop, and of the early-stop step.

    `result` says whether the ticket is `better`, `worse`, or `not shown` to be either, by test accuracy.
    """

    against: str
    accuracy: Difference
    steps: Difference
    result: Literal["better", "worse", "not shown"]


@dataclass(frozen=True)
class Verdict:
    """What is known of one arm's tickets at one level.

    Attributes:
        dense: the comparison with the dense network, which decides the verdict.
        controls: the comparisons with the other arms, which say what the accuracy is owed to.
    """

    arm: str
    level: int
    density: float
    verdict: Word
    reason: str
    dense: Comparison
    controls: tuple[Comparison, ...]


def paired(differences: Sequence[float], confidence: float) -> Difference:
    """The mean of paired differences with its Student t interval, mean ± t s / sqrt(n) with n - 1 degrees of freedom.

    >>> paired([1.0, 2.0, 3.0], confidence=0.95)
    Difference(mean=2.0, low=-0.484..., high=4.484..., n=3)
    """
    n, middle = len(differences), mean(differences)
    if n < 2:
        return Difference(middle, -inf, inf, n)
    from scipy.stats import t

    half = float(t.ppf((1 + confidence) / 2, n - 1)) * stdev(differences) / sqrt(n)
    return Difference(middle, middle - half, middle + half, n)


def compare(ticket: Iterable[Trial], other: Iterable[Trial], criteria: Criteria) -> Comparison:
    """Ticket less other, paired by replicate; replicates that only one of them has are left out.

    Raises:
        ValueError: they have no replicate in common.
    """
    left, right = _by_replicate(ticket), _by_replicate(other)
    shared = sorted(left.keys() & right.keys())
    if not shared:
        raise ValueError("expected a replicate that both arms have, found none")
    accuracy = paired([_accuracy(left[number]) - _accuracy(right[number]) for number in shared], criteria.confidence)
    steps = paired([_step(left[number]) - _step(right[number]) for number in shared], criteria.confidence)
    result: Literal["better", "worse", "not shown"] = (
        "better" if accuracy.low > 0 else "worse" if accuracy.high < 0 else "not shown"
    )
    return Comparison(right[shared[0]][0].arm, accuracy, steps, result)


def judge(trials: Sequence[Trial], criteria: Criteria, arm: str = "ticket") -> list[Verdict]:
    """The verdict on `arm` at each level that has trials of it and of the dense network in a common replicate."""
    dense = [trial for trial in trials if trial.arm == "dense"]
    verdicts = []
    for level in sorted({trial.level for trial in trials if trial.arm == arm}):
        here = [trial for trial in trials if trial.level == level]
        tickets = [trial for trial in here if trial.arm == arm]
        if not _by_replicate(tickets).keys() & _by_replicate(dense).keys():
            continue
        against_dense = compare(tickets, dense, criteria)
        others = dict.fromkeys(trial.arm for trial in here if trial.arm != arm)
        controls = tuple(
            compare(tickets, those, criteria)
            for other in others
            if _by_replicate(those := [trial for trial in here if trial.arm == other]).keys()
            & _by_replicate(tickets).keys()
        )
        word = decide(against_dense, criteria)
        density = mean(trial.density for trial in tickets)
        verdicts.append(
            Verdict(arm, level, density, word, _reason(word, against_dense, criteria), against_dense, controls)
        )
    return verdicts


def decide(dense: Comparison, criteria: Criteria) -> Word:
    """The word for a comparison with the dense network.

    winning: the whole interval of a' - a lies above -margin, and that of j' - j below its margin; matching: the first
    alone; losing: the whole interval of a' - a lies below -margin; else, and always for n = 1, not decided.
    """
    if dense.accuracy.n < 2:
        return "not decided"
    if dense.accuracy.low >= -criteria.accuracy_margin:
        return "winning" if dense.steps.high <= criteria.step_margin else "matching"
    return "losing" if dense.accuracy.high < -criteria.accuracy_margin else "not decided"


def _reason(word: Word, dense: Comparison, criteria: Criteria) -> str:
    margin, steps = 100 * criteria.accuracy_margin, criteria.step_margin
    numbers = f"accuracy {points(dense.accuracy)} points, early stop {whole(dense.steps)} steps against dense"
    numbers += f", n = {dense.accuracy.n}"
    if dense.accuracy.n < 2:
        return f"{numbers}: one replicate has no interval"
    if word == "losing":
        return f"{numbers}: the accuracy is more than {margin:g} points lower"
    if word == "not decided":
        return f"{numbers}: the interval reaches below -{margin:g} points and above"
    pace = "no later" if word == "winning" else "later" if dense.steps.low > steps else "not shown to be as early"
    return f"{numbers}: the accuracy holds within {margin:g} points and the early stop is {pace} (margin {steps} steps)"


def points(difference: Difference) -> str:
    """An accuracy difference in percentage points with its interval.

    >>> points(Difference(0.0012, -0.0005, 0.0029, 5))
    '+0.12 [-0.05, +0.29]'
    """
    interval = f" [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]" if difference.n > 1 else ""
    return f"{100 * difference.mean:+.2f}{interval}"


def whole(difference: Difference) -> str:
    """A step difference with its interval."""
    interval = f" [{difference.low:+,.0f}, {difference.high:+,.0f}]" if difference.n > 1 else ""
    return f"{difference.mean:+,.0f}{interval}"


def sentences(verdicts: Sequence[Verdict], criteria: Criteria) -> list[str]:
    """What a person wants to know, in plain sentences."""
    if not verdicts:
        return ["No level has both a ticket and a dense network yet."]
    n = max(verdict.dense.accuracy.n for verdict in verdicts)
    said = [_tickets(verdicts)]
    said += [
        _control(name, verdicts)
        for name in dict.fromkeys(control.against for verdict in verdicts for control in verdict.controls)
    ]
    if n < 2:
        said.append("One replicate decides nothing: run at least two, better five.")
    else:
        said.append(
            f"Differences are paired over n = {n} replicates, with {criteria.confidence:.0%} Student t intervals, "
            f"level by level (not corrected for {len(verdicts)} levels); accuracy is that at the step of minimum "
            f"validation loss, and holds if not more than {100 * criteria.accuracy_margin:g} points below dense."
        )
    return said


_MEANINGS: dict[Word, str] = {
    "winning": "winning (as accurate as the dense network, in at most as many steps)",
    "matching": "matching (as accurate, not shown to be as fast)",
    "losing": "losing",
    "not decided": "not decided",
}


def _tickets(verdicts: Sequence[Verdict]) -> str:
    found = {word: [verdict for verdict in verdicts if verdict.verdict == word] for word in _MEANINGS}
    best = next((word for word in ("winning", "matching") if found[word]), None)
    opening = f"{best.capitalize()} tickets are found" if best else "No winning ticket is shown"
    parts = [f"{_MEANINGS[word]} at {_spans(at, verdicts)}" for word, at in found.items() if at]
    return f"{opening}. Of the densities tried, {'; '.join(parts)}."


def _spans(levels: Sequence[Verdict], everything: Sequence[Verdict]) -> str:
    order = [verdict.level for verdict in everything]
    places = [order.index(verdict.level) for verdict in levels]
    spans = []  # neighbouring levels as one span
    for _, group in groupby(enumerate(places), key=lambda pair: pair[1] - pair[0]):
        members = [everything[place] for _, place in group]
        first, last = members[0], members[-1]
        spans.append(f"{first.density:.1%}" if first is last else f"{first.density:.1%} to {last.density:.1%}")
    return ", ".join(spans)


_OWED = {
    "reinit": (
        "The initialisation matters",
        "the same mask on newly drawn weights (reinit)",
        "that the initialisation matters",
    ),
    "random": (
        "Which weights are kept matters",
        "a random mask with the same layer-wise counts",
        "that it matters which weights are kept",
    ),
    "shuffle": (
        "Where the weights are kept matters",
        "the same mask shuffled inside each layer",
        "that it matters where in a layer weights are kept",
    ),
}


def _control(name: str, verdicts: Sequence[Verdict]) -> str:
    pairs = [(verdict, control) for verdict in verdicts for control in verdict.controls if control.against == name]
    better = [verdict for verdict, control in pairs if control.result == "better"]
    worse = [verdict for verdict, control in pairs if control.result == "worse"]
    claim, what, unshown = _OWED.get(
        name, (f"The ticket is more accurate than {name}", name, f"a difference from {name}")
    )
    if not better:
        tail = f"; less accurate at {_spans(worse, verdicts)}" if worse else ""
        return f"Not shown {unshown}: nowhere is the ticket more accurate than {what}{tail}."
    verdict, control = max(((v, c) for v, c in pairs if c.result == "better"), key=lambda pair: pair[1].accuracy.mean)
    tail = f" It is less accurate at {_spans(worse, verdicts)}." if worse else ""
    return (
        f"{claim}: the ticket is more accurate than {what} at {_spans(better, verdicts)}, "
        f"by most at {verdict.density:.1%}: {points(control.accuracy)} points.{tail}"
    )


def _by_replicate(trials: Iterable[Trial]) -> dict[int, list[Trial]]:
    grouped: dict[int, list[Trial]] = {}
    for trial in trials:
        grouped.setdefault(trial.replicate, []).append(trial)
    return grouped


def _accuracy(draws: Sequence[Trial]) -> float:
    return mean(trial.accuracy for trial in draws)


def _step(draws: Sequence[Trial]) -> float:
    return mean(trial.step for trial in draws)
