"""Weather: fog, snow, spatter."""

import numpy as np

from tombola.study.corruption.blur import moved, smoothed, unit, zoomed
from tombola.study.corruption.draws import Draws, Numbers

MAPS = 4  # large maps that are drawn together, as many as fit into a processor's cache


def fog(x: Numbers, c: tuple[float, float], draws: Draws) -> Numbers:
    """(x + c_0 p) M / (M + c_0), M the image's largest number, and p a `plasma` of the decay c_1.

    The map is eight times as wide as a grey image, of which MNIST-C cuts a corner; as wide as a coloured one.
    """
    side, most = x.shape[-1], x.max(axis=(1, 2, 3), keepdims=True)
    size = 1 << ((8 if x.shape[1] == 1 else 1) * side - 1).bit_length()
    few = range(0, len(x), MAPS)
    maps = [plasma(size, c[1], draws[begin : begin + MAPS])[:, :side, :side] for begin in few]
    drifts = np.concatenate(maps)[:, None]
    foggy: Numbers = (x + c[0] * drifts) * most / (most + c[0])
    return foggy


def plasma(size: int, decay: float, draws: Draws) -> Numbers:
    """A map of heights in [0, 1] by the diamond-square algorithm on a torus, [images, size, size].

    Each new point is the mean of its four neighbours and w U(-w, w), w = 100 at first, divided by `decay` with each
    halving of the steps.

    Args:
        size: a power of 2.
    """
    noise = draws.uniform(-1, 1, size * size - 1)
    heights = np.zeros((len(noise), size, size))
    step, wide, taken = size, 100.0, 0

    def new(sums: Numbers) -> Numbers:
        nonlocal taken
        count = sums[0].size
        drawn = noise[:, taken : taken + count].reshape(sums.shape)
        taken += count
        return sums / 4 + wide**2 * drawn

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        sides = corners + np.roll(corners, -1, axis=1)
        heights[:, half::step, half::step] = new(sides + np.roll(sides, -1, axis=2))
        middles = heights[:, half::step, half::step]
        above = middles + np.roll(middles, 1, axis=1)
        left = middles + np.roll(middles, 1, axis=2)
        heights[:, ::step, half::step] = new(above + corners + np.roll(corners, -1, axis=2))
        heights[:, half::step, ::step] = new(left + corners + np.roll(corners, -1, axis=1))
        step, wide = half, wide / decay
    heights -= heights.min(axis=(1, 2), keepdims=True)
    heights /= heights.max(axis=(1, 2), keepdims=True)
    return heights


def snow(x: Numbers, c: tuple[float, ...], draws: Draws) -> Numbers:
    """Flakes, drawn from N(c_0, c_1), larger by c_2, those above c_3, that fall by the radius c_4 and sigma c_5.

    The image itself is paler: c_6 of it, and the rest of its grey, one and a half times as light.
    """
    mean, deviation, large, least, radius, sigma, kept = c
    flakes = zoomed(mean + deviation * draws.normal(*x.shape[2:]), large)
    flakes = np.floor(np.clip(np.where(flakes < least, 0, flakes), 0, 1) * 255) / 255
    fallen = moved(flakes[:, None], radius * unit(x), sigma * unit(x), draws.uniform(-135, -45))
    grey = np.tensordot([0.299, 0.587, 0.114], x, (0, 1))[:, None]
    return kept * x + (1 - kept) * np.maximum(x, 1.5 * grey + 0.5) + fallen + fallen[..., ::-1, ::-1]


def spatter(x: Numbers, c: tuple[float, ...], draws: Draws) -> Numbers:
    """Mud where noise from N(c_0, c_1), blurred by c_2, is above c_3; its edges are blurred by c_4, and cut off."""
    mean, deviation, blur, least, edge = c
    liquid = smoothed(mean + deviation * draws.normal(*x.shape[2:]), blur * unit(x))
    mud = smoothed((liquid > least).astype(float), edge * unit(x))[:, None]
    mud = np.where(mud < 0.8, 0, mud)
    return x * (1 - mud) + 63 / 255 * mud
