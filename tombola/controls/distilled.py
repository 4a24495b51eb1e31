"""A ticket that is taught by its dense network: does it become better, and is it the teacher, or only softer labels?

Good Students Play Big Lottery Better (Ma et al., 2021): alpha = 0.9 and T = 5 on CIFAR.
"""

from dataclasses import replace

from tombola.control import Control
from tombola.errors import BadInput
from tombola.mark import Mark
from tombola.objective import Distill
from tombola.replicate import Draws, T


def distilled(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket, its early weights trained on labels and on the dense network's softened outputs."""
    made: T = replicate.descending(ticket, Distill())
    return made


def smoothed(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket, its labels as soft as the teacher would have them on average, the same for all other classes."""
    made: T = replicate.descending(ticket, Distill(spread="even"))
    return made


def distilled_trained(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's mask on the trained weights by which it was pruned, trained on with a teacher.

    Raises:
        BadInput: the ticket starts from these itself.
    """
    *_, trained = replicate.pruned_by(ticket.mask)
    if ticket.start == trained:
        raise BadInput(
            where="control distilled-trained",
            expected="a ticket that starts from early weights",
            found="one that starts from the trained ones by which it was pruned",
            todo="Take distilled, which is the same there.",
        )
    made: T = replace(replicate.descending(ticket, Distill()), start=trained)
    return made


_PAPER = "[Good Students Play Big Lottery Better](https://arxiv.org/abs/2101.03255)"

CONTROLS = {
    "distilled": Control(
        name="distilled",
        make=distilled,
        claim="the dense network's soft labels harm the ticket",
        otherwise="the ticket is as good without the dense network's soft labels",
        what="the same ticket taught by the dense network",
        about="The ticket trained on labels and on the softened outputs of the dense network",
        paper=_PAPER,
        year=2021,
        changes="recipe and further",
        of_classes=True,
        descends=True,
        mark=Mark("#004488", (5, 3, 1, 3), "square"),
    ),
    "smoothed": Control(
        name="smoothed",
        make=smoothed,
        claim="softer labels by themselves harm the ticket",
        otherwise="the ticket is as good on hard labels as on softer ones",
        what="the same ticket on labels as soft as the dense network's, spread evenly",
        about="The ticket on labels that are as soft as the dense network's on average, with the rest spread evenly",
        changes="recipe and further",
        of_classes=True,
        descends=True,
        mark=Mark("#aa4499", (5, 3, 1, 3), "triangle-up"),
    ),
    "distilled-trained": Control(
        name="distilled-trained",
        make=distilled_trained,
        claim="early weights are worth more than trained ones and a teacher",
        otherwise="early weights are as good as trained ones and a teacher",
        what="the same mask on the weights it was pruned by, taught by the dense network",
        about="The ticket's mask on the trained weights by which it was pruned, trained on as `distilled` is",
        paper=_PAPER,
        year=2021,
        changes="start and recipe and further",
        of_classes=True,
        descends=True,
        mark=Mark("#5c4033", (5, 3, 1, 3), "diamond"),
    ),
}
