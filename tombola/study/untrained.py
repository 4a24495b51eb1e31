"""What networks can do before any step is taken: their mask on early weights, and nothing trained."""

from collections.abc import Mapping
from dataclasses import dataclass

from tombola.study.paired import Difference, paired
from tombola.study.written import share


@dataclass(frozen=True)
class Untrained:
    """The test accuracy of an arm's networks where their trainings begin.

    Attributes:
        arm: its name.
        accuracy: in [0, 1], over replicates.
    """

    arm: str
    accuracy: Difference


def untrained(accuracies: Mapping[str, Mapping[int, float]], confidence: float) -> tuple[Untrained, ...]:
    """What the accuracies of all replicates come to.

    Args:
        accuracies: by arm, and by replicate.
        confidence: of the intervals, in (0.5, 1).

    >>> [round(each.accuracy.mean, 3) for each in untrained({"constant": {0: 0.86, 1: 0.84}}, 0.95)]
    [0.85]
    """
    return tuple(Untrained(arm, paired(list(own.values()), confidence)) for arm, own in accuracies.items() if own)


def sentence(density: float, arms: tuple[Untrained, ...]) -> str:
    """What the networks of these arms can do.

    Args:
        density: P_m, in (0, 1].
        arms: as `untrained` gives them.

    >>> sentence(0.2, untrained({"ticket": {0: 0.3, 1: 0.3}, "constant": {0: 0.8, 1: 0.8}}, 0.95))
    'At 20.0%, before any step is taken: ticket 30.0% [30.0%, 30.0%]; constant 80.0% [80.0%, 80.0%]; n = 2.'
    """
    parts = [f"{each.arm} {share(each.accuracy)}" for each in arms]
    n = min(each.accuracy.n for each in arms)
    return f"At {density:.1%}, before any step is taken: {'; '.join(parts)}; n = {n}."
