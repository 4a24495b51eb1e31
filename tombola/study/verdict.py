"""Is it a winning ticket? With effect, interval, n, and the reason as a sentence.

The formal definition (The Lottery Ticket Hypothesis, Frankle & Carbin, 2019): trained in isolation, the ticket reaches
its minimum validation loss at step j' with test accuracy a', the dense network at j with a; it wins if j' <= j and
a' >= a.

Every replicate compares its own arms, which share all but the declared factor, so the differences are `paired`; several
draws of a control are averaged inside their replicate first. The intervals are about other seeds, not about another
test set, which all replicates share. The words hold level by level. What is said of a control is one contrast fixed
beforehand, over all levels of low density together; what is said of its single levels is corrected for their number.

Where replicates are added until it is decided (`Criteria.looks`), all that is said of an experiment at any of its looks
holds together: the error is shared out evenly among the families of claims - accuracy and early stop against the dense
network at all levels; better or worse, as good, earlier or later than each control over the low densities, and the same
at all levels -, in each of them by Holm, over p-values that hold in spite of the looks (Multiple Testing in Group
Sequential Trials Using Graphical Approaches, Maurer & Bretz, 2013). Each interval has the confidence at which Holm
tests last, so that it leaves out what is ruled out.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import floor, inf, isfinite, log, log10, nan, sqrt
from statistics import mean
from typing import Literal

from tombola.study.paired import Difference, Ratio, beyond, holm, last_level, more_replicates, paired, ratio
from tombola.study.sequential import Looks
from tombola.study.smoothed import Stop
from tombola.study.written import points, times, written

VerdictWord = Literal["winning", "matching", "losing", "not decided", "not learned"]
Pace = Literal["as fast", "slower", "speed open"]
Effect = Literal["better", "worse", "not shown"]
Earlier = Literal["earlier", "later", "not shown"]

REPLICATES = 5  # that winning takes: over fewer the spread of the differences is hardly known
LOW_DENSITY = 0.3  # the contrast with a control is over the levels below it
NOTHING = 1e-6  # a metric that is better when higher, and not above this, is that of a network that finds nothing


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

    def gain(self, difference: Difference) -> Difference:
        """The same difference, counted so that more is better."""
        if self.higher_is_better:
            return difference
        return replace(difference, mean=-difference.mean, low=-difference.high, high=-difference.low)

    def effect(self, difference: Difference) -> Effect:
        """Whether what is more by this difference is shown to be better or worse, by its whole interval."""
        gain = self.gain(difference)
        return "better" if gain.low > 0 else "worse" if gain.high < 0 else "not shown"

    def shown(self, value: float) -> str:
        """A value for people: 97.62%, 0.9762, 27.3 dB."""
        return f"{value:.2%}" if self.unit == "points" else f"{value:.4g} {self.unit}".rstrip()


ACCURACY = Metric("accuracy", unit="points")
R2 = Metric("R2", unit="points")


@dataclass(frozen=True)
class Trial:
    """One training's result: where it belongs, its early-stop step and its test accuracy (a fraction) there.

    Attributes:
        accuracy: the value of another metric where the criteria name one.
        censored: whether the early stop is the last evaluation of the training, so the minimum may lie behind it.
        rewind: the step that the ticket returned to; what was rewound to different steps is of different experiments.
        first: whether the early stop is the first evaluation, so the minimum may lie before it.
        smoothed: the early stop in its second reading, where the validation curve is long enough.
        before: the accuracy before the first training step, where that is known.
    """

    arm: str
    replicate: int
    level: int
    density: float
    step: int
    accuracy: float
    censored: bool = False
    rewind: int = 0
    first: bool = False
    smoothed: Stop | None = None
    before: float | None = None


@dataclass(frozen=True)
class Criteria:
    """What counts as as good and as fast.

    Attributes:
        accuracy_margin: a' may be this much worse than a, in the metric's own unit: of accuracy a fraction.
        step_margin: j' may lie this many steps after j.
        confidence: of every interval.
        accuracy_grain, step_grain: how exactly an accuracy and an early stop are known: one test answer, one interval
            between two looks. Replicates that agree by chance do not know better than that.
        isolated: whether the ticket trains from its early weights; one that goes on from trained
            weights, or trains none, or moves its mask meanwhile, cannot win.
        paced: whether steps are compared: not where accuracy is that at the end, after as many steps for all.
        metric: what is compared; `accuracy` in the other names stands for it.
        chance: the metric of guessing, of accuracy the share of the most frequent class; None where that is not known.
        looks: when replicates are looked at, where they are added until it is decided; None where their number is
            fixed. `confidence` is then that of all that is said at all looks together.
    """

    accuracy_margin: float
    step_margin: int
    confidence: float = 0.95
    accuracy_grain: float = 0.0
    step_grain: float = 0.0
    isolated: bool = True
    paced: bool = True
    metric: Metric = ACCURACY
    chance: float | None = None
    looks: Looks | None = None

    @property
    def accuracy_bound(self) -> float:
        """The difference a' - a at which a ticket begins to match."""
        return -self.accuracy_margin if self.metric.higher_is_better else self.accuracy_margin


