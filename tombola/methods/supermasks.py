"""Methods that train scores and no weights: what they find is a subnetwork of the network as it was drawn.

A level is the training of its scores, and its network is the mask that they make of weights that never move: nothing
that is trained afterwards. With `retrain = true` the masks are trained as all others are, from the rewind point.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from tombola.at_once import Scoring
from tombola.dynamics import Dynamics, Timeline
from tombola.dynamics.score_training import TARGET, Frozen
from tombola.dynamics.supermasks import EdgePopup, GemMiner, SignedSupermask, Supermask
from tombola.errors import BadInput, Fault
from tombola.mark import Mark
from tombola.method import Method, SearchOptions
from tombola.recipe import SGD, Constant, Cosine, Optimizer, Recipe, Schedule, with_dynamics
from tombola.replicate import MethodReplicate, T
from tombola.steps import Step
from tombola.value import Number, StepField


class EdgePopupOptions(SearchOptions):
    """What edge-popup and signed supermasks let one choose; None for what stands in the method.

    Attributes:
        weights, scaled: as `dynamics.EdgePopup` has them.
        optimizer, schedule: what the scores are trained by, in the place of the recipe's; there is no warm-up.
    """

    by_rounds: ClassVar[bool] = False
    ignored: ClassVar[frozenset[str]] = frozenset({"score", "rate"})

    weights: Frozen | None = None
    scaled: bool | None = None
    optimizer: Optimizer | None = None
    schedule: Schedule | None = None

    def faults(self, spec: Any) -> Iterator[Fault]:
        """A rewind step, losses that depend on weights, rates that leave nothing."""
        return _faults(spec, self)


class SupermaskOptions(SearchOptions):
    """What supermasks let one choose; None for what stands in the method.

    Attributes:
        weights, begin, counted, rescaled: as `dynamics.Supermask` has them.
        optimizer, schedule: as in `EdgePopupOptions`.
    """

    by_rounds: ClassVar[bool] = False
    ignored: ClassVar[frozenset[str]] = frozenset({"score", "rate"})

    weights: Frozen | None = None
    begin: Annotated[Number, Field(gt=0, lt=1)] | Literal["level"] | None = None
    counted: bool | None = None
    rescaled: bool | None = None
    optimizer: Optimizer | None = None
    schedule: Schedule | None = None

    def faults(self, spec: Any) -> Iterator[Fault]:
        """A rewind step, losses that depend on weights, rates that leave nothing."""
        return _faults(spec, self)


class GemMinerOptions(SearchOptions):
    """What Gem-Miner lets one choose; None for what stands in the method.

    Attributes:
        weights: as `dynamics.GemMiner` has it.
        every: the time between two freezings; a thirtieth of the training, as in the paper, where it is None.
        optimizer, schedule: as in `EdgePopupOptions`; the penalty lambda |p|^2 is a weight decay of 2 lambda.
    """

    by_rounds: ClassVar[bool] = False
    ignored: ClassVar[frozenset[str]] = frozenset({"score", "rate"})

    weights: Frozen | None = None
    every: StepField | None = None
    optimizer: Optimizer | None = None
    schedule: Schedule | None = None

    def faults(self, spec: Any) -> Iterator[Fault]:
        """The same, and no freezing before the end."""
        yield from _faults(spec, self)
        if self.every is not None and not self.of_recipe:
            length, epoch = spec.iterations(spec.recipe.length), spec.facts.epoch_iterations(spec.recipe.batch)
            try:
                GemMiner(every=self.every).steps(Timeline(0, length, length, epoch))
            except BadInput as error:
                yield Fault("every", error.expected, error.found, error.todo)


def score_training(
    replicate: MethodReplicate[T], levels: int, kind: type[Dynamics], optimizer: SGD, schedule: Schedule
) -> Iterator[T]:
    """Train scores for each level anew, on the weights of step k, which stay as they are."""
    start, options = replicate.rewind_point(), replicate.options
    yield replicate.train(start)
    recipe = searched_by(replicate.recipe, options, optimizer, schedule)
    length = recipe.length.iterations(replicate.epoch_iterations)
    for level in range(1, levels + 1):
        dynamics = kind.model_validate(
            _by_length(length, kind) | {"scope": _ranked(options, kind)} | _chosen(options, kind)
        )
        # Of this mask only the counts matter.
        target = replicate.prune_at_once(start, level, Scoring("random", _scope(options, kind)))
        training = replicate.train(start, recipe=with_dynamics(recipe, dynamics))
        yield replace(training, further=((TARGET, target),), optimizer_state="fresh")


def searched_by(recipe: Recipe, options: Any, optimizer: SGD, schedule: Schedule) -> Recipe:
    """The recipe of a training of scores: the same, but for what they are trained by."""
    chosen = options.optimizer or optimizer
    if options.lr is not None:
        chosen = chosen.model_copy(update={"lr": options.lr})
    by = {"optimizer": chosen, "schedule": options.schedule or schedule, "warmup": Step("0it")}
    return recipe.model_copy(update=by)


def _by_length(length: int, kind: type[Dynamics]) -> dict[str, object]:
    """What depends on the length of a training."""
    return {"every": Step(f"{max(1, length // 30)}it")} if "every" in kind.model_fields else {}


def _scope(options: SearchOptions, kind: type[Dynamics]) -> str:
    return options.scope or str(kind.model_fields["scope"].default)


def _ranked(options: SearchOptions, kind: type[Dynamics]) -> str:
    """Whether scores are ranked in each layer, by whatever rule that has its count, or all together."""
    return "global" if _scope(options, kind) == "global" else "layer"


def _chosen(options: SearchOptions, kind: type[Dynamics]) -> dict[str, object]:
    """What is chosen of the dynamics."""
    return {name: value for name, value in options.own.items() if name in kind.model_fields}


def _faults(spec: Any, options: SearchOptions) -> Iterator[Fault]:
    """What a spec asks that no training of scores can do."""
    later = [str(step) for step in spec.rewind if spec.iterations(step)]
    if later and not options.apart:
        todo = f"no weights are trained, for {later[0]} or longer; the masks that are found can be"
        yield Fault("retrain", f"true where rewind is {later[0]}", "false", todo)
    objective = spec.recipe.objective
    if objective is not None and objective.sees_weights:
        todo = "scores are trained, and what depends on weights themselves has no gradient there"
        yield Fault("objective", "a loss of the network's outputs alone", repr(objective.name), todo)
    if spec.levels and not spec.densities and max(rate for _, rate in spec.prune.rates) >= 1:
        yield Fault("rate", "prune.rate, conv_rate and output_rate less than 1", "1.0", "no weight would multiply")


_Trained = tuple[type[Dynamics], SGD, Schedule]
_COSINE = Cosine(name="cosine")
_TRAINED: dict[str, _Trained] = {
    "edge-popup": (EdgePopup, SGD(name="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4), _COSINE),
    "supermask": (Supermask, SGD(name="sgd", lr=100.0, momentum=0.9), Constant()),
    "signed-supermask": (
        SignedSupermask,
        SGD(name="sgd", lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
        _COSINE,
    ),
    "gem-miner": (GemMiner, SGD(name="sgd", lr=0.1, momentum=0.9, weight_decay=2e-4), _COSINE),
}


def _method(name: str, options: type[SearchOptions], paper: str, mark: Mark | None = None) -> Method:
    kind, optimizer, schedule = _TRAINED[name]
    search: Callable[..., Any] = partial(score_training, kind=kind, optimizer=optimizer, schedule=schedule)
    return Method(
        name,
        search,
        about=kind.about,
        paper=paper,
        year=kind.year,
        rewinds=False,
        of_weights=True,
        options=options,
        mark=mark,
    )


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        _method(
            "edge-popup",
            EdgePopupOptions,
            "[What's Hidden in a Randomly Weighted Neural Network?](https://arxiv.org/abs/1911.13299)",
        ),
        _method(
            "supermask",
            SupermaskOptions,
            "[Deconstructing Lottery Tickets](https://arxiv.org/abs/1905.01067)",
        ),
        _method(
            "signed-supermask",
            EdgePopupOptions,
            "[Signing the Supermask](https://arxiv.org/abs/2201.13361)",
        ),
        _method(
            "gem-miner",
            GemMinerOptions,
            "[Rare Gems](https://arxiv.org/abs/2202.12002)",
        ),
    )
}
