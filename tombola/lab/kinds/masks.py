"""Masks: what pruning leaves, everything, and the controls' masks made from another one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tombola.lab.code import function
from tombola.lab.kinds.training import Train
from tombola.lab.runs import Network, Outcome, Run, Tell
from tombola.layer_patterns import named
from tombola.recipe import Recipe

if TYPE_CHECKING:
    from tombola.lab.worker import Worker
    from tombola.layers import Kind
    from tombola.mask import Mask


@dataclass(frozen=True)
class Sample:
    """The training examples that a score sees: the batches of a training, in its order, from its first step on.

    Attributes:
        recipe: which model, which data, how large a batch, what the training makes small.
        data_fingerprint, split_seed, order_seed, augment_seed: as `Train` has them.
    """

    recipe: Recipe
    data_fingerprint: str
    split_seed: int
    order_seed: int
    augment_seed: int | None = None

    @classmethod
    def of(cls, training: Train) -> "Sample":
        """What `training` sees."""
        seeds = training.split_seed, training.order_seed, training.augment_seed
        return cls(training.recipe, training.data_fingerprint, *seeds)


@dataclass(frozen=True, eq=False, repr=False)
class Prune(Run):
    """The mask left when the living weights of lowest score have gone.

    Attributes:
        network: whose weights they are.
        trained: the weights that are scored.
        mask: what was alive before; None for all.
        score: which score.
        scope: `layer`, each layer by the rate of its kind, or `global`, all together by `rates["linear"]`.
        rates: (kind, fraction) for the kinds linear, conv, embedding, output.
        keep: kinds, names, and patterns of names that are never pruned and not counted; see `layer_patterns.named`.
        score_seed: for scores that draw.
        include: names and patterns of names of parameters that are pruned too, by `rates["linear"]`; None for none.
        code: SHA-256 of the file that the score comes from; None for Tombola's own.
        sample: what a score sees that asks for batches; None for the others.
    """

    kind = "prune"
    version = 1
    later = frozenset({"include", "code", "sample"})

    network: Network
    trained: Run
    mask: Run | None
    score: str
    scope: Literal["layer", "global"]
    rates: tuple[tuple[str, float], ...]
    keep: tuple[str, ...]
    score_seed: int
    include: tuple[str, ...] | None = None
    code: str | None = None
    sample: Sample | None = None

    @property
    def data(self) -> tuple[str, ...]:
        return (self.sample.recipe.data,) if self.sample else ()

    def perform(self, worker: "Worker", tell: Tell = lambda done, total, loss: None) -> Outcome:
        """Score the trained weights, and let the lowest of what is alive go."""
        from tombola import mask, prune

        everything, kinds = _prunable(self)
        # The store lists layers by the alphabet; among equal scores the earlier layer of the model goes first.
        stored = worker.store.mask(self.mask) if self.mask else everything
        before = mask.Mask({name: stored[name] for name in everything})
        scores = worker.scores[self.score](worker.store.weights(self.trained), before, self.score_seed)
        rates = dict(self.rates)
        if self.scope == "global":
            return mask_outcome(prune.globally(scores, before, rates["linear"]))
        by_layer = {name: rates.get(kinds[name], rates["linear"]) for name in before}
        return mask_outcome(prune.by_layer(scores, before, by_layer))


@dataclass(frozen=True, eq=False, repr=False)
class FullMask(Run):
    """Everything alive that may be pruned at all: what level 0 counts where `keep` or `include` change the count."""

    kind = "full"
    version = 1
    later = frozenset({"include"})

    network: Network
    keep: tuple[str, ...]
    include: tuple[str, ...] | None = None

    def perform(self, worker: "Worker", tell: Tell = lambda done, total, loss: None) -> Outcome:
        """All of the network's prunable weights but the kept ones."""
        return mask_outcome(_prunable(self)[0])


@dataclass(frozen=True, eq=False, repr=False)
class RandomMask(Run):
    """A control: a random mask with the layer-wise counts of `like`; one seed gives nested masks."""

    kind = "random"
    version = 1

    like: Run
    mask_seed: int

    def perform(self, worker: "Worker", tell: Tell = lambda done, total, loss: None) -> Outcome:
        """Draw it."""
        from tombola import mask

        return mask_outcome(mask.random_like(worker.store.mask(self.like), self.mask_seed))


@dataclass(frozen=True, eq=False, repr=False)
class ShuffledMask(Run):
    """A control: the mask `like` with its entries permuted inside each layer."""

    kind = "shuffle"
    version = 1

    like: Run
    mask_seed: int

    def perform(self, worker: "Worker", tell: Tell = lambda done, total, loss: None) -> Outcome:
        """Permute it."""
        from tombola import mask

        return mask_outcome(mask.shuffle(worker.store.mask(self.like), self.mask_seed))


@dataclass(frozen=True, eq=False, repr=False)
class DerivedMask(Run):
    """A control of an extension: the mask that a function of it makes of the mask `like`.

    Attributes:
        function: its name in the extension; from a mask and a seed to a mask.
        code: SHA-256 of the extension.
    """

    kind = "derived"
    version = 1

    like: Run
    function: str
    code: str
    mask_seed: int

    def perform(self, worker: "Worker", tell: Tell = lambda done, total, loss: None) -> Outcome:
        """Have the function make it."""
        make = function(self.function, self.code)
        return mask_outcome(make(worker.store.mask(self.like), self.mask_seed))


def _prunable(run: Prune | FullMask) -> "tuple[Mask, dict[str, Kind]]":
    """The full mask over what may be pruned and is not kept, and the kinds of its layers."""
    from tombola import mask, prunable

    model, include = run.network.build(), run.include or ()
    kinds, full = prunable.prunable(model, include), prunable.full(model, include)
    dense = named(run.keep, kinds)
    return mask.Mask({name: full[name] for name in kinds if name not in dense}), kinds


def mask_outcome(made: "Mask") -> Outcome:
    """An outcome that holds a mask, as `Store.mask` reads it."""
    from tombola import mask_codec

    values = {
        "density": made.density,
        "alive": made.alive,
        "total": made.total,
        "counts": made.counts,
        "shapes": {name: list(alive.shape) for name, alive in made.items()},
    }
    return Outcome(values, tensors={"mask": mask_codec.pack(made)})
