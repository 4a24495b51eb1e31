"""What corruption costs: the mean corruption error of tickets and of what they are held against.

With E_cs the error on the test set under the corruption c at the severity s,

    mean corruption error     mCE = mean_c mean_s E_cs
    relative                  mCE - E, E the error on the clean test set

of Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (Hendrycks & Dietterich, 2019), as it
is of CIFAR-10-C: not divided by another network's. The relative error tells whether a network that is the better on
corrupted images is only as much better on clean ones. Likelihood, calibration errors and the entropy of the
probabilities are means over the same test sets, and are of the clean one beside.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any

from tombola.study.paired import Difference, Estimate, paired, together
from tombola.study.written import points, three_digits, written

CLEAN, CORRUPTED, RELATIVE, NLL, ECE = "clean error", "corrupted error", "relative error", "nll", "ece"
MACE, ENTROPY = "mace", "entropy"
FURTHER = (MACE, ENTROPY, *(f"clean {name}" for name in (NLL, ECE, MACE, ENTROPY)))
Table = Mapping[str, Any]  # clean, and by corruption and severity: numbers by name


@dataclass(frozen=True)
class Compared:
    """A number of tickets and of another arm.

    Attributes:
        ticket, other: the means over replicates, each with an interval for itself.
        more: ticket less other, paired by replicate.
    """

    ticket: Estimate
    other: Estimate
    more: Difference


@dataclass(frozen=True)
class Cost:
    """What corruption costs tickets, and another arm.

    Attributes:
        numbers: by name; the intervals of those that are not of clean data hold together, and those of `FURTHER` do.
        corruptions: the error under each corruption, over its severities; these intervals hold together too.
    """

    numbers: Mapping[str, Compared]
    corruptions: Mapping[str, Compared]


def numbers(table: Table) -> dict[str, float]:
    """The mean corruption error of a network and what goes with it, by name.

    Args:
        table: `clean` and `corrupted`, as `[study.corruption]` measures them.

    >>> one, two = {"accuracy": 0.9, "nll": 1.0, "ece": 0.1}, {"accuracy": 0.5, "nll": 2.0, "ece": 0.3}
    >>> found = numbers({"clean": one, "corrupted": {"fog": {"1": one, "5": two}, "line": {"1": two}}})
    >>> round(found["corrupted error"], 3), round(found["relative error"], 3)
    (0.4, 0.3)
    """
    clean, corrupted = 1 - table["clean"]["accuracy"], mean(errors(table).values())
    found = {CLEAN: clean, CORRUPTED: corrupted, RELATIVE: corrupted - clean}
    for name in (NLL, ECE, MACE, ENTROPY):
        if name in table["clean"]:  # the last two came later
            each = [mean(one[name] for one in severities.values()) for severities in table["corrupted"].values()]
            found[name] = mean(each)
            found[f"clean {name}"] = table["clean"][name]
    return found


def errors(table: Table) -> dict[str, float]:
    """The error under each corruption, as a mean over its severities."""
    return {
        name: mean(1 - one["accuracy"] for one in severities.values())
        for name, severities in table["corrupted"].items()
    }


def compared(
    ticket: Mapping[int, Table], other: Mapping[int, Table], confidence: float, grain: float = 0.0
) -> Cost | None:
    """What corruption costs tickets beside another arm, over the replicates that both have; None where there is none.

    Args:
        ticket, other: what was measured, by replicate.
        confidence: of the intervals, in (0.5, 1).
        grain: the step between two errors of one test set.
    """
    both = [number for number in ticket if number in other]
    if not both:
        return None
    ours, theirs = ([numbers(arm[number]) for number in both] for arm in (ticket, other))
    clean = _compared([CLEAN], ours, theirs, confidence, {CLEAN: grain})
    rest = _compared([CORRUPTED, RELATIVE, NLL, ECE], ours, theirs, confidence, {RELATIVE: grain})
    # By themselves: those above have the intervals that they always had.
    shared = [name for name in FURTHER if all(name in own for own in (*ours, *theirs))]
    rest |= _compared(shared, ours, theirs, confidence, {})
    ours, theirs = ([errors(arm[number]) for number in both] for arm in (ticket, other))
    names = [name for name in ours[0] if name in theirs[0]]
    return Cost(clean | rest, _compared(names, ours, theirs, confidence, dict.fromkeys(names, grain)))


def _compared(
    names: list[str],
    ours: list[dict[str, float]],
    theirs: list[dict[str, float]],
    confidence: float,
    grains: Mapping[str, float],
) -> dict[str, Compared]:
    differences = {name: [own[name] - other[name] for own, other in zip(ours, theirs, strict=True)] for name in names}
    found = together(differences, confidence, grains)
    own, others = ({name: paired([one[name] for one in arm], confidence) for name in names} for arm in (ours, theirs))
    return {name: Compared(own[name], others[name], found[name]) for name in names}


def sentence(density: float, arm: str, other_density: float, cost: Cost, examples: int) -> str:
    """Whether tickets lose more or less by corruption than another arm.

    Args:
        density: P_m of the tickets, in (0, 1].
        arm: what they are held against.
        other_density: P_m of that.
        cost: as `compared` gives it, of networks at the end of training.
        examples: of the test set, on which it was measured.

    >>> def table(clean, fog):
    ...     one, two = ({"accuracy": 1 - error, "nll": error, "ece": error / 2} for error in (clean, fog))
    ...     return {"clean": one, "corrupted": {"fog": {"5": two}}}
    >>> cost = compared({0: table(0.02, 0.4), 1: table(0.02, 0.42)}, {0: table(0.02, 0.3), 1: table(0.02, 0.32)}, 0.95)
    >>> sentence(0.1, "dense", 1.0, cost, 500)
    'Under corruption, tickets at 10.0% lose more than dense: error 41.00% against 31.00%, +10.00 [+10.00, +10.00]
    points, where clean inputs have 2.00% against 2.00%, +0.00 [+0.00, +0.00]: what corruption adds differs by +10.00
    [+10.00, +10.00] points. Calibration error 20.50% against 15.50%, +5.00 [+5.00, +5.00] points; negative
    log-likelihood 0.41 against 0.31, +0.1 [+0.1, +0.1]. Most apart under fog (+10.00 [+10.00, +10.00] points). On 500
    test examples, at the end of training; n = 2.'
    """
    clean, corrupted, relative = (cost.numbers[name] for name in (CLEAN, CORRUPTED, RELATIVE))
    ece, nll = cost.numbers[ECE], cost.numbers[NLL]
    beside = arm if abs(density - other_density) < 1e-3 else f"{arm} at {other_density:.1%}" if arm != "dense" else arm
    nats = written(nll.more, lambda number: three_digits(number, "+"))
    return (
        f"Under corruption, tickets at {density:.1%} {_verdict(relative.more, beside)}: error {_both(corrupted)} "
        f"points, where clean inputs have {_both(clean)}: what corruption adds differs by {points(relative.more)} "
        f"points. Calibration error {_both(ece)} points; negative log-likelihood {three_digits(nll.ticket.mean)} "
        f"against {three_digits(nll.other.mean)}, {nats}.{_unsure(cost)}{_apart(cost)} "
        f"On {examples:,} test examples, at the end of training; n = {relative.more.n}."
    )


def _unsure(cost: Cost) -> str:
    """How unsure both are, on corrupted and on clean inputs."""
    if ENTROPY not in cost.numbers:
        return ""
    corrupted, clean = cost.numbers[ENTROPY], cost.numbers[f"clean {ENTROPY}"]
    nats = [written(each.more, lambda number: three_digits(number, "+")) for each in (corrupted, clean)]
    means = [f"{three_digits(each.ticket.mean)} against {three_digits(each.other.mean)}" for each in (corrupted, clean)]
    return f" Entropy of the probabilities {means[0]} nats, {nats[0]}; on clean inputs {means[1]}, {nats[1]}."


def _both(each: Compared) -> str:
    return f"{each.ticket.mean:.2%} against {each.other.mean:.2%}, {points(each.more)}"


def _verdict(more: Difference, beside: str) -> str:
    if more.n < 2:
        return f"beside {beside} (one replicate decides nothing)"
    if more.low <= 0 <= more.high:
        return f"are not shown to lose more or less than {beside}"
    return f"lose {'more' if more.mean > 0 else 'less'} than {beside}"


def _apart(cost: Cost) -> str:
    shown = {name: each.more for name, each in cost.corruptions.items() if each.more.low > 0 or each.more.high < 0}
    if not shown:
        return "" if next(iter(cost.corruptions.values())).more.n < 2 else " No single corruption tells them apart."
    most = sorted(shown, key=lambda name: -abs(shown[name].mean))[:3]
    return f" Most apart under {', '.join(f'{name} ({points(shown[name])} points)' for name in most)}."