@dataclass(frozen=True)
class Sure:
    """The confidence of each interval of a comparison, where it is not the criteria's own."""

    accuracy: float
    steps: float


@dataclass(frozen=True)
class Pair:
    """One replicate's share in a comparison: accuracy and early stop of the ticket and of the other, draws averaged."""

    replicate: int
    accuracy: tuple[float, float]
    steps: tuple[float, float]

    @property
    def gap(self) -> float:
        """a' - a."""
        return self.accuracy[0] - self.accuracy[1]


@dataclass(frozen=True)
class Reading:
    """The early stop read in another way: its differences, its ratios, and what they say of the pace."""

    steps: Difference
    ratio: Ratio
    pace: Pace


@dataclass(frozen=True)
class Comparison:
    """One arm less another at one level: of test accuracy at the early stop, and of the early-stop step.

    Attributes:
        accuracy: of the metric that the criteria name, in its own direction: of a loss less is better.
        result: whether the ticket is `better`, `worse`, or `not shown` to be either, by the metric, at this level by
            itself: not corrected for the number of levels.
        censored: whether an early stop of the ticket is at an end of its training, or one of the other at the first
            evaluation: it is then not known how early the ticket stops beside the other.
        unmoved: whether an early stop of the ticket is at its first evaluation: no step after it made the validation
            loss smaller, and to stop there is not to be earlier.
        ratio: j' / j. A stop at step j counts as j + g, g the interval between two evaluations: it lies somewhere
            between two of them, and a stop at step 0 has a logarithm.
        pairs: what the means are over.
        second: the smoothed early stop's differences, which no word rests on.
        result_holm, earlier_holm: for controls, whether the ticket is better or worse, and stops earlier or later,
            corrected by Holm for all levels and rewind steps of that control; None for the dense network.
        same_holm: for controls, whether the ticket is shown to be as good as it, within the accuracy margin: two
            one-sided tests, corrected likewise. None for the dense network.
        sure: how sure its intervals are, where replicates were added until it was decided.
    """

    against: str
    accuracy: Difference
    steps: Difference
    result: Effect
    censored: bool = False
    unmoved: bool = False
    ratio: Ratio | None = None
    pairs: tuple[Pair, ...] = ()
    second: Reading | None = None
    result_holm: Effect | None = None
    earlier_holm: Earlier | None = None
    same_holm: bool | None = None
    sure: Sure | None = None


@dataclass(frozen=True)
class Verdict:
    """What is known of one arm's tickets at one level.

    Attributes:
        dense: the comparison with the dense network, which decides the verdict.
        controls: the comparisons with the other arms, which say what the accuracy is owed to.
        pace: what is shown of the early stop beside the dense network's; None where steps are not compared.
        more_replicates: how many more would decide, by the spread found, where the word is `not decided`; None where
            that is not known or there is no reasonable number.
    """

    arm: str
    level: int
    density: float
    verdict: VerdictWord
    reason: str
    dense: Comparison
    controls: tuple[Comparison, ...]
    rewind: int = 0
    pace: Pace | None = None
    more_replicates: int | None = None

    @property
    def label(self) -> str:
        """The word, and of a ticket that matches what is known of its speed."""
        return f"{self.verdict}, {self.pace}" if self.verdict == "matching" and self.pace else self.verdict


