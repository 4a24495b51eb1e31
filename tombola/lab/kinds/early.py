"""A training that ends as soon as the mask that it would be pruned to has settled."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tombola import engine
from tombola.at_once import AtOnce
from tombola.data.facts import Facts
from tombola.early_bird import Drawn, Settling, Wiring, apart_by_chance
from tombola.engine import Choice, machine
from tombola.engine.training import Start
from tombola.errors import BadInput, TombolaError
from tombola.lab.kinds.masks import Prune, Sample, mask_outcome
from tombola.lab.kinds.training import further_inputs
from tombola.lab.runs import Known, Network, Outcome, Run, Tell, untold
from tombola.macs import GRADIENT, Macs, examples
from tombola.recipe import learning_rate
from tombola.score import MAGNITUDE
from tombola.scores import SCORES

if TYPE_CHECKING:
    from torch import Tensor

    from tombola.lab.checkpoints import Checkpoints
    from tombola.lab.worker import Worker
    from tombola.mask import Mask
    from tombola.train import Span
    from tombola.weights import Weights

CHECKED = 50  # steps between two looks at the clock


@dataclass(frozen=True, eq=False, repr=False)
class EarlyBird(Run):
    """The mask that a dense training has settled on, and the weights of the moment when it had.

    While the network trains, masks are drawn now and then; they take no part in the training. The runs of several
    levels are one training if they are done at once, and what each makes is the same as if it were done by itself.
    Where a mask does not settle, the one at the end of the training is taken, and `settled_step` is None.

    Attributes:
        network: whose weights they are.
        start: where the weights come from.
        sample: the recipe, and which examples it sees when.
        begin, until: optimiser steps done before, and when it ends at the latest.
        scope, rates, keep, include: as `Prune` has them.
        density, rounds, counted: how much is left, as `Prune` has them where it prunes at once.
        rule: when masks are drawn, and when they have settled.
        further: what else the objective asks for, as `Train.further` has it; None for nothing.
    """

    kind = "early_bird"
    version = 1
    later = frozenset({"include", "further"})

    network: Network
    start: Run
    sample: Sample
    begin: int
    until: int
    scope: str
    rates: tuple[tuple[str, float], ...]
    keep: tuple[str, ...]
    density: float | None
    rounds: int | None
    counted: str | None
    rule: Settling
    include: tuple[str, ...] | None = None
    further: tuple[tuple[str, Run], ...] | None = None

    @property
    def data(self) -> tuple[str, ...]:
        return (self.sample.recipe.data,)

    @property
    def steps(self) -> int:
        """At the most: a mask that settles ends it."""
        return self.until - self.begin

    def seconds(self, facts: Facts, step_seconds: Callable[[], float]) -> float:
        """All steps, as if no mask settled."""
        return step_seconds() * self.sample.recipe.forwards / GRADIENT * self.steps

    def macs(self, known: Known) -> Macs:
        """3 f of the dense network for every example until the mask has settled; to the end where that is not known."""
        facts, trained = known.facts(self.sample.recipe.data), known.values(self).get("trained_steps", self.steps)
        seen = examples(self.begin, self.begin + trained, facts.train, self.sample.recipe.batch)
        return known.forward(self.network, {}, by=self) * (self.sample.recipe.forwards * seen)

    def counts(self, known: Known) -> Mapping[str, int]:
        """Those of any mask of as many weights."""
        return self.pruned.counts(known)

    def progress(self, done: int, total: int, loss: float) -> str:
        return f"masks {loss:.1%} apart at step {done}" if loss <= 1 else f"step {done}"

    @property
    def stack(self) -> tuple[Any, ...]:
        """All but what is pruned: the training, and when it is looked at."""
        recipe, order = self.sample.recipe.model_dump_json(), (self.sample.split_seed, self.sample.order_seed)
        further = tuple((name, run.key) for name, run in self.further or ())
        every = str(self.rule.every)
        seeds = (*order, self.sample.augment_seed)
        return (
            self.kind,
            self.start.key,
            recipe,
            self.sample.data_fingerprint,
            *seeds,
            self.begin,
            self.until,
            every,
            further,
        )

    def stack_size(self, choice: Choice, device: str) -> int:
        """As many as there are: they are one training."""
        return 1000

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Train until the mask has settled."""
        (ended,) = _searched([self], worker, [tell])
        if isinstance(ended, TombolaError):
            raise ended
        return ended

    @staticmethod
    def perform_stack(
        runs: "Sequence[EarlyBird]", worker: "Worker", tells: Sequence[Tell]
    ) -> list[Outcome | TombolaError | None]:
        """The outcomes of several levels out of one training; what was interrupted goes on from where it was."""
        outcomes: list[Outcome | TombolaError | None] = [None] * len(runs)
        groups: dict[int | None, list[int]] = {}
        for place, run in enumerate(runs):
            halted = worker.halted(run)
            groups.setdefault(halted.values["step"] if halted else None, []).append(place)
        for places in groups.values():
            searched = _searched([runs[place] for place in places], worker, [tells[place] for place in places])
            for place, outcome in zip(places, searched, strict=True):
                outcomes[place] = outcome
        return outcomes

    @property
    def pruned(self) -> Prune:
        """What the mask of a moment is, if the weights of that moment are those of `start`."""
        score, rates, keep = MAGNITUDE.name, self.rates, self.keep
        made = Prune(self.network, self.start, None, score, self.scope, rates, keep, 0, include=self.include)
        return replace(made, density=self.density, rounds=self.rounds, counted=self.counted)


