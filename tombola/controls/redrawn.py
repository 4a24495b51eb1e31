"""The field's own controls: a ticket's mask on weights drawn anew, and its weights under a mask drawn anew."""

from dataclasses import replace

from tombola.control import Control
from tombola.mark import Mark
from tombola.replicate import Draws, T


def reinit(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's mask on weights drawn anew, theta_0' ~ D_theta; for k > 0 they too are trained for k steps first."""
    return replace(ticket, start=replicate.rewind_point(init=f"reinit {draw}"))


def random(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's weights under a random mask with the same layer-wise counts; the masks of the levels nest."""
    return replace(ticket, mask=replicate.random_mask(ticket.mask, f"random mask {draw}"))


def shuffle(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The ticket's weights under the ticket's mask with its entries permuted inside each layer."""
    name = f"shuffled mask {level}" + (f" {draw}" if draw else "")  # as long as there was one draw, it had no number
    return replace(ticket, mask=replicate.shuffled_mask(ticket.mask, name))


CONTROLS = {
    "reinit": Control(
        name="reinit",
        make=reinit,
        claim="the initialisation matters",
        otherwise="the mask is as good on other weights",
        what="the same mask on newly drawn weights (reinit)",
        about="The ticket's mask on re-initialised weights",
        paper="[The Lottery Ticket Hypothesis](https://arxiv.org/abs/1803.03635)",
        year=2019,
        draws="reinits",
        changes="start",
        of_trained=True,
        mark=Mark("#d55e00", (6, 3), "square"),
    ),
    "random": Control(
        name="random",
        make=random,
        claim="it matters which weights are kept",
        otherwise="which weights are kept matters no more than how many in each layer",
        what="a random mask with the same layer-wise counts",
        about="A random mask with the same layer-wise counts",
        paper="[The Lottery Ticket Hypothesis](https://arxiv.org/abs/1803.03635), App. E",
        year=2019,
        draws="randoms",
        changes="mask",
        mark=Mark("#009e73", (2, 2), "triangle-up"),
    ),
    "shuffle": Control(
        name="shuffle",
        make=shuffle,
        claim="it matters where in a layer the weights are kept",
        otherwise="the mask carries no more than how many weights each layer keeps",
        what="the same mask shuffled inside each layer",
        about="The ticket's mask shuffled inside each layer",
        paper="[Sanity-Checking Pruning Methods](https://arxiv.org/abs/2009.11094)",
        year=2020,
        changes="mask",
        mark=Mark("#cc79a7", (8, 2, 2, 2), "diamond"),
    ),
}
