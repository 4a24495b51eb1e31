"""Masks: what pruning leaves, everything, and the controls' masks made from another one."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING

from tombola.at_once import Amount, AtOnce
from tombola.code import attribute
from tombola.data.facts import Facts
from tombola.errors import BadInput
from tombola.intersection import lowest_ranks
from tombola.lab.kinds.training import Train, further_inputs, mask_values
from tombola.lab.runs import Known, Network, Outcome, Run, Tell, untold
from tombola.macs import GRADIENT, Macs
from tombola.models.layer import Layer
from tombola.objective import CrossEntropy
from tombola.pruning import SCOPES, Round, by_kind, channels_in_common
from tombola.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.coupling import Coupling
    from tombola.lab.worker import Worker
    from tombola.mask import Mask
    from tombola.score import Batch, Score, Scored


@dataclass(frozen=True)
class Sample:
    """The training examples that a score sees: the batches of a training, in its order, from its first step on.

    Attributes:
        recipe: which model, which data, how large a batch, what the training makes small.
        data_fingerprint, split_seed, order_seed, augment_seed: as `Train` has them.
        examples: how many of them, of one epoch at most; None for an epoch.
    """

    recipe: Recipe
    data_fingerprint: str
    split_seed: int
    order_seed: int
    augment_seed: int | None = None
    examples: int | None = None

    @classmethod
    def of(cls, training: Train, examples: int | None = None) -> "Sample":
        """What `training` sees, or the first `examples` of that."""
        seeds = training.split_seed, training.order_seed, training.augment_seed
        return cls(training.recipe, training.data_fingerprint, *seeds, examples)

    def sizes(self, known: Known) -> list[int]:
        """How many examples are in each batch: all of one epoch, or as many as it has at the most."""
        epoch, batch = known.facts(self.recipe.data).train, self.recipe.batch
        seen = epoch if self.examples is None else min(self.examples, epoch)
        return [min(batch, seen - begin) for begin in range(0, seen, batch)]

    def batches(self, worker: "Worker") -> "Iterable[Batch]":
        """Those of one epoch, on the worker's device, from the first one on as often as they are asked for."""
        steps = worker.placed(self.recipe).facts.epoch_iterations(self.recipe.batch)
        return _Epoch(worker.batches(self), steps, self.examples)

    def loss(self, inputs: "Mapping[str, Mapping[str, Tensor]]") -> "Callable[[nn.Module, Batch], Tensor]":
        """What the training makes small, given the weights that it was given beside its start, by name."""
        objective = self.recipe.objective or CrossEntropy()
        return lambda model, batch: objective.loss(model, batch, inputs)


@dataclass(frozen=True)
class _Epoch:
    """The first `steps` batches, and of these so many examples, each time from the first one on."""

    batches: "Callable[[int], Batch]"
    steps: int
    examples: int | None = None

    def __iter__(self) -> "Iterator[Batch]":
        if self.examples is None:
            yield from map(self.batches, range(self.steps))
            return
        left = self.examples
        for step in range(self.steps):
            inputs, labels = self.batches(step)
            yield inputs[:left], labels[:left]
            left -= len(labels)
            if left <= 0:
                return


