"""Attacks on networks: where in the ball around an example its answer is worst.

What is found is the worst of all points at which the network was asked, the example itself among them: `Visited`.
"""

from bisect import bisect
from math import ceil, sqrt

import torch
from torch import Tensor

from tombola.perturbation import Ball, Losses, Model, cross_entropies, losses_and_slopes

RHO = 0.75  # of a stretch of steps, how many have to climb
MOMENTUM = 0.75
# Square's share of changed pixels is halved after so many of 10,000 queries.
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class Visited:
    """A model that remembers of every example the worst point at which it was asked.

    A point with a false answer is worse than any with a right one; of two of a kind it is the one with the larger loss.

    Args:
        model: of pixels, in evaluation mode.
        pixels: the examples, N x ...
        labels: their classes, N.

    Attributes:
        points: the worst ones so far, N x ...
        fooled: whether the answer there is false, N.
        losses: the largest cross-entropy at any point, N.
    """

    def __init__(self, model: Model, pixels: Tensor, labels: Tensor) -> None:
        self.model, self.pixels, self.labels = model, pixels, labels
        self.points = pixels.clone()
        self.fooled = torch.zeros_like(labels, dtype=torch.bool)
        self.losses = torch.full(labels.shape, -torch.inf, device=pixels.device)
        self._worst = self.losses.clone()  # the loss at `points`

    def __call__(self, points: Tensor) -> Tensor:
        """The logits at a point for each example."""
        return self.at(points, torch.arange(len(points), device=points.device))

    def at(self, points: Tensor, places: Tensor) -> Tensor:
        """The logits at points for the examples at some places."""
        logits = self.model(points)
        with torch.no_grad():
            labels, before = self.labels[places], self.fooled[places]
            fooled, losses = logits.argmax(dim=1) != labels, cross_entropies(logits, labels).to(self.losses)
            worse = (fooled & ~before) | ((fooled == before) & (losses > self._worst[places]))
            moved = places[worse]
            self.points[moved], self.fooled[moved], self._worst[moved] = (
                points[worse].detach(),
                fooled[worse],
                losses[worse],
            )
            self.losses[places] = self.losses[places].maximum(losses)
        return logits


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """The difference of logits ratio, -(z_y - max_(i != y) z_i) / (z_(1) - z_(3) + 1e-12), z_(k) the k-th largest, N.

    However all logits are scaled or shifted it stays, other than cross-entropy, whose gradient vanishes where a network
    is too sure.

    Args:
        logits: N x classes, three at least.
        labels: classes, N.

    >>> dlr(torch.tensor([[4.0, 2.0, 0.0], [0.0, 2.0, 4.0]]), torch.tensor([0, 0]))
    tensor([-0.5000,  1.0000])
    """
    first, _, third = logits.topk(3, dim=1).values.unbind(dim=1)
    return -_margins(logits, labels) / (first - third + 1e-12)


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """z_y - max_(i != y) z_i, below 0 where the answer is false."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return own - logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)


def checkpoints(steps: int) -> list[int]:
    """After which steps APGD looks whether to halve: w_j = ceil(p_j steps).

    p_0 = 0, p_1 = .22, p_(j+1) = p_j + max(p_j - p_(j-1) - .03, .06).

    >>> checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    # In hundredths, which are exact: .22 + .19 is not .41.
    shares, stretch = [22], 22
    while shares[-1] + (stretch := max(stretch - 3, 6)) <= 100:
        shares.append(shares[-1] + stretch)
    return sorted({ceil(share * steps / 100) for share in shares})


