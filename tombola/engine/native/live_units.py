"""Which units take part: those that can still influence the output. The others leave the computation, exactly."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]


def live_units(alive: Sequence[Flags]) -> list[NDArray[np.int64]]:
    """The units of each layer, the inputs first and the outputs last, from which a living path leads to an output.

    A unit without one has gradient 0 and is multiplied by nothing: its incoming weights stay as they are, but for
    weight decay and momentum from before. A unit without incoming weights stays, as its bias does influence the
    output. The units of a convolution are its channels.

    Args:
        alive: the mask of each layer, outputs x inputs x the weights between the two.

    >>> first = np.array([[1, 0, 0], [0, 1, 1]], bool)        # unit 0 reads input 0, unit 1 reads inputs 1 and 2
    >>> second = np.array([[0, 1]], bool)                     # the output reads unit 1 alone
    >>> [units.tolist() for units in live_units([first[:, :, None], second[:, :, None]])]
    [[1, 2], [1], [0]]
    """
    living = [np.arange(len(alive[-1]))]
    for mask in reversed(alive):
        living.insert(0, np.flatnonzero(mask[living[0]].any(axis=(0, 2))))
    return living
