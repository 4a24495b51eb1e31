"""How far each question of a report is where replicates are added until it is decided: decided, given up, or open.

A question is given up where even the most replicates would hardly decide it: where the conditional power - the chance
that the last look would cross, given the differences so far - is small (Stochastically Curtailed Tests in Long-Term
Clinical Trials, Lan, Simon & Halperin, 1982), and not only if the mean found is the true one, but also if the true one
lies a standard error further out: after five replicates a mean is hardly known. To give up claims nothing, so it takes
no share of the error, and it binds nobody: a question that was given up is decided where others go on and it is shown
after all.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev
from typing import Literal

from tombola.study.sentences import spans
from tombola.study.sequential import Looks
from tombola.study.verdict import Contrast, Criteria, Sure, Trial, Verdict, contrasts, judge

State = Literal["decided", "given up", "open"]

HARDLY = 0.1  # a chance smaller than this is given up


@dataclass(frozen=True)
class Place:
    """What a question is about: tickets against an arm, `dense` or another one, at one level or over low densities.

    Attributes:
        level: None for the contrast over several levels.
    """

    against: str
    rewind: int
    level: int | None


@dataclass(frozen=True)
class Standing:
    """How far a question is.

    Attributes:
        state: `open`, if another replicate may be worth it.
        replicates: after how many it was decided for good; None where it is not.
        chance: that the most replicates would decide it, if the true mean lies a standard error further out than the
            mean found; None where it is decided.
    """

    place: Place
    state: State
    replicates: int | None = None
    chance: float | None = None


def standings(trials: Sequence[Trial], criteria: Criteria, arm: str = "ticket") -> list[Standing]:
    """How far every verdict, every contrast with another arm and every level of it is, in the order of the report.

    Args:
        criteria: with looks.
    """
    assert criteria.looks
    numbers = sorted({trial.replicate for trial in trials})
    looks = range(min(criteria.looks.first, len(numbers)), min(len(numbers), criteria.looks.last) + 1)
    chances = [_chances(_first(trials, set(numbers[:n])), criteria, arm) for n in looks]
    made = []
    for place, chance in chances[-1].items():
        if chance is None:
            before = [n for n, known in zip(looks, chances, strict=True) if known.get(place, 0.0) is not None]
            made.append(Standing(place, "decided", before[-1] + 1 if before else looks[0]))
        else:
            made.append(Standing(place, "given up" if chance < HARDLY else "open", chance=chance))
    return made


def _first(trials: Sequence[Trial], numbers: set[int]) -> list[Trial]:
    return [trial for trial in trials if trial.replicate in numbers]


def _chances(trials: Sequence[Trial], criteria: Criteria, arm: str) -> dict[Place, float | None]:
    """Of each question the chance that more replicates decide it; None if it is decided."""
    verdicts = judge(trials, criteria, arm)
    chances = {Place("dense", one.rewind, one.level): _of_verdict(one, criteria) for one in verdicts}
    for contrast in contrasts(verdicts, criteria):
        chances[Place(contrast.against, contrast.rewind, None)] = _of_contrast(contrast, criteria)
    for one in verdicts:
        for control in one.controls:
            shown = control.result_holm != "not shown" or bool(control.same_holm)
            gaps, place = [pair.gap for pair in control.pairs], Place(control.against, one.rewind, one.level)
            chances[place] = None if shown else _either(gaps, control.sure, criteria)
    return chances


def _of_verdict(verdict: Verdict, criteria: Criteria) -> float | None:
    dense = verdict.dense
    known = (dense.sure.accuracy, dense.sure.steps) if dense.sure else (criteria.confidence, criteria.confidence)
    if verdict.verdict == "losing":
        return None
    if verdict.verdict == "not learned":
        return 0.0
    if verdict.verdict == "not decided":
        gaps = [pair.gap - criteria.accuracy_bound for pair in dense.pairs]
        return chance(gaps, known[0], criteria, criteria.accuracy_grain)
    if verdict.pace != "speed open" or dense.censored:  # of one that is censored no more will be known
        return None
    steps = [pair.steps[0] - pair.steps[1] - criteria.step_margin for pair in dense.pairs]
    return chance(steps, known[1], criteria, criteria.step_grain)


def _of_contrast(contrast: Contrast, criteria: Criteria) -> float | None:
    if contrast.result != "not shown" or contrast.same:
        return None
    return _either(contrast.gaps, contrast.sure, criteria)


def _either(gaps: Sequence[float], sure: Sure | None, criteria: Criteria) -> float:
    """The chance that a control is shown to be worse, better, or as good within the margin."""
    known = sure.accuracy if sure else criteria.confidence
    within = [criteria.accuracy_margin - (gap if mean(gaps) > 0 else -gap) for gap in gaps]
    return max(
        chance(gaps, known, criteria, criteria.accuracy_grain),
        chance(within, known, criteria, criteria.accuracy_grain) if mean(within) > 0 else 0.0,
    )


def chance(values: Sequence[float], confidence: float, criteria: Criteria, grain: float) -> float:
    """The chance that the last look sets the mean of `values` apart from 0, a standard error further out than found.

    With n of N replicates, mean m and standard deviation s, the last mean is normal around
    (n |m| + (N - n) (|m| + s / sqrt(n))) / N with deviation s sqrt(N - n) / N, and has to be beyond t s / sqrt(N).

    Args:
        values: a mean's distances from where something is decided, one of each replicate.
        confidence: of the interval that has to leave 0 out, all looks together.
        grain: of the values.

    Returns:
        1 before the first look, 0 after the last.
    """
    assert criteria.looks
    n, last = len(values), criteria.looks.last
    if n < criteria.looks.first:
        return float(n < last)
    if n >= last:
        return 0.0
    from scipy.special import ndtr, stdtrit

    spread, found = max(stdev(values), grain / sqrt(6)), abs(mean(values))
    beyond = -float(stdtrit(last - 1, criteria.looks.nominal(1 - confidence) / 2)) * spread / sqrt(last)
    expected = found + (last - n) / last * spread / sqrt(n)
    error = spread * sqrt(last - n) / last
    return float(ndtr((expected - beyond) / error)) if error else float(found > 0)


def needed(standings: Sequence[Standing], verdicts: Sequence[Verdict], looks: Looks) -> list[str]:
    """How many replicates each question took, a sentence for each arm that tickets are compared with."""
    steps = sorted({verdict.rewind for verdict in verdicts})
    lines = []
    for step in steps:
        here = [verdict for verdict in verdicts if verdict.rewind == step]
        mine = [each for each in standings if each.place.rewind == step]
        which = f", rewound to step {step:,}" if len(steps) > 1 else ""
        for name in dict.fromkeys(each.place.against for each in mine):
            parts = _parts([each for each in mine if each.place.against == name], here, looks)
            lines.append(f"Replicates needed against {name}{which}: {'; '.join(parts)}.")
    return lines


def _parts(standings: Sequence[Standing], verdicts: Sequence[Verdict], looks: Looks) -> Iterable[str]:
    levels = {verdict.level: verdict for verdict in verdicts}
    groups, over = dict[str, list[Verdict]](), max(verdict.dense.accuracy.n for verdict in verdicts) >= looks.last
    unsettled = {
        "given up": f"not decided by {looks.last}" if over else f"given up, as {looks.last} would hardly decide it,",
        "open": "not decided yet",
    }
    for each in standings:
        words = f"{each.replicates}" if each.state == "decided" else unsettled[each.state]
        if each.place.level is None:
            yield f"{words} over the low densities together"
        else:
            groups.setdefault(words, []).append(levels[each.place.level])
    yield from (f"{words} at {spans(members, verdicts)}" for words, members in groups.items())
