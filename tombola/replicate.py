"""What methods and controls see of an experiment: a replicate of it, and trainings, which they make and do not do."""

from collections.abc import Callable, Sequence
from dataclasses import Field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from tombola.early_bird import Settling
from tombola.objective import Objective
from tombola.recipe import Recipe

if TYPE_CHECKING:
    from tombola.at_once import Scoring
    from tombola.mask import Mask
    from tombola.weights import Weights


class PlannedTraining(Protocol):
    """A training that is still to be done: a frozen dataclass, of which `dataclasses.replace` makes another one."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def start(self) -> Any:
        """The weights that it starts from; of these, those that `mask` keeps."""

    @property
    def mask(self) -> Any:
        """What is alive while it trains; None for everything."""


T = TypeVar("T", bound=PlannedTraining)


class Draws(Protocol):
    """What a control may ask of its replicate: other weights and other masks, each drawn from a named seed."""

    def of(self, ticket: PlannedTraining) -> "Draws":
        """The same where a control of `ticket` is asked, with its network.

        Of a run that made a mask and weights, its mask is meant.
        """

    def seed(self, name: str) -> int:
        """The seed that governs `name` in this replicate; 0 <= seed < 2^63."""

    def rewind_point(self, init: str = "init") -> Any:
        """theta_k: the initial weights, drawn from the seed of the name `init`, trained for k steps without a mask."""

    def random_mask(self, like: Any, name: str) -> Any:
        """A random mask with the layer-wise counts of `like`, from the seed of `name`."""

    def shuffled_mask(self, like: Any, name: str) -> Any:
        """The mask `like` with its entries permuted inside each layer, by the seed of `name`."""

    def inverted_mask(self, like: Any) -> Any:
        """Of each layer as many weights as the mask `like` keeps: those that its pruning lets go first."""

    def frozen(self, ticket: Any) -> Any:
        """The ticket beside its pruned weights, which stay at those of its start, instead of 0."""

    def descending(self, ticket: Any, objective: Objective) -> Any:
        """The ticket, where its training makes another objective small; a teacher is the replicate's dense network."""

    def as_long(self, ticket: Any) -> Any:
        """The mask of a ticket whose weights were transformed towards it, trained from early ones for as long."""

    def unpenalised(self, ticket: Any, mask: Any) -> Any:
        """The dense network, trained as a ticket's extrusion trains it but without its penalty, cut at a mask."""

    def largest(self, ticket: Any) -> Any:
        """The mask of the largest weights of that dense network, with the layer-wise counts of the ticket."""

    def pruned_by(self, like: Any) -> "Sequence[Any]":
        """The trained networks by whose weights the mask `like` was pruned, the first first."""

    def searched_on(self, variant: str, ticket: Any, level: int) -> Any:
        """The mask that the same search finds at a level on a variant of its data set: `random-labels`, say."""

    def own_ticket(self, ticket: Any, level: int) -> tuple[Any, Any]:
        """The early weights and the mask of this network's own search at a level, with as many weights as `ticket`."""

    def derived(self, function: "Callable[[Mask, int], Mask]", like: Any, name: str) -> Any:
        """The mask that `function` makes of the mask `like` and the seed of `name`."""

    def derived_weights(
        self, function: "Callable[..., Weights]", start: Any, name: str, beside: Sequence[Any] = ()
    ) -> Any:
        """The weights that `function` makes of the weights `start` and the seed of `name`, to begin with at step k.

        It is handed further weights and masks too, those `beside`, after `start`: what a ticket was trained to, where
        the ticket itself stands there; its own start; its mask.
        """


class MethodReplicate(Draws, Protocol[T]):
    """One repetition of an experiment, as a method sees it: how it trains, how it prunes."""

    @property
    def recipe(self) -> Recipe:
        """How its trainings go."""

    @property
    def epoch_iterations(self) -> int:
        """The optimiser steps of one pass over the training set."""

    @property
    def options(self) -> Any:
        """What a spec has chosen of what the method lets one choose: a value of `Method.options`."""

    def train(self, start: Any, mask: Any = None, recipe: Recipe | None = None) -> T:
        """From `start`, taken as the state at step k, to the end under `mask`."""

    def prune(self, trained: T, mask: Any) -> Any:
        """The mask of one round more: what is left of `mask` after the lowest-scoring weights of `trained` are gone."""

    def settled(self, training: T, level: int, rule: Settling) -> Any:
        """The mask of `level` that `training`, done until then, has settled on, and the weights of that moment.

        `training` itself is not done for it: it says how the search for the mask goes.
        """

    def prune_in_common(self, trained: Sequence[T], mask: Any) -> Any:
        """The mask of one round more: what each of `trained` would keep of `mask`, pruned as much as that takes."""

    def of_model(self, model: str) -> "MethodReplicate[T]":
        """The same with another network; one whose weights are numbers, where the spec's are not, by cross-entropy."""

    def stretched(self, ticket: T, how: str) -> tuple[Any, Any]:
        """The early weights and the mask that another network's ticket has for this one, by a map of its blocks."""

    def on(self, data: str) -> "MethodReplicate[T]":
        """The same, its trainings on the data set of this name: a part or a variant of its own."""

    def as_means(self, weights: Any) -> Any:
        """These weights, which are numbers, as means of a network's that is Gaussian; the same where none is."""

    def in_basis(self, basis: str) -> "MethodReplicate[T]":
        """The same, its masks on the coordinates of the weights in the basis of this name, as `bases` has them."""

    def prune_at_once(self, weights: Any, level: int, scoring: "Scoring") -> Any:
        """The mask that is left when `weights` lose at once all that the levels up to `level` lose."""

    def extruded(self, start: Any, mask: Any, recipe: Recipe) -> T:
        """The dense network from `start`, as `recipe` trains it from first step to last, told what `mask` keeps."""

    def cut(self, trained: T, mask: Any) -> Any:
        """The weights of `trained` that `mask` keeps, biases and running statistics as they are."""

    def resampled(self, weights: Any, level: int, cycle: int, cycles: int) -> Any:
        """A random mask of d^(cycle / cycles) of the weights, d being the density of a level, uniform in each layer.

        What it does not keep are the smallest of `weights`, as many as the cycle before did not keep, and others.
        """

    def mask_of(self, trained: T) -> Any:
        """The mask that a training ends under: the one that it was given, or its own where it changes it."""

    def aligned(self, mask: Any, theirs: T, ours: T, examples: int) -> Any:
        """The mask of `theirs`, its units in the order of those of `ours` that they are like on so many examples."""
