"""What first layers keep, arm beside arm, beside chance; and which of it hangs on how the inputs are written down.

Each `Quantity` is a number of one network's first layer, with what it is by chance. Over replicates it has an interval;
it differs from chance where the interval of value less chance, paired by replicate, leaves 0 out.

A change to the inputs keeps some of their properties and takes others: what a ticket has on inputs as they are, and
has less of on changed ones, hangs on what was taken. The difference of the two is paired by replicate.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import mean
from typing import Any

from tombola.study.paired import Difference, paired
from tombola.study.written import written

Number = tuple[float, float]  # of a mask, and by chance


@dataclass(frozen=True)
class Quantity:
    """One number of a first layer.

    Attributes:
        name: of it, in findings.
        about: what it is, in words between `At 3.6%, ` and the numbers.
        of: the values of a measurement -> the number and what it is by chance; None where it has no meaning.
        form: how the number is written.
        least, most: no such number is smaller or larger.
        first: whether a person wants it first.
    """

    name: str
    about: str
    of: Callable[[Mapping[str, Any]], Number | None]
    form: str
    least: float = 0
    most: float = 1
    first: bool = True


def _beside(found: Mapping[str, Any] | None) -> Number | None:
    return (found["value"], found["chance"]) if found else None


def _times(found: Mapping[str, Any] | None) -> Number | None:
    return (found["value"] / found["chance"], 1.0) if found and found["chance"] else None


def _local(part: str) -> Callable[[Mapping[str, Any]], Number | None]:
    return lambda values: _times(values["locality"][part]) if values["locality"] else None


QUANTITIES: dict[str, Quantity] = {
    each.name: each
    for each in (
        Quantity(
            "variance",
            "rank correlation of how many units keep an input with how much it varies",
            lambda values: _beside(values["survivors"]["correlation"]),
            "+z.2f",
            least=-1,
        ),
        Quantity(
            "locality",
            "near pairs of inputs that one unit keeps, as a multiple of chance",
            _local("near"),
            "z.2f",
            most=inf,
        ),
        Quantity(
            "directions",
            "share of the squared first-layer weights along the data's first principal directions",
            lambda values: _beside(values["aligned"]["weights"]),
            "z.1%",
        ),
        Quantity(
            "mask directions",
            "share of the first layer's mask along the data's first principal directions",
            lambda values: _beside(values["aligned"]["mask"]),
            "z.1%",
            first=False,
        ),
        Quantity(
            "connected",
            "share of the inputs that any unit keeps",
            lambda values: _beside(values["survivors"]["connected"]),
            "z.1%",
            first=False,
        ),
        Quantity(
            "constant",
            "share of the weights of inputs that never vary that survive",
            lambda values: _beside(values["survivors"]["constant"]),
            "z.1%",
            first=False,
        ),
        Quantity(
            "same channel",
            "near pairs of one colour channel that one unit keeps, as a multiple of chance",
            lambda values: _local("same")(values) if values["locality"] and values["locality"]["other"] else None,
            "z.2f",
            most=inf,
            first=False,
        ),
        Quantity(
            "other channel",
            "near pairs of two colour channels that one unit keeps, as a multiple of chance",
            _local("other"),
            "z.2f",
            most=inf,
            first=False,
        ),
    )
}


@dataclass(frozen=True)
class InArm:
    """A quantity in the networks of one arm.

    Attributes:
        value: over replicates.
        chance: the mean of what it is by chance.
        over: value less chance, paired by replicate.
    """

    arm: str
    value: Difference
    chance: float
    over: Difference

    @property
    def word(self) -> str:
        """What the interval over replicates says of chance."""
        if self.over.n < 2:
            return "one replicate decides nothing"
        if self.over.low > 0:
            return "more than by chance"
        return "less than by chance" if self.over.high < 0 else "not shown to differ from chance"


def in_arm(arm: str, numbers: Sequence[Number], confidence: float) -> InArm:
    """What the replicates of an arm come to.

    Args:
        numbers: of each replicate.
        confidence: of the intervals, in (0.5, 1).
    """
    values, chances = [value for value, _ in numbers], [chance for _, chance in numbers]
    over = paired([value - chance for value, chance in numbers], confidence)
    return InArm(arm, paired(values, confidence), mean(chances), over)


def sentence(quantity: Quantity, density: float, arms: Sequence[InArm]) -> str:
    """What a quantity is in each arm.

    Args:
        density: P_m, in (0, 1].

    >>> ticket = in_arm("ticket", [(2.0, 1.0), (2.1, 1.0)], 0.95)
    >>> sentence(QUANTITIES["locality"], 0.036, [ticket])
    'At 3.6%, near pairs of inputs that one unit keeps, as a multiple of chance: 2.05 [1.41, 2.69] in ticket (more than
    by chance); n = 2.'
    """
    parts = [
        f"{written(each.value, quantity.form, within=(quantity.least, quantity.most))} in {each.arm} "
        f"({_chance(quantity, each)}{each.word})"
        for each in arms
    ]
    return f"At {density:.1%}, {quantity.about}: {', '.join(parts)}; n = {min(each.value.n for each in arms)}."


def _chance(quantity: Quantity, each: InArm) -> str:
    return "" if each.chance == 1 else f"chance {each.chance:{quantity.form}}, "


@dataclass(frozen=True)
class Hanging:
    """What is different on changed inputs.

    Attributes:
        there, here: on the changed inputs, and on the inputs as they are.
        less: there less here, paired by replicate.
    """

    there: Difference
    here: Difference
    less: Difference

    def word(self, taken: str) -> str:
        """Whether it hangs on what the change has taken from the inputs."""
        if self.less.n < 2:
            return "one replicate decides nothing"
        if self.less.low > 0:
            return "it is larger there (shown)"
        return f"it hangs on {taken} (shown)" if self.less.high < 0 else f"that it hangs on {taken} is not shown"


def hanging(
    there: Mapping[int, float], here: Mapping[int, float], confidence: float, grain: float = 0.0
) -> Hanging | None:
    """Compare changed inputs with the inputs as they are, over the replicates that both have; None where none has.

    Args:
        there, here: by replicate.
        confidence: of the intervals, in (0.5, 1).
        grain: the step between two values, where these are counted.
    """
    both = sorted(there.keys() & here.keys())
    if not both:
        return None
    found = [[each[number] for number in both] for each in (there, here)]
    less = [one - other for one, other in zip(*found, strict=True)]
    return Hanging(*(paired(each, confidence, grain) for each in (*found, less)))


def hanging_sentence(what: str, where: str, taken: str, form: str, found: Hanging, scale: float = 1) -> str:
    """What a change to the inputs makes of something.

    Args:
        what: changes, and at which density.
        where: on what inputs.
        taken: what these lack.
        form: how the number is written.
        scale: what it is multiplied with before.

    >>> found = hanging({0: 0.4, 1: 0.5}, {0: 2.1, 1: 2.3}, 0.95)
    >>> hanging_sentence("the advantage", "rotated inputs", "the data's axes", "+.1f", found)
    "On rotated inputs the advantage is +0.5 [-0.2, +1.1] instead of +2.2 [+0.9, +3.5], -1.8 [-2.4, -1.1]: it hangs on
    the data's axes (shown); n = 2."
    """
    there, here, less = (written(each, form, scale) for each in (found.there, found.here, found.less))
    return f"On {where} {what} is {there} instead of {here}, {less}: {found.word(taken)}; n = {found.less.n}."