def _searched(runs: Sequence[EarlyBird], worker: "Worker", tells: Sequence[Tell]) -> Sequence[Outcome | TombolaError]:
    """The outcomes of runs with the same `EarlyBird.stack` that stand at one step: one training, or why it failed."""
    from tombola.train import Span

    run, interval = runs[0], worker.interval(len(runs))
    halted = [worker.halted(each) for each in runs]
    trained = _Training(run, worker, halted[0])
    watches = [
        _Watch(each, worker.checkpoints(each, kept, interval), tell)
        for each, kept, tell in zip(runs, halted, tells, strict=True)
    ]

    def checkpoint(step: int) -> None:
        if step > trained.begin and interval.over(step):
            for watch in watches:
                watch.keep(step, trained)

    for begin, end in trained.parts:
        looks = range(begin - begin % -CHECKED, end, CHECKED)
        if error := trained.train(Span(begin, end, trained.rate, looks), checkpoint):
            return [error] * len(runs)
        weights = trained.weights()
        for watch in watches:
            watch.look(end, weights)
        if all(watch.found for watch in watches):
            break
    how = {"engine": trained.engine, **machine.device_facts(worker.device)}
    return [watch.outcome(how) for watch in watches]


class _Training:
    """The one training of several levels, as far as it has come.

    Attributes:
        begin: the step that it goes on from.
        engine: what trains, for the record.
    """

    def __init__(self, run: EarlyBird, worker: "Worker", halted: Outcome | None) -> None:
        from tombola import prunable, weights

        recipe, dataset = run.sample.recipe, worker.placed(run.sample.recipe)
        self._per_epoch = dataset.facts.epoch_iterations(recipe.batch)
        model, store = run.network.build(), worker.store
        weights.put(model, halted.tensors["weights"] if halted else store.weights(run.start))
        carried = store.tensors(run.start, "optimizer") if store.holds(run.start, "optimizer") else {}
        state = halted.tensors.get("optimizer", {}) if halted else carried
        start = Start(model, prunable.full(model), dataset, state, further_inputs(run.further, run.sample, worker))
        begun = engine.begin(worker.training(recipe), [start], worker.times)
        self._run, self._trainings, self._batches = run, begun.trainings, worker.batches(run.sample)
        self.begin, self.engine = halted.values["step"] if halted else run.begin, begun.name

    @property
    def parts(self) -> Iterator[tuple[int, int]]:
        """(begin, end) of what is trained between two masks, and before and after; none is longer than from one to the
        next."""
        every = self._run.rule.every.iterations(self._per_epoch)
        begin = self.begin
        while begin < self._run.until:
            end = min(begin - begin % every + every, self._run.until)
            yield begin, end
            begin = end

    def rate(self, step: int) -> float:
        """The learning rate of the step that follows."""
        return learning_rate(self._run.sample.recipe, step, self._per_epoch)

    def train(self, span: "Span", watch: Callable[[int], None]) -> TombolaError | None:
        """Train over `span`; why it failed, None if it did not."""
        return self._trainings.train([self._batches], span, [watch])[0]

    def weights(self) -> "dict[str, Tensor]":
        """Those that it has come to."""
        return self._trainings.states[0].weights()

    def optimizer_state(self) -> "dict[str, Tensor]":
        """The optimiser's state by name."""
        return self._trainings.states[0].optimizer_state()


