"""What stands in the places of pruned weights: their early values, or 0, by what became of them in training.

Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask (Zhou, Lan, Liu & Yosinski, 2019) calls this the mask-0
action, and finds that to be 0 is good for weights that were on their way there: smaller at the end of the last training
that they took part in than at its beginning.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tombola.control import Control
from tombola.mark import Mark
from tombola.replicate import Draws, T

if TYPE_CHECKING:  # plans are made without torch
    from torch import Tensor

    from tombola.weights import Weights


def pruned_if_grown(weights: "Weights", mask: "Weights", *trained_and_seed: Any) -> "Weights":
    """theta_k, but 0 for pruned weights that have shrunk.

    Args:
        weights: theta_k.
        mask: what is kept.
        trained_and_seed: the trained networks by which weights were pruned, the first first; a seed, unused.
    """
    *trained, _ = trained_and_seed
    stay = {name: grown(name, weights, trained) | alive for name, alive in mask.items()}
    return {**weights, **{name: weights[name] * each for name, each in stay.items()}}


def all_if_grown(weights: "Weights", mask: "Weights", *trained_and_seed: Any) -> "Weights":
    """theta_k, but 0 for all weights that have shrunk, kept ones too; else as `pruned_if_grown`."""
    *trained, _ = trained_and_seed
    return {**weights, **{name: weights[name] * grown(name, weights, trained) for name in mask}}


def grown(name: str, weights: "Weights", trained: "list[Weights]") -> "Tensor":
    """Whether each weight of a layer is as large as theta_k, or larger, after the last training that it took part in.

    >>> import torch
    >>> first, second = {"w": torch.tensor([2.0, 1.0, 4.0])}, {"w": torch.tensor([0.0, 0.0, 2.0])}
    >>> grown("w", {"w": torch.tensor([1.0, -2.0, 3.0])}, [first, second])
    tensor([ True, False, False])
    """
    last = weights[name].new_zeros(weights[name].shape)
    for each in trained:  # what was pruned by then is 0, and keeps the value it had before
        last = each[name].where(each[name] != 0, last)
    return last.abs() >= weights[name].abs()


def frozen(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket beside its pruned weights, which stay at their early values."""
    made: T = replicate.frozen(ticket)
    return made


def frozen_if_grown(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket beside those of its pruned weights that have grown, at their early values; the others are 0."""
    beside = (ticket.mask, *replicate.pruned_by(ticket.mask))
    start = replicate.derived_weights(pruned_if_grown, ticket.start, "frozen if grown", beside=beside)
    made: T = replace(replicate.frozen(ticket), start=start)
    return made


def initial_if_grown(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The same, and kept weights that have shrunk begin at 0, too."""
    beside = (ticket.mask, *replicate.pruned_by(ticket.mask))
    start = replicate.derived_weights(all_if_grown, ticket.start, "initial if grown", beside=beside)
    made: T = replace(replicate.frozen(ticket), start=start)
    return made


_PAPER = "[Deconstructing Lottery Tickets](https://arxiv.org/abs/1905.01067)"

CONTROLS = {
    "frozen": Control(
        name="frozen",
        make=frozen,
        claim="it matters that pruned weights are 0",
        otherwise="pruned weights may as well stay what they are",
        what="the ticket beside its pruned weights, frozen at their early values",
        about="The ticket, its pruned weights frozen at their early values instead of 0",
        paper=_PAPER,
        year=2019,
        changes="recipe",
        of_numbers=True,
        mark=Mark("#88ccee", (2, 3, 6, 3), "square"),
    ),
    "frozen-if-grown": Control(
        name="frozen-if-grown",
        make=frozen_if_grown,
        claim="it matters that pruned weights are 0 which have grown in training",
        otherwise="pruned weights that have grown in training may as well stay what they are",
        what="the ticket beside those of its pruned weights that have grown, frozen at their early values",
        about="The ticket, those of its pruned weights that have grown frozen at their early values, the others 0",
        paper=f"{_PAPER}, Variant 1",
        year=2019,
        changes="start and recipe",
        of_numbers=True,
        mark=Mark("#44aa99", (2, 3, 6, 3), "diamond"),
    ),
    "initial-if-grown": Control(
        name="initial-if-grown",
        make=initial_if_grown,
        claim="it matters that weights begin at their early values which shrink in training",
        otherwise="weights that shrink in training may as well begin at 0",
        what="the ticket beside frozen weights that have grown, with 0 for all weights that have shrunk",
        about="As `frozen-if-grown`, and kept weights that have shrunk begin at 0",
        paper=f"{_PAPER}, Variant 2",
        year=2019,
        changes="start and recipe",
        of_numbers=True,
        mark=Mark("#ddaa33", (2, 3, 6, 3), "triangle-up"),
    ),
}
