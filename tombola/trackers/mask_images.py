"""Masks as pictures: a layer's kept weights white, or of a large layer the share that each block of them keeps."""

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 256  # pixels along a side at most
LEAST = 128  # and at least along the longer one, so that a small layer can be seen


def picture(alive: "NDArray[np.bool_]") -> "NDArray[np.uint8]":
    """The mask of a layer as shades of grey, outputs downwards and inputs across; of a convolution window by window.

    Args:
        alive: of any shape, units first.

    Returns:
        [height, width], at most `SIDE` each: 255 where all is kept, 0 where all is pruned.

    >>> picture(np.array([[True, False], [False, True]])).shape
    (128, 128)
    """
    flat = _flat(alive).astype(np.float64)
    for axis in (0, 1):
        flat = _means(flat, axis)
    times = max(1, LEAST // max(flat.shape))
    return np.rint(255 * flat).astype(np.uint8).repeat(times, axis=0).repeat(times, axis=1)


def _flat(alive: "NDArray[np.bool_]") -> "NDArray[np.bool_]":
    """Two axes; of a convolution's [outputs, inputs, h, w] the windows beside each other: [outputs h, inputs w]."""
    if alive.ndim == 4:
        outputs, inputs, height, width = alive.shape
        return alive.transpose(0, 2, 1, 3).reshape(outputs * height, inputs * width)
    return alive.reshape(alive.shape[0] if alive.ndim > 1 else 1, -1)


def _means(flat: "NDArray[np.float64]", axis: int) -> "NDArray[np.float64]":
    """The means of at most `SIDE` blocks along an axis, as equal as can be."""
    size = flat.shape[axis]
    edges = np.linspace(0, size, min(size, SIDE) + 1).astype(int)
    counts = np.diff(edges).reshape((-1, 1) if axis == 0 else (1, -1))
    return np.add.reduceat(flat, edges[:-1], axis=axis) / counts


def png(shades: "NDArray[np.uint8]") -> bytes:
    """Shades of grey as a PNG file, the same bytes for the same shades.

    >>> png(np.zeros((1, 1), np.uint8))[:4]
    b'\\x89PNG'
    """
    height, width = shades.shape
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    lines = np.pad(shades, ((0, 0), (1, 0))).tobytes()  # each after the number of its filter, 0 for none
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(lines, 9)) + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