class _Watch:
    """The masks of one level, as they are drawn.

    Attributes:
        found: the mask that they have settled on, and the weights and the numbers of that moment.
    """

    def __init__(self, run: EarlyBird, checkpoints: "Checkpoints", tell: Tell) -> None:
        from tombola import prunable

        self._run, self._checkpoints, self._tell, self._model = run, checkpoints, tell, run.network.build()
        self._round, amount = run.pruned.round(SCORES), run.pruned.amount
        assert amount
        self._at_once, self._full = AtOnce(self._round, amount), self._round.full(self._model)
        self._kinds = prunable.prunable(self._model, self._round.include)
        self._drawn, self._distances = Drawn(run.rule.remembered), list[list[Any]]()
        self.found: Outcome | None = None
        if checkpoints.halted:
            self._resume(checkpoints.halted)

    def look(self, step: int, weights: "Weights") -> None:
        """Draw the mask of this moment, and take it if it has settled, or if the training ends here."""
        if self.found:
            return
        run, (mask, compared) = self._run, self._mask(weights)
        self._drawn = self._drawn.then(compared)
        apart = self._drawn.distances
        self._distances += [[step, max(apart)]] if apart else []
        settled = self._drawn.within(run.rule.reached(compared.density))
        if settled or step == run.until:
            self.found = self._taken(step if settled else None, step, mask, compared.density, weights)
        self._tell(step - run.begin, run.until - run.begin, max(apart) if apart else float("inf"))

    def _mask(self, weights: "Weights") -> "tuple[Mask, Mask]":
        """The mask of this moment, and what of it is compared: its weights, or which channels it keeps."""
        from tombola.early_bird import covered, importance, kept_channels

        sizes = {name: weights[name].abs() for name in self._full}
        mask = self._at_once.mask(self._full, lambda alive, among: sizes, self._kinds)
        if self._run.rule.by == "weight":
            return mask, mask
        ranked = importance(self._model, {name: self._kinds[name] for name in mask}, weights)
        kept = kept_channels(self._full, ranked, mask.alive, self._wiring)
        return covered(self._full, kept, self._wiring), kept

    @cached_property
    def _wiring(self) -> Wiring:
        """Which channels a weight makes and reads, as far as the network's calls can be followed."""
        try:
            coupling = self._run.network.coupling()
        except BadInput:
            return Wiring({}, {})
        return Wiring.of(coupling, self._full)

    def _taken(self, settled: int | None, step: int, mask: "Mask", density: float, weights: "Weights") -> Outcome:
        from tombola import mask_codec

        made = mask_outcome(mask)
        values = {
            "settled_step": settled,
            "trained_steps": step - self._run.begin,
            "distances": self._distances,
            "within": self._run.rule.reached(density),
            "apart_by_chance": apart_by_chance(density),
        }
        return Outcome({**made.values, **values}, {**made.tensors, "weights": mask_codec.compress(weights, mask)})

    def outcome(self, how: dict[str, Any]) -> Outcome:
        """What was found."""
        assert self.found  # at the end of the training at the latest
        halted = self._checkpoints.halted
        before = {"resumed": [halted.values["step"]], "seconds_before": halted.values["seconds"]} if halted else {}
        return Outcome(self.found.values, self.found.tensors, how=how | before)

    def keep(self, step: int, training: _Training) -> None:
        """Keep all that it takes to go on from here as if nothing had been."""
        from tombola import mask_codec

        masks = {f"mask {place}": mask_codec.pack(mask) for place, mask in enumerate(self._drawn.masks)}
        found = {f"found {name}": tensors for name, tensors in (self.found.tensors if self.found else {}).items()}
        state = {"weights": training.weights(), "optimizer": training.optimizer_state()}
        shapes = {name: list(flags.shape) for mask in self._drawn.masks[:1] for name, flags in mask.items()}
        found_values = self.found and dict(self.found.values)
        values = {"step": step, "shapes": shapes, "distances": self._distances, "found": found_values}
        self._checkpoints.keep(Outcome(values, {**state, **masks, **found}))

    def _resume(self, halted: Outcome) -> None:
        from tombola import mask_codec

        shapes = halted.values["shapes"]
        for name in sorted((name for name in halted.tensors if name.startswith("mask ")), key=_number):
            self._drawn = self._drawn.then(mask_codec.unpack(halted.tensors[name], shapes))
        self._distances = halted.values["distances"]
        if values := halted.values["found"]:
            parts = {name.removeprefix("found "): each for name, each in halted.tensors.items() if "found " in name}
            self.found = Outcome(values, parts)


def _number(name: str) -> int:
    return int(name.rpartition(" ")[2])
