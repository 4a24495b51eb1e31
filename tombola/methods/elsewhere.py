"""Masks that were searched for from another initialisation: as they are, and with their units matched."""

from collections.abc import Iterator

from pydantic import Field

from tombola.mark import Mark
from tombola.method import Method, SearchOptions
from tombola.methods.rewinding import iterative_from
from tombola.replicate import MethodReplicate, T
from tombola.value import Count


class RebasinOptions(SearchOptions):
    """What `rebasin` lets one choose.

    Attributes:
        examples: of the training set, on which the activations of both networks are compared.
    """

    examples: Count = Field(default=5000, gt=0)


def elsewhere(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Search from another initialisation A; train its masks from one's own rewind point, as they are."""
    start = replicate.rewind_point()
    yield replicate.train(start)
    for ticket in _searched(replicate, levels)[1:]:
        yield replicate.train(start, mask=ticket.mask)


def rebasin(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Search from another initialisation A; train its masks with the units in the order of one's own network B.

    1 train A and B, dense; 2 search A for masks; 3 match the units of B with those of A by their activations; 4 permute
    the masks by that, pi(m_A); 5 train B's rewind point under them.
    """
    start, options = replicate.rewind_point(), replicate.options
    ours = replicate.train(start)
    yield ours
    theirs, *tickets = _searched(replicate, levels)
    for ticket in tickets:
        yield replicate.train(start, mask=replicate.aligned(ticket.mask, theirs, ours, options.examples))


def _searched(replicate: MethodReplicate[T], levels: int) -> list[T]:
    """What the iterative search trains from initial weights of its own."""
    return list(iterative_from(replicate, replicate.rewind_point(init="elsewhere"), levels))


_PAPER = "[Sparse Training from Random Initialization](https://arxiv.org/abs/2505.05143)"

METHODS: dict[str, Method] = {
    "elsewhere": Method(
        name="elsewhere",
        search=elsewhere,
        about="Search from another initialisation, and keep its masks as they are (naive transfer)",
        paper=_PAPER,
        year=2025,
        mark=Mark("#aa4499", (4, 1, 1, 1), "cross"),
    ),
    "rebasin": Method(
        name="rebasin",
        search=rebasin,
        about="Search from another initialisation, and permute its masks by matched units",
        paper=_PAPER,
        year=2025,
        options=RebasinOptions,
        follows_units=True,
        of_weights=True,
        mark=Mark("#661100", (4, 1, 1, 1), "square"),
    ),
}
