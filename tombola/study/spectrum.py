"""Which frequencies a network has learned: the amplitude of each in what it answers, beside that in the labels.

Of a function f of one number z in [0, 1], the sinusoids that fit it best in the least squares are

    f(z) ~ c + sum_k Re(F_k exp(2 pi i k z)),

and of the labels y likewise with Y_k. How much of the frequency k has been learned is the share

    s_k = Re(F_k conj(Y_k)) / |Y_k|^2,

1 where f has it as y does. On the Spectral Bias of Neural Networks (Rahaman et al., 2019) looks at |F_k| / |Y_k|, which
is never smaller: it counts what is out of phase, too. A frequency is learned at the first look at which s_k is 0.9 or
more. Slow ones are learned first; whether sooner or later in a ticket is asked in pairs of trainings of one replicate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, log, pi
from typing import TYPE_CHECKING, Literal

from tombola.study.paired import Ratio, ratio
from tombola.study.written import times

if TYPE_CHECKING:
    from torch import Tensor

LEARNED = 0.9
FASTEST = 60  # the highest frequency that is looked for in labels
AUDIBLE = 0.1  # of the largest amplitude: what is below is not asked for

Steps = Mapping[int, int | None]  # by frequency, the step at which it is learned; None: never


def amplitudes(points: "Tensor", values: "Tensor", frequencies: Sequence[int]) -> "Tensor":
    """F_k of a function whose values are known at points in [0, 1], one for each frequency, complex.

    There are to be more points than twice as many frequencies.

    >>> import torch
    >>> z = torch.linspace(0, 1, 50)
    >>> amplitudes(z, 3 * torch.cos(2 * pi * 4 * z), [2, 4]).abs().round(decimals=3)
    tensor([0., 3.], dtype=torch.float64)
    """
    import torch

    angles = 2 * pi * points.double()[:, None] * torch.tensor(frequencies, dtype=torch.float64)
    columns = torch.cat([torch.ones(len(points), 1, dtype=torch.float64), angles.cos(), angles.sin()], 1)
    fitted = torch.linalg.lstsq(columns, values.double()[:, None], driver="gelsd").solution[1:, 0]
    count = len(frequencies)
    return torch.complex(fitted[:count], -fitted[count:])


def heard(points: "Tensor", values: "Tensor") -> tuple[int, ...]:
    """The frequencies that values are made of: with at least a tenth of the largest amplitude, up to k = 60.

    >>> import torch
    >>> z = torch.linspace(0, 1, 200)
    >>> heard(z, torch.sin(2 * pi * 3 * z) + torch.sin(2 * pi * 20 * z + 1))
    (3, 20)
    """
    tried = range(1, min(FASTEST, (len(points) - 2) // 4) + 1)
    sizes = amplitudes(points, values, tried).abs()
    return tuple(k for k, size in zip(tried, sizes, strict=True) if size >= AUDIBLE * sizes.max())


def shares(points: "Tensor", answers: "Tensor", labels: "Tensor", frequencies: Sequence[int]) -> list[float]:
    """s_k of each frequency."""
    own, wanted = (amplitudes(points, values, frequencies) for values in (answers, labels))
    found: list[float] = ((own * wanted.conj()).real / wanted.abs().square()).tolist()
    return found


def learned(
    steps: Sequence[int], course: Sequence[Sequence[float]], frequencies: Sequence[int]
) -> dict[int, int | None]:
    """The step of the first look at which each frequency is learned; None where there is none.

    >>> learned([0, 10, 20], [[0.0, 0.0], [0.95, 0.1], [0.8, 0.5]], [1, 2])
    {1: 10, 2: None}
    """
    return {
        k: next((step for step, look in zip(steps, course, strict=True) if look[place] >= LEARNED), None)
        for place, k in enumerate(frequencies)
    }


@dataclass(frozen=True)
class Sooner:
    """When an arm has learned frequencies, and how many times its steps the ticket takes to learn them.

    Attributes:
        arm: its name.
        learned, asked: how many frequencies of all replicates it has learned, of how many.
        times: the ticket's steps over the arm's: the mean over the frequencies that both have learned, paired by
            replicate; None for the ticket, and where no replicate has such a frequency.
        alone, behind: how many frequencies the ticket alone has learned, and the arm alone.
    """

    arm: str
    learned: int
    asked: int
    times: Ratio | None
    alone: int
    behind: int

    @property
    def verdict(self) -> Literal["sooner", "later", "undecided"]:
        """What the ticket is beside this arm: by an interval without 1, and no frequency that says otherwise."""
        if self.times and self.times.high < 1 and not self.behind:
            return "sooner"
        return "later" if self.times and self.times.low > 1 and not self.alone else "undecided"


def compared(steps: Mapping[str, Mapping[int, Steps]], confidence: float, every: int) -> tuple[Sooner, ...]:
    """What the steps of all arms come to.

    A frequency that one of two has never learned has no step, and is counted apart.

    Args:
        steps: by arm, and by replicate.
        confidence: of the intervals, in (0.5, 1).
        every: the steps between two looks, which is how exactly each is known.

    >>> ticket, dense = compared({"ticket": {0: {5: 20, 6: None}}, "dense": {0: {5: 10, 6: 40}}}, 0.95, every=1)
    >>> dense.times.mean, dense.behind
    (2.0..., 1)
    """
    ticket, found = steps.get("ticket", {}), []
    for arm, own in steps.items():
        reached = [step for of_one in own.values() for step in of_one.values()]
        pairs = {number: _pairs(ticket[number], own[number]) for number in own if number in ticket}
        both = {
            number: [log(max(one, 1) / max(other, 1)) for one, other in each if one is not None and other is not None]
            for number, each in pairs.items()
        }
        logarithms = [sum(each) / len(each) for each in both.values() if each]
        flat = [pair for each in pairs.values() for pair in each]
        grain = every / max([float(step) for step in reached if step] or [inf])
        found.append(
            Sooner(
                arm,
                sum(step is not None for step in reached),
                len(reached),
                ratio(logarithms, confidence, grain) if logarithms and arm != "ticket" else None,
                sum(one is not None and other is None for one, other in flat),
                sum(one is None and other is not None for one, other in flat),
            )
        )
    return tuple(found)


def _pairs(ticket: Steps, other: Steps) -> list[tuple[int | None, int | None]]:
    return [(ticket[k], other[k]) for k in ticket if k in other]


def sentence(density: float, frequencies: Sequence[int], arms: Sequence[Sooner], n: int) -> str:
    """When tickets learn the fast half of the frequencies, beside each arm.

    >>> arms = compared({"ticket": {0: {5: 20, 6: 60}}, "dense": {0: {5: 10, 6: 30}}}, 0.95, every=1)
    >>> sentence(0.2, [5, 6], arms, 1)
    'At 20.0%, of the fast half of the frequencies (k = 5, 6) 2 of 2 are learned in ticket; 2 of 2 in dense, of whose
    steps the ticket takes 2.00 times; learned is 90% of the amplitude, n = 1: one replicate decides nothing.'
    """
    parts = [
        f"{each.learned} of {each.asked} {'are learned ' if not place else ''}in {each.arm}{_times(each)}"
        for place, each in enumerate(arms)
    ]
    head = f"of the fast half of the frequencies (k = {', '.join(map(str, frequencies))})"
    about = f"At {density:.1%}, {head} {'; '.join(parts)}; learned is {LEARNED:.0%} of the amplitude, n = {n}"
    return f"{about}: {_said(arms, n)}."


def _times(one: Sooner) -> str:
    return f", of whose steps the ticket takes {times(one.times)}" if one.times else ""


def _said(arms: Sequence[Sooner], n: int) -> str:
    others = [each for each in arms if each.arm != "ticket"]
    if n < 2:
        return "one replicate decides nothing"
    words = {
        "sooner": "the ticket learns them sooner than {}",
        "later": "the ticket learns them later than {}",
        "undecided": "neither sooner nor later is shown beside {}",
    }
    groups = {verdict: [each.arm for each in others if each.verdict == verdict] for verdict in words}
    return "; ".join(words[verdict].format(" and ".join(names)) for verdict, names in groups.items() if names)
