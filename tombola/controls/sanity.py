"""Sanity checks of masks: is what the score or the search saw of any use?

Sanity-Checking Pruning Methods: Random Tickets can Win the Jackpot (Su et al., 2020) searches on corrupted data, and
Pruning Neural Networks at Initialization: Why are We Missing the Mark? (Frankle et al., 2021) inverts scores. With
`shuffle` and `reinit` they ask whether a mask is more than the number of weights that each layer keeps.
"""

from dataclasses import replace

from tombola.control import Control
from tombola.mark import Mark
from tombola.replicate import Draws, T

HALVES = ("first-half", "second-half")


def invert(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's weights under the mask of those that pruning lets go first, as many of each layer."""
    return replace(ticket, mask=replicate.inverted_mask(ticket.mask))


def random_labels(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's weights under the mask that the same search finds where labels are dealt out at random."""
    return replace(ticket, mask=replicate.searched_on("random-labels", ticket, level))


def shuffled_pixels(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's weights under the mask that the same search finds on images whose pixels are shuffled."""
    return replace(ticket, mask=replicate.searched_on("shuffled-pixels", ticket, level))


def half_data(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's weights under the mask that the same search finds on half of the data; draw 1 has the other half."""
    return replace(ticket, mask=replicate.searched_on(HALVES[draw % 2], ticket, level))


_SANITY = "[Sanity-Checking Pruning Methods](https://arxiv.org/abs/2009.11094)"
_MISSING = "[Pruning Neural Networks at Initialization](https://arxiv.org/abs/2009.08576)"

CONTROLS = {
    "invert": Control(
        name="invert",
        make=invert,
        claim="it matters which weights of a layer score high",
        otherwise="of a layer, the weights that score low are as good as those that score high",
        what="the mask of as many weights of each layer that go first (invert)",
        about="In each layer as many weights as the ticket keeps, those that its pruning lets go first",
        paper=_MISSING,
        year=2021,
        changes="mask",
        by_weight=True,
        mark=Mark("#661100", (4, 4), "cross"),
    ),
    "random-labels": Control(
        name="random-labels",
        make=random_labels,
        claim="the search uses the labels",
        otherwise="the search needs no labels",
        what="the mask of a search on random labels",
        about="The mask that the same search finds where labels are dealt out at random, trained on the true ones",
        paper=_SANITY,
        year=2020,
        changes="mask",
        data=("random-labels",),
        mark=Mark("#aa4499", (3, 1), "square"),
    ),
    "shuffled-pixels": Control(
        name="shuffled-pixels",
        make=shuffled_pixels,
        claim="the search uses what the images show",
        otherwise="the search needs no image to show anything",
        what="the mask of a search on images with shuffled pixels",
        about="The mask that the same search finds on images with shuffled pixels, trained on the true ones",
        paper=_SANITY,
        year=2020,
        changes="mask",
        data=("shuffled-pixels",),
        mark=Mark("#aa4499", (3, 1, 1, 1), "diamond"),
    ),
    "half-data": Control(
        name="half-data",
        make=half_data,
        claim="the search uses all of its data",
        otherwise="the search needs no more than half of its data",
        what="the mask of a search on half of the data",
        about="The mask that the same search finds on half of the data, trained on all of them",
        paper=_SANITY,
        year=2020,
        changes="mask",
        data=HALVES,
        mark=Mark("#6699cc", (5, 5), "triangle-up"),
    ),
}
