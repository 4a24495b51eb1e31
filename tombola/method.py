"""What a search method is: a generator of trainings, and what is said of it. The ones there are stand in `methods`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from pydantic import Field

from tombola.errors import Fault
from tombola.mark import Mark
from tombola.recipe import Precision
from tombola.replicate import MethodReplicate, T
from tombola.value import Count, Number, StepField, Value


class SearchOptions(Value):
    """What every search lets one choose; a method with choices of its own derives a table from it.

    Where `data`, `length`, `batch`, `lr` or `precision` is given, the search is made with that in the recipe's place,
    and the masks that it finds are trained in full.

    Attributes:
        data: the data set that is searched on, like `mnist-6000`.
        length, batch, precision, lr: of the trainings of the search.
        score: what decides; by default `prune.score`, or the method's own.
        scope: where weights are ranked against each other; by default `prune.scope`, or the method's own.
        rate: the largest fraction of what is alive that goes in one round; where the spec has `densities`.
        retrain: whether the masks found are trained in full from the rewind point, even if the search is as long.
    """

    by_rounds: ClassVar[bool] = True  # or at once, for which there are scopes of its own
    ignored: ClassVar[frozenset[str]] = frozenset()  # choices above that the method has no use for
    why_ignored: ClassVar[str] = "it would change nothing"

    data: str | None = None
    length: StepField | None = None
    batch: Count | None = Field(default=None, gt=0)
    precision: Precision | None = None
    lr: Number | None = Field(default=None, gt=0)
    score: str | None = None
    scope: str | None = None
    rate: Number | None = Field(default=None, gt=0, lt=1)
    retrain: bool = False

    @property
    def apart(self) -> bool:
        """Whether what is searched with is not what is trained with."""
        return self.retrain or bool(self.of_recipe) or self.lr is not None

    def faults(self, spec: Any) -> Iterable[Fault]:
        """What of these choices a spec does not allow, each with the name of the choice as its path."""
        return ()

    def mixes(self, spec: Any) -> bool:
        """Whether what a spec has it prune are coordinates, of which each weight is made of many."""
        mixes: bool = spec.mixes
        return mixes

    @property
    def own(self) -> dict[str, object]:
        """What is chosen of what this method alone has, by name; a choice that is left open is not among it."""
        names = type(self).model_fields.keys() - SearchOptions.model_fields.keys()
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def of_recipe(self) -> dict[str, object]:
        """The fields of a recipe that the search has otherwise."""
        fields = {name: getattr(self, name) for name in ("data", "length", "batch", "precision")}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True)
class Found:
    """A mask that a method found.

    Attributes:
        level: of the spec, in one of its replicates.
        density: what it keeps.
        values: the numbers of the run that made it, and of the cut at it where the ticket starts from one.
    """

    level: int
    density: float
    values: Mapping[str, Any]


class SearchFunction(Protocol):
    """What a method does: given a replicate, the trainings of level 0 to `levels`, one by one."""

    def __call__(self, replicate: MethodReplicate[T], levels: int, /) -> Iterator[T]: ...


@dataclass(frozen=True)
class Method:
    """A search method.

    Attributes:
        name: by which a spec names it, as its `method` or as one of its `arms`.
        search: what it does.
        about: that in one sentence.
        paper, year: where it comes from.
        rewinds: whether its levels go back to early weights and are trained from there; those that go on from trained
            weights, or train none, or move their masks meanwhile, are no tickets in the formal sense, and the controls,
            which ask what the early weights and the mask are worth by themselves, ask nothing of them.
        score: what it goes by, of a network that is not trained; None where that is the spec's, of one that is.
        options: the model of what it lets one choose: `[search]` in a spec, or `[arm.NAME]`.
        follows_units: whether it follows units from layer to layer, for which there is no way through attention: it
            takes networks of images alone.
        of_weights: whether it asks for a network whose parameters are its weights: it matches units, or its trainings
            move their masks or make weights as they go.
        says: of all that it has found in an experiment, sentences about how it found that; None for none.
        mark: how it looks in figures; None for any that is free.
        code: the SHA-256 of the extension that it comes from; None for ours.
    """

    name: str
    search: SearchFunction
    about: str
    paper: str = ""
    year: int | None = None
    rewinds: bool = True
    score: str | None = None
    options: type[SearchOptions] = SearchOptions
    follows_units: bool = False
    of_weights: bool = False
    says: Callable[[Sequence[Found]], Sequence[str]] | None = None
    mark: Mark | None = None
    code: str | None = None


def retrained(replicate: MethodReplicate[T], found: Iterator[T]) -> Iterator[T]:
    """The masks of trainings, each trained in full from the rewind point of `replicate`; the first is of no mask."""
    start = replicate.rewind_point()
    for level, training in enumerate(found):
        yield replicate.train(start, mask=replicate.mask_of(training) if level else None)