@dataclass(frozen=True)
class Contrast:
    """The ticket less a control over several levels together: in each replicate the mean over them, then `paired`.

    Attributes:
        levels, densities: those below `LOW_DENSITY`, or all where none is.
        result, earlier: what is shown; corrected by Holm for the number of rewind steps, 1 in most experiments.
        same: whether the ticket is shown to be as good as the control, within the accuracy margin; corrected likewise.
        gaps: the replicates' means that `accuracy` is over.
        sure: as in `Comparison`.
    """

    against: str
    rewind: int
    levels: tuple[int, ...]
    densities: tuple[float, ...]
    accuracy: Difference
    ratio: Ratio
    result: Effect = "not shown"
    earlier: Earlier = "not shown"
    same: bool = False
    gaps: tuple[float, ...] = ()
    sure: Sure | None = None


def compare(ticket: Iterable[Trial], other: Iterable[Trial], criteria: Criteria) -> Comparison:
    """Ticket less other, paired by replicate; replicates that only one of them has are left out.

    Raises:
        ValueError: they have no replicate in common.
    """
    left, right = _by_replicate(ticket), _by_replicate(other)
    shared = sorted(left.keys() & right.keys())
    if not shared:
        raise ValueError("expected a replicate that both arms have, found none")
    sides = [(left[number], right[number]) for number in shared]
    pairs = [
        Pair(number, (_accuracy(one), _accuracy(another)), _steps(one, another, lambda trial: trial.step))
        for number, (one, another) in zip(shared, sides, strict=True)
    ]
    unmoved = any(trial.first for one, _ in sides for trial in one)
    censored = unmoved or any(trial.censored for one, _ in sides for trial in one)
    censored = censored or any(trial.first for _, another in sides for trial in another)
    return _measured(
        Comparison(
            against=right[shared[0]][0].arm,
            accuracy=_UNKNOWN,
            steps=_UNKNOWN,
            result="not shown",
            censored=censored,
            unmoved=unmoved,
            pairs=tuple(pairs),
            second=_second(sides, criteria),
        ),
        criteria,
    )


_UNKNOWN = Difference(nan, -inf, inf, 0)


def _measured(comparison: Comparison, criteria: Criteria, sure: Sure | None = None) -> Comparison:
    """With intervals over its pairs, of the criteria's own confidence where no other is given."""
    known = sure or Sure(criteria.confidence, criteria.confidence)
    gaps, steps = _gaps(comparison), [pair.steps for pair in comparison.pairs]
    accuracy = paired(gaps, known.accuracy, criteria.accuracy_grain, criteria.looks)
    of_steps = replace(criteria, confidence=known.steps)
    return replace(
        comparison,
        accuracy=accuracy,
        steps=_later(steps, of_steps),
        result=criteria.metric.effect(accuracy),
        ratio=_ratio(_logarithms(steps, criteria), steps, of_steps),
        sure=sure,
    )


EarlyStops = Sequence[tuple[float, float]]  # of each replicate the early stop of the ticket and that of the other


def _steps(one: Sequence[Trial], another: Sequence[Trial], step: Callable[[Trial], int]) -> tuple[float, float]:
    return mean(step(trial) for trial in one), mean(step(trial) for trial in another)


def _later(steps: EarlyStops, criteria: Criteria) -> Difference:
    return paired([one - another for one, another in steps], criteria.confidence, criteria.step_grain, criteria.looks)


def _logarithms(steps: EarlyStops, criteria: Criteria) -> list[float]:
    """log((j' + g) / (j + g)) of each replicate."""
    grain = criteria.step_grain or 1
    return [log((one + grain) / (another + grain)) for one, another in steps]


def _ratio(logarithms: Sequence[float], steps: EarlyStops, criteria: Criteria) -> Ratio:
    """Of the logarithms, which are known as exactly as the steps, each to the grain."""
    grain = criteria.step_grain
    squares = mean((one + (grain or 1)) ** -2 + (another + (grain or 1)) ** -2 for one, another in steps)
    return ratio(logarithms, criteria.confidence, grain * sqrt(squares / 2), criteria.looks)


