"""How far the weights of a network can be moved before it does worse: uphill, and at random.

    sharpness   L(theta + rho g / ||g||) - L(theta), g = dL/dtheta: one step of length rho uphill
                (Sharpness-Aware Minimization, Foret et al., 2021)
    adaptive    the step is rho |theta|² g / || |theta| g ||, so that it does not matter how layers share their scale
                (ASAM: Adaptive Sharpness-Aware Minimization, Kwon et al., 2021)
    flatness    the largest sigma at which noise sigma |theta_i| z_i, z_i standard normal, takes no more than a tenth of
                the accuracy (Fantastic Generalization Measures and Where to Find Them, Jiang et al., 2020)

All are over the living coordinates, and so over other spaces for other densities.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tombola.study.living import Loss, gradient

LARGEST, TOLERANCE = 5.0, 1e-3  # of sigma


def sharpness(loss: Loss, theta: Tensor, rho: float = 0.05, adaptive: bool = False) -> float:
    """How much the loss rises by one step of length rho uphill; 0 where nothing is uphill.

    Args:
        rho: > 0; in the unit of the weights, or, where it is adaptive, a share of them.
        adaptive: whether the length is measured in units of each weight's size.

    >>> round(sharpness(lambda theta: theta.square().sum(), torch.tensor([3.0, 4.0]), rho=0.5), 4)
    5.25
    """
    before, slope = gradient(loss, theta)
    scale = theta.abs() if adaptive else torch.ones_like(theta)
    length = (scale * slope).norm()
    if not float(length):
        return 0.0
    with torch.no_grad():
        return float(loss(theta + rho * scale.square() * slope / length) - before)


def flatness(
    accuracy: Callable[[Tensor], float],
    theta: Tensor,
    seed: int,
    drop: float = 0.1,
    draws: int = 15,
) -> float:
    """The largest sigma in [0, 5] with mean accuracy at theta + sigma |theta| z >= (1 - drop) times that at theta.

    By bisection, to 1e-3. The draws z are the same at each sigma.

    Args:
        accuracy: of a network with these living coordinates, in [0, 1].
        seed: of the draws.
        drop: relative, in (0, 1).
        draws: over which the accuracy is averaged.

    Returns:
        5 where that much does no harm.

    >>> positive = lambda theta: float((theta > 0).double().mean())
    >>> round(flatness(positive, torch.ones(1000), seed=0, drop=0.02275), 1)  # where 0 is two deviations away
    0.5
    """
    least = (1 - drop) * accuracy(theta)

    def stands(sigma: float) -> bool:
        generator, total = torch.Generator().manual_seed(seed), 0.0
        for _ in range(draws):
            noise = torch.randn(theta.shape, generator=generator, dtype=theta.dtype).to(theta)
            total += accuracy(theta + sigma * theta.abs() * noise)
        return total / draws >= least

    low, high = 0.0, LARGEST
    if stands(high):
        return high
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if stands(middle) else (low, middle)
    return low
