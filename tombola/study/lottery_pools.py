"""One network out of the tickets of several levels: their weights are mixed, as long as it does no harm.

To the ticket of level t come the trained networks of the other levels, the nearest first. With each, of eleven mixtures

    prune_t(alpha theta + (1 - alpha) theta_i),    alpha in {.05, .1, .2, ..., .9, .95}

the one that is most accurate on validation data takes the place of theta, unless it is less accurate than theta is.
prune_t leaves as many weights as level t has, those of largest magnitude. So the pool is as small and as fast as the
ticket, and never less accurate on the validation data that it is chosen by; what it is worth the test data say.

The authors' code differs in two things: a mixture that is as accurate as theta is refused there, and the first theta
is held to its test accuracy, which looks at test data and says nothing of validation data.

Lottery Pools: Winning More by Interpolating Tickets without Increasing Training or Inference Cost (Yin et al., 2023),
https://arxiv.org/abs/2208.10842
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from tombola import mask as masks
from tombola import prune, weights
from tombola.mask import Mask
from tombola.weights import Weights

ALPHAS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True, eq=False)
class Network:
    """Weights, pruned ones 0, and what lives of them."""

    weights: Weights
    mask: Mask


@dataclass(frozen=True)
class Mixed:
    """What became of one neighbour.

    Attributes:
        alpha: of the mixture with it that is most accurate, the first of equals.
        accuracy: of that mixture on validation data, in [0, 1].
        taken: whether it took the place of what there was before.
    """

    alpha: float
    accuracy: float
    taken: bool


@dataclass(frozen=True, eq=False)
class Pool:
    """A network that is mixed of several.

    Attributes:
        network: it.
        accuracy, of_target: on validation data: its own, and that of the ticket that it began with.
        mixed: of each neighbour, in their order.
    """

    network: Network
    accuracy: float
    of_target: float
    mixed: tuple[Mixed, ...]


def pool(
    target: Network,
    neighbours: Sequence[Weights],
    left: Mapping[tuple[str, ...], int],
    accuracy: Callable[[Weights], float],
    ready: Callable[[Weights], Weights] = dict,
    alphas: Sequence[float] = ALPHAS,
) -> Pool:
    """A ticket, mixed with the networks of other levels where that does not make it worse.

    Args:
        target: theta, the trained ticket.
        neighbours: theta_i, trained networks of the same kind, nearest level first.
        left: how many weights stay of each group of layers, whose magnitudes are compared raw: `prune.down_to`.
        accuracy: of weights, on validation data, in [0, 1].
        ready: what is done to a mixture before it is asked: running statistics computed anew, where there are some.
        alphas: in (0, 1).

    >>> one, all_alive = {"w": torch.tensor([1.0, 0.0])}, Mask({"w": torch.tensor([True, False])})
    >>> found = pool(Network(one, all_alive), [{"w": torch.tensor([0.0, 4.0])}], {("w",): 1},
    ...              lambda weights: min(1.0, float(weights["w"].abs().sum()) / 4))
    >>> found.network.weights["w"], found.mixed
    (tensor([0.0000, 3.8000]), (Mixed(alpha=0.05, accuracy=0.94..., taken=True),))
    """
    full = Mask({name: torch.ones_like(alive) for name, alive in target.mask.items()})
    best, reached = target, (of_target := accuracy(target.weights))
    mixed = []
    for neighbour in neighbours:
        mixtures = [_mixture(best, neighbour, alpha, full, left, ready) for alpha in alphas]
        accuracies = [accuracy(each.weights) for each in mixtures]
        place = max(range(len(alphas)), key=accuracies.__getitem__)
        taken = accuracies[place] >= reached
        mixed.append(Mixed(alphas[place], accuracies[place], taken))
        if taken:
            best, reached = mixtures[place], accuracies[place]
    return Pool(best, reached, of_target, tuple(mixed))


def _mixture(
    best: Network,
    other: Weights,
    alpha: float,
    full: Mask,
    left: Mapping[tuple[str, ...], int],
    ready: Callable[[Weights], Weights],
) -> Network:
    between = weights.interpolate(best.weights, other, 1 - alpha)  # alpha of the best
    alive = prune.down_to({name: between[name].abs() for name in full}, full, left)
    return Network(ready(masks.apply(between, alive)), alive)
