"""Methods that move the mask while they train: one training for each level, whose mask at its end is an outcome.

Trained again from the rewind point (`retrain = true`) it makes tickets.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from tombola.at_once import Scoring
from tombola.dynamics import Timeline
from tombola.dynamics.gradual import Curve, Gradual
from tombola.dynamics.rewiring import SET, Decay, RigL
from tombola.errors import BadInput, Fault
from tombola.method import Method, SearchOptions
from tombola.pruning import SCOPES
from tombola.recipe import with_dynamics
from tombola.replicate import MethodReplicate, T
from tombola.value import Count, Number, StepField


class GradualOptions(SearchOptions):
    """What gradual pruning lets one choose, as `dynamics.Gradual` has it; None for what stands there.

    Attributes:
        begin, end: when it prunes; `end` is three quarters of the training where it is None.
        every: steps between two prunings.
        curve: `cubic` or `linear`.
    """

    by_rounds: ClassVar[bool] = False
    ignored: ClassVar[frozenset[str]] = frozenset({"rate", "score"})

    begin: StepField | None = None
    end: StepField | None = None
    every: Count | None = Field(default=None, gt=0)
    curve: Curve | None = None

    def faults(self, spec: Any) -> Iterable[Fault]:
        """A scope that it has not; a schedule that no training goes through."""
        yield from _no_counts(self.scope or spec.prune.scope)
        for timeline in _timelines(self, spec):
            try:
                Gradual.model_validate(self.own).prunings(timeline)
            except BadInput as error:
                yield Fault("end" if self.end else "every", error.expected, error.found, error.todo)
                return


class RewiringOptions(SearchOptions):
    """What SET and RigL let one choose, as `dynamics.SET` has it; None for what stands there.

    `scope` and `score` decide the mask at the beginning: drawn at random by Erdős-Rényi-Kernel where they are None.

    Attributes:
        fraction: of each layer's living weights, which move at once.
        decay: of that fraction: `cosine` or `constant`.
        every: steps between two moves.
        end: when the mask settles; three quarters of the training where it is None.
    """

    by_rounds: ClassVar[bool] = False
    ignored: ClassVar[frozenset[str]] = frozenset({"rate"})

    fraction: Number | None = Field(default=None, ge=0, lt=1)
    decay: Decay | None = None
    every: Count | None = Field(default=None, gt=0)
    end: StepField | None = None

    def faults(self, spec: Any) -> Iterable[Fault]:
        """A scope that it has not; a mask that never moves, or still moves when the training is over."""
        yield from _no_counts(self.scope or "erk")
        dynamics = SET.model_validate(self.own)
        for timeline in _timelines(self, spec):
            end, every = dynamics.ends(timeline), timeline.interval(self.every, dynamics.ends(timeline))
            if not dynamics.moves(timeline) or end > timeline.length:
                expected = f"a mask that moves between the steps {timeline.begin} and {timeline.length} of the training"
                found = f"moves every {every} steps until step {end}"
                yield Fault("end" if self.end else "every", expected, found, "name another end or every")
                return


def gradual(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """Train the whole network, and prune it by magnitude on the way, little by little, to the counts of the level."""
    start = replicate.rewind_point()
    yield replicate.train(start)
    for level in range(1, levels + 1):
        # Of the mask that it prunes towards only the counts matter.
        target = replicate.prune_at_once(start, level, Scoring("random", replicate.options.scope))
        scope = "global" if SCOPES[target.scope].pooled else "layer"
        dynamics = Gradual.model_validate({"scope": scope} | replicate.options.own)
        training = replicate.train(start, recipe=with_dynamics(replicate.recipe, dynamics))
        yield replace(training, further=(("target", target),))


def evolved(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """SET: train from a random mask with the level's count; now and then weights go, and others come at random."""
    return _rewired(replicate, levels, SET)


def rigged(replicate: MethodReplicate[T], levels: int) -> Iterator[T]:
    """RigL: train from a random mask with the level's count; weights go, and those of the largest gradients come."""
    return _rewired(replicate, levels, RigL)


def _rewired(replicate: MethodReplicate[T], levels: int, kind: type[SET]) -> Iterator[T]:
    start, options = replicate.rewind_point(), replicate.options
    recipe = with_dynamics(replicate.recipe, kind.model_validate(options.own))
    first = Scoring(options.score or "random", options.scope or "erk")
    yield replicate.train(start)
    for level in range(1, levels + 1):
        yield replicate.train(start, mask=replicate.prune_at_once(start, level, first), recipe=recipe)


def _timelines(options: SearchOptions, spec: Any) -> Iterator[Timeline]:
    """Of the trainings that search, from each step that is rewound to."""
    epoch = spec.facts_of(options.data or spec.recipe.data).epoch_iterations(options.batch or spec.recipe.batch)
    length = (options.length or spec.recipe.length).iterations(epoch)
    for step in spec.rewind:
        yield Timeline(step.iterations(epoch), length, length, epoch)


def _no_counts(scope: str) -> Iterator[Fault]:
    """A scope that does not say how many weights of a whole network are left in each layer, or in all."""
    if scope in SCOPES and not SCOPES[scope].shares:
        able = ", ".join(name for name, each in SCOPES.items() if each.shares)
        yield Fault("scope", f"one of {able}", repr(scope), "they count what is left of a whole network")


METHODS: dict[str, Method] = {
    "gradual": Method(
        "gradual",
        gradual,
        "Prune by magnitude little by little while the network trains, and train on",
        "[To prune, or not to prune](https://arxiv.org/abs/1710.01878)",
        2017,
        rewinds=False,
        of_weights=True,
        options=GradualOptions,
    ),
    "set": Method(
        "set",
        evolved,
        "Train a sparse network; now and then its smallest weights go, and as many come at random",
        "[Sparse Evolutionary Training](https://www.nature.com/articles/s41467-018-04316-3)",
        2018,
        rewinds=False,
        of_weights=True,
        options=RewiringOptions,
    ),
    "rigl": Method(
        "rigl",
        rigged,
        "Train a sparse network; now and then its smallest weights go, and as many come where the gradient is largest",
        "[Rigging the Lottery](https://arxiv.org/abs/1911.11134)",
        2020,
        rewinds=False,
        of_weights=True,
        options=RewiringOptions,
    ),
}
