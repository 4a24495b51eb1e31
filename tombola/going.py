"""The order in which pruning lets weights go, and the mask of those that it would let go first."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola.mask import Mask

Step = tuple[Mask, Mapping[str, Tensor]]  # what was alive and scored, and the scores


def first_to_go(steps: Iterable[Step], like: Mask) -> Mask:
    """Return the inverse of a mask: of each layer as many weights as `like` keeps, those that pruning lets go first.

    A weight goes after the last step in which it was scored; of one step's weights the lowest go first, and ties go by
    flat index. Pruning keeps the last of this order, its inverse the first: the two share none where a layer keeps half
    of its weights or less.

    Args:
        steps: of scoring, from the first on; weights that were in none went before.
        like: how many of each layer.

    >>> alive = Mask({"w": torch.ones(4, dtype=torch.bool)})
    >>> kept = Mask({"w": torch.tensor([True, False, False, False])})
    >>> first_to_go([(alive, {"w": torch.tensor([3.0, 1.0, 0.0, 2.0])})], kept)["w"]
    tensor([False, False,  True, False])
    """
    last = {name: np.full(alive.numel(), -1) for name, alive in like.items()}
    scores = {name: np.zeros(alive.numel()) for name, alive in like.items()}
    for number, (scored, given) in enumerate(steps):
        for name in like:
            here = scored[name].flatten().numpy()
            last[name][here] = number
            scores[name][here] = given[name].flatten().double().numpy()[here]
    return Mask({name: _first(last[name], scores[name], alive) for name, alive in like.items()})


def _first(last: NDArray[np.int64], scores: NDArray[np.float64], alive: Tensor) -> Tensor:
    """As many places of a layer as are alive, the first in order of `last`, then of `scores`."""
    order = np.lexsort((scores, last))  # stable: what is equal stays in its order
    chosen = torch.zeros(alive.numel(), dtype=torch.bool)
    chosen[torch.from_numpy(order[: int(alive.sum())].copy())] = True
    return chosen.view_as(alive)
