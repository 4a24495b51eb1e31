"""How far a training and the pruning before it have taken a network from the dense one that it was."""

from collections.abc import Iterable, Mapping
from math import sqrt

from torch import Tensor


def learning_distance(start: Mapping[str, Tensor], end: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> float:
    """||theta_0 - m ⊙ theta_T||_2 over the prunable weights, those that are pruned counted as 0 at the end.

    Args:
        start: the initial weights of the dense network.
        end: the trained ones.
        mask: by weight, True where it is alive.

    Sparse Double Descent: Where Network Pruning Aggravates Overfitting (He, Xie, Zhu & Qin, 2022).

    >>> import torch
    >>> start, end = {"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([3.0, 9.0])}
    >>> learning_distance(start, end, {"w": torch.tensor([True, False])})
    4.0
    """
    return sqrt(_squares(start[name].double() - alive * end[name].double() for name, alive in mask.items()))


def moved(start: Mapping[str, Tensor], end: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> float:
    """||m ⊙ (theta_0 - theta_T)||_2: how far the living weights alone have gone.

    >>> import torch
    >>> start, end = {"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([3.0, 9.0])}
    >>> moved(start, end, {"w": torch.tensor([True, False])})
    0.0
    """
    return sqrt(_squares(alive * (start[name].double() - end[name].double()) for name, alive in mask.items()))


def _squares(parts: Iterable[Tensor]) -> float:
    return sum(float(part.square().sum()) for part in parts)