@dataclass(frozen=True, eq=False, repr=False)
class Prune(Run):
    """The mask left when the living weights of lowest score have gone: one `pruning.Round`.

    Attributes:
        network: whose weights they are.
        trained: the weights that are scored.
        mask: what was alive before; None for all.
        score: which score.
        scope: a name in `pruning.SCOPES`; in `global`, all layers together lose `rates["linear"]`.
        rates: (kind, fraction) for the kinds linear, conv, embedding, output.
        keep: kinds, names, and patterns of names that are never pruned and not counted; see `layer_patterns.named`.
        score_seed: for scores that draw.
        include: names and patterns of names of parameters that are pruned too, by `rates["linear"]`; None for none.
        n, m: in the scope `n_of_m`, how many stay of how many; None elsewhere.
        code: SHA-256 of the file that the score comes from; None for Tombola's own.
        sample: the batches that the score sees; None for one that sees none.
        further: what else the loss that the score sees asks for, as `Train.further` has it; None for nothing.
        density: what is left, at once, of all that may be pruned; None where rounds say that.
        rounds: as many weights are left as so many rounds of `counted` would leave; None for one round from `mask` on.
        counted: the scope of these rounds.
        iterations, returning: in how many steps of scoring, between which weights may come back; None for one.
        initial: the weights at the beginning of `trained`'s training; None for a score that does not ask for them.
        beside: the weights of further trainings: what stays is what all of them would keep; None for no other.
        multiple: in the scopes of channels, what their number divides by afterwards; None for anything.
    """

    kind = "prune"
    version = 1
    later = frozenset(
        {
            "include",
            "n",
            "m",
            "code",
            "sample",
            "further",
            "density",
            "rounds",
            "counted",
            "iterations",
            "returning",
            "initial",
            "beside",
            "multiple",
        }
    )

    network: Network
    trained: Run
    mask: Run | None
    score: str
    scope: str
    rates: tuple[tuple[str, float], ...]
    keep: tuple[str, ...]
    score_seed: int
    include: tuple[str, ...] | None = None
    n: int | None = None
    m: int | None = None
    code: str | None = None
    sample: Sample | None = None
    further: tuple[tuple[str, Run], ...] | None = None
    density: float | None = None
    rounds: int | None = None
    counted: str | None = None
    iterations: int | None = None
    returning: bool | None = None
    initial: Run | None = None
    beside: tuple[Run, ...] | None = None
    multiple: int | None = None

    @property
    def data(self) -> tuple[str, ...]:
        return (self.sample.recipe.data,) if self.sample else ()

    def seconds(self, facts: Facts, step_seconds: Callable[[], float]) -> float:
        """The steps of an epoch, or of its examples, where the score sees batches; nothing elsewhere."""
        if self.sample is None:
            return 0.0
        batch, examples = self.sample.recipe.batch, self.sample.examples
        steps = facts.epoch_iterations(batch) if examples is None else -(-examples // batch)
        return (self.iterations or 1) * steps * step_seconds()

    @property
    def amount(self) -> Amount | None:
        """What is left of the whole network; None for a round more."""
        if self.density is None and self.rounds is None:
            return None
        scope = self.counted or self.scope
        by = Round(scope, by_kind(dict(self.rates), scope), self.keep, self.include or ())
        return Amount(by, self.density, self.rounds or 0)

    def macs(self, known: Known) -> Macs:
        """What its score takes on the examples that it sees, in every step of scoring under what is alive by then."""
        score, steps = self.round(known.scores).score, self.iterations or 1
        batches = self.sample.sizes(known) if self.sample else []
        passes = self.sample.recipe.forwards if self.sample else GRADIENT
        whole = {name: layer.weights for name, layer in known.layers(self.network).items()}
        before, after = known.counts(self.mask), known.counts(self)
        ends = {name: (before.get(name, size), after.get(name, size)) for name, size in whole.items()}
        total = Macs()
        for done in (step / steps for step in range(steps)):  # each layer goes down exponentially, as is assumed
            alive = {name: floor(first ** (1 - done) * last**done) for name, (first, last) in ends.items()}
            f = known.forward(self.network, alive)
            # Where pruned weights may come back they have gradients too, a third of what a gradient takes.
            ideal = 2 * f.ideal + f.executed if self.returning else 3 * f.ideal
            costs = score.cost(ideal, batches) // 3, score.cost(f.executed, batches)
            total += Macs(*(cost * passes // GRADIENT for cost in costs))
        return total

    def counts(self, known: Known) -> Mapping[str, int]:
        """Each layer's share; where layers are pooled all are taken to lose the same fraction."""
        layers, round, scope = known.layers(self.network), self.round(known.scores), SCOPES[self.scope]
        if self.amount is not None:
            return left_at_once(AtOnce(round, self.amount), layers)
        rates = round.rates_of({name: layer.kind for name, layer in layers.items()})
        whole = {name: layers[name].weights for name in rates}
        before = {**whole, **known.counts(self.mask)}
        after = {name: (whole if scope.once else before)[name] * scope.density(round, rates[name], 1) for name in rates}
        return {name: min(before[name], floor(count + 0.5)) for name, count in after.items()}

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Score the trained weights, and let the lowest of what is alive go."""
        return mask_outcome(self.left(worker))

    def left(self, worker: "Worker", watch: "Callable[[Mask, Mapping[str, Tensor]], None] | None" = None) -> "Mask":
        """The mask that is left.

        Args:
            worker: whose store has the weights.
            watch: is told, at each step of scoring, what was alive to be scored, and the scores.
        """
        from tombola import prunable
        from tombola.mask import Mask
        from tombola.score import scores

        round = self.round(worker.scores)
        model = self.network.build()
        everything = round.full(model)
        # The store lists layers by the alphabet; among equal scores the earlier layer of the model goes first.
        stored = worker.store.mask(self.mask) if self.mask else everything
        before = Mask({name: stored[name] for name in everything})
        kinds = prunable.prunable(model, round.include)
        eyes = [self._eye(trained, model, worker) for trained in (self.trained, *(self.beside or ()))]

        if (channels := self._coupling) and self.beside:
            each = [scores(round.score, see(None, before)) for see in eyes]
            by_ranks, ranks = channels_in_common(round, each, before, channels)
            return by_ranks.next(before, ranks, kinds, coupling=channels)

        def ranked(alive: "Mask | None", among: "Mask") -> "Mapping[str, Tensor]":
            each = [scores(round.score, see(alive, among)) for see in eyes]
            groups = [list(among)] if SCOPES[round.scope].pooled else [[name] for name in among]
            given = lowest_ranks(each, among, groups) if self.beside else each[0]
            if watch:
                watch(among, given)
            return given

        if self.amount is None:
            return round.next(before, ranked(None, before), kinds, coupling=channels)
        at_once = AtOnce(round, self.amount, self.iterations or 1, bool(self.returning))
        return at_once.mask(everything, ranked, kinds, before=before)

    def round(self, scores: "Mapping[str, Score]") -> Round:
        """Return what goes in it.

        Args:
            scores: that there are, by name.

        Raises:
            BadInput: the score is none of them, or of another file than the one that is in the key.
        """
        score = scores.get(self.score)
        if score is None or score.code != self.code:
            raise _other_score(self)
        return Round(
            scope=self.scope,
            rates=by_kind(dict(self.rates), self.scope),
            keep=self.keep,
            include=self.include or (),
            n=self.n,
            m=self.m,
            score=score,
            multiple=self.multiple or 1,
        )

    @property
    def _coupling(self) -> "Coupling | None":
        return self.network.coupling() if SCOPES[self.scope].coupled else None

    def _eye(self, run: Run, model: "nn.Module", worker: "Worker") -> "Callable[[Mask | None, Mask], Scored]":
        """What a score sees of the network that `run` trained, under a mask or as it is, and of what is scored."""
        from tombola import mask, weights
        from tombola.score import Scored

        trained, sample = worker.store.weights(run), self.sample
        initial = worker.store.weights(self.initial) if self.initial else None
        loss = sample.loss(further_inputs(self.further, sample, worker)) if sample else None

        def see(alive: "Mask | None", among: "Mask") -> "Scored":
            weights.put(model, trained if alive is None else mask.apply(trained, alive))
            if sample is None or loss is None:
                return Scored(model, trained, among, seed=self.score_seed, initial=initial, coupling=self._coupling)
            batches, model_there = sample.batches(worker), model.to(worker.device)
            return Scored(model_there, trained, among, batches, self.score_seed, loss, initial, coupling=self._coupling)

        return see


def left_at_once(pruning: AtOnce, layers: Mapping[str, Layer]) -> dict[str, int]:
    """How many weights of each layer stay where a network is pruned at once, if layers that are pooled lose the same.

    >>> layers = {"a": Layer("linear", 10, 10), "b": Layer("output", 10, 5)}
    >>> left_at_once(AtOnce(Round("global"), Amount(Round("global"), density=0.1)), layers)
    {'a': 10, 'b': 5}
    """
    rates = pruning.amount.by.rates_of({name: layer.kind for name, layer in layers.items()})
    *_, left = pruning.schedule({name: layers[name].shape for name in rates}, rates)
    shares = {names: count / (sum(layers[name].weights for name in names) or 1) for names, count in left.items()}
    return {name: floor(layers[name].weights * share + 0.5) for names, share in shares.items() for name in names}


def _other_score(run: Prune) -> BadInput:
    return BadInput(
        where=f"score of {run.key}",
        expected=f"{run.score!r} of {f'the extension {run.code[:16]}...' if run.code else 'Tombola itself'}",
        found="another one, or none",
        todo="`replicate.prune` makes masks by the spec's score; name the same files to whatever performs them.",
    )


@dataclass(frozen=True, eq=False, repr=False)
class FullMask(Run):
    """Everything alive that may be pruned at all: what level 0 counts where `keep` or `include` change the count."""

    kind = "full"
    version = 1
    later = frozenset({"include"})

    network: Network
    keep: tuple[str, ...]
    include: tuple[str, ...] | None = None

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """All of the network's prunable weights but the kept ones."""
        return mask_outcome(Round(keep=self.keep, include=self.include or ()).full(self.network.build()))


@dataclass(frozen=True, eq=False, repr=False)
class RandomMask(Run):
    """A control: a random mask with the layer-wise counts of `like`; one seed gives nested masks.

    Attributes:
        network: whose whole channels the mask keeps, as `like` does; None where it keeps single weights.
    """

    kind = "random"
    version = 1
    later = frozenset({"network"})

    like: Run
    mask_seed: int
    network: Network | None = None

    def counts(self, known: Known) -> Mapping[str, int]:
        """Those of `like`."""
        return known.counts(self.like)

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Draw it."""
        from tombola import coupling, mask

        like = worker.store.mask(self.like)
        if self.network is None:
            return mask_outcome(mask.random_like(like, self.mask_seed))
        return mask_outcome(coupling.random_like(like, self.network.coupling(), self.mask_seed))


@dataclass(frozen=True, eq=False, repr=False)
class ShuffledMask(Run):
    """A control: the mask `like` with its entries permuted inside each layer.

    Attributes:
        network: whose whole channels are permuted; None where single weights are.
    """

    kind = "shuffle"
    version = 1
    later = frozenset({"network"})

    like: Run
    mask_seed: int
    network: Network | None = None

    def counts(self, known: Known) -> Mapping[str, int]:
        """Those of `like`."""
        return known.counts(self.like)

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Permute it."""
        from tombola import coupling, mask

        like = worker.store.mask(self.like)
        if self.network is None:
            return mask_outcome(mask.shuffle(like, self.mask_seed))
        return mask_outcome(coupling.shuffle(like, self.network.coupling(), self.mask_seed))


@dataclass(frozen=True, eq=False, repr=False)
class DerivedMask(Run):
    """A control: the mask that a function makes of the mask `like`.

    Attributes:
        function: from a mask and a seed to a mask; its name, by which `code.attribute` finds it.
        code: SHA-256 of the extension that it is of; None for the package.
    """

    kind = "derived"
    version = 1

    like: Run
    function: str
    code: str | None
    mask_seed: int

    def counts(self, known: Known) -> Mapping[str, int]:
        """Those of `like`."""
        return known.counts(self.like)

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Have the function make it; what it draws from generators of the whole process begins at the seed too.

        Raises:
            BadInput: what it makes is no mask of the layers of `like`, with as many living weights.
        """
        from tombola.mask import Mask
        from tombola.mask_checks import rearranged
        from tombola.seeding import seeded

        make, like = attribute(self.function, self.code), worker.store.mask(self.like)
        with seeded(self.mask_seed):
            made = make(Mask(like), self.mask_seed)  # a copy, as it may work in place
        return mask_outcome(rearranged(made, like, f"{self.function} of {self.key}"))


def mask_outcome(made: "Mask") -> Outcome:
    """An outcome that holds a mask, as `Store.mask` reads it."""
    from tombola import mask_codec

    return Outcome(mask_values(made), tensors={"mask": mask_codec.pack(made)})