def _second(sides: Sequence[tuple[Sequence[Trial], Sequence[Trial]]], criteria: Criteria) -> Reading | None:
    trials = [trial for arms in sides for arm in arms for trial in arm]
    if not criteria.paced or criteria.looks or any(trial.smoothed is None for trial in trials):
        return None  # of what is looked at again and again nothing is said that is not counted

    def stop(trial: Trial) -> Stop:
        assert trial.smoothed
        return trial.smoothed

    steps = [_steps(one, another, lambda trial: stop(trial).step) for one, another in sides]
    later = _later(steps, criteria)
    open_ended = any(stop(trial).first or stop(trial).last for one, _ in sides for trial in one)
    open_ended = open_ended or any(stop(trial).first for _, another in sides for trial in another)
    return Reading(later, _ratio(_logarithms(steps, criteria), steps, criteria), _pace(later, open_ended, criteria))


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
        verdicts += _verdicts([trial for trial in trials if trial.rewind == step] + earlier, criteria, arm, step)
    return _corrected(_surer(verdicts, criteria) if criteria.looks else verdicts, criteria)


def rewound(step: int) -> str:
    """The name of the ticket that was rewound to `step`, where it is compared with others."""
    return f"the ticket rewound to step {step:,}"


def _verdicts(trials: Sequence[Trial], criteria: Criteria, arm: str, rewind: int) -> list[Verdict]:
    dense = [trial for trial in trials if trial.arm == "dense"]
    unlearned = _unlearned(dense, criteria)
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
        density = mean(trial.density for trial in tickets)
        measured = Verdict(arm, level, density, "not decided", "", against_dense, controls, rewind)
        verdicts.append(_judged(measured, criteria, unlearned))
    return verdicts


def _judged(verdict: Verdict, criteria: Criteria, unlearned: str) -> Verdict:
    """With the word that its comparison with the dense network deserves, and why."""
    dense, more = verdict.dense, None
    word = "not learned" if unlearned else decide(dense, criteria)
    gain = criteria.metric.gain(dense.accuracy)
    if word == "not decided" and gain.n > 1 and not criteria.looks:
        more = more_replicates(gain, -criteria.accuracy_margin, criteria.confidence)
    reason = unlearned or _reason(word, dense, criteria, more)
    return replace(verdict, verdict=word, reason=reason, pace=pace(dense, criteria), more_replicates=more)


def _unlearned(dense: Sequence[Trial], criteria: Criteria) -> str:
    """Why the dense network is no bar: in half of its replicates, or more, it learned nothing. Empty where it did."""
    reasons = [reason for trial in dense if (reason := _untaught(trial, criteria))]
    if not reasons or 2 * len(reasons) < len(dense):
        return ""
    (why, _), *_ = Counter(reasons).most_common(1)
    accuracy = criteria.metric.shown(mean(trial.accuracy for trial in dense))
    where = f"in {len(reasons)} of {len(dense)} replicates" if len(dense) > 1 else "in the one replicate"
    return f"the dense network learned nothing {where} ({criteria.metric.label} {accuracy} on average): {why}"


def _untaught(trial: Trial, criteria: Criteria) -> str:
    metric, value = criteria.metric, trial.accuracy
    if not isfinite(value):
        return f"its {metric.label} is no number"
    if criteria.chance is not None and not _beyond_chance(value, criteria.chance, criteria):
        return f"its {metric.label} is no better than that of guessing, {metric.shown(criteria.chance)}"
    if criteria.paced and trial.step == 0:
        return "its validation loss is smallest before the first step of training"
    if metric.higher_is_better and 0 <= value <= NOTHING:
        return f"its {metric.label} is 0"
    if trial.before is not None:
        better = value - trial.before if metric.higher_is_better else trial.before - value
        if better <= criteria.accuracy_grain:
            return f"its {metric.label} is no better than before training"
    return ""


def _beyond_chance(value: float, chance: float, criteria: Criteria) -> bool:
    """Whether a value is better than that of guessing.

    One that is a fraction of examples has to be so much better that as many right answers, or more, come of guessing
    with probability 1 - confidence at most.
    """
    right, guessed = (value, chance) if criteria.metric.higher_is_better else (-value, -chance)
    grain = criteria.accuracy_grain
    if not (0 < grain < 1 and 0 <= value <= 1 and 0 <= chance <= 1):
        return right > guessed
    from scipy.special import bdtrc

    if not criteria.metric.higher_is_better:  # a fraction of wrong answers
        right, guessed = 1 - value, 1 - chance
    examples = round(1 / grain)
    count = round(right * examples)
    by_luck = float(bdtrc(count - 1, examples, guessed)) if count else 1.0
    return by_luck <= 1 - criteria.confidence


