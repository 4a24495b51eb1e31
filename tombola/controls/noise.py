"""Noise on the early weights: by how much may a ticket's be off?

The Lottery Ticket Hypothesis (Frankle & Carbin, 2019), App. F.7: Gaussian noise of 0.5 to 3 standard deviations of the
layer's initial distribution is added to the weights that survive.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from tombola.control import Control
from tombola.controls.survivors import deviation, drawn_apart
from tombola.mark import Mark
from tombola.replicate import Draws, T

if TYPE_CHECKING:  # plans are made without torch
    from tombola.mask import Mask
    from tombola.weights import Weights


def noisy(weights: "Weights", mask: "Mask", scale: float, seed: int) -> "Weights":
    """theta_i + e_i for the survivors i of a layer, e_i ~ N(0, (scale sigma)^2); all else stays as it is.

    One seed draws the same e_i / (scale sigma) for every scale, and for a weight that several masks keep.

    Args:
        weights: theta_k.
        mask: what survives.
        scale: in standard deviations sigma of all weights of the layer.
        seed: 0 <= seed < 2^63.

    >>> import torch
    >>> from tombola.mask import Mask
    >>> mask = Mask({"w": torch.tensor([True, False])})
    >>> noisy({"w": torch.tensor([1.0, 3.0])}, mask, 0.5, seed=0)["w"][1]
    tensor(3.)
    """
    import torch

    made = {}
    for name, draw in drawn_apart(mask, seed):
        early, alive = weights[name], mask[name]
        noise = torch.randn(early.shape, generator=draw, dtype=early.dtype) * deviation(early) * scale
        made[name] = early.where(~alive, early + noise)
    return {**weights, **made}


def noisy_half(weights: "Weights", mask: "Mask", seed: int) -> "Weights":
    """`noisy` by half a standard deviation."""
    return noisy(weights, mask, 0.5, seed)


def noisy_1(weights: "Weights", mask: "Mask", seed: int) -> "Weights":
    """`noisy` by one standard deviation."""
    return noisy(weights, mask, 1.0, seed)


def noisy_2(weights: "Weights", mask: "Mask", seed: int) -> "Weights":
    """`noisy` by two standard deviations."""
    return noisy(weights, mask, 2.0, seed)


def noisy_3(weights: "Weights", mask: "Mask", seed: int) -> "Weights":
    """`noisy` by three standard deviations."""
    return noisy(weights, mask, 3.0, seed)


def off_by_half(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket, its early weights off by half a standard deviation."""
    start, name = ticket.start, f"noisy {draw}"
    return replace(ticket, start=replicate.derived_weights(noisy_half, start, name, beside=(ticket.mask,)))


def off_by_one(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket, its early weights off by one standard deviation."""
    start, name = ticket.start, f"noisy {draw}"
    return replace(ticket, start=replicate.derived_weights(noisy_1, start, name, beside=(ticket.mask,)))


def off_by_two(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket, its early weights off by two standard deviations."""
    start, name = ticket.start, f"noisy {draw}"
    return replace(ticket, start=replicate.derived_weights(noisy_2, start, name, beside=(ticket.mask,)))


def off_by_three(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket, its early weights off by three standard deviations."""
    start, name = ticket.start, f"noisy {draw}"
    return replace(ticket, start=replicate.derived_weights(noisy_3, start, name, beside=(ticket.mask,)))


_PAPER = "[The Lottery Ticket Hypothesis](https://arxiv.org/abs/1803.03635), App. F"

CONTROLS = {
    "noisy-0.5": Control(
        name="noisy-0.5",
        make=off_by_half,
        claim="the initial weights may not be off by half a standard deviation",
        otherwise="the initial weights may be off by half a standard deviation",
        what="the same ticket with noise of half a standard deviation on its initial weights",
        about="The ticket with noise of half its layer's standard deviation on each initial weight",
        paper=_PAPER,
        year=2019,
        changes="start",
        mark=Mark("#004488", (7, 1, 2, 1), "diamond"),
    ),
    "noisy-1": Control(
        name="noisy-1",
        make=off_by_one,
        claim="the initial weights may not be off by one standard deviation",
        otherwise="the initial weights may be off by one standard deviation",
        what="the same ticket with noise of one standard deviation on its initial weights",
        about="The ticket with noise of one standard deviation of its layer on each initial weight",
        paper=_PAPER,
        year=2019,
        changes="start",
        mark=Mark("#bb5566", (7, 1, 2, 1), "triangle-up"),
    ),
    "noisy-2": Control(
        name="noisy-2",
        make=off_by_two,
        claim="the initial weights may not be off by two standard deviations",
        otherwise="the initial weights may be off by two standard deviations",
        what="the same ticket with noise of two standard deviations on its initial weights",
        about="The ticket with noise of two standard deviations of its layer on each initial weight",
        paper=_PAPER,
        year=2019,
        changes="start",
        mark=Mark("#aa7700", (7, 1, 2, 1), "square"),
    ),
    "noisy-3": Control(
        name="noisy-3",
        make=off_by_three,
        claim="the initial weights may not be off by three standard deviations",
        otherwise="the initial weights may be off by three standard deviations",
        what="the same ticket with noise of three standard deviations on its initial weights",
        about="The ticket with noise of three standard deviations of its layer on each initial weight",
        paper=_PAPER,
        year=2019,
        changes="start",
        mark=Mark("#5c4033", (7, 1, 2, 1), "triangle-down"),
    ),
}
