"""Methods that look for tickets in other bases: sparse in other coordinates than the weights themselves."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator

from tombola import bases, models
from tombola.bases import BASES, known
from tombola.errors import Fault
from tombola.mark import Mark
from tombola.method import Method, SearchOptions
from tombola.methods.rewinding import iterative
from tombola.pruning import SCOPES
from tombola.replicate import MethodReplicate, T


class GeneralisedOptions(SearchOptions):
    """What the search in a basis lets one choose.

    Attributes:
        basis: which, as `prune.basis` has them.
    """

    basis: Annotated[str, AfterValidator(known)] = "dct"

    def faults(self, spec: Any) -> Iterable[Fault]:
        """A basis of which the spec's networks have none; groups that are classes, or that another scope undoes."""
        yield from bases.faults(self.basis, spec)
        scope = bases.BASES[self.basis].scope
        if scope and self.scope not in (None, scope):
            yield Fault("scope", f"no other scope beside basis = {self.basis!r}", repr(self.scope), "leave it out")
        if scope and SCOPES[spec.prune.scope].coupled:
            todo = "other groups go there: leave it out, or take prune.scope = 'layer'"
            yield Fault("basis", f"identity in the scope {spec.prune.scope}", repr(self.basis), todo)
        if scope == "units":
            classes = bases.classes_among_units(spec.prune.in_basis(self.basis))
            yield from (replace(fault, path="basis") for fault in classes)

    def mixes(self, spec: Any) -> bool:
        """Whether its basis is another one than that of the weights."""
        return bool(BASES[self.basis].variant) or models.mixes(spec.recipe.model)


def generalised(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Train the coordinates c = B theta, prune those of lowest score, rewind the rest to step k, repeat."""
    options: GeneralisedOptions = replicate.options
    yield from iterative(replicate.in_basis(options.basis), levels)


METHODS: dict[str, Method] = {
    "generalised": Method(
        name="generalised",
        search=generalised,
        about="Train, prune and rewind coordinates of the weights in another basis, by default the DCT",
        paper="[A Generalized Lottery Ticket Hypothesis](https://arxiv.org/abs/2107.06825)",
        year=2021,
        options=GeneralisedOptions,
        mark=Mark("#117733", (6, 2, 1, 2), "diamond"),
    ),
}