def _names(verdicts: Iterable[Verdict]) -> list[str]:
    """The arms that the tickets are compared with beside the dense network."""
    return list(dict.fromkeys(control.against for verdict in verdicts for control in verdict.controls))


def _share(verdicts: Iterable[Verdict], criteria: Criteria) -> float:
    """The error that a family of claims may make: where replicates are added until it is decided, its part of all."""
    alpha, controls = 1 - criteria.confidence, len(_names(verdicts))
    each = 3 if criteria.paced else 2  # better or worse, as good within the margin, earlier or later
    families = (2 if criteria.paced else 1) + 2 * each * controls
    return alpha / families if criteria.looks else alpha


def _surer(verdicts: Sequence[Verdict], criteria: Criteria) -> list[Verdict]:
    """The verdicts with intervals that hold at all looks, and at all levels and rewind steps, together."""
    share, known = _share(verdicts, criteria), dict[str, Sure]()

    def p_values(comparisons: Sequence[Comparison], bounds: tuple[float, float]) -> Sure:
        accuracies = [[pair.gap - bounds[0] for pair in each.pairs] for each in comparisons]
        steps = [[pair.steps[0] - pair.steps[1] - bounds[1] for pair in each.pairs] for each in comparisons]
        return Sure(
            1 - last_level([_p(values, criteria.accuracy_grain, criteria) for values in accuracies], share),
            1 - last_level([_p(values, criteria.step_grain, criteria) for values in steps], share),
        )

    against_dense = p_values([verdict.dense for verdict in verdicts], (criteria.accuracy_bound, criteria.step_margin))
    for name in _names(verdicts):
        known[name] = p_values([each for one in verdicts for each in one.controls if each.against == name], (0, 0))
    return [
        _judged(
            replace(
                verdict,
                dense=_measured(verdict.dense, criteria, against_dense),
                controls=tuple(_measured(control, criteria, known[control.against]) for control in verdict.controls),
            ),
            criteria,
            verdict.reason if verdict.verdict == "not learned" else "",
        )
        for verdict in verdicts
    ]


def _p(differences: Sequence[float], grain: float, criteria: Criteria) -> float:
    return paired(differences, criteria.confidence, grain, criteria.looks).p


def _corrected(verdicts: Sequence[Verdict], criteria: Criteria) -> list[Verdict]:
    """The verdicts with what holds of each control at all levels and rewind steps together."""
    share = _share(verdicts, criteria)
    shown: dict[tuple[str, int, int], Comparison] = {}
    for name in _names(verdicts):
        places = [(verdict, control) for verdict in verdicts for control in verdict.controls if control.against == name]
        better = _shown([criteria.metric.gain(control.accuracy) for _, control in places], share)
        later = _shown([control.steps for _, control in places], share) if criteria.paced else [0] * len(places)
        same = _same(
            [control.accuracy for _, control in places], [_gaps(control) for _, control in places], criteria, share
        )
        for (verdict, control), gain, delay, alike in zip(places, better, later, same, strict=True):
            shown[name, verdict.rewind, verdict.level] = replace(
                control, result_holm=_RESULTS[gain], earlier_holm=_earlier(delay, control.unmoved), same_holm=alike
            )
    return [
        replace(
            verdict,
            controls=tuple(shown[control.against, verdict.rewind, verdict.level] for control in verdict.controls),
        )
        for verdict in verdicts
    ]


_RESULTS: dict[int, Effect] = {1: "better", -1: "worse", 0: "not shown"}
_PACES: dict[int, Earlier] = {-1: "earlier", 1: "later", 0: "not shown"}


def _earlier(delay: int, unmoved: bool) -> Earlier:
    """The word for the sign of j' - j that is shown."""
    return "not shown" if delay < 0 and unmoved else _PACES[delay]


def _shown(differences: Sequence[Difference], alpha: float) -> list[int]:
    """The sign of each difference that is shown when all of them are looked at together, else 0."""
    rejected = holm([difference.p for difference in differences], alpha)
    return [(1 if each.mean > 0 else -1) if sure else 0 for each, sure in zip(differences, rejected, strict=True)]


def _same(
    differences: Sequence[Difference], values: Sequence[Sequence[float]], criteria: Criteria, alpha: float
) -> list[bool]:
    """Of which differences it is shown, when all are looked at together, that they are smaller than the margin.

    Args:
        values: what each of them is the mean of.
    """
    if criteria.looks:
        return holm([_within(each, criteria) for each in values], alpha)
    tests = [beyond(each, criteria.accuracy_margin, criteria.confidence) for each in differences]
    return holm(tests, alpha / 2)


