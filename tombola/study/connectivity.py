"""Do two trainings from one start, in other data orders, end in the same valley?

Two copies of the weights of step k are trained to the end under different noise (the order of the data). On the line
between their ends W and W' the error is

    E(alpha) = error((1 - alpha) W + alpha W'), alpha in [0, 1],

and the instability is how far it rises above the ends: E_sup - (E(0) + E(1)) / 2, the error barrier. A network whose
barrier, the mean over pairs and initialisations, is below 2 % is stable: its trainings are linearly connected.

A network with batch norms also carries running statistics, and the paper does not say what becomes of them. Two ways:

    interpolated  they lie on the line like weights do; but the mean of two variances is not the variance of a mean of
                  networks, so a barrier may be owed to the statistics alone
    recomputed    they are computed anew from training inputs at every point of the line, the ends too, so that all
                  points are treated alike

Linear Mode Connectivity and the Lottery Ticket Hypothesis (Frankle, Dziugaite, Roy & Carbin, 2020).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

import torch
from torch import Tensor, nn

from tombola.study.paired import Difference, paired

POINTS = 30
BOUND = 0.02

Statistics = Literal["none", "interpolated", "recomputed"]
ConnectivityWord = Literal["stable", "unstable", "not decided"]


@dataclass(frozen=True)
class Instability:
    """How far the error rises between two trainings from one start.

    Attributes:
        density: P_m, in (0, 1].
        step: k, the step whose weights both trainings start from.
        statistics: what became of the running statistics; `none` for a network without them.
        barrier: the mean of the barriers (a fraction) over the initialisations, with its interval.
        pairs: of data orders, in each initialisation.
        reason: the verdict as a sentence.
    """

    density: float
    step: int
    statistics: Statistics
    barrier: Difference
    pairs: tuple[int, ...]
    verdict: ConnectivityWord
    reason: str


def alphas(points: int = POINTS) -> tuple[float, ...]:
    """Where on the line the error is looked at: evenly spaced, 0 and 1 included.

    Raises:
        ValueError: fewer than two points.

    >>> alphas(5)
    (0.0, 0.25, 0.5, 0.75, 1.0)
    """
    if points < 2:
        raise ValueError(f"expected at least the two ends of the line, found {points} point(s)")
    return tuple(place / (points - 1) for place in range(points))


def barrier(errors: Sequence[float]) -> float:
    """E_sup - (E(0) + E(1)) / 2, how far the error rises on the line above the mean of its ends.

    The ends belong to the line, so this is never below half of their difference, and 0 for a network with itself.

    Args:
        errors: from the one end to the other.

    >>> barrier([0.25, 0.75, 0.5])
    0.375
    """
    return max(errors) - (errors[0] + errors[-1]) / 2


def recompute_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Compute the running mean and variance of every batch norm of `model` anew from `batches`.

    They become the plain mean over the batches of each batch's mean and unbiased variance, whatever they were before.
    Only the batch norms are in training mode meanwhile: dropout is off, as it is when the network is evaluated. Modes
    and momenta are left as they were. Without running statistics nothing happens, and no batch is asked for.

    Args:
        batches: training inputs, each batch counted alike, so of one size.

    Raises:
        ValueError: there is no batch.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]
    if not norms:
        return
    modes, momenta = [(module, module.training) for module in model.modules()], [norm.momentum for norm in norms]
    device = next(model.parameters()).device
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative mean
            norm.train()
        seen = 0
        with torch.no_grad():
            for batch in batches:
                model(batch.to(device))
                seen += 1
    finally:
        for module, mode in modes:
            module.training = mode
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    if not seen:
        raise ValueError("expected batches of training inputs to compute the statistics from, found none")


def judge(
    density: float,
    step: int,
    barriers: Sequence[Sequence[float]],
    statistics: Statistics = "none",
    *,
    confidence: float = 0.95,
    grain: float = 0.0,
    error: str = "test error",
) -> Instability:
    """Is a network stable? By the mean barrier over initialisations, each the mean over its pairs of data orders.

    Args:
        density: P_m, in (0, 1].
        step: k, the step whose weights both trainings start from.
        barriers: fractions, by initialisation and then by pair.
        confidence: of the Student t interval, in (0, 1).
        grain: how exactly an error is known, one answer's share; see `paired`.
        error: which error it is, for the sentence.

    Raises:
        ValueError: an initialisation has no pair, or there is no initialisation.
    """
    if not barriers or not all(barriers):
        raise ValueError("expected the barrier of at least one pair in every initialisation, found none")
    risen = paired([mean(pairs) for pairs in barriers], confidence, grain)
    pairs, word = tuple(len(pairs) for pairs in barriers), decide(risen)
    return Instability(
        density, step, statistics, risen, pairs, word, _reason(density, step, statistics, risen, pairs, word, error)
    )


def decide(barrier: Difference) -> ConnectivityWord:
    """The word for a mean barrier: stable if its whole interval is below 2 %, unstable if none of it is.

    Else, and always for one initialisation, whose interval is infinite, not decided.
    """
    if barrier.high < BOUND:
        return "stable"
    return "unstable" if barrier.low >= BOUND else "not decided"


def _reason(
    density: float,
    step: int,
    statistics: Statistics,
    risen: Difference,
    pairs: tuple[int, ...],
    word: ConnectivityWord,
    error: str,
) -> str:
    start = f"rewound to step {step:,}" if step else "from the initialisation"
    interval = f" [{100 * risen.low:.2f}, {100 * risen.high:.2f}]" if risen.n > 1 else ""
    treated = f" (statistics {statistics})" if statistics != "none" else ""
    return (
        f"At {density:.1%}, {start}: {error} rises by {100 * risen.mean:.2f}{interval} points on the line between two "
        f"trainings in other orders{treated}, n = {_counted(pairs)}: {word} ({_because(word, risen)})."
    )


def _counted(pairs: tuple[int, ...]) -> str:
    inits = f"{len(pairs)} init{'s' if len(pairs) > 1 else ''}"
    each = f"{pairs[0]}" if len(set(pairs)) == 1 else f"{min(pairs)} to {max(pairs)}"
    return f"{inits} x {each} pair{'s' if max(pairs) > 1 else ''}"


def _because(word: ConnectivityWord, risen: Difference) -> str:
    bound = f"{100 * BOUND:g}"
    if risen.n < 2:
        return "one initialisation has no interval"
    return {"stable": f"below {bound}", "unstable": f"not below {bound}"}.get(
        word, f"the interval reaches across {bound}"
    )