def apgd(model: Visited, ball: Ball, loss: Losses, steps: int, draw: torch.Generator) -> None:
    """Auto-PGD: with momentum, in steps that are halved where they do not climb, from the best point so far.

    z = P(x_k + eta sign(grad f(x_k))), x_(k+1) = P(x_k + .75 (z - x_k) + .25 (x_k - x_(k-1))), eta = 2 epsilon at
    first. At a checkpoint eta is halved, and x set back to the best, where f rose in less than .75 of the steps since
    the last one, or where eta was not halved there and the best f has not risen since.

    Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks (Croce and Hein,
    2020), https://arxiv.org/abs/2003.01690

    Args:
        loss: f, to be climbed.
        draw: that the first point is drawn with.
    """
    pixels, labels = model.pixels, model.labels
    x = before = ball.drawn(pixels, draw)
    f, slopes = losses_and_slopes(model, x, labels, loss)
    best, best_f, best_slopes, checked_f = x, f, slopes, f
    eta = torch.full_like(f, 2 * ball.epsilon)
    halved, rises, since = torch.ones_like(f, dtype=torch.bool), torch.zeros_like(f), 0
    looks = set(checkpoints(steps))
    for step in range(1, steps + 1):
        share = MOMENTUM if step > 1 else 1.0
        z = ball.clip(x + _wide(eta, x) * slopes.sign(), pixels)
        x, before = ball.clip(x + share * (z - x) + (1 - share) * (x - before), pixels), x
        was, (f, slopes) = f, losses_and_slopes(model, x, labels, loss)
        rises += f > was
        higher = f > best_f
        best, best_slopes = (torch.where(_wide(higher, x), *both) for both in ((x, best), (slopes, best_slopes)))
        best_f = best_f.maximum(f)
        if step in looks:
            halved = (rises < RHO * (step - since)) | (~halved & (best_f <= checked_f))
            eta = torch.where(halved, eta / 2, eta)
            x, slopes = (torch.where(_wide(halved, x), *both) for both in ((best, x), (best_slopes, slopes)))
            f, checked_f, rises, since = torch.where(halved, best_f, f), best_f, torch.zeros_like(rises), step


def _wide(each: Tensor, like: Tensor) -> Tensor:
    """One number for each example, so that it goes with all of its pixels."""
    return each.view(-1, *[1] * (like.dim() - 1))


def square(model: Visited, ball: Ball, queries: int, start: float, draw: torch.Generator) -> None:
    """Square attack: random squares of +-epsilon, kept where they make the margin smaller; gradients are not asked.

    The first point has vertical stripes of +-epsilon. Examples that are fooled are asked no more.

    Square Attack: a query-efficient black-box adversarial attack via random search (Andriushchenko et al., 2020),
    https://arxiv.org/abs/1912.00049

    Args:
        model: of images, pixels N x C x H x W.
        queries: of each example, the stripes among them.
        start: the share of pixels in the first square, in (0, 1].
        draw: that stripes and squares are drawn with.
    """
    pixels, labels = model.pixels, model.labels
    n, channels, height, width = pixels.shape
    x = ball.clip(pixels + ball.epsilon * _signs((n, channels, 1, width), pixels, draw), pixels)
    with torch.no_grad():
        margins = _margins(model(x), labels)
        for query in range(1, queries):
            left = (margins > 0).nonzero().squeeze(1)
            if not len(left):
                return
            side = _side(start, query / queries, height, width)
            where = _squares(len(left), side, (height, width), draw).to(pixels.device)
            change = 2 * ball.epsilon * _signs((len(left), channels, 1, 1), pixels, draw) * where
            tried = ball.clip(x[left] + change, pixels[left])
            found = _margins(model.at(tried, left), labels[left])
            better = found < margins[left]
            x[left[better]], margins[left[better]] = tried[better], found[better]


def _side(start: float, done: float, height: int, width: int) -> int:
    """Of the squares, after a share of the queries."""
    share = start / 2 ** bisect(HALVED_AFTER, 10_000 * done - 1)
    return min(max(round(sqrt(share * height * width)), 1), height, width)


def _squares(n: int, side: int, within: tuple[int, int], draw: torch.Generator) -> Tensor:
    """One square for each of n images, anywhere in it: N x 1 x H x W."""
    inside = []
    for length in within:
        first = torch.randint(length - side + 1, (n, 1), generator=draw)
        places = torch.arange(length)
        inside.append((places >= first) & (places < first + side))
    rows, columns = inside
    return (rows[:, None, :, None] & columns[:, None, None, :]).float()


def _signs(shape: tuple[int, ...], like: Tensor, draw: torch.Generator) -> Tensor:
    return (2.0 * torch.randint(2, shape, generator=draw) - 1).to(like)
