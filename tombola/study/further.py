"""Further numbers beside the one that a verdict is about: what the ticket has more of each, paired by replicate.

They claim less than a verdict: better, worse, or not shown to be either, without a margin. The intervals of all of
them, against all arms, hold together (Holm, 1979); the verdict is apart from them, and as it would be without.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import mean
from typing import Literal

from tombola.study.paired import Difference, together
from tombola.study.verdict import Effect, Metric, amount

TICKET = "ticket"
At = Literal["the verdict's step", "the last report"]


@dataclass(frozen=True)
class Numbers:
    """What the trainings of all arms reported of one metric.

    Attributes:
        at: where in each training: at the step that the verdict is about, or the last that was reported.
        values: by arm, and by replicate.
        grain: the step between two values where they are counted.
    """

    metric: Metric
    at: At
    values: Mapping[str, Mapping[int, float]]
    grain: float = 0.0


@dataclass(frozen=True)
class Beside:
    """The ticket less one other arm.

    Attributes:
        against: the arm.
        more: as the metric has it, with an interval that holds together with those of the rest.
        effect: whether the ticket is shown to be better or worse, in the metric's direction.
    """

    against: str
    more: Difference
    effect: Effect


@dataclass(frozen=True)
class Further:
    """One further number.

    Attributes:
        at: where in the trainings it was taken.
        means: by arm, over the replicates in which it is a number.
        lost: by arm, in how many it is none, which are left out; arms without such are not there.
    """

    metric: Metric
    at: At
    means: Mapping[str, float]
    beside: tuple[Beside, ...]
    lost: Mapping[str, int] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """The number in words.

        >>> ece = {"ticket": {0: 0.02, 1: 0.021}, "dense": {0: 0.05, 1: 0.052}}
        >>> further([Numbers(Metric("ece", higher_is_better=False), "the last report", ece)], 0.95)[0].sentence
        'At the last report, ece is 0.0205 in ticket, better than in dense (-0.0305 [-0.0369, -0.0241]); n = 2.'
        """
        label = self.metric.label
        lost = "".join(f" It is no number in {count} of {arm}." for arm, count in self.lost.items())
        if TICKET not in self.means:
            return f"At {self.at}, {label} is a number in no training of the ticket.{lost}"
        n = min((each.more.n for each in self.beside), default=0)
        parts = [f", {self._word(each)} {each.against} ({amount(each.more, self.metric)})" for each in self.beside]
        alone = ", which decides nothing" if n == 1 else ""
        over = f"; n = {n}{alone}" if parts else ""
        return (
            f"At {self.at}, {label} is {self.metric.shown(self.means[TICKET])} in ticket{''.join(parts)}{over}.{lost}"
        )

    def _word(self, one: Beside) -> str:
        if one.effect == "not shown":
            return "beside" if one.more.n < 2 else "not shown to be better or worse than in"
        return f"{one.effect} than in"


def further(numbers: Sequence[Numbers], confidence: float) -> tuple[Further, ...]:
    """What all further numbers come to.

    Args:
        numbers: of metrics with different names.
        confidence: of all intervals together, in (0.5, 1).
    """
    differences, grains = dict[str, list[float]](), dict[str, float]()
    for each in numbers:
        ticket = each.values.get(TICKET, {})
        for arm, own in each.values.items():
            both = [ticket[number] - own[number] for number in own if number in ticket]
            known = [difference for difference in both if isfinite(difference)]
            if known and arm != TICKET:
                differences[_name(each, arm)], grains[_name(each, arm)] = known, each.grain
    found = together(differences, confidence, grains)
    return tuple(_further(each, found) for each in numbers)


def _name(numbers: Numbers, arm: str) -> str:
    return f"{numbers.metric.name} in {arm}"


def _further(numbers: Numbers, found: Mapping[str, Difference]) -> Further:
    metric, values = numbers.metric, numbers.values
    known = {arm: [value for value in own.values() if isfinite(value)] for arm, own in values.items()}
    beside = tuple(
        Beside(arm, more, metric.effect(more)) for arm in values if (more := found.get(_name(numbers, arm))) is not None
    )
    lost = {arm: count for arm, own in values.items() if (count := len(own) - len(known[arm]))}
    return Further(metric, numbers.at, {arm: mean(own) for arm, own in known.items() if own}, beside, lost)


def apart(first: Metric, found: Sequence[Further], confidence: float) -> str:
    """What further numbers have to do with the verdict, in a sentence.

    Args:
        first: what the verdict is about.
        found: the further numbers, one at least.
        confidence: of their intervals together.
    """
    names = ", ".join(each.metric.label for each in found)
    return (
        f"The verdict is about {first.label} alone, as it would be without further numbers. The intervals of {names} "
        f"hold together at {confidence:.0%} (Holm), but not together with the verdict's."
    )
