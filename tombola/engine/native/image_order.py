"""An order of images in which those follow each other that leave the same pixels at zero."""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUP = 64  # images whose pixels are looked at together
AT_ONCE = 8  # that join a group before it is compared with all others again


def image_order(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Places of all images, group by group: each group begins with the emptiest image left, and images join it that add
    the fewest pixels to those which any of it has.

    The order depends on the images alone. It saves nothing but time: who evaluates a group of them leaves out the
    pixels that none of it has.

    Args:
        images: N x ..., bytes.

    >>> image_order(np.array([[0, 1, 1], [0, 0, 9], [0, 2, 0]], np.uint8)).tolist()
    [1, 2, 0]
    """
    marked = images.reshape(len(images), prod(images.shape[1:])) > 0
    places = np.argsort(marked.sum(axis=1), kind="stable")
    bits = np.packbits(marked[places], axis=1)
    # Words x images: a sum over a long last axis is the fast one.
    words: NDArray[Any] = np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64).T.copy()
    order: list[NDArray[np.int64]] = []
    while len(places):
        have, room, joining = np.zeros_like(words[:, :1]), GROUP, 1
        while room and len(places):
            joining = min(joining, room, len(places))
            added = np.bitwise_count(words & ~have).sum(axis=0, dtype=np.uint16)
            # The first of equals, on every machine the same. 16 bits make it a radix sort; beyond, any order will do.
            chosen = np.argsort(added, kind="stable")[:joining]
            order.append(places[chosen])
            have |= np.bitwise_or.reduce(words[:, chosen], axis=1, keepdims=True)
            left = np.ones(len(places), bool)
            left[chosen] = False
            places, words = places[left], words[:, left]
            room, joining = room - joining, AT_ONCE
    return np.concatenate([*order, np.zeros(0, np.int64)])
