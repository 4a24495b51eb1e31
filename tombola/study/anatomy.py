"""What a ticket looks like inside."""

from math import prod

import numpy as np
from numpy.typing import NDArray


def input_survivors(first: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """How many living weights of the first layer each input has, as an image.

    Args:
        first: the first layer's mask, units x inputs.
        shape: channels, height, width of an image; a text has no such image.

    Returns:
        height x width, the mean over units (and sum over channels) of what is alive, so 1 per channel in a dense layer;
        None where the first layer does not see the whole input, like a convolution.

    App. F.6 of The Lottery Ticket Hypothesis (Frankle & Carbin, 2019).
    """
    if len(shape) != 3 or first.ndim != 2 or first.shape[1] != prod(shape):
        return None
    channels, height, width = shape
    per_input: NDArray[np.float64] = first.mean(axis=0).reshape(channels, height, width).sum(axis=0)
    return per_input


def idle(alive: NDArray[np.bool_]) -> tuple[int, int]:
    """How many outputs of a layer have no living weight, and how many of its inputs are read by none.

    An output without a living weight is its bias, whatever comes in. The outputs and inputs of a convolution are its
    channels. Of other layers nothing is asked: more may be dead that only feeds what is dead.

    Args:
        alive: the layer's mask, outputs x inputs x whatever else.

    >>> idle(np.array([[1, 0, 0], [0, 0, 0]], bool))
    (1, 2)
    """
    links = np.asarray(alive.any(axis=tuple(range(2, alive.ndim))))
    return int((~links.any(axis=1)).sum()), int((~links.any(axis=0)).sum())
