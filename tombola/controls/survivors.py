"""What survivors begin with: their signs, their sizes, or their values in other places.

Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask (Zhou, Lan, Liu & Yosinski, 2019) calls this the mask-1
action. The weights that the mask names are those of layers; biases and normalisation stay as they are, and so does what
is drawn of one layer from what is drawn of another.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from tombola.control import Control
from tombola.mark import Mark
from tombola.replicate import Draws, T

if TYPE_CHECKING:  # plans are made without torch
    from torch import Generator, Tensor

    from tombola.mask import Mask
    from tombola.weights import Weights


def signed_constants(weights: "Weights", mask: "Mask", seed: int) -> "Weights":
    """sign(theta_i) times the standard deviation of all weights of the layer."""
    return {**weights, **{name: weights[name].sign() * deviation(weights[name]) for name in mask}}


def unsigned_constants(weights: "Weights", mask: "Mask", seed: int) -> "Weights":
    """The same constants, with the signs of the layer dealt out among all of its weights."""
    made = {name: _permuted(weights[name].sign(), draw) for name, draw in drawn_apart(mask, seed)}
    return {**weights, **{name: signs * deviation(weights[name]) for name, signs in made.items()}}


def reshuffled_sizes(weights: "Weights", mask: "Mask", seed: int) -> "Weights":
    """|theta_i| of the survivors of a layer dealt out among them, each under the sign that was in its place."""
    made = reshuffled_values(weights, mask, seed)
    return {**weights, **{name: made[name].abs() * weights[name].sign() for name in mask}}


def reshuffled_values(weights: "Weights", mask: "Mask", seed: int) -> "Weights":
    """theta_i of the survivors of a layer dealt out among them."""
    made = {name: weights[name].clone() for name in mask}
    for name, draw in drawn_apart(mask, seed):
        alive = mask[name]
        made[name][alive] = _permuted(made[name][alive], draw)
    return {**weights, **made}


def signed_as(drawn: "Weights", original: "Weights", mask: "Mask", seed: int) -> "Weights":
    """Weights drawn anew, each with the sign of the original one in its place."""
    return {**drawn, **{name: drawn[name].abs() * original[name].sign() for name in mask}}


def deviation(value: "Tensor") -> "Tensor":
    return value.std(correction=0)


def _permuted(values: "Tensor", draw: "Generator") -> "Tensor":
    import torch

    return values.flatten()[torch.randperm(values.numel(), generator=draw)].view_as(values)


def drawn_apart(mask: "Mask", seed: int) -> "Iterator[tuple[str, Generator]]":
    """Each layer, with what draws of it alone: another model with such a layer draws the same."""
    import hashlib

    import torch

    for name in mask:
        own = int.from_bytes(hashlib.sha256(f"{name}/{seed}".encode()).digest()[:8], "big") >> 1
        yield name, torch.Generator().manual_seed(own)


def constant(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's mask on constants with the signs of its early weights."""
    beside = (ticket.mask,)
    return replace(ticket, start=replicate.derived_weights(signed_constants, ticket.start, "constant", beside=beside))


def constant_without_sign(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's mask on constants with signs in other places."""
    start, name, beside = ticket.start, f"constant without sign {level} {draw}", (ticket.mask,)
    return replace(ticket, start=replicate.derived_weights(unsigned_constants, start, name, beside=beside))


def reshuffled(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's mask on the sizes of its survivors in other places, and their signs in their own."""
    start, name, beside = ticket.start, f"reshuffled {level} {draw}", (ticket.mask,)
    return replace(ticket, start=replicate.derived_weights(reshuffled_sizes, start, name, beside=beside))


def reshuffled_without_sign(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's mask on the values of its survivors in other places."""
    start, name, beside = ticket.start, f"reshuffled {level} {draw}", (ticket.mask,)
    return replace(ticket, start=replicate.derived_weights(reshuffled_values, start, name, beside=beside))


def redrawn(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's mask on the weights of `reinit`, with the signs of its own early weights."""
    drawn, beside = replicate.rewind_point(init=f"reinit {draw}"), (ticket.start, ticket.mask)
    return replace(ticket, start=replicate.derived_weights(signed_as, drawn, f"redrawn {draw}", beside=beside))


_PAPER = "[Deconstructing Lottery Tickets](https://arxiv.org/abs/1905.01067)"

CONTROLS = {
    "constant": Control(
        name="constant",
        make=constant,
        claim="the sizes of the initial weights matter",
        otherwise="of the initial weights the signs are enough",
        what="the same mask on constants with the initial signs",
        about="The ticket's mask on one constant in each layer, under the initial signs",
        paper=_PAPER,
        year=2019,
        changes="start",
        mark=Mark("#117733", (9, 3), "square"),
    ),
    "constant-without-sign": Control(
        name="constant-without-sign",
        make=constant_without_sign,
        claim="more of the initial weights matters than their spread in each layer",
        otherwise="of the initial weights the spread in each layer is enough",
        what="the same mask on constants with signs in other places",
        about="The ticket's mask on one constant in each layer, the signs dealt out in it",
        paper=_PAPER,
        year=2019,
        changes="start",
        mark=Mark("#117733", (1, 2), "diamond"),
    ),
    "reshuffled": Control(
        name="reshuffled",
        make=reshuffled,
        claim="it matters which survivor has which initial size",
        otherwise="which survivor has which initial size does not matter",
        what="the same mask with the survivors' sizes in other places",
        about="The ticket's mask on its initial sizes dealt out in each layer, under the initial signs",
        paper=_PAPER,
        year=2019,
        changes="start",
        mark=Mark("#999933", (9, 3, 3, 3), "triangle-up"),
    ),
    "reshuffled-without-sign": Control(
        name="reshuffled-without-sign",
        make=reshuffled_without_sign,
        claim="it matters which survivor has which initial value",
        otherwise="which survivor has which initial value does not matter",
        what="the same mask with the survivors' values in other places",
        about="The ticket's mask on its initial values dealt out in each layer",
        paper=_PAPER,
        year=2019,
        changes="start",
        mark=Mark("#999933", (2, 4), "triangle-down"),
    ),
    "redrawn": Control(
        name="redrawn",
        make=redrawn,
        claim="more of the initialisation matters than its signs",
        otherwise="of the initialisation the signs are enough",
        what="the same mask on newly drawn weights with the initial signs (redrawn)",
        about="The ticket's mask on re-initialised weights, under the initial signs",
        paper=_PAPER,
        year=2019,
        changes="start",
        mark=Mark("#882255", (6, 3, 1, 3), "square"),
    ),
}
