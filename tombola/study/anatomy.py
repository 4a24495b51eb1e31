"""What a ticket looks like inside."""

from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tombola.layers import Layout


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


def idle(alive: NDArray[np.bool_], layout: "Layout") -> tuple[int, int]:
    """How many outputs of a layer have no living weight, and how many of its inputs are read by none.

    An output without a living weight is its bias, whatever comes in. The outputs and inputs of a convolution are its
    channels. Of other layers nothing is asked: more may be dead that only feeds what is dead.

    Args:
        alive: the layer's mask, of two axes or more.
        layout: which of them are its outputs and its inputs. In each group of a convolution there are others along
            axis 1.

    >>> from tombola.layers import Layout
    >>> alive = np.array([[1, 0, 0], [0, 0, 0]], bool)
    >>> idle(alive, Layout()), idle(alive, Layout(inputs=0, outputs=1)), idle(alive, Layout(groups=2))
    ((1, 2), (2, 1), (1, 5))
    """
    links = np.asarray(alive.any(axis=tuple(range(2, alive.ndim))))
    groups, rows, columns = layout.groups, *links.shape
    dead = [int((~each).sum()) for each in (links.any(1), links.reshape(groups, rows // groups, columns).any(1))]
    return dead[layout.outputs], dead[layout.inputs]
