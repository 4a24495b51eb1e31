"""Controls of weights that were transformed towards a random mask: is it the transformation, or the time it takes?

The extrusion of Dual Lottery Ticket Hypothesis (Bai et al., 2022) is itself a training. Each of these sees as many
examples as extrusion and training together.
"""

from dataclasses import replace
from typing import Any

from tombola.control import Control
from tombola.mark import Mark
from tombola.method import SearchOptions
from tombola.methods.dual import ExtrusionOptions
from tombola.replicate import Draws, T


def longer(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The mask on early weights, in a training that is as long as extrusion and training, its schedule stretched."""
    made: T = replicate.as_long(ticket)
    return made


def unpenalised(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The dense network, trained as the extrusion trains it and without its penalty, cut at the same mask."""
    return replace(ticket, start=replicate.unpenalised(ticket, ticket.mask))


def by_magnitude(replicate: Draws, ticket: T, level: int, draw: int) -> T:
    """The same dense network, cut to its largest weights, in each layer as many as the ticket keeps."""
    mask = replicate.largest(ticket)
    return replace(ticket, start=replicate.unpenalised(ticket, mask), mask=mask)


def _not_extruded(spec: Any, options: SearchOptions) -> str:
    """Why there is no extrusion whose cost could go elsewhere; "" where there is one."""
    if isinstance(options, ExtrusionOptions):
        return ""
    return "its tickets' weights are not transformed: give it method = 'dual' or 'dual-iterative'"


_PAPER = "[Dual Lottery Ticket Hypothesis](https://arxiv.org/abs/2203.04248)"

CONTROLS = {
    "dual-longer": Control(
        name="dual-longer",
        make=longer,
        claim="the transformation is worth more than as much more training of the random mask",
        otherwise="the random mask is as good when it is trained for as long",
        what="the same random mask on early weights, trained for as long as extrusion and training take",
        about="The mask of `dual` on early weights, in a training as long as its extrusion and training together",
        changes="start and recipe and until",
        of_trained=True,
        refuses=_not_extruded,
        mark=Mark("#882255", (2, 2), "diamond"),
    ),
    "dual-unpenalised": Control(
        name="dual-unpenalised",
        make=unpenalised,
        claim="the penalty is worth more than a dense training of the same length",
        otherwise="a dense training of the same length does as well without the penalty",
        what="the same random mask on the dense network, trained as the extrusion trains it, but without a penalty",
        about="The mask of `dual`, cut out of the dense network that was trained as long without its penalty",
        changes="start",
        of_trained=True,
        refuses=_not_extruded,
        mark=Mark("#882255", (4, 4), "square"),
    ),
    "dual-magnitude": Control(
        name="dual-magnitude",
        make=by_magnitude,
        claim="a random mask with transformed weights is better than magnitude pruning at equal cost",
        otherwise="magnitude pruning at equal cost is as good",
        what="the largest weights of the dense network, trained as the extrusion trains it, but without a penalty",
        about="The largest weights of each layer of the dense network that was trained as long without the penalty",
        paper=_PAPER,
        year=2022,
        changes="start and mask",
        of_trained=True,
        refuses=_not_extruded,
        mark=Mark("#882255", (6, 1), "triangle-up"),
    ),
}
