"""The only kind of training, and how it is done: alone, or several in a stack."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal

from tombola import data, engine
from tombola.data.facts import Facts
from tombola.dynamics import Timeline
from tombola.engine import machine
from tombola.engine.training import Start, Training, TrainingState
from tombola.errors import TombolaError
from tombola.lab.runs import A_LOOK, Known, Network, Outcome, Run, Tell, untold
from tombola.macs import GRADIENT, Macs, examples
from tombola.recipe import Recipe, learning_rate
from tombola.value import text

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.lab.checkpoints import Interval
    from tombola.lab.recorder import Recorder
    from tombola.lab.worker import ExampleOrder, Worker
    from tombola.mask import Mask


@dataclass(frozen=True, eq=False, repr=False)
class Train(Run):
    """The only kind of training: from the weights of `start`, under `mask`, from step `begin` to step `until`.

    Attributes:
        start: where the weights come from. Rewinding is which run this names.
        mask: which weights live; None for all of them.
        recipe: how the training goes. Its schedule spans the recipe's length, whatever `begin` and `until` are.
        data_fingerprint: of the recipe's data set: its content, its split sizes, its normalisation.
        split_seed, order_seed: what is held out for validation; the order of the examples.
        begin, until: optimiser steps done before and after.
        evaluate_every, test_every: when the validation loss and the test accuracy are looked at.
        optimizer_state: `fresh`, or `carried` over from `start`.
        keep_optimizer: whether the outcome holds the optimiser's state for a successor that carries it over.
        augment_seed: how the images are changed, where the recipe augments them or its objective draws.
        further: what else its objective or its dynamics ask for, as (name, run whose weights, or whose mask, it is):
            a teacher, say; None for nothing.
        dynamics_seed: what the recipe's dynamics draw from; None where there are none.
    """

    kind = "train"
    version = 1
    data_parallel = True
    later = frozenset({"augment_seed", "further", "dynamics_seed"})

    start: Run
    mask: Run | None
    recipe: Recipe
    data_fingerprint: str
    split_seed: int
    order_seed: int
    begin: int
    until: int
    evaluate_every: int
    test_every: int
    optimizer_state: Literal["fresh", "carried"] = "fresh"
    keep_optimizer: bool = False
    augment_seed: int | None = None
    further: tuple[tuple[str, Run], ...] | None = None
    dynamics_seed: int | None = None

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Train, on whichever engine the worker chooses."""
        (ended,) = _train([prepared(self, worker)], worker, [tell])
        if isinstance(ended, TombolaError):
            raise ended
        return ended

    @property
    def data(self) -> tuple[str, ...]:
        return (self.recipe.data,)

    @property
    def recipe_trained(self) -> Recipe:
        return self.recipe

    @property
    def compressed_by(self) -> Run | None:
        return self.mask

    @property
    def keeps_mask(self) -> bool:
        """Whether it ends under the mask that it was given.

        With dynamics, or a kind that trains in its own way, it may have another one.
        """
        return type(self) is Train and self.recipe.dynamics is None

    @property
    def steps(self) -> int:
        return self.until - self.begin

    def seconds(self, facts: Facts, step_seconds: Callable[[], float]) -> float:
        """Its steps, the looks at validation and test images now and then, and two at all that it trains on.

        The latter take twice as long each: no engine has made them ready to be looked at again and again.
        """
        looks, tests = self.steps // self.evaluate_every + 1, self.steps // self.test_every + 1
        images = looks * facts.validation + tests * facts.test + 2 * 2 * facts.train + self._asked(facts)
        return step_seconds() * (self.recipe.forwards / GRADIENT * self.steps + A_LOOK * images / self.recipe.batch)

    def macs(self, known: Known) -> Macs:
        """3 f for every example of its steps; ideally what it says itself, where its mask changes while it trains."""
        recipe, facts = self.recipe, known.facts(self.recipe.data)
        network = Network(recipe.model, facts.shape, facts.classes)
        gradients = recipe.forwards * examples(self.begin, self.until, facts.train, recipe.batch)
        static = known.forward(network, known.counts(self.mask), by=self) * gradients
        own = None if self.keeps_mask else known.values(self).get("macs")
        taken = static if own is None else Macs(own, static.executed)
        return taken + known.forward(network, {}) * self._asked(facts)

    def _asked(self, facts: Facts) -> int:
        """How many examples its teacher sees: each once, or those of all steps where no pass has the same images."""
        if not (self.recipe.objective and self.recipe.objective.taught):
            return 0
        once = self.recipe.augment is None and not data.is_folder(self.recipe.data)
        return facts.train if once else examples(self.begin, self.until, facts.train, self.recipe.batch)

    def counts(self, known: Known) -> Mapping[str, int]:
        """Where it ends under a mask of its own: those of the mask that says how much shall stay, or it begins with."""
        given = [known.counts(run) for run in (*(run for _, run in self.further or ()), self.mask)]
        return next((counts for counts in given if counts and not self.keeps_mask), {})

    def progress(self, done: int, total: int, loss: float) -> str:
        return f"validation loss {loss:.3f} at step {done}"

    @cached_property
    def stack(self) -> tuple[Any, ...] | None:
        """All but where trainings start, their masks and their seeds; None for a kind that trains in its own way."""
        if type(self) is not Train:
            return None
        recipe = text(self.recipe)
        looks = self.evaluate_every, self.test_every
        names = tuple(name for name, _ in self.further or ())
        state = self.optimizer_state, self.keep_optimizer
        return recipe, self.data_fingerprint, self.begin, self.until, *looks, *state, names

    def stack_size(self, choice: engine.Choice, device: str) -> int:
        return 1 if self.further or type(self) is not Train else _room(self.recipe, choice, device)

    @staticmethod
    def perform_stack(
        runs: "Sequence[Train]", worker: "Worker", tells: Sequence[Tell]
    ) -> list[Outcome | TombolaError | None]:
        """The outcomes of trainings with the same `stack`, of each its own or why it failed.

        A stack has one step for all: trainings whose checkpoints are of another step, or whose carried optimisers have
        counted other steps, go into a stack of their own.

        Returns:
            None for those that are better done by themselves: one that is left alone, and those that would not be
            faster in a stack, unless stacks are asked for.
        """
        from tombola.engine.stacked.trainer import state_kind

        starts = [prepared(run, worker) for run in runs]
        outcomes: list[Outcome | TombolaError | None] = [None] * len(runs)
        groups: dict[Any, list[int]] = {}
        for place, start in enumerate(starts):
            kept = start.halted.values["step"] if start.halted else None
            groups.setdefault((kept, state_kind(start.state)), []).append(place)
        for places in groups.values():
            if len(places) == 1 or not _pays([starts[place] for place in places], worker):
                continue
            done = _train([starts[place] for place in places], worker, [tells[place] for place in places])
            for place, outcome in zip(places, done, strict=True):
                outcomes[place] = outcome
        return outcomes


