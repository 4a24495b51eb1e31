"""Noise on each pixel: Gaussian, Poisson, salt and pepper; and fewer levels of grey."""

import numpy as np

from tombola.study.corruption.draws import Draws, Numbers


def gaussian_noise(x: Numbers, c: float, draws: Draws) -> Numbers:
    """x + c e, e from N(0, 1)."""
    return x + c * draws.normal(*x.shape[1:])


def shot_noise(x: Numbers, c: float, draws: Draws) -> Numbers:
    """Poisson(c x) / c: of each pixel a count of photons."""
    return draws.poisson(c * x) / c


def impulse_noise(x: Numbers, c: float, draws: Draws) -> Numbers:
    """Of all numbers the share c is 0 or 1, one as often as the other."""
    struck, salt = draws.uniform(0, 1, *x.shape[1:]) < c, draws.uniform(0, 1, *x.shape[1:]) < 0.5
    return np.where(struck, salt, x)


def speckle_noise(x: Numbers, c: float, draws: Draws) -> Numbers:
    """x + c x e, e from N(0, 1)."""
    return x + c * x * draws.normal(*x.shape[1:])


def quantize(x: Numbers, c: int, draws: Draws) -> Numbers:
    """As many levels as c bits have."""
    levels = float(2**c - 1)
    return np.round(x * levels) / levels