def _within(gaps: Sequence[float], criteria: Criteria) -> float:
    """The p-value, over all looks, of a mean that lies the margin or more from 0, of two one-sided tests the larger."""
    margin = criteria.accuracy_margin
    if not abs(mean(gaps)) < margin:
        return 1.0
    return max(_p([gap - bound for gap in gaps], criteria.accuracy_grain, criteria) for bound in (-margin, margin))


def _gaps(comparison: Comparison) -> list[float]:
    return [pair.gap for pair in comparison.pairs]


def contrasts(verdicts: Sequence[Verdict], criteria: Criteria) -> list[Contrast]:
    """What is said of each control at each rewind step: one contrast, fixed before any result is seen.

    In each replicate the differences are averaged over the levels below 30 % density, over all levels where none lies
    below; their mean over the replicates has its interval. Replicates that lack one of these levels are left out.
    """
    made, share = list[Contrast](), _share(verdicts, criteria)
    for name in _names(verdicts):
        mine = [(verdict, control) for verdict in verdicts for control in verdict.controls if control.against == name]
        steps = dict.fromkeys(verdict.rewind for verdict, _ in mine)
        at_each_step = [_contrast(name, [each for each in mine if each[0].rewind == step], criteria) for step in steps]
        complete = [each for each in at_each_step if each]
        better = _shown([criteria.metric.gain(each.accuracy) for each in complete], share)
        later = _shown([_logarithmic(each.ratio) for each in complete], share)
        same = _same([each.accuracy for each in complete], [each.gaps for each in complete], criteria, share)
        if criteria.looks:
            complete = [_surely(each, complete, mine, criteria, share) for each in complete]
        unmoved = {(verdict.rewind, verdict.level) for verdict, control in mine if control.unmoved}
        still = [any((each.rewind, level) in unmoved for level in each.levels) for each in complete]
        made += [
            replace(each, result=_RESULTS[gain], earlier=_earlier(delay if criteria.paced else 0, stuck), same=alike)
            for each, gain, delay, stuck, alike in zip(complete, better, later, still, same, strict=True)
        ]
    return made


def _surely(
    contrast: Contrast,
    together: Sequence[Contrast],
    levels: Sequence[tuple[Verdict, Comparison]],
    criteria: Criteria,
    share: float,
) -> Contrast:
    """The contrast with intervals that hold at all looks, and at all rewind steps, together."""
    here = [each for each in levels if each[0].rewind == contrast.rewind]
    sure = Sure(
        1 - last_level([each.accuracy.p for each in together], share),
        1 - last_level([each.ratio.p for each in together], share),
    )
    by_accuracy, by_steps = (
        _contrast(contrast.against, here, replace(criteria, confidence=confidence))
        for confidence in (sure.accuracy, sure.steps)
    )
    assert by_accuracy and by_steps  # as the contrast is there
    return replace(by_accuracy, ratio=by_steps.ratio, sure=sure)


def _contrast(name: str, levels: Sequence[tuple[Verdict, Comparison]], criteria: Criteria) -> Contrast | None:
    low = [each for each in levels if each[0].density < LOW_DENSITY] or levels
    counts = Counter(pair.replicate for _, control in low for pair in control.pairs)
    complete = [
        [pair for _, control in low for pair in control.pairs if pair.replicate == number]
        for number in sorted(counts)
        if counts[number] == len(low)
    ]
    if not complete:
        return None
    steps = [pair.steps for pairs in complete for pair in pairs]
    logarithms = [mean(_logarithms([pair.steps for pair in pairs], criteria)) for pairs in complete]
    gaps = tuple(mean(pair.gap for pair in pairs) for pairs in complete)
    return Contrast(
        name,
        low[0][0].rewind,
        tuple(verdict.level for verdict, _ in low),
        tuple(verdict.density for verdict, _ in low),
        paired(gaps, criteria.confidence, criteria.accuracy_grain, criteria.looks),
        _ratio(logarithms, steps, criteria),
        gaps=gaps,
    )


def _logarithmic(ratio: Ratio) -> Difference:
    return Difference(log(ratio.mean), -inf, inf, ratio.n, ratio.p)


