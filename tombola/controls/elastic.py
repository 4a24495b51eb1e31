"""A stretched ticket whose copies have masks of their own: does it matter that they have the source's?

The Elastic Lottery Ticket Hypothesis (Chen et al., 2021): permuting the masks of the copies is worse at every sparsity.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tombola.control import Control
from tombola.errors import BadInput
from tombola.mark import Mark
from tombola.method import SearchOptions
from tombola.methods.elastic import ElasticOptions
from tombola.pruning import SCOPES
from tombola.replicate import Draws, T

if TYPE_CHECKING:  # plans are made without torch
    from torch import Tensor

    from tombola.mask import Mask


def permuted_copies(mask: "Mask", seed: int) -> "Mask":
    """The mask in which all layers that have another one's mask have it permuted, but for the first of each.

    Raises:
        BadInput: no layer has another one's mask.

    >>> import torch
    >>> from tombola.mask import Mask
    >>> one, other = torch.tensor([[True, False, False, True, False, False]]), torch.tensor([[False, True]])
    >>> made = permuted_copies(Mask({"fc1.weight": one, "fc2.weight": one, "output.weight": other}), seed=0)
    >>> made["fc1.weight"].equal(one), made["fc2.weight"].equal(one), made.counts["fc2.weight"]
    (True, False, 2)
    """
    import torch

    from tombola import mask as masks
    from tombola.mask import Mask

    first: dict[str, Tensor] = {}
    for name, alive in mask.items():
        if not any(torch.equal(other, alive) for other in first.values()):  # of one shape, too
            first[name] = alive
    if len(first) == len(mask):
        raise BadInput(
            where="control copies-permuted",
            expected="a stretched ticket, some of whose layers have one mask",
            found="one whose layers all have masks of their own",
            todo="Leave the control out.",
        )
    shuffled = masks.shuffle(Mask({name: alive for name, alive in mask.items() if name not in first}), seed)
    return Mask({name: first[name] if name in first else shuffled[name] for name in mask})


def copies_permuted(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The stretched ticket, the masks of all copies but the first permuted inside each layer."""
    name = f"permuted copies {level} {draw}"
    return replace(ticket, mask=replicate.derived(permuted_copies, ticket.mask, name))


def own_ticket(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket that the search of the network itself finds, with as many weights as the stretched one."""
    start, mask = replicate.own_ticket(ticket, level)
    return replace(ticket, start=start, mask=mask)


def _not_stretched(spec: Any, options: SearchOptions) -> str:
    """Why tickets are not stretched ones; "" where they are."""
    if isinstance(options, ElasticOptions) and options.source is not None:
        return ""
    return "its tickets are stretched from no other network: give it method = 'elastic' and a source"


def _not_matched(spec: Any, options: SearchOptions) -> str:
    """Why the network's own search finds none of as many weights; "" where it does."""
    scope = SCOPES[options.scope or spec.prune.scope]
    if scope.grouped:
        return "whole groups go, of which as many weights may be no number of them"
    return "n and m say how many stay" if scope.counted else _not_stretched(spec, options)


def _none_copied(spec: Any, options: SearchOptions) -> str:
    """Why there are no copies whose masks could be permuted; "" where there are."""
    if not isinstance(options, ElasticOptions) or options.source is None:
        return _not_stretched(spec, options)
    return "" if options.copies(spec) else f"{options.source} is squeezed, and no block of it has a copy"


CONTROLS = {
    "own-ticket": Control(
        name="own-ticket",
        make=own_ticket,
        claim="a ticket of another network is better than one of as many weights that is found on the network itself",
        otherwise="a ticket that is found on the network itself is as good as one of another network",
        what="a ticket of as many weights that is found on the network itself",
        about="What the network's own search finds, early weights and a mask, with as many weights as the stretched",
        paper="[The Elastic Lottery Ticket Hypothesis](https://arxiv.org/abs/2103.16547)",
        year=2021,
        changes="start and mask",
        refuses=_not_matched,
        mark=Mark("#117733", (7, 3, 1, 3), "square"),
    ),
    "copies-permuted": Control(
        name="copies-permuted",
        make=copies_permuted,
        claim="it matters that copied blocks have the mask of the block that they are copies of",
        otherwise="the masks of copied blocks carry no more than how many weights each layer keeps",
        what="the same stretched ticket with the masks of the copies permuted",
        about="The stretched ticket with the mask of each further copy of a block permuted inside each layer",
        paper="[The Elastic Lottery Ticket Hypothesis](https://arxiv.org/abs/2103.16547)",
        year=2021,
        changes="mask",
        by_weight=True,
        refuses=_none_copied,
        mark=Mark("#332288", (7, 3, 1, 3), "diamond"),
    ),
}
