"""Beside a search with Gaussian weights: the same with weights that are numbers, and its tickets given noise.

Bayesian Lottery Ticket Hypothesis (Kuhn et al., 2026): a ticket that was found with plain weights, which takes a part
of the time, becomes the means of a Gaussian network, whose deviations begin where they always do, and is trained once.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from tombola.errors import Fault
from tombola.mark import Mark
from tombola.method import Method, SearchOptions
from tombola.methods.rewinding import iterative
from tombola.models import is_gaussian, of_numbers
from tombola.replicate import MethodReplicate, T


class DeterministicOptions(SearchOptions):
    """What `deterministic` lets one choose: what every search does."""

    def faults(self, spec: Any) -> Iterable[Fault]:
        """A recipe whose weights are numbers themselves."""
        if not is_gaussian(spec.recipe.model):
            todo = "iterative is what it would be"
            yield Fault("method", "a model with Gaussian weights, like lenet-300-100+gaussian", spec.recipe.model, todo)


class TransplantOptions(DeterministicOptions):
    """What `transplant` lets one choose.

    Attributes:
        weights: which of the ticket's become means: the `early` ones that it is trained from, or the `trained` ones.
    """

    weights: Literal["early", "trained"] = "early"

    def faults(self, spec: Any) -> Iterable[Fault]:
        """What `deterministic` refuses, and masks without the weights that become means."""
        yield from super().faults(spec)
        if self.apart:
            todo = "leave them out: masks alone, trained in full from early weights, would not be transplanted"
            yield Fault("retrain", "no data, length, batch, lr, precision or retrain of the search's own", "some", todo)


def deterministic(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Search and train as the recipe has it, with weights that are numbers, and cross-entropy."""
    yield from iterative(replicate.of_model(of_numbers(replicate.recipe.model)), levels)


def transplant(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Search with weights that are numbers; make the tickets' weights means, and train each once with noise."""
    yield replicate.train(replicate.rewind_point())
    found = iterative(replicate.of_model(of_numbers(replicate.recipe.model)), levels)
    next(found)
    for ticket in found:
        weights = ticket if getattr(replicate.options, "weights", "early") == "trained" else ticket.start
        yield replicate.train(replicate.as_means(weights), mask=ticket.mask)


_PAPER = "[Bayesian Lottery Ticket Hypothesis](https://arxiv.org/abs/2602.18825)"

METHODS: dict[str, Method] = {
    "deterministic": Method(
        name="deterministic",
        search=deterministic,
        about="Beside Gaussian weights: the iterative search and its tickets with weights that are numbers",
        paper=_PAPER,
        year=2026,
        options=DeterministicOptions,
        mark=Mark("#000075", (1, 1), "circle"),
    ),
    "transplant": Method(
        name="transplant",
        search=transplant,
        about="Search with weights that are numbers, and train the tickets found with Gaussian ones",
        paper=_PAPER,
        year=2026,
        options=TransplantOptions,
        mark=Mark("#9a6324", (1, 1), "diamond"),
    ),
}
