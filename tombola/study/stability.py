"""Do tickets end where the dense network ends, and twice in the same place?

A subnetwork with mask m starts from the weights W of step k and trains for the T - k steps that are left, under the
noise u (the order of the data): A(m ⊙ W, u). Two trained networks are as far apart as their surviving weights are,

    d(V, V') = ||m ⊙ V - m ⊙ V'||_2, or the angle between m ⊙ V and m ⊙ V' in degrees.

Stability to pruning is how close the pruned network comes to the dense one, both trained under the same noise, and
stability to data order how close the pruned network comes to itself under another noise:

    pruning:     E_u d(A(W, u), A(m ⊙ W, u))
    data order:  E_{u, u'} d(A(m ⊙ W, u), A(m ⊙ W, u'))

Neither means much alone, as distances grow with the number of weights, so the ticket is held against random masks
with the same layer-wise counts: smaller is more stable.

Stabilizing the Lottery Ticket Hypothesis (Frankle, Dziugaite, Roy & Carbin, 2019).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import atan2, degrees
from statistics import mean
from typing import Literal

import torch
from torch import Tensor

from tombola.study.paired import Difference, paired
from tombola.study.written import written
from tombola.weights import Weights

StabilityKind = Literal["pruning", "data order"]
StabilityWord = Literal["more stable", "less stable", "not shown"]


@dataclass(frozen=True)
class Distances:
    """How far apart two trained networks are, over the surviving weights: L2 norm, and angle in degrees in [0, 180]."""

    l2: float
    degrees: float


@dataclass(frozen=True)
class Stability:
    """How stable tickets are against random masks of the same layer-wise counts.

    Attributes:
        density: P_m, in (0, 1].
        ticket, random: the mean distances of either.
        l2, degrees: ticket less random, paired by replicate.
        verdict: `more stable` or `less stable` where the whole intervals of both say so, else `not shown`.
        reason: the same as a sentence.
    """

    kind: StabilityKind
    density: float
    ticket: Distances
    random: Distances
    l2: Difference
    degrees: Difference
    verdict: StabilityWord
    reason: str


def distance(left: Weights, right: Weights, mask: Mapping[str, Tensor]) -> float:
    """||m ⊙ left - m ⊙ right||_2, over the surviving weights alone, in float64.

    Args:
        left, right: two weights of one architecture.
        mask: by the name of a weight, a bool tensor of its shape, True where it survives; other entries do not count.

    >>> mask = {"w": torch.tensor([True, True, False])}
    >>> distance({"w": torch.tensor([3.0, 0.0, 9.0])}, {"w": torch.tensor([0.0, 4.0, 0.0])}, mask)
    5.0
    """
    return float(torch.linalg.vector_norm(_survivors(left, mask) - _survivors(right, mask)))


def angle(left: Weights, right: Weights, mask: Mapping[str, Tensor]) -> float:
    """The angle between u = m ⊙ left and v = m ⊙ right in degrees, in [0, 180], over the surviving weights alone.

    2 atan2(| |v| u - |u| v |, | |v| u + |u| v |) in float64, which is exact to rounding at every angle, where the
    arc cosine of a product loses half of the digits near 0 and 180. Equal vectors are exactly 0 apart.

    Args:
        left, right, mask: as for `distance`.

    Raises:
        ValueError: one of the two is 0, which has no direction, and the other is not.

    How Futile are Mindless Assessments of Roundoff in Floating-Point Computation? (Kahan, 2006).

    >>> angle({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([True, True])})
    45.0
    """
    u, v = _survivors(left, mask), _survivors(right, mask)
    u_long, v_long = torch.linalg.vector_norm(u), torch.linalg.vector_norm(v)
    if bool(u_long) != bool(v_long):
        raise ValueError("expected two vectors that have a direction, found one that is 0 at every surviving weight")
    apart, together = (
        torch.linalg.vector_norm(v_long * u - u_long * v),
        torch.linalg.vector_norm(v_long * u + u_long * v),
    )
    return degrees(2 * atan2(float(apart), float(together)))


def distances(left: Weights, right: Weights, mask: Mapping[str, Tensor]) -> Distances:
    """Both distances of two trained networks; for stability to pruning, `left` is the dense one."""
    return Distances(distance(left, right, mask), angle(left, right, mask))


def _survivors(weights: Weights, mask: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([weights[name].detach()[alive].double() for name, alive in mask.items()])


def judge(
    kind: StabilityKind,
    density: float,
    ticket: Mapping[int, Sequence[Distances]],
    random: Mapping[int, Sequence[Distances]],
    confidence: float = 0.95,
) -> Stability:
    """Are the tickets more stable than random masks? Paired by replicate, each the mean over its pairs of trainings.

    Args:
        density: P_m, in (0, 1].
        ticket, random: by replicate, the distances of its pairs; replicates that only one of them has are left out.
        confidence: of the Student t intervals, in (0, 1).

    Raises:
        ValueError: they have no replicate in common.
    """
    shared = sorted(number for number in ticket.keys() & random.keys() if ticket[number] and random[number])
    if not shared:
        raise ValueError("expected a replicate that both tickets and random masks have, found none")
    ours, theirs = [_middle(ticket[number]) for number in shared], [_middle(random[number]) for number in shared]
    pairs = list(zip(ours, theirs, strict=True))
    l2 = paired([own.l2 - other.l2 for own, other in pairs], confidence)
    turned = paired([own.degrees - other.degrees for own, other in pairs], confidence)
    means = _middle(ours), _middle(theirs)
    word = decide(l2, turned)
    return Stability(kind, density, *means, l2, turned, word, _reason(kind, density, *means, l2, turned))


def decide(l2: Difference, degrees: Difference) -> StabilityWord:
    """The word for ticket less random: as both distances say, by their whole intervals.

    As both must agree, neither interval needs a correction for there being two. One replicate shows nothing.
    """
    if l2.high < 0 and degrees.high < 0:
        return "more stable"
    return "less stable" if l2.low > 0 and degrees.low > 0 else "not shown"


def _middle(several: Iterable[Distances]) -> Distances:
    each = list(several)
    return Distances(mean(one.l2 for one in each), mean(one.degrees for one in each))


_ENDS: dict[StabilityKind, str] = {
    "data order": "trained twice in other orders, tickets end {} apart ({:.1f} degrees), "
    "random masks {} ({:.1f} degrees)",
    "pruning": "tickets end {} ({:.1f} degrees) from the dense network trained in the same order, "
    "random masks {} ({:.1f} degrees)",
}


def _reason(
    kind: StabilityKind, density: float, ticket: Distances, random: Distances, l2: Difference, turned: Difference
) -> str:
    ends = _ENDS[kind].format(_distance(ticket.l2), ticket.degrees, _distance(random.l2), random.degrees)
    numbers = f"difference {written(l2, '+.1f')} ({written(turned, '+.1f')} degrees), n = {l2.n}"
    return f"Stability to {kind} at {density:.1%}: {ends}: {_finding(l2, turned)}, {numbers}."


def _finding(l2: Difference, turned: Difference) -> str:
    if l2.n < 2:
        return "one replicate decides nothing"
    by_l2, by_angle = _closer(l2), _closer(turned)
    return by_l2 if by_l2 == by_angle else f"by distance {by_l2}, by angle {by_angle}"


def _closer(difference: Difference) -> str:
    if difference.high < 0:
        return "the tickets are closer"
    return "the tickets are farther away" if difference.low > 0 else "no difference is shown"


def _distance(number: float) -> str:
    """One decimal, or three digits where that would hide a short distance."""
    return f"{number:.1f}" if abs(number) >= 1 else f"{number:.3g}"
