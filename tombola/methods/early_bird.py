"""Methods that draw a mask early: as soon as what pruning would leave no longer changes while the network trains."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from pydantic import Field

from tombola.early_bird import Settling
from tombola.errors import Fault
from tombola.mark import Mark
from tombola.method import Found, Method, SearchOptions
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

    by_rounds: ClassVar[bool] = False
    ignored: ClassVar[frozenset[str]] = frozenset({"score", "rate"})

    slimming: Number | None = Field(default=None, gt=0)

    def faults(self, spec: Any) -> Iterable[Fault]:
        """A training that ends before a mask can have settled; ways to prune that this method does not have."""
        if not SCOPES.get(scope := self.scope or spec.prune.scope, SCOPES["layer"]).shares:
            yield Fault("scope", "one in which a whole network can be pruned at once", repr(scope), "layer or global")
        if self.slimming is not None and spec.recipe.objective:
            yield Fault("slimming", "none beside recipe.objective", str(self.slimming), "it is a loss of its own")
        if spec.recipe.dynamics:
            found = f"recipe.dynamics = {spec.recipe.dynamics.name!r}"
            yield Fault(
                "every", "a network that is whole until its mask has settled", found, "leave recipe.dynamics out"
            )
        epoch = spec.facts_of(self.data or spec.recipe.data).epoch_iterations(self.batch or spec.recipe.batch)
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


def settled(found: Sequence[Found]) -> list[str]:
    """When masks had settled, level by level; where they had not, and where that says nothing."""
    levels: dict[int, list[Found]] = {}
    for each in found:
        levels.setdefault(each.level, []).append(each)
    said = [f"{_at(each)} {_steps(each)}" for each in levels.values()]
    still = [f"{_at(each)} in {missed} of {len(each)}" for each in levels.values() if (missed := _missed(each))]
    void = [_at(each) for each in levels.values() if each[0].values["within"] >= each[0].values["apart_by_chance"]]
    sentences = [f"masks had settled after these steps of the search: {', '.join(said)}."]
    if still:
        sentences.append(f"a mask did not settle {', '.join(still)} replicates and is that of the search's end.")
    if void:
        near = f"{', '.join(void)} any two random masks are as near as was asked"
        sentences.append(f"{near}: that a mask settled says nothing there (distance = 'chance' asks for more).")
    return sentences


def _at(found: Sequence[Found]) -> str:
    return f"at {found[0].density:.1%}"


def _steps(found: Sequence[Found]) -> str:
    steps = sorted(each.values["settled_step"] for each in found if each.values["settled_step"] is not None)
    if not steps:
        return "none"
    return f"{steps[0]:,}" if steps[0] == steps[-1] else f"{steps[0]:,} to {steps[-1]:,}"


def _missed(found: Sequence[Found]) -> int:
    return sum(each.values["settled_step"] is None for each in found)


_PAPER = "[Drawing Early-Bird Tickets](https://arxiv.org/abs/1909.11957)"

METHODS: dict[str, Method] = {
    "early-bird": Method(
        name="early-bird",
        search=early_bird,
        about="Train until the mask has settled, rewind to step k",
        paper=_PAPER,
        year=2020,
        options=EarlyBirdOptions,
        says=settled,
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
        says=settled,
        mark=Mark("#56b4e9", (2, 2), "wedge"),
    ),
}
