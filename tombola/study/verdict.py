"""Is it a winning ticket? With effect, interval, n, and the reason as a sentence.

The formal definition (The Lottery Ticket Hypothesis, Frankle & Carbin, 2019): trained in isolation, the ticket reaches
its minimum validation loss at step j' with test accuracy a', the dense network at j with a; it wins if j' <= j and
a' >= a.

Every replicate compares its own arms, which share all but the declared factor, so the differences are paired. Their
mean has a Student t interval over the n replicates (The Probable Error of a Mean, Student, 1908); several draws of a
control are averaged inside their replicate first. They speak of other seeds, not of another test set, which all
replicates share. The intervals hold level by level; what is said of all levels together is corrected for their number
(A Simple Sequentially Rejective Multiple Test Procedure, Holm, 1979).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import floor, inf, isfinite, log10, sqrt
from statistics import mean, stdev
from typing import Literal

Word = Literal["winning", "matching", "losing", "not decided"]


@dataclass(frozen=True)
class Metric:
    """What is compared: accuracy, or a loss, a return, PSNR, R2, a hit rate.

    Attributes:
        name: as it is reported.
        higher_is_better: of a loss it is not.
        unit: written after its numbers; `points`: it is a fraction, written in hundredths.
    """

    name: str
    higher_is_better: bool = True
    unit: str = ""

    @property
    def scale(self) -> int:
        """The factor between a value and the number that is shown."""
        return 100 if self.unit == "points" else 1

    @property
    def label(self) -> str:
        """Its name in a sentence."""
        return self.name.replace("_", " ")

    def gain(self, difference: "Difference") -> "Difference":
        """The same difference, counted so that more is better."""
        if self.higher_is_better:
            return difference
        return replace(difference, mean=-difference.mean, low=-difference.high, high=-difference.low)


ACCURACY = Metric("accuracy", unit="points")


@dataclass(frozen=True)
class Trial:
    """One training's result: where it belongs, its early-stop step and its test accuracy (a fraction) there.

    `accuracy` is the value of another metric where the criteria name one. `censored`: the early stop is the last step
    of the training, so the minimum may lie behind it. `rewind`: the step that the ticket returned to; what was rewound
    to different steps is of different experiments.
    """

    arm: str
    replicate: int
    level: int
    density: float
    step: int
    accuracy: float
    censored: bool = False
    rewind: int = 0


@dataclass(frozen=True)
class Criteria:
    """What counts as as good and as fast.

    Attributes:
        accuracy_margin: a' may be this much worse than a, in the metric's own unit: of accuracy a fraction.
        step_margin: j' may lie this many steps after j.
        confidence: of every interval.
        accuracy_grain, step_grain: how exactly an accuracy and an early stop are known: one test answer, one interval
            between two looks. Replicates that agree by chance do not know better than that.
        isolated: whether the ticket trains from its early weights; one that goes on from trained weights cannot win.
        paced: whether steps are compared: not where accuracy is that at the end, after as many steps for all.
        metric: what is compared; `accuracy` in the other names stands for it.
    """

    accuracy_margin: float
    step_margin: int
    confidence: float = 0.95
    accuracy_grain: float = 0.0
    step_grain: float = 0.0
    isolated: bool = True
    paced: bool = True
    metric: Metric = ACCURACY


@dataclass(frozen=True)
class Difference:
    """The mean of n paired differences, its interval (infinite where n = 1), and the p-value of no difference."""

    mean: float
    low: float
    high: float
    n: int
    p: float = 1.0


@dataclass(frozen=True)
class Comparison:
    """One arm less another at one level: of test accuracy at the early stop, and of the early-stop step.

    Attributes:
        accuracy: of the metric that the criteria name, in its own direction: of a loss less is better.
        result: whether the ticket is `better`, `worse`, or `not shown` to be either, by the metric.
        censored: whether an early stop of the ticket is the last step of its training.
    """

    against: str
    accuracy: Difference
    steps: Difference
    result: Literal["better", "worse", "not shown"]
    censored: bool = False


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
    rewind: int = 0


def paired(differences: Sequence[float], confidence: float, grain: float = 0.0) -> Difference:
    """The mean of paired differences with its Student t interval, mean ± t s / sqrt(n) with n - 1 degrees of freedom.

    The standard deviation s is taken to be at least grain / sqrt(6), that of the difference of two values which are
    rounded to `grain`: differences that agree by rounding are no certainty.

    >>> paired([1.0, 2.0, 3.0], confidence=0.95)
    Difference(mean=2.0, low=-0.484..., high=4.484..., n=3, p=0.0741...)
    """
    n, middle = len(differences), mean(differences)
    if n < 2:
        return Difference(middle, -inf, inf, n)
    from scipy.special import stdtr, stdtrit  # scipy.stats would take a second to import

    error = max(stdev(differences), grain / sqrt(6)) / sqrt(n)
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * error
    p = 2 * float(stdtr(n - 1, -abs(middle) / error)) if error else float(middle == 0)
    return Difference(middle, middle - half, middle + half, n, p)


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which of several hypotheses are rejected when all are tested at level `alpha` together.

    A Simple Sequentially Rejective Multiple Test Procedure (Holm, 1979): the i-th smallest of m p-values is held
    against alpha / (m - i), i from 0, until the first that is larger.

    >>> holm([0.01, 0.04, 0.03], alpha=0.05)
    [True, False, False]
    """
    rejected = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > alpha / (len(p_values) - place):
            break
        rejected[index] = True
    return rejected


