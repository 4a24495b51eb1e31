"""Masks that keep as many weights as the ticket's in all, and not in each layer: is it the share of each that counts?

Pruning Neural Networks at Initialization: Why are We Missing the Mark? (Frankle et al., 2021) and Bayesian Lottery
Ticket Hypothesis (Kuhn et al., 2026) set them beside `shuffle`, which keeps what each layer has.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from tombola.control import Control
from tombola.layerwise import evenly
from tombola.mark import Mark
from tombola.replicate import Draws, T

if TYPE_CHECKING:  # plans are made without torch
    from tombola.mask import Mask


def shuffled_globally(mask: "Mask", seed: int) -> "Mask":
    """The entries of all layers permuted together: of each layer about the same fraction is left.

    >>> import torch
    >>> from tombola.mask import Mask
    >>> alive = {"a": torch.ones(500, dtype=torch.bool), "b": torch.zeros(500, dtype=torch.bool)}
    >>> shuffled_globally(Mask(alive), seed=0).alive
    500
    """
    import torch

    from tombola.mask import Mask

    whole = torch.cat([alive.flatten() for alive in mask.values()])
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
    parts = whole[order].split([alive.numel() for alive in mask.values()])
    return Mask({name: part.view_as(mask[name]) for name, part in zip(mask, parts, strict=True)})


def random_evenly(mask: "Mask", seed: int) -> "Mask":
    """At random the same fraction of each layer, to a weight.

    >>> import torch
    >>> from tombola.mask import Mask
    >>> alive = {"a": torch.ones(10, dtype=torch.bool), "b": torch.zeros(30, dtype=torch.bool)}
    >>> random_evenly(Mask(alive), seed=0).counts
    {'a': 3, 'b': 7}
    """
    import torch

    from tombola.mask import Mask, random_like

    shapes = {name: tuple(alive.shape) for name, alive in mask.items()}
    counts = evenly(shapes, dict.fromkeys(shapes, 0.5), mask.alive)
    first = {name: (torch.arange(mask[name].numel()) < counts[name]).view_as(mask[name]) for name in mask}
    return random_like(Mask(first), seed)


def global_shuffle(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's weights under the ticket's mask with the entries of all layers permuted together."""
    name = f"globally shuffled mask {level} {draw}"
    return replace(ticket, mask=replicate.derived(shuffled_globally, ticket.mask, name))


def even(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's weights under a random mask that keeps of each layer what the ticket keeps of the whole."""
    return replace(ticket, mask=replicate.derived(random_evenly, ticket.mask, f"even mask {draw}"))


_MISSING = "[Pruning Neural Networks at Initialization](https://arxiv.org/abs/2009.08576)"
_BAYES = "[Bayesian Lottery Ticket Hypothesis](https://arxiv.org/abs/2602.18825)"

CONTROLS = {
    "global-shuffle": Control(
        name="global-shuffle",
        make=global_shuffle,
        claim="it matters where in the network the weights are kept",
        otherwise="the mask carries no more than how many weights the network keeps",
        what="the same mask shuffled over all layers",
        about="The ticket's mask with the entries of all layers shuffled together",
        paper=_BAYES,
        year=2026,
        changes="mask",
        by_weight=True,
        mark=Mark("#004d40", (1, 1), "square"),
    ),
    "even": Control(
        name="even",
        make=even,
        claim="it matters how many weights each layer keeps, and which",
        otherwise="neither how many weights each layer keeps matters, nor which",
        what="a random mask that keeps the same fraction of each layer",
        about="A random mask that keeps of each layer the fraction that the ticket keeps of the whole",
        paper=_MISSING,
        year=2021,
        changes="mask",
        by_weight=True,
        mark=Mark("#8d6e63", (1, 1), "triangle-up"),
    ),
}
