"""Methods that let trainings on parts of the data agree on a mask."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from tombola.errors import DataError, Fault
from tombola.mark import Mark
from tombola.method import Method, SearchOptions
from tombola.replicate import MethodReplicate, T

HALVES = {"classes": ("first-classes", "second-classes"), "examples": ("first-half", "second-half")}


class ColtOptions(SearchOptions):
    """What the search by intersection lets one choose.

    Attributes:
        split: what the two halves of the training set are: of the classes, as in the authors' code, or of the examples
            of each class.
    """

    split: Literal["classes", "examples"] = "classes"

    def faults(self, spec: Any) -> Iterable[Fault]:
        """Data that have no such halves."""
        whole = self.data or spec.recipe.data
        for half in HALVES[self.split]:
            try:
                spec.facts_of(whole, half)
            except (ValueError, DataError) as error:
                yield Fault("split", f"data with such halves: {error}", f"{self.split} of {whole}")
                return


def colt(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Train on each half of the data, keep what is large in both, rewind to step k, repeat; train on all at each level.

    The authors prune each of the two networks by a rate and keep the intersection, however much that is. Here it is
    the same intersection, but each of the two loses as much as it takes for the level's count.
    """
    options: ColtOptions = replicate.options
    start = replicate.rewind_point()
    ticket = replicate.train(start)
    yield ticket
    halves = [replicate.on(f"{replicate.recipe.data}+{half}") for half in HALVES[options.split]]
    mask = ticket.mask
    for _ in range(levels):
        trained = [half.train(start, mask=mask) for half in halves]
        mask = replicate.prune_in_common(trained, mask)
        yield replicate.train(start, mask=mask)


METHODS: dict[str, Method] = {
    "colt": Method(
        name="colt",
        search=colt,
        about="Train on each half of the data, keep what is large in both, rewind, repeat",
        paper="[COLT: Cyclic Overlapping Lottery Tickets](https://arxiv.org/abs/2212.12770)",
        year=2022,
        options=ColtOptions,
        mark=Mark("#cc79a7", (8, 2, 2, 2), "triangle-up"),
    ),
}
