"""Brightness, contrast and saturation: what happens to each pixel by itself."""

import numpy as np

from tombola.study.corruption.draws import Draws, Numbers


def brightness(x: Numbers, c: float, draws: Draws) -> Numbers:
    """The value V of HSV, the largest of a pixel's channels, is V + c, at most 1; hue and saturation stay."""
    value = x.max(axis=1, keepdims=True)
    brighter = np.clip(value + c, 0, 1)
    made: Numbers = np.where(value > 0, x * brighter / np.where(value > 0, value, 1), brighter)
    return made


def contrast(x: Numbers, c: float, draws: Draws) -> Numbers:
    """(x - m) c + m, m the mean of the image's channel."""
    mean: Numbers = x.mean(axis=(2, 3), keepdims=True)
    return (x - mean) * c + mean


def saturate(x: Numbers, c: tuple[float, float], draws: Draws) -> Numbers:
    """The saturation S of HSV is c_0 S + c_1, in [0, 1]; grey has the hue 0, red."""
    value: Numbers = x.max(axis=1, keepdims=True)
    least: Numbers = x.min(axis=1, keepdims=True)
    spread = value - least
    red = np.array([0.0, 1.0, 1.0])[:, None, None]
    below = np.where(spread > 0, (value - x) / np.where(spread > 0, spread, 1), red)  # how far below V, of V S
    saturation = spread / np.where(value > 0, value, 1)
    return value * (1 - np.clip(c[0] * saturation + c[1], 0, 1) * below)


def inverse(x: Numbers, c: None, draws: Draws) -> Numbers:
    """1 - x."""
    return 1 - x


def stripe(x: Numbers, c: None, draws: Draws) -> Numbers:
    """The quarter of the columns at each side inverted."""
    quarter = x.shape[3] // 4
    striped = x.copy()
    for side in (striped[..., :quarter], striped[..., -quarter:]):
        side[:] = 1 - side
    return striped