def compare(ticket: Iterable[Trial], other: Iterable[Trial], criteria: Criteria) -> Comparison:
    """Ticket less other, paired by replicate; replicates that only one of them has are left out.

    Raises:
        ValueError: they have no replicate in common.
    """
    left, right = _by_replicate(ticket), _by_replicate(other)
    shared = sorted(left.keys() & right.keys())
    if not shared:
        raise ValueError("expected a replicate that both arms have, found none")
    accuracies = [_accuracy(left[number]) - _accuracy(right[number]) for number in shared]
    accuracy = paired(accuracies, criteria.confidence, criteria.accuracy_grain)
    later = [_step(left[number]) - _step(right[number]) for number in shared]
    steps = paired(later, criteria.confidence, criteria.step_grain)
    gain = criteria.metric.gain(accuracy)
    result: Literal["better", "worse", "not shown"] = (
        "better" if gain.low > 0 else "worse" if gain.high < 0 else "not shown"
    )
    censored = any(trial.censored for number in shared for trial in left[number])
    return Comparison(right[shared[0]][0].arm, accuracy, steps, result, censored)


def judge(trials: Sequence[Trial], criteria: Criteria, arm: str = "ticket") -> list[Verdict]:
    """The verdict on `arm` at each level that has trials of it and of the dense network in a common replicate.

    Rewind step by rewind step, each with its own dense network and controls. What was rewound to the first of several
    is a control of the others: whether a later step helps.
    """
    steps = sorted({trial.rewind for trial in trials})
    verdicts: list[Verdict] = []
    for step in steps:
        first = [replace(trial, arm=rewound(steps[0])) for trial in trials if trial.arm == arm]
        earlier = [trial for trial in first if trial.rewind == steps[0] != step]
        verdicts += _judged([trial for trial in trials if trial.rewind == step] + earlier, criteria, arm, step)
    return verdicts


def rewound(step: int) -> str:
    """The name of the ticket that was rewound to `step`, where it is compared with others."""
    return f"the ticket rewound to step {step:,}"


def _judged(trials: Sequence[Trial], criteria: Criteria, arm: str, rewind: int) -> list[Verdict]:
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
            Verdict(arm, level, density, word, _reason(word, against_dense, criteria), against_dense, controls, rewind)
        )
    return verdicts


def decide(dense: Comparison, criteria: Criteria) -> Word:
    """The word for a comparison with the dense network.

    winning: the whole interval of a' - a lies above -margin, that of j' - j below its margin, and every j' is a
    minimum that was passed; matching: the first alone, all there is to know where steps are not compared; losing: the
    whole interval of a' - a lies below -margin; else, and always for n = 1, not decided. Where less is better, a - a'.
    """
    gain = criteria.metric.gain(dense.accuracy)
    if gain.n < 2:
        return "not decided"
    if gain.low >= -criteria.accuracy_margin:
        fast = criteria.paced and dense.steps.high <= criteria.step_margin and not dense.censored
        return "winning" if fast and criteria.isolated else "matching"
    return "losing" if gain.high < -criteria.accuracy_margin else "not decided"


def _reason(word: Word, dense: Comparison, criteria: Criteria) -> str:
    metric, margin = criteria.metric, _margin(criteria)
    pace = f", early stop {whole(dense.steps)} steps" if criteria.paced else ""
    numbers = f"{metric.label} {amount(dense.accuracy, metric)}{pace} against dense, n = {dense.accuracy.n}"
    worse, beyond = ("lower", "below") if metric.higher_is_better else ("higher", "above")
    if dense.accuracy.n < 2:
        return f"{numbers}: one replicate has no interval"
    if word == "losing":
        return f"{numbers}: the {metric.label} is more than {margin} {worse}"
    if word == "not decided":
        return f"{numbers}: the interval reaches from more than {margin} {beyond} dense to less"
    holds = f"holds within {margin}" if metric.higher_is_better else f"is no more than {margin} higher"
    return f"{numbers}: the {metric.label} {holds}{_pace(word, dense, criteria)}"


