"""Initial weights for sparse networks: as wide as the connections that a unit, or a layer, is left with ask for.

Gradient Flow in Sparse Neural Networks and How Lottery Tickets Win (Evci, Ioannou, Keskin & Dauphin, 2022): an ordinary
initialisation keeps the signal's variance for the inputs of a dense unit; one with few of them left passes on too
little. What is drawn is the weights that the mask names; biases and normalisations are those of `reinit`, and where
networks are rewound to a step k > 0, so are theirs of that step.
"""

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from tombola.control import Control
from tombola.data.augment import generator
from tombola.mark import Mark
from tombola.replicate import Draws, T

if TYPE_CHECKING:  # plans are made without torch
    from tombola.mask import Mask
    from tombola.weights import Weights


def normal_by_unit(drawn: "Weights", mask: "Mask", seed: int) -> "Weights":
    """theta_ij ~ N(0, 2 / n_i), n_i being how many inputs unit i has left; axis 0 counts the units.

    >>> import torch
    >>> from tombola.mask import Mask
    >>> drawn, alive = {"w": torch.zeros(2, 1000)}, torch.ones(2, 1000, dtype=torch.bool)
    >>> alive[1, 500:] = False
    >>> made = normal_by_unit(drawn, Mask({"w": alive}), seed=0)["w"]
    >>> [round(float(row[alive].std() / (2 / n) ** 0.5), 1) for row, alive, n in zip(made, alive, (1000, 500))]
    [1.0, 1.0]
    """
    import torch

    made = dict(drawn)
    for name, alive in mask.items():
        inputs = alive.flatten(1).sum(dim=1).view(-1, *[1] * (alive.dim() - 1))
        normal = torch.randn(alive.shape, generator=generator(name, seed))
        made[name] = torch.where(alive, normal * (2 / inputs.clamp(min=1)).sqrt(), 0).to(drawn[name].dtype)
    return made


def wider_by_layer(drawn: "Weights", mask: "Mask", seed: int) -> "Weights":
    """theta / sqrt(d), d being the density of the layer.

    >>> import torch
    >>> from tombola.mask import Mask
    >>> alive = torch.tensor([[True, False, False, False]])
    >>> wider_by_layer({"w": torch.ones(1, 4)}, Mask({"w": alive}), seed=0)["w"]
    tensor([[2., 2., 2., 2.]])
    """
    made = dict(drawn)
    for name, alive in mask.items():
        made[name] = drawn[name] * (prod(alive.shape) / max(int(alive.sum()), 1)) ** 0.5
    return made


def sparse_init(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's mask on weights drawn anew, of each unit as its own number of inputs asks for."""
    drawn, name = replicate.rewind_point(init=f"reinit {draw}"), f"sparse init {draw}"
    return replace(ticket, start=replicate.derived_weights(normal_by_unit, drawn, name, beside=(ticket.mask,)))


def sparse_init_layer(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's mask on the weights of `reinit`, of each layer as much larger as its density asks for."""
    drawn, name = replicate.rewind_point(init=f"reinit {draw}"), f"sparse init {draw}"
    return replace(ticket, start=replicate.derived_weights(wider_by_layer, drawn, name, beside=(ticket.mask,)))


_GRADIENT_FLOW = "[Gradient Flow in Sparse Neural Networks](https://arxiv.org/abs/2010.03533)"

CONTROLS = {
    "sparse-init": Control(
        name="sparse-init",
        make=sparse_init,
        claim="it is not that ordinary initial weights are too small for a sparse network",
        otherwise="new weights that are as wide as each unit's connections ask for are as good",
        what="the same mask on new weights that are as wide as each unit's connections ask for (sparse-init)",
        about="The ticket's mask on new weights, of each unit N(0, 2 / fan-in) with the fan-in that the mask leaves",
        paper=_GRADIENT_FLOW,
        year=2022,
        changes="start",
        mark=Mark("#aa4499", (4, 2), "square"),
    ),
    "sparse-init-layer": Control(
        name="sparse-init-layer",
        make=sparse_init_layer,
        claim="it is not that ordinary initial weights are too small for sparse layers",
        otherwise="new weights that are as wide as each layer's density asks for are as good",
        what="the same mask on new weights that are as wide as each layer's density asks for (sparse-init-layer)",
        about="The ticket's mask on the weights of reinit over the square root of each layer's density",
        paper=_GRADIENT_FLOW,
        year=2022,
        changes="start",
        mark=Mark("#aa4499", (4, 2), "diamond"),
    ),
}
