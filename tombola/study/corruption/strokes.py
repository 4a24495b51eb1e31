"""Strokes over an image, and an image's own edges in its place."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tombola.study.corruption.draws import Draws, Numbers

REACH = 2.3  # pixels of 28, within which a line is seen


def line(x: Numbers, c: None, draws: Draws) -> Numbers:
    """A line from the left part of the image to its right part."""
    begin, end = draws.whole(0, 5), draws.whole(22, 27)
    rows = draws.whole(0, 27, 2)
    return x + _lines(begin, rows[:, 0], end, rows[:, 1], x.shape[-1])


def dotted_line(x: Numbers, c: None, draws: Draws) -> Numbers:
    """A line from the left to the right, of which every other two columns are left."""
    side, rows = x.shape[-1], draws.whole(0, 27, 2)
    whole = _lines(np.zeros(len(x)), rows[:, 0], np.full(len(x), 27.0), rows[:, 1], side)
    return x + whole * (np.arange(side) % 4 >= 2)


def zigzag(x: Numbers, c: None, draws: Draws) -> Numbers:
    """A zigzag from the left to the right, whose teeth are 4 pixels of 28 long and 2 high."""
    began, ended = 2, 25
    row = draws.whole(0, 27)
    slope = draws.whole(-5, 5) / (ended - began)
    turn = np.arctan(slope)
    long = (ended - began) / np.cos(turn)
    along, teeth = [np.zeros(len(x))], [np.zeros(len(x))]
    for tooth in range(6):  # as many as there is room for, at any of these slopes
        along.append(np.full(len(x), 4.0 * tooth + 2))
        teeth.append(np.full(len(x), 2.0 * (-1) ** tooth))
    along.append(long)
    teeth.append(teeth[-1] / (2 * (long - 4 * (long // 4))))
    columns = [began + np.cos(turn) * a - np.sin(turn) * t for a, t in zip(along, teeth, strict=True)]
    rows = [row + np.sin(turn) * a + np.cos(turn) * t for a, t in zip(along, teeth, strict=True)]
    for place in range(1, len(columns)):
        ends = columns[place - 1], rows[place - 1], columns[place], rows[place]
        x = np.clip(x + _lines(*ends, x.shape[-1]), 0, 1)
    return x


def _lines(
    left: NDArray[np.generic],
    upper: NDArray[np.generic],
    right: NDArray[np.generic],
    lower: NDArray[np.generic],
    side: int,
) -> Numbers:
    """Of each image a line between two points, log(1 - d / 2.3) + 1 at the distance d above or below it.

    Args:
        left, upper, right, lower: columns and rows of the ends, in [0, 27], as of 28 pixels.
    """
    grid = np.linspace(0, 27, side)
    starts, ends = (np.asarray(each, float)[:, None] for each in (left, right))
    first, last = (np.asarray(each, float)[:, None] for each in (upper, lower))
    heights = first + (last - first) / (ends - starts) * (grid - starts)  # [images, columns]
    far = np.clip(np.abs(grid[:, None] - heights[:, None]), 0, REACH - 1e-10)
    seen = np.clip(np.log(1 - far / REACH) + 1, 0, 1)
    between = (grid >= np.floor(starts)) & (grid < np.ceil(ends))
    lines: Numbers = (seen * between[:, None])[:, None]
    return lines


def canny_edges(x: Numbers, c: None, draws: Draws) -> Numbers:
    """The edges of an image, by A Computational Approach to Edge Detection (Canny, 1986), as scikit-image has it.

    With sigma 1 and the thresholds 0.1 and 0.2: the gradient of the smoothed image where it is largest across the edge,
    and above the higher threshold or joined to what is.
    """
    inside = ndimage.gaussian_filter(np.ones(x.shape[2:]), 1, mode="constant")
    smooth = ndimage.gaussian_filter(x, 1, mode="constant", axes=(2, 3)) / (inside + np.finfo(float).eps)
    down, right = _slope(smooth, 2, 3), _slope(smooth, 3, 2)
    size = np.hypot(down, right)
    weak = _largest_across(size, down, right) & (size >= 0.1)
    joined = np.zeros((3, 3, 3, 3), bool)
    joined[1, 1] = True
    parts, _ = ndimage.label(weak, joined)
    strong = np.isin(parts, np.unique(parts[weak & (size >= 0.2)]))
    return (weak & strong).astype(float)


def _slope(x: Numbers, along: int, across: int) -> Numbers:
    """Sobel's: SciPy's own would be over all axes, those of images and channels too."""
    difference = ndimage.correlate1d(x, [-1, 0, 1], axis=along)
    slope: Numbers = ndimage.correlate1d(difference, [1, 2, 1], axis=across)
    return slope


def _largest_across(size: Numbers, down: Numbers, right: Numbers) -> NDArray[np.bool_]:
    """Where a gradient is no smaller than one step before and behind it in its direction, between two pixels."""
    steep = np.abs(down) > np.abs(right)
    long, short = np.maximum(np.abs(down), np.abs(right)), np.minimum(np.abs(down), np.abs(right))
    part = short / np.where(long > 0, long, 1)
    most = np.zeros(size.shape, bool)
    inner = (..., slice(1, -1), slice(1, -1))
    alive = size[inner] > 0
    ahead = []
    for way in (1, -1):
        rows, columns = way * np.sign(down).astype(int), way * np.sign(right).astype(int)
        straight = _at(size, np.where(steep, rows, 0), np.where(steep, 0, columns))
        ahead.append(part * _at(size, rows, columns) + (1 - part) * straight)
    most[inner] = alive & (size[inner] >= ahead[0][inner]) & (size[inner] >= ahead[1][inner])
    return most


def _at(x: Numbers, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Numbers:
    """x one pixel further by `rows` and `columns`; at the borders whatever comes."""
    height, width = x.shape[2:]
    there = (np.arange(height)[:, None] + rows) % height, (np.arange(width) + columns) % width
    found: Numbers = x[np.arange(len(x))[:, None, None, None], np.arange(x.shape[1])[:, None, None], *there]
    return found
