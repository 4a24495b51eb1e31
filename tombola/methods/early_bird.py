"""Methods that draw a mask early: as soon as what pruning would leave no longer changes while the network trains."""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import Field

from tombola import data
from tombola.early_bird import Settling
from tombola.errors import Fault
from tombola.mark import Mark
from tombola.method import Method, SearchOptions
from tombola.objective import Slimming
from tombola.pruning import SCOPES
from tombola.replicate import MethodReplicate, T
from tombola.value import Number


class EarlyBirdOptions(SearchOptions, Settling):
    """What the search for an early-bird ticket lets one choose: when its mask has settled, and with what it trains.

    Attributes:
        slimming: s of the search's own loss, cross-entropy + s sum |gamma| over its batch normalisations, under which
            channels that do little fade out; None for the recipe's loss.
    """

    slimming: Number | None = Field(default=None, gt=0)

    def faults(self, spec: Any) -> Iterable[Fault]:
        """A training that ends before a mask can have settled; ways to prune that this method does not have."""
        if self.score not in (None, "magnitude"):
            yield Fault("score", "'magnitude', by which it is pruned early", repr(self.score))
        if not SCOPES.get(scope := self.scope or spec.prune.scope, SCOPES["layer"]).shares:
            yield Fault("scope", "one in which a whole network can be pruned at once", repr(scope), "layer or global")
        if self.slimming is not None and spec.recipe.objective:
            yield Fault("slimming", "none beside recipe.objective", str(self.slimming), "it is a loss of its own")
        epoch = data.facts(self.data or spec.recipe.data).epoch_iterations(self.batch or spec.recipe.batch)
        length, every = self.length or spec.recipe.length, self.every.iterations(epoch)
        first = max(step.iterations(epoch) for step in spec.rewind)
        if every == 0:
            yield Fault("every", "at least one step", repr(str(self.every)))
        elif (drawn := length.iterations(epoch) // every - first // every) < self.remembered:
            asked = f"{self.remembered} masks before the end of the search, {length}"
            todo = f"every = '{max(1, (length.iterations(epoch) - first) // (4 * self.remembered))}it', say"
            yield Fault("every", asked, f"{drawn}, one every {self.every}", todo)

    @property
    def rule(self) -> Settling:
        """When a mask has settled."""
        return Settling(**{name: getattr(self, name) for name in Settling.model_fields})


def early_bird(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Train until the mask of each level has settled, and no longer; rewind the survivors to step k."""
    start = replicate.rewind_point()
    yield replicate.train(start)
    for level in range(1, levels + 1):
        yield replicate.train(start, mask=_settled(replicate, start, level))


def early_bird_continued(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Train until the mask of each level has settled; keep the weights of that moment, and train them from step k on.

    So the learning rates, and the optimiser, begin anew, and the whole takes the steps of the search more.
    """
    start = replicate.rewind_point()
    yield replicate.train(start)
    for level in range(1, levels + 1):
        bird = _settled(replicate, start, level)
        yield replicate.train(bird, mask=bird)


def _settled(replicate: MethodReplicate[T], start: Any, level: int) -> Any:
    options: EarlyBirdOptions = replicate.options
    recipe = replicate.recipe
    if options.slimming is not None:
        recipe = recipe.model_copy(update={"objective": Slimming(strength=options.slimming)})
    return replicate.settled(replicate.train(start, recipe=recipe), level, options.rule)


_PAPER = "[Drawing Early-Bird Tickets](https://arxiv.org/abs/1909.11957)"

METHODS: dict[str, Method] = {
    "early-bird": Method(
        name="early-bird",
        search=early_bird,
        about="Train until the mask has settled, rewind to step k",
        paper=_PAPER,
        year=2020,
        options=EarlyBirdOptions,
        mark=Mark("#0072b2", (6, 2, 2, 2), "wedge"),
    ),
    "early-bird-continued": Method(
        name="early-bird-continued",
        search=early_bird_continued,
        about="Train until the mask has settled, keep the weights, train on from there",
        paper=_PAPER,
        year=2020,
        rewinds=False,
        options=EarlyBirdOptions,
        mark=Mark("#56b4e9", (2, 2), "wedge"),
    ),
}