@dataclass(frozen=True)
class Prepared:
    """A training that is about to begin, or to go on from its checkpoint."""

    run: Train
    model: "nn.Module"
    living: "Mask"
    state: "Mapping[str, Tensor]"
    halted: Outcome | None


def prepared(run: Train, worker: "Worker") -> Prepared:
    from tombola import prunable, weights

    store, facts = worker.store, worker.placed(run.recipe).facts
    model = Network(run.recipe.model, facts.shape, facts.classes).build()
    living = store.mask(run.mask) if run.mask else prunable.full(model)
    halted = worker.halted(run)
    # What dynamics remember is more than weights, and is put back when they have begun.
    start = halted.tensors["weights"] if halted and run.recipe.dynamics is None else store.weights(run.start)
    if halted:
        state = halted.tensors.get("optimizer", {})
    else:
        state = store.tensors(run.start, "optimizer") if run.optimizer_state == "carried" else {}
    weights.put(model, start)
    return Prepared(run, model, living, state, halted)


def _train(starts: Sequence[Prepared], worker: "Worker", tells: Sequence[Tell]) -> list[Outcome | TombolaError]:
    """The outcomes of a training by itself, or of several in one stack, of each its own or why it failed."""
    from tombola.engine.native import calibrate
    from tombola.train import Span

    run = starts[0].run
    begun = engine.begin(worker.training(run.recipe), [begin(start, worker) for start in starts], worker.times)
    interval = worker.interval(len(starts))
    recorders = [
        _recorder(start, state, begun.name, worker, tell, interval)
        for start, state, tell in zip(starts, begun.trainings.states, tells, strict=True)
    ]
    for recorder in recorders:
        recorder.how |= {"measurement": calibrate.record(begun.times)} if begun.times else {}
    batches = [worker.batches(start.run) for start in starts]
    span = Span(recorders[0].begin, run.until, rates(run, worker), recorders[0].stops)
    errors = begun.trainings.train(batches, span, recorders)
    return [
        error or _trained(start, state, recorder, worker)
        for error, start, state, recorder in zip(errors, starts, begun.trainings.states, recorders, strict=True)
    ]


