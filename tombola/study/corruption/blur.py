"""Blur: Gaussian, out of focus, in motion, zooming, through glass; and what is lost in a file.

Lengths are in pixels of an image as wide as the benchmark's, 28 or 32, and grow with the image.
"""

from io import BytesIO
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tombola.errors import not_installed
from tombola.study.corruption.draws import Draws, Numbers


def unit(x: Numbers) -> float:
    """How long a pixel of the benchmark is in an image: MNIST-C's of grey ones, CIFAR-10-C's of coloured ones."""
    side: int = x.shape[-1]
    return side / (28 if x.shape[1] == 1 else 32)


def smoothed(x: Numbers, sigma: float) -> Numbers:
    """A Gaussian's blur of each [..., H, W]; beyond its borders an image goes on as it ends."""
    smooth: Numbers = ndimage.gaussian_filter(x, sigma, mode="nearest", axes=(-2, -1)) if sigma else x
    return smooth


def gaussian_blur(x: Numbers, c: float, draws: Draws) -> Numbers:
    """A Gaussian's blur of the deviation c."""
    return smoothed(x, c * unit(x))


def defocus_blur(x: Numbers, c: tuple[float, float], draws: Draws) -> Numbers:
    """A disk of the radius c_0, whose edge is smoothed by c_1."""
    radius = c[0] * unit(x)
    reach = max(8, ceil(radius))
    along = np.arange(-reach, reach + 1)
    inside = (along[:, None] ** 2 + along**2 <= radius**2).astype(float)
    steps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    edge = np.exp(-(steps**2) / (2 * c[1] ** 2))
    edge /= edge.sum()
    kernel = inside / inside.sum()
    for axis in (0, 1):
        kernel = ndimage.correlate1d(kernel, edge, axis=axis, mode="mirror")
    blurred: Numbers = ndimage.correlate(x, kernel[None, None], mode="mirror")
    return blurred


def motion_blur(x: Numbers, c: tuple[float, float], draws: Draws) -> Numbers:
    """A motion at up to 45 degrees from the horizontal, each image's own: `moved`, the radius c_0, sigma c_1."""
    return moved(x, c[0] * unit(x), c[1] * unit(x), draws.uniform(-45, 45))


def moved(x: Numbers, radius: float, sigma: float, angles: Numbers) -> Numbers:
    """The mean along a line that begins at a pixel, with half a Gaussian's weights, as ImageMagick has it.

    sum_i k_i x(p + o_i), k_i ~ exp(-i^2 / 2 sigma^2), i from 0 to 2 radius, and o_i = (i cos a, i sin a), rounded.

    Args:
        angles: of each image, in degrees.
    """
    steps = np.arange(2 * ceil(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    turn = np.deg2rad(angles)[:, None]
    down, right = (np.ceil(steps * part(turn) - 0.5).astype(int) for part in (np.sin, np.cos))
    height, width = x.shape[2:]
    number, out = np.arange(len(x))[:, None, None], np.zeros_like(x)
    by_place = np.moveaxis(x, 1, -1)
    for step in steps:
        rows = np.clip(np.arange(height) + down[:, step, None], 0, height - 1)
        columns = np.clip(np.arange(width) + right[:, step, None], 0, width - 1)
        out += weights[step] * np.moveaxis(by_place[number, rows[:, :, None], columns[:, None]], -1, 1)
    return out


def zoom_blur(x: Numbers, c: tuple[float, float], draws: Draws) -> Numbers:
    """The mean of the image and of itself zoomed into, by 1, 1 + c_1, 1 + 2 c_1, ..., less than c_0."""
    zooms = np.arange(1, c[0], c[1])
    out = x.copy()
    for zoom in zooms:
        out += zoomed(x, zoom)
    return out / (len(zooms) + 1.0)


def zoomed(x: Numbers, zoom: float) -> Numbers:
    """The middle of each [..., H, W], H = W, as large as the whole."""
    side = x.shape[-1]
    cut = ceil(side / zoom)
    top = (side - cut) // 2
    large = ndimage.zoom(np.eye(cut), (zoom, 1), order=1)  # of each column, and then of each row
    trim = (len(large) - side) // 2
    large = large[trim : trim + side]
    middle: Numbers = large @ x[..., top : top + cut, top : top + cut] @ large.T
    return middle


def glass_blur(x: Numbers, c: tuple[float, int, int], draws: Draws) -> Numbers:
    """A blur by c_0, then c_2 times each pixel changed for one less than c_1 + 1 away, then the blur again.

    As in the benchmarks' code, of grey images every second pixel, by chance, changes places with the other; of coloured
    ones each is overwritten by it.
    """
    sigma, far = c[0] * unit(x), max(1, round(c[1] * unit(x)))
    held = np.floor(smoothed(x, sigma) * 255)
    side, number = x.shape[2], np.arange(len(x))
    for _ in range(c[2]):
        span = range(side - far, far, -1)
        by = draws.whole(-far, far, len(span), len(span), 2)
        chosen = draws.whole(0, 2, len(span), len(span)) == 0 if x.shape[1] == 1 else None
        for i, row in enumerate(span):
            for j, column in enumerate(span):
                rows, columns = row + by[:, i, j, 1], column + by[:, i, j, 0]
                other, here = held[number, :, rows, columns], held[:, :, row, column].copy()
                if chosen is None:
                    held[:, :, row, column] = other
                else:
                    swap = chosen[:, i, j]
                    held[swap, :, row, column] = other[swap]
                    held[number[swap], :, rows[swap], columns[swap]] = here[swap]
    return smoothed(held / 255, sigma)


def pixelate(x: Numbers, c: float, draws: Draws) -> Numbers:
    """As small as c of its side, and large again, each pixel the mean of those whose middle it covers."""
    side = x.shape[-1]
    small, large = _box(side, int(side * c)), _box(int(side * c), side)
    narrow = np.round(small @ x @ small.T * 255) / 255
    return large @ narrow @ large.T


def _box(before: int, after: int) -> NDArray[np.float64]:
    """The matrix of Pillow's filter BOX, [after, before]."""
    scale = before / after
    middle = (np.arange(after)[:, None] + 0.5) * scale
    off = (np.arange(before) + 0.5 - middle) / max(scale, 1)
    covered = ((off > -0.5) & (off <= 0.5)).astype(float)
    box: NDArray[np.float64] = covered / covered.sum(axis=1, keepdims=True)
    return box


def jpeg_compression(x: Numbers, c: int, draws: Draws) -> Numbers:
    """A JPEG file of the quality c, decoded, by Pillow."""
    try:
        from PIL import Image
    except ImportError:
        raise not_installed("jpeg_compression", "pillow, which writes JPEG files", "images") from None
    out = np.empty_like(x)
    for image, pixels in zip(out, np.round(x * 255).astype(np.uint8), strict=True):
        file = BytesIO()
        Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "JPEG", quality=c)
        decoded = np.asarray(Image.open(file)) / 255
        image[:] = decoded[None] if len(pixels) == 1 else decoded.transpose(2, 0, 1)
    return out