def _margin(criteria: Criteria) -> str:
    margin, unit = criteria.metric.scale * criteria.accuracy_margin, criteria.metric.unit
    return f"{margin:g} {unit.removesuffix('s') if unit == 'points' and margin == 1 else unit}".rstrip()


def _pace(word: Word, dense: Comparison, criteria: Criteria) -> str:
    margin = f"(margin {criteria.step_margin} steps)"
    if word == "winning":
        return f" and the early stop is no later {margin}"
    if not criteria.isolated:
        return " and it goes on from trained weights, so it is no ticket"
    if not criteria.paced:
        return ""
    if dense.steps.low > criteria.step_margin:
        return f" and the early stop is later {margin}"
    if dense.censored:
        return " and its early stop is the end of the training in some replicate, so how early it comes is not known"
    return f" and the early stop is not shown to be as early {margin}"


def points(difference: Difference) -> str:
    """An accuracy difference in percentage points with its interval.

    >>> points(Difference(0.0012, -0.0005, 0.0029, 5))
    '+0.12 [-0.05, +0.29]'
    """
    interval = f" [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]" if difference.n > 1 else ""
    return f"{100 * difference.mean:+.2f}{interval}"


def amount(difference: Difference, metric: Metric) -> str:
    """A difference of any metric with its interval and unit, two digits of half the interval's width kept.

    >>> amount(Difference(0.0512, 0.0391, 0.0633, 5), Metric("loss", higher_is_better=False))
    '+0.051 [+0.039, +0.063]'
    >>> amount(Difference(0.0012, -0.0005, 0.0029, 5), ACCURACY)
    '+0.12 [-0.05, +0.29] points'
    """
    if metric.unit == "points":
        return f"{points(difference)} points"
    known = (difference.high - difference.low) / 2
    finest = next((each for each in (known, abs(difference.mean)) if 0 < each < inf), 1.0)
    digits = max(0, 1 - floor(log10(finest)))
    ends = f" [{difference.low:+,.{digits}f}, {difference.high:+,.{digits}f}]" if isfinite(known) else ""
    return f"{difference.mean:+,.{digits}f}{ends} {metric.unit}".rstrip()


def whole(difference: Difference) -> str:
    """A step difference with its interval."""
    interval = f" [{difference.low:+,.0f}, {difference.high:+,.0f}]" if difference.n > 1 else ""
    return f"{difference.mean:+,.0f}{interval}"


def sentences(verdicts: Sequence[Verdict], criteria: Criteria) -> list[str]:
    """What a person wants to know, in plain sentences."""
    if not verdicts:
        return ["No level has both a ticket and a dense network yet."]
    steps = sorted({verdict.rewind for verdict in verdicts})
    said = []
    for step in steps:
        here = [verdict for verdict in verdicts if verdict.rewind == step]
        others = dict.fromkeys(control.against for verdict in here for control in verdict.controls)
        which = f"Rewound to step {step:,}: " if len(steps) > 1 else ""
        against = [_against(name, here, _signs(name, verdicts, criteria), criteria.metric) for name in others]
        said += [which + line for line in (_tickets(here, criteria), *against)]
    levels = len({verdict.level for verdict in verdicts})
    tried = f"{levels} level{'s' if levels > 1 else ''}" + (f" at {len(steps)} rewind steps" if len(steps) > 1 else "")
    counts = sorted({verdict.dense.accuracy.n for verdict in verdicts})
    if counts[-1] < 2:
        return [*said, "One replicate decides nothing: run at least two, better five."]
    if counts[-1] == 2:
        said.append("Two replicates give wide intervals that one more may move far: better five.")
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    said.append(
        f"Differences are paired over n = {n} replicates, with {criteria.confidence:.0%} Student t intervals; winning "
        f"and matching are decided level by level, the statements about other arms are corrected for {tried} "
        f"(Holm). {_subject(criteria.metric)} is that at {_where(criteria)}, and "
        f"holds if not more than {_margin(criteria)} {'below' if criteria.metric.higher_is_better else 'above'} dense."
    )
    return said


def _subject(metric: Metric) -> str:
    return "Accuracy" if metric == ACCURACY else f"The {metric.label}"


def _as_good(metric: Metric) -> str:
    return "as accurate" if metric == ACCURACY else "as good"


def _where(criteria: Criteria) -> str:
    return "the step of minimum validation loss" if criteria.paced else "the end of training, as long for all"