def decide(dense: Comparison, criteria: Criteria) -> VerdictWord:
    """The word for a comparison with the dense network.

    winning: the whole interval of a' - a lies above -margin, that of j' - j below its margin, every j' is a minimum
    that was passed, and there are five replicates or more; matching: the first alone, all there is to know where steps
    are not compared; losing: the whole interval of a' - a lies below -margin; else, and always for n = 1, not decided.
    Where less is better, a - a'.
    """
    gain = criteria.metric.gain(dense.accuracy)
    if gain.n < 2:
        return "not decided"
    if gain.low >= -criteria.accuracy_margin:
        fast = pace(dense, criteria) == "as fast" and gain.n >= REPLICATES
        return "winning" if fast and criteria.isolated else "matching"
    return "losing" if gain.high < -criteria.accuracy_margin else "not decided"


def pace(dense: Comparison, criteria: Criteria) -> Pace | None:
    """What the early stops show: the whole interval of j' - j above the margin, or below it, or neither.

    None where steps are not compared.
    """
    return _pace(dense.steps, dense.censored, criteria) if criteria.paced else None


def _pace(steps: Difference, censored: bool, criteria: Criteria) -> Pace:
    if steps.low > criteria.step_margin:
        return "slower"
    return "as fast" if steps.high <= criteria.step_margin and not censored else "speed open"


def _reason(word: VerdictWord, dense: Comparison, criteria: Criteria, more: int | None) -> str:
    metric, margin = criteria.metric, margin_of(criteria)
    stop = f", early stop {written(dense.steps, '+,.0f')} steps{_times(dense.ratio)}" if criteria.paced else ""
    numbers = f"{metric.label} {amount(dense.accuracy, metric)}{stop} against dense, n = {dense.accuracy.n}"
    worse, beyond = ("lower", "below") if metric.higher_is_better else ("higher", "above")
    if dense.accuracy.n < 2:
        return f"{numbers}: one replicate has no interval"
    if criteria.looks and dense.accuracy.n < criteria.looks.first:
        return f"{numbers}: the first look is after {criteria.looks.first} replicates"
    if word == "losing":
        return f"{numbers}: the {metric.label} is more than {margin} {worse}"
    if word == "not decided":
        return f"{numbers}: the interval reaches from more than {margin} {beyond} dense to less{_needed(more)}"
    holds = f"holds within {margin}" if metric.higher_is_better else f"is no more than {margin} higher"
    return f"{numbers}: the {metric.label} {holds}{_speed(dense, criteria)}"


def _times(ratio: Ratio | None) -> str:
    return f" ({times(ratio)})" if ratio else ""


def _needed(more: int | None) -> str:
    if more is None:
        return ""
    return f"; with this mean and spread, about {more} more replicate{'s' if more > 1 else ''} would decide"


def _speed(dense: Comparison, criteria: Criteria) -> str:
    margin, shown = f"(margin {criteria.step_margin} steps)", pace(dense, criteria)
    if not criteria.isolated:
        return " and it does not train early weights under a mask that stays, so it is no ticket"
    match shown:
        case None:
            return ""
        case "slower":
            return f" and the early stop is later {margin}"
        case "as fast" if dense.accuracy.n < REPLICATES:
            return f" and the early stop is no later {margin}; winning takes five replicates"
        case "as fast":
            return f" and the early stop is no later {margin}"
    if dense.censored:
        return " and an early stop lies at an end of the training in some replicate, so how early it comes is not known"
    return f" and the early stop is not shown to be as early {margin}"


def margin_of(criteria: Criteria) -> str:
    """The margin for people: `0.2 points`, `0.05`, `0.3 dB`."""
    margin, unit = criteria.metric.scale * criteria.accuracy_margin, criteria.metric.unit
    return f"{margin:g} {unit.removesuffix('s') if unit == 'points' and margin == 1 else unit}".rstrip()


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
    return f"{written(difference, f'+,.{digits}f')} {metric.unit}".rstrip()


def _by_replicate(trials: Iterable[Trial]) -> dict[int, list[Trial]]:
    grouped: dict[int, list[Trial]] = {}
    for trial in trials:
        grouped.setdefault(trial.replicate, []).append(trial)
    return grouped


def _accuracy(draws: Sequence[Trial]) -> float:
    return mean(trial.accuracy for trial in draws)
