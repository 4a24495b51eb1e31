"""One number per weight: the higher, the longer it lives.

A score says nothing about how many weights go or where; `prune` decides that.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a plan reads the table below, and touches no tensor
    from torch import Tensor

    from tombola.weights import Weights

Score = Callable[["Weights", Iterable[str], int], dict[str, "Tensor"]]


def magnitude(weights: "Weights", names: Iterable[str], score_seed: int) -> dict[str, "Tensor"]:
    """|theta|, the size of each trained weight (The Lottery Ticket Hypothesis, Frankle & Carbin, 2019).

    >>> import torch
    >>> magnitude({"w": torch.tensor([-2.0, 1.0])}, ["w"], score_seed=0)
    {'w': tensor([2., 1.])}
    """
    return {name: weights[name].abs() for name in names}


def random(weights: "Weights", names: Iterable[str], score_seed: int) -> dict[str, "Tensor"]:
    """A uniform number per weight, drawn from `score_seed`: pruning that knows nothing."""
    import torch

    generator = torch.Generator().manual_seed(score_seed)
    return {name: torch.rand(weights[name].shape, generator=generator, dtype=torch.float64) for name in names}


SCORES: dict[str, Score] = {"magnitude": magnitude, "random": random}
