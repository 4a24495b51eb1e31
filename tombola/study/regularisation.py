"""Are tickets regularised by being sparse? Whether less is memorised, flatter, simpler or nearer to the start.

Each quantity is held against that of another network, paired by replicate, and the p-values of all of them are Holm's:
an interval that leaves 0 out is one that he rejects.

Numbers of the loss's shape - eigenvalue, trace, sharpness, flatness - are over the living coordinates. Networks of
another density live in another space, so there these numbers do not say which of them is flatter: that a smaller space
has fewer directions is no regularisation. Between networks of one density they do. Nor does the distance from the dense
start, to which each pruned weight adds what it began with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import mean
from typing import Literal

from tombola.study.paired import Difference, together
from tombola.study.written import three_digits, written

Word = Literal["for", "against", "not shown"]


@dataclass(frozen=True)
class Quantity:
    """A number of a trained network, and which way it says that the network is regularised.

    Attributes:
        title: what it is, for sentences and axes.
        sign: -1 where less of it says so, 1 where more does.
        unit: of the number; `%` of a share.
        of_space: whether it depends on how many coordinates are alive, by what it is.
    """

    title: str
    sign: Literal[-1, 1]
    unit: str = ""
    of_space: bool = False


QUANTITIES: dict[str, Quantity] = {
    "gap": Quantity("generalisation gap", -1, "%"),
    "eigenvalue": Quantity("largest Hessian eigenvalue", -1, of_space=True),
    "trace": Quantity("Hessian trace", -1, of_space=True),
    "trace-per-weight": Quantity("Hessian trace per living coordinate", -1, of_space=True),
    "sharpness": Quantity("sharpness", -1, of_space=True),
    "adaptive-sharpness": Quantity("adaptive sharpness", -1, of_space=True),
    "flatness": Quantity("flatness", 1, of_space=True),
    "rank": Quantity("effective rank of the features", -1),
    "margin": Quantity("median margin", 1),
    "distance": Quantity("distance from the dense start with pruned weights at 0", -1, of_space=True),
    "memorised": Quantity("share of the false labels learned", -1, "%"),
}

OTHER_SPACE = (
    "Curvature, sharpness and flatness are over the living weights, and the distance counts all that are pruned: "
    "between two densities they do not say which network is the more regularised."
)


@dataclass(frozen=True)
class Compared:
    """One quantity of tickets and of another arm.

    Attributes:
        quantity: its name.
        ticket, other: the means.
        more: ticket less other, paired by replicate, with an interval that holds together with those of the rest.
        word: whether it speaks `for` or `against` regularised tickets, by the whole interval.
    """

    quantity: str
    ticket: float
    other: float
    more: Difference
    word: Word


def compared(
    ticket: Mapping[str, Mapping[int, float]],
    other: Mapping[str, Mapping[int, float]],
    confidence: float,
    grains: Mapping[str, float] | None = None,
) -> tuple[Compared, ...]:
    """What the quantities of all replicates come to, in the order of `QUANTITIES`.

    Args:
        ticket, other: by quantity, and by replicate.
        confidence: of all intervals together, in (0.5, 1).
        grains: by quantity, the step between two of its values where it is counted.

    >>> less = compared({"rank": {0: 4.0, 1: 4.1}}, {"rank": {0: 9.0, 1: 9.1}}, 0.95)
    >>> less[0].word, less[0].more.mean
    ('for', -5.0)
    """
    pairs = {
        name: [(ticket[name][number], other[name][number]) for number in ticket[name] if number in other.get(name, {})]
        for name in QUANTITIES
        if name in ticket
    }
    pairs = {name: both for name, both in pairs.items() if both}
    differences = {name: [ours - theirs for ours, theirs in both] for name, both in pairs.items()}
    found = []
    for name, more in together(differences, confidence, grains).items():
        ours, theirs = (mean(each) for each in zip(*pairs[name], strict=True))
        found.append(Compared(name, ours, theirs, more, _word(more, QUANTITIES[name].sign)))
    return tuple(found)


def _word(more: Difference, sign: int) -> Word:
    if not isfinite(more.low) or more.low <= 0 <= more.high:
        return "not shown"
    return "for" if more.mean * sign > 0 else "against"


def sentence(density: float, arm: str, other_density: float, found: Sequence[Compared], false: float = 0.0) -> str:
    """What the quantities say for and against tickets that are regularised.

    Args:
        density: P_m of the tickets, in (0, 1].
        arm: what they are held against.
        other_density: P_m of that.
        found: as `compared` gives them, one at least.
        false: the share of the training labels that is false on purpose.

    >>> numbers = {"gap": {0: 0.01, 1: 0.012}}, {"gap": {0: 0.03, 1: 0.032}}
    >>> sentence(0.1, "dense", 1.0, compared(*numbers, 0.95))
    'Regularised tickets at 10.0%, against dense: for; for it: generalisation gap 1.10% against 3.10%, -2.00 [-2.00,
    -2.00] points; n = 2.'
    """
    n = min(each.more.n for each in found)
    parts = []
    for word, head in (("for", "for it"), ("against", "against it"), ("not shown", "neither way")):
        told = [_told(each) for each in found if each.word == word]
        parts += [f"{head if n > 1 else 'measured'}: {', '.join(told)}"] if told else []
    spaces = any(QUANTITIES[each.quantity].of_space for each in found) and abs(density - other_density) > 1e-3
    caution = f" {OTHER_SPACE}" if spaces else ""
    if false and any(each.quantity == "gap" for each in found):
        caution += f" The gap is from training labels of which {false:.1%} are false to test labels that are true."
    verdict = f"Regularised tickets at {density:.1%}, against {arm}: {_verdict(found, n, spaces)}"
    return f"{verdict}; {'; '.join(parts)}; n = {n}.{caution}"


def _verdict(found: Sequence[Compared], n: int, spaces: bool) -> str:
    if n < 2:
        return "one replicate decides nothing"
    heard = [each for each in found if not (spaces and QUANTITIES[each.quantity].of_space)]
    words = {each.word for each in heard} - {"not shown"}
    if not heard:
        return "open, as all that was measured is of different spaces"
    if not words:
        return "not shown"
    return "for" if words == {"for"} else "against" if words == {"against"} else "some of it for, some against"


def _told(each: Compared) -> str:
    quantity, more = QUANTITIES[each.quantity], each.more
    scale, points = (100, " points") if quantity.unit == "%" else (1, "")
    ticket, other = (three_digits(scale * value) + quantity.unit for value in (each.ticket, each.other))
    signed = written(more, lambda number: three_digits(number, "+"), scale)
    return f"{quantity.title} {ticket} against {other}, {signed}{points}"