def begin(start: Prepared, worker: "Worker") -> Start:
    run, inputs = start.run, further_inputs(start.run.further, start.run, worker)
    dataset = worker.placed(run.recipe)
    begun = Start(start.model, start.living, dataset, start.state, inputs)
    if run.recipe.dynamics is None:
        return begun
    standing = start.halted.tensors["weights"] if start.halted else None
    return replace(begun, timeline=_timeline(run, dataset.facts), seed=run.dynamics_seed or 0, standing=standing)


def _timeline(run: Train, facts: Facts) -> Timeline:
    epoch = facts.epoch_iterations(run.recipe.batch)
    return Timeline(run.begin, run.until, run.recipe.length.iterations(epoch), epoch)


def further_inputs(
    further: tuple[tuple[str, Run], ...] | None, order: "ExampleOrder", worker: "Worker"
) -> "dict[str, dict[str, Tensor]]":
    """What else a training asks for, by name: the weights of each of these runs, or the mask of one that made a mask;
    how pixels become inputs, and what is drawn from, where its objective asks for that.

    They are on the worker's device.
    """
    import torch

    store, objective = worker.store, order.recipe.objective
    made = {name: store.weights(run) if store.holds(run, "weights") else store.mask(run) for name, run in further or ()}
    if objective and objective.sees_pixels:
        made["pixels"] = worker.placed(order.recipe).pixel_scale()
    if objective and objective.counts_examples:
        made["examples"] = {"count": torch.tensor(worker.placed(order.recipe).facts.train)}
    if objective and objective.draws:
        made["draw"] = {"seed": torch.tensor(order.augment_seed or 0)}
    return {name: {key: value.to(worker.device) for key, value in state.items()} for name, state in made.items()}


def _recorder(
    start: Prepared,
    training: TrainingState,
    name: str,
    worker: "Worker",
    tell: Tell,
    interval: "Interval | None" = None,
) -> "Recorder":
    from tombola.lab.recorder import EvaluationSchedule, Recorder, Splits

    run, dynamics = start.run, start.run.recipe.dynamics
    settled = dynamics.settles(_timeline(run, worker.placed(run.recipe).facts)) if dynamics else run.begin
    schedule = EvaluationSchedule(run.begin, run.until, run.evaluate_every, run.test_every, min(settled, run.until))
    splits = Splits(worker.placed(run.recipe), *worker.split(run.recipe, run.split_seed), worker.test(run.recipe))
    return Recorder(training, name, schedule, splits, worker.checkpoints(run, start.halted, interval), tell)


def _pays(starts: Sequence[Prepared], worker: "Worker") -> bool:
    """Whether so many such trainings are faster in a stack."""
    if worker.engine == "stacked":
        return True
    from tombola.engine.stacked import trainer

    recipe = starts[0].run.recipe

    def measured() -> bool:
        begun, batches = [begin(start, worker) for start in starts], [worker.batches(start.run) for start in starts]
        return trainer.pays(worker.training(recipe), begun, batches)

    return worker.pays(recipe.model_dump_json(), len(starts), measured)


@cache
def _room(recipe: Recipe, choice: engine.Choice, device: str) -> int:
    return engine.at_once(Training.of(recipe, data.facts(recipe.data), choice, device))


def rates(run: Train, worker: "Worker") -> Callable[[int], float]:
    per_epoch = worker.placed(run.recipe).facts.epoch_iterations(run.recipe.batch)
    return lambda step: learning_rate(run.recipe, step, per_epoch)


def _trained(start: Prepared, training: TrainingState, recorder: "Recorder", worker: "Worker") -> Outcome:
    from tombola import mask_codec

    run, living, numbers = start.run, start.living, recorder.finish()
    trained, moved = training.weights(), training.moved
    if moved:
        living, numbers = (
            moved.mask,
            {**numbers, **moved.numbers, **mask_values(moved.mask), "macs": moved.multiply_adds},
        )
    tensors = {"weights": mask_codec.compress(trained, living) if run.mask or moved else trained}
    if moved:
        tensors["mask"] = mask_codec.pack(living)
        if moved.holds:
            tensors["held"] = {name: trained[name][~alive] for name, alive in living.items()}
    if run.keep_optimizer:
        tensors["optimizer"] = training.optimizer_state()
    return Outcome(
        {"alive": living.alive, "total": living.total, "density": living.density, **numbers},
        tensors,
        how={
            "engine": ", then ".join(dict.fromkeys(recorder.engines)),
            **machine.device_facts(worker.device),
            **recorder.how,
        },
    )


def mask_values(mask: "Mask") -> dict[str, Any]:
    """The numbers of an outcome that holds a mask, as `Store.mask` reads it."""
    return {
        "density": mask.density,
        "alive": mask.alive,
        "total": mask.total,
        "counts": mask.counts,
        "shapes": {name: list(alive.shape) for name, alive in mask.items()},
    }
