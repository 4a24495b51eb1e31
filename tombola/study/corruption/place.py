"""Pixels in other places: shear, rotation, scale, translation, and elastic."""

from collections.abc import Iterable
from math import cos, sin

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tombola.study.corruption.blur import unit
from tombola.study.corruption.draws import Draws, Numbers


def shear(x: Numbers, c: float, draws: Draws) -> Numbers:
    """Sheared by the angle c in one of both directions."""
    return _warped(x, ([[1, -sin(c * sign)], [0, cos(c)]] for sign in draws.signs()))


def rotate(x: Numbers, c: float, draws: Draws) -> Numbers:
    """Rotated by the angle c in one of both directions."""
    turns = c * draws.signs()
    return _warped(x, ([[cos(turn), -sin(turn)], [sin(turn), cos(turn)]] for turn in turns))


def scale(x: Numbers, c: float, draws: Draws) -> Numbers:
    """Smaller, c times."""
    return _warped(x, ([[c, 0], [0, c]] for _ in x))


def translate(x: Numbers, c: float, draws: Draws) -> Numbers:
    """By c pixels up or down, and left or right."""
    by = np.round(c * unit(x)) * draws.signs(2)
    return _warped(x, ([[1, 0], [0, 1]] for _ in x), by)


def _warped(x: Numbers, matrices: Iterable[list[list[float]]], by: NDArray[np.float64] | None = None) -> Numbers:
    """Each image at the points A (p - m) + m + b, m its middle; points are (column, row), beyond the image is 0."""
    middle, out = (x.shape[-1] - 1) / 2, np.empty_like(x)
    shifts = np.zeros((len(x), 2)) if by is None else by
    for image, into, matrix, shift in zip(x, out, matrices, shifts, strict=True):
        turn = np.array(matrix)[::-1, ::-1]  # of rows and columns
        offset = middle - turn.sum(axis=1) * middle + shift[::-1]
        for channel, made in zip(image, into, strict=True):
            ndimage.affine_transform(channel, turn, offset, output=made, order=1, mode="grid-constant")
    return out


def elastic_transform(x: Numbers, c: tuple[float, float, float], draws: Draws) -> Numbers:
    """Three points move by up to c_2, and all with them; then each pixel by up to c_0, smoothed by c_1; of the side."""
    side = x.shape[-1]
    far, sigma, corner = (part * side for part in c)
    middle, size = side // 2, side // 3
    before = middle + size * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    after = before + draws.uniform(-corner, corner, 3, 2)
    field = draws.uniform(-1, 1, 2, side, side)
    if sigma:
        field = ndimage.gaussian_filter(field, sigma, mode="reflect", truncate=3, axes=(-2, -1))
    out, grid = np.empty_like(x), np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"))
    for image, into, points, (right, down) in zip(x, out, after, far * field, strict=True):
        back = np.linalg.solve(np.c_[points, np.ones(3)], before)  # [column, row, 1] -> where it was
        turn, offset = back[:2].T[::-1, ::-1], back[2][::-1]
        for channel, made in zip(image, into, strict=True):
            turned = ndimage.affine_transform(channel, turn, offset, order=1, mode="mirror")
            ndimage.map_coordinates(turned, grid + np.stack([down, right]), made, order=1, mode="reflect")
    return out
