"""A second reading of how early a network stops: the minimum of the smoothed validation loss.

The early stop of the definition is the smallest of many noisy numbers, and where the loss is flat it jumps. The mean
over neighbouring evaluations jumps less. It is another quantity, with its own name, and never takes the other's place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

LOOKS = 11
NAME = "smoothed early stop"


@dataclass(frozen=True)
class Stop:
    """A step at which a curve is smallest, and whether that is the curve's `first` or `last` point."""

    step: int
    first: bool = False
    last: bool = False


def smoothed_early_stop(steps: Sequence[int], losses: Sequence[float], looks: int = LOOKS) -> Stop | None:
    """The step at which the running mean of the validation loss over `looks` evaluations is smallest.

    argmin over i of (l_{i-h} + ... + l_{i+h}) / (2h + 1), 2h + 1 = `looks`, the first of equals. Only whole windows
    count: the first and the last h evaluations are the middle of none.

    Args:
        steps: of the evaluations, rising.
        losses: the validation loss at each.
        looks: an odd number.

    Returns:
        The step in the middle of the window; None where there are not two windows.

    >>> smoothed_early_stop([0, 10, 20, 30, 40, 50], [5.0, 2.0, 0.1, 1.5, 1.0, 1.4], looks=3)
    Stop(step=30, first=False, last=False)
    """
    half = looks // 2
    means = [fmean(losses[place : place + looks]) for place in range(len(losses) - 2 * half)]
    if len(means) < 2:
        return None
    best = min(range(len(means)), key=means.__getitem__)
    return Stop(steps[best + half], first=best == 0, last=best == len(means) - 1)