def _meanings(criteria: Criteria) -> dict[Word, str]:
    good = _as_good(criteria.metric)
    speed = "not shown to be as fast" if criteria.paced else "trained for as many steps"
    return {
        "winning": f"winning ({good} as the dense network, in at most as many steps)",
        "matching": f"matching ({good}, {speed})",
        "losing": "losing",
        "not decided": "not decided",
    }


def _tickets(verdicts: Sequence[Verdict], criteria: Criteria) -> str:
    meanings = _meanings(criteria)
    found = {word: [verdict for verdict in verdicts if verdict.verdict == word] for word in meanings}
    best = next((word for word in ("winning", "matching") if found[word]), None)
    opening = f"{best.capitalize()} tickets are found" if best else "No winning ticket is shown"
    if best and not criteria.isolated:
        good = _as_good(criteria.metric)
        opening = f"Sparse networks {good} as the dense one are found (from trained weights, so no tickets)"
    parts = [f"{meanings[word]} at {_spans(at, verdicts)}" for word, at in found.items() if at]
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
    "reinit": ("the initialisation matters", "the same mask on newly drawn weights (reinit)"),
    "random": ("it matters which weights are kept", "a random mask with the same layer-wise counts"),
    "shuffle": ("it matters where in a layer the weights are kept", "the same mask shuffled inside each layer"),
}


Signs = Mapping[tuple[int, int], tuple[int, int]]


def _signs(name: str, verdicts: Sequence[Verdict], criteria: Criteria) -> Signs:
    """(rewind step, level) -> the signs of the differences from an arm, in the metric (1 is better) and in pace, that
    are shown when all steps and levels are looked at together; 0 where none is."""
    pairs = [(verdict, control) for verdict in verdicts for control in verdict.controls if control.against == name]
    accuracy = _shown([criteria.metric.gain(control.accuracy) for _, control in pairs], criteria)
    pace = _shown([control.steps for _, control in pairs], criteria) if criteria.paced else [0] * len(pairs)
    places = [(verdict.rewind, verdict.level) for verdict, _ in pairs]
    return dict(zip(places, zip(accuracy, pace, strict=True), strict=True))


def _against(name: str, verdicts: Sequence[Verdict], signs: Signs, metric: Metric) -> str:
    """How the ticket compares with another arm at one rewind step."""

    def at(which: int, sign: int) -> list[Verdict]:
        return [verdict for verdict in verdicts if signs.get((verdict.rewind, verdict.level), (0, 0))[which] == sign]

    better, worse, earlier, later = at(0, 1), at(0, -1), at(1, -1), at(1, 1)
    claim, what = _OWED.get(name, ("", name))
    subject, form, up, down = "the ticket is", f"{{}} accurate than {what}", "more", "less"
    if metric != ACCURACY:
        subject, form = f"the ticket's {metric.label} is", f"{{}} than that of {what}"
        up, down = ("higher", "lower") if metric.higher_is_better else ("lower", "higher")
    accurate = _listed({up: better, down: worse}, form, verdicts)
    early = _listed({"earlier": earlier, "later": later}, "{}", verdicts)
    if not accurate and not early:
        same = f"no difference between the ticket and {what} is shown."
        return f"That {claim} stays open: {same}" if claim else same.capitalize()
    said = [f"{subject} {accurate}"] if accurate else []
    if early:
        said.append(f"its early stop comes {early}" if accurate else f"against {what}, the ticket stops {early}")
    opening = "" if not claim else f"{claim}: " if better else f"that {claim} is not shown by {metric.label}: "
    sentence = f"{opening}{'; '.join(said)}."
    return sentence[0].upper() + sentence[1:]


def _listed(groups: Mapping[str, Sequence[Verdict]], form: str, everything: Sequence[Verdict]) -> str:
    """Which word holds where: `more accurate than ... at 5.6% to 3.6%`; empty where none holds anywhere."""
    return ", ".join(
        f"{form.format(word)} at {_spans(levels, everything)}" for word, levels in groups.items() if levels
    )


def _shown(differences: Sequence[Difference], criteria: Criteria) -> list[int]:
    """The sign of each difference that is shown when all levels are looked at together, else 0."""
    rejected = holm([difference.p for difference in differences], alpha=1 - criteria.confidence)
    return [(1 if each.mean > 0 else -1) if sure else 0 for each, sure in zip(differences, rejected, strict=True)]


def _by_replicate(trials: Iterable[Trial]) -> dict[int, list[Trial]]:
    grouped: dict[int, list[Trial]] = {}
    for trial in trials:
        grouped.setdefault(trial.replicate, []).append(trial)
    return grouped


def _accuracy(draws: Sequence[Trial]) -> float:
    return mean(trial.accuracy for trial in draws)


def _step(draws: Sequence[Trial]) -> float:
    return mean(trial.step for trial in draws)
