"""Do one run: from the outcomes of its inputs to its own outcome. One function per kind of run."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from tombola import data, engine, files, mask, mask_codec, models, prunable, prune, score, weights
from tombola.data.augment import generator
from tombola.data.likeness import alike
from tombola.data.shared import attach
from tombola.engine import measure, stacked
from tombola.engine.forms import Shape, Times
from tombola.errors import BadInput, Diverged, TombolaError
from tombola.evaluate import Evaluation, early_stop, evaluate
from tombola.lab.runs import (
    Distance,
    FullMask,
    Init,
    Line,
    Network,
    Prune,
    RandomMask,
    Run,
    ShuffledMask,
    Train,
)
from tombola.lab.store import Outcome, Store
from tombola.layer_patterns import named
from tombola.layers import Kind
from tombola.recipe import Recipe, learning_rate
from tombola.study import connectivity, stability
from tombola.train import computing

if TYPE_CHECKING:
    from tombola.engine.parallel import Crew

Tell = Callable[[int, int, float], None]  # steps done, steps in all, validation loss; or points of a line, test error

CHECKPOINT_S = 180.0
STOPS = 50  # steps between two looks at the clock


class _Interval:
    """When to keep a checkpoint: asked at stop after stop, it says so once every `CHECKPOINT_S`.

    Trainings that are done at once have one in common, so that what they keep is of one step.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._last, self._stop, self._over = clock, clock(), -1, False

    def over(self, stop: int) -> bool:
        """Whether to keep one at this stop; the same answer as often as it is asked."""
        if stop != self._stop:
            self._stop, now = stop, self._clock()
            self._over = now - self._last >= CHECKPOINT_S
            self._last = now if self._over else self._last
        return self._over


class Bench:
    """What a worker has at hand: the store, the data sets, and how it trains.

    Args:
        data_dir: where data sets lie.
        engine: what trains.
        shared: where `data.shared.publish` has put them, to be mapped instead of read.
        device: where it trains.
        clock: the time in seconds; one that stands still keeps no checkpoints.
        crew: the processes that do every training together; None where this one trains alone.
        measured: how long layers take, of which one measurement holds for all that a command trains; None where this
            bench is all there is, and measures for itself.
    """

    def __init__(
        self,
        store: Store,
        data_dir: Path | None,
        engine: engine.Choice = "auto",
        shared: Path | None = None,
        device: str = "cpu",
        clock: Callable[[], float] = lambda: 0.0,
        crew: "Crew | None" = None,
        measured: Mapping[Shape, Times] | None = None,
    ) -> None:
        self._measured, self._measures = dict(measured or {}), measured is None
        self.store, self.engine, self._data_dir, self._shared = store, engine, data_dir, shared
        self.device, self.clock, self.crew = device, clock, crew
        self._stacks: dict[tuple[str, int], bool] = {}  # recipe, how many -> whether they pay, where it is measured
        self._datasets: dict[str, data.Dataset] = {}
        self._placed: dict[str, data.Dataset] = {}
        self._tests: dict[tuple[str, bool], Tensor] = {}
        self._splits: dict[tuple[str, int, bool], tuple[Tensor, Tensor]] = {}

    def dataset(self, name: str) -> data.Dataset:
        if name not in self._datasets:
            self._datasets[name] = attach(name, self._shared) if self._shared else data.load(name, self._data_dir)
        return self._datasets[name]

    def placed(self, recipe: Recipe) -> data.Dataset:
        """The recipe's data set, normalised as it says, on the bench's device, moved there once."""
        if recipe.data not in self._placed:
            self._placed[recipe.data] = self.dataset(recipe.data).to(self.device)
        return self._placed[recipe.data].normalised(recipe.normalise)

    def times(self, shapes: Iterable[Shape]) -> dict[Shape, Times]:
        """How long layers of these shapes take, from the one measurement there is."""
        wanted = list(shapes)
        if self._measures:
            found = measure.times([shape for shape in wanted if shape not in self._measured])
            self._measured = found | self._measured
        return {shape: self._measured.get(shape, measure.ASSUMED) for shape in wanted}

    def pays(self, recipe: str, count: int, measured: Callable[[], bool]) -> bool:
        """Whether so many trainings of a recipe are faster in a stack; measured once, by the first worker that asks."""
        if (recipe, count) not in self._stacks:
            self._stacks[recipe, count] = False  # what cannot be measured, for lack of memory say, is not tried again
            self._stacks[recipe, count] = self._agreed(f"{recipe} {count}", measured)
        return self._stacks[recipe, count]

    def _agreed(self, name: str, measured: Callable[[], bool]) -> bool:
        """What the first worker of several finds."""
        if not self._shared:
            return measured()
        path = self._shared / f"pays-{hashlib.sha256(name.encode()).hexdigest()[:20]}.json"
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                files.replace(path, json.dumps(measured()).encode())
            return bool(json.loads(path.read_text(encoding="utf-8")))

    def split(self, recipe: Recipe, split_seed: int) -> tuple[Tensor, Tensor]:
        """As `data.split` has it, the validation images in the order in which the model evaluates them fastest."""
        dataset, key = self.dataset(recipe.data), (recipe.data, split_seed, self._packs(recipe))
        if key not in self._splits:
            train, validation = data.split(dataset, split_seed)
            if self._packs(recipe):
                order = alike(dataset.images.numpy()[validation.numpy()])
                validation = validation[torch.from_numpy(order)]
            self._splits[key] = train, validation
        return self._splits[key]

    def test(self, recipe: Recipe) -> Tensor:
        """All places in the test set, in such an order."""
        images, key = self.dataset(recipe.data).test_images, (recipe.data, self._packs(recipe))
        if key not in self._tests:
            self._tests[key] = torch.from_numpy(alike(images.numpy())) if key[1] else torch.arange(len(images))
        return self._tests[key]

    def _packs(self, recipe: Recipe) -> bool:
        """Whether images that leave the same pixels at zero are worth bringing together: only `engine.native` leaves
        out what they multiply, and only in a fully connected first layer."""
        dataset = self.dataset(recipe.data)
        layers = models.chain(recipe.model, dataset.facts.shape, dataset.facts.classes)
        connected = len(next(iter(layers.values()), ())) == 2
        return connected and isinstance(dataset.images, Tensor) and dataset.images.dtype == torch.uint8


def perform(run: Run, bench: Bench, tell: Tell = lambda done, total, loss: None) -> Outcome:
    """The outcome of `run`, whose inputs the bench's store has.

    Raises:
        TombolaError: the run cannot be done; the message says why.
    """
    match run:
        case Init():
            return _init(run)
        case Train():
            return _train(run, bench, tell)
        case Prune():
            return _prune(run, bench.store)
        case FullMask():
            return _mask(_prunable(run)[0])
        case RandomMask():
            return _mask(mask.random_like(bench.store.mask(run.like), run.mask_seed))
        case ShuffledMask():
            return _mask(mask.shuffle(bench.store.mask(run.like), run.mask_seed))
        case Distance():
            return _distance(run, bench.store)
        case Line():
            return _line(run, bench, tell)
    raise TypeError(f"no way to perform {run!r}")


def _model(network: Network) -> nn.Module:
    """The network, for its shapes; whoever asks puts the weights in."""
    return models.build(network.model, network.shape, network.classes, "glorot-normal", init_seed=0)


def _init(run: Init) -> Outcome:
    network = run.network
    if network.checkpoint and models.checkpoint(network.model) != network.checkpoint:
        raise BadInput(
            where=network.model,
            expected=f"the checkpoint with SHA-256 {network.checkpoint[:16]}...",
            found="another one",
            todo="Somebody changed it while this was at work: run the same command again.",
        )
    model = models.build(network.model, network.shape, network.classes, run.init, run.init_seed)
    return Outcome(values={}, tensors={"weights": weights.of(model)})


def _prune(run: Prune, store: Store) -> Outcome:
    everything, kinds = _prunable(run)
    # The store lists layers by the alphabet; among equal scores the earlier layer of the model goes first.
    stored = store.mask(run.mask) if run.mask else everything
    before = mask.Mask({name: stored[name] for name in everything})
    scores = score.SCORES[run.score](store.weights(run.trained), before, run.score_seed)
    rates = dict(run.rates)
    if run.scope == "global":
        return _mask(prune.globally(scores, before, rates["linear"]))
    return _mask(prune.by_layer(scores, before, {name: rates.get(kinds[name], rates["linear"]) for name in before}))


def _prunable(run: Prune | FullMask) -> tuple[mask.Mask, dict[str, Kind]]:
    """The full mask over what may be pruned and is not kept, and the kinds of its layers."""
    model, include = _model(run.network), run.include or ()
    kinds, full = prunable.prunable(model, include), prunable.full(model, include)
    dense = named(run.keep, kinds)
    return mask.Mask({name: full[name] for name in kinds if name not in dense}), kinds


def _mask(made: mask.Mask) -> Outcome:
    values = {
        "density": made.density,
        "alive": made.alive,
        "total": made.total,
        "counts": made.counts,
        "shapes": {name: list(alive.shape) for name, alive in made.items()},
    }
    return Outcome(values, tensors={"mask": mask_codec.pack(made)})


@dataclass(frozen=True)
class _Start:
    """A training that is about to begin, or to go on from its checkpoint."""

    run: Train
    model: nn.Module
    living: mask.Mask
    state: Mapping[str, Tensor]
    halted: Outcome | None


def _start(run: Train, bench: Bench) -> _Start:
    store, facts = bench.store, bench.placed(run.recipe).facts
    model = _model(Network(run.recipe.model, facts.shape, facts.classes))
    living = store.mask(run.mask) if run.mask else prunable.full(model)
    halted = _halted(run, bench)
    if halted:
        start, state = halted.tensors["weights"], halted.tensors.get("optimizer", {})
    else:
        start = store.weights(run.start)
        state = store.tensors(run.start, "optimizer") if run.optimizer_state == "carried" else {}
    weights.put(model, start)
    return _Start(run, model, living, state, halted)


def _halted(run: Train, bench: Bench) -> Outcome | None:
    """The checkpoint of `run`; all of a crew go on from that of their leader, whatever a file system shows them."""
    halted = bench.store.kept(run)
    if bench.crew is None:
        return halted
    step = bench.crew.hear(halted and halted.values["step"])
    if step is None:
        return None

    def seen() -> bool:
        nonlocal halted
        if halted is None or halted.values["step"] != step:
            halted = bench.store.kept(run)
        return halted is not None and halted.values["step"] == step

    bench.store.await_seen(f"the checkpoint of {run.key} at step {step}", seen)
    return halted


def _train(run: Train, bench: Bench, tell: Tell) -> Outcome:
    return _alone(_start(run, bench), bench, tell)


def _alone(start: _Start, bench: Bench, tell: Tell) -> Outcome:
    run, recipe = start.run, start.run.recipe
    consulted: dict[Shape, Times] = {}

    def times(shapes: Iterable[Shape]) -> dict[Shape, Times]:
        consulted.update(bench.times(shapes))
        return consulted

    training, name = engine.begin(
        bench.engine,
        start.model,
        start.living,
        recipe.optimizer,
        start.state,
        bench.placed(recipe),
        recipe.batch,
        bench.device,
        recipe.precision,
        augmented=recipe.augment is not None,
        crew=bench.crew,
        times=times,
    )
    looks = _Looks(start, training, name, bench, tell, _Interval(bench.clock))
    looks.how |= {"measurement": measure.record(consulted)} if consulted else {}
    training.train(_batches(run, bench), _rates(run, bench), looks.begin, run.until, looks.ahead, looks)
    return _trained(start, training, looks, bench)


def perform_together(runs: Sequence[Train], bench: Bench, tells: Sequence[Tell]) -> list[Outcome | TombolaError | None]:
    """The outcomes of trainings that are `execute.alike`, of each its own or why it failed; their engine is a stack.

    A stack has one step for all: trainings whose checkpoints are of another step, or whose carried optimisers have
    counted other steps, go into a stack of their own.

    Returns:
        None for those that are better done by themselves: one that is left alone, and those that would not be faster
        in a stack, unless stacks are asked for.
    """
    starts = [_start(run, bench) for run in runs]
    outcomes: list[Outcome | TombolaError | None] = [None] * len(runs)
    groups: dict[Any, list[int]] = {}
    for place, start in enumerate(starts):
        kept = start.halted.values["step"] if start.halted else None
        groups.setdefault((kept, stacked.state_kind(start.state)), []).append(place)
    for places in groups.values():
        if len(places) == 1 or not _pays([starts[place] for place in places], bench):
            continue
        found = _stack([starts[place] for place in places], bench, [tells[place] for place in places])
        for place, outcome in zip(places, found, strict=True):
            outcomes[place] = outcome
    return outcomes


def _pays(starts: Sequence[_Start], bench: Bench) -> bool:
    """Whether so many such trainings are faster in a stack."""
    if bench.engine == "stacked":
        return True
    recipe = starts[0].run.recipe

    def measured() -> bool:
        return stacked.pays(
            [start.model for start in starts],
            [start.living for start in starts],
            recipe.optimizer,
            [_batches(start.run, bench) for start in starts],
            bench.placed(recipe),
            bench.device,
            recipe.precision,
        )

    return bench.pays(recipe.model_dump_json(), len(starts), measured)


def _stack(starts: Sequence[_Start], bench: Bench, tells: Sequence[Tell]) -> list[Outcome | TombolaError]:
    run = starts[0].run
    recipe = run.recipe
    name = f"stacked {len(starts)} x reference"
    stack = stacked.Stacked(
        [start.model for start in starts],
        [start.living for start in starts],
        recipe.optimizer,
        [start.state for start in starts],
        bench.placed(recipe),
        bench.device,
        recipe.precision,
    )
    interval = _Interval(bench.clock)
    looks = [
        _Looks(start, replicate, name, bench, tell, interval)
        for start, replicate, tell in zip(starts, stack.replicates, tells, strict=True)
    ]
    batches = [_batches(start.run, bench) for start in starts]
    failed = stack.train(batches, _rates(run, bench), looks[0].begin, run.until, looks[0].ahead, looks)
    return [
        error or _trained(start, replicate, look, bench)
        for error, start, replicate, look in zip(failed, starts, stack.replicates, looks, strict=True)
    ]


def _batches(run: Train, bench: Bench) -> data.Batches:
    recipe = run.recipe
    return data.Batches(
        bench.placed(recipe),
        bench.split(recipe, run.split_seed)[0],
        recipe.batch,
        run.order_seed,
        recipe.augment,
        run.augment_seed or 0,
        part=(bench.crew.rank, bench.crew.world) if bench.crew else (0, 1),
        device=bench.device,
    )


def _rates(run: Train, bench: Bench) -> Callable[[int], float]:
    per_epoch = bench.placed(run.recipe).facts.epoch_iterations(run.recipe.batch)
    return lambda step: learning_rate(run.recipe, step, per_epoch)


def _trained(start: _Start, training: engine.Held, looks: "_Looks", bench: Bench) -> Outcome:
    run, living, numbers = start.run, start.living, looks.finish()
    trained = training.weights()
    tensors = {"weights": mask_codec.compress(trained, living) if run.mask else trained}
    if run.keep_optimizer:
        tensors["optimizer"] = training.optimizer_state()
    return Outcome(
        {"alive": living.alive, "total": living.total, "density": living.density, **numbers},
        tensors,
        how={"engine": ", then ".join(dict.fromkeys(looks.engines)), **engine.device_facts(bench.device), **looks.how},
    )


def _distance(run: Distance, store: Store) -> Outcome:
    found = stability.distances(store.weights(run.left), store.weights(run.right), store.mask(run.mask))
    return Outcome({"l2": found.l2, "degrees": found.degrees})


def _line(run: Line, bench: Bench, tell: Tell) -> Outcome:
    """The error on training and test images at each point, the running statistics treated in both ways."""
    recipe, dataset = run.recipe, bench.placed(run.recipe)
    facts = dataset.facts
    model = _model(Network(recipe.model, facts.shape, facts.classes))
    model.to(bench.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ends = [bench.store.weights(end) for end in (run.left, run.right)]
    train_places = data.split(dataset, run.split_seed)[0][: run.examples]
    # Some data sets have their test set class by class: a few of its examples are a few of all.
    test_places = torch.randperm(len(dataset.test_labels), generator=generator("line", "test"))[: run.examples]
    normed = any("running_mean" in name for name in ends[0])
    points = connectivity.alphas(run.points)
    halted = bench.store.kept(run)
    before: Mapping[str, Any] = halted.values if halted else {"step": 0, "seconds": 0.0, "errors": {}, "resumed": []}
    resumed = [*before["resumed"], before["step"]] if halted else []
    errors: dict[str, dict[str, list[float]]] = before["errors"]
    began, interval = bench.clock(), _Interval(bench.clock)

    def measure(statistics: str) -> None:
        on_train = evaluate(model, dataset, dataset.images, dataset.labels, train_places, recipe.precision)
        on_test = evaluate(model, dataset, dataset.test_images, dataset.test_labels, test_places, recipe.precision)
        for name, seen in (("train", on_train), ("test", on_test)):
            errors.setdefault(statistics, {}).setdefault(name, []).append(1 - seen.accuracy)

    for done, alpha in enumerate(points[before["step"] :], start=before["step"] + 1):
        weights.put(model, weights.interpolate(ends[0], ends[1], alpha))
        measure("interpolated" if normed else "none")
        if normed:
            chunks = train_places.split(recipe.batch)
            whole = [chunk for chunk in chunks if len(chunk) == recipe.batch] or chunks
            with computing(torch.device(bench.device), recipe.precision):  # as the network is used
                images = (each.to(bench.device) for each in data.each(dataset.images, whole))  # as bytes
                connectivity.recompute_statistics(model, map(dataset.inputs, images))
            measure("recomputed")
        tell(done, len(points), errors["recomputed" if normed else "none"]["test"][-1])
        if done < len(points) and interval.over(done):
            seconds = before["seconds"] + bench.clock() - began
            state = {"step": done, "seconds": seconds, "errors": errors, "resumed": resumed}
            bench.store.keep(run, Outcome(state))
    barriers = {
        statistics: {name: connectivity.barrier(line) for name, line in each.items()}
        for statistics, each in errors.items()
    }
    values = {"alphas": list(points), "errors": errors, "barriers": barriers}
    how = {
        **engine.device_facts(bench.device),
        **({"resumed": resumed, "seconds_before": before["seconds"]} if halted else {}),
    }
    return Outcome(values, how=how)


class _Looks:
    """Watches one training: the validation loss, now and then the test accuracy, and the weights at the best point.

    The test set is drawn from nothing and chooses nothing: the early stop is where the validation loss is smallest, and
    the test accuracy reported for it is measured with the weights kept from that step.
    """

    def __init__(
        self, start: _Start, training: engine.Held, name: str, bench: Bench, tell: Tell, interval: _Interval
    ) -> None:
        run = start.run
        dataset = bench.placed(run.recipe)
        self._run, self._training, self._dataset, self._bench, self._tell = run, training, dataset, bench, tell
        self._interval = interval
        self._train_places, validation_places = bench.split(run.recipe, run.split_seed)
        test_places = bench.test(run.recipe)
        self._on_validation = training.repeatedly(dataset.images, dataset.labels, validation_places)
        self._on_test = training.repeatedly(dataset.test_images, dataset.test_labels, test_places)
        ends = {run.begin, run.until}
        steps = range(run.begin, run.until + 1)
        self._validation_steps = ends | {step for step in steps if step % run.evaluate_every == 0}
        self._test_steps = ends | {step for step in steps if step % run.test_every == 0}
        self.steps = sorted(self._validation_steps | self._test_steps | {step for step in steps if step % STOPS == 0})
        self.begin = run.begin
        self.how: dict[str, Any] = {}
        self.engines = [name]  # with those that had it before it was interrupted
        self._began = bench.clock()
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._accuracies: list[float] = []
        self._test: list[tuple[int, float]] = []
        self._best: Any = None
        if start.halted:
            self._resume(start.halted)

    @property
    def ahead(self) -> list[int]:
        """The steps at which it is to be called from where the training begins."""
        return [step for step in self.steps if step >= self.begin]

    def __call__(self, step: int) -> None:
        if step > self.begin or not self._steps:  # else it has been looked at before it was kept
            self._look(step)
        if self.begin < step < self._run.until and self._interval.over(step):
            self._keep(step)

    def _keep(self, step: int) -> None:
        """Keep all that the training needs to go on from here as if nothing had been.

        No random state is among it: batches and their augmentation are functions of the step.
        """
        tensors = {"weights": self._training.weights(), "optimizer": self._training.optimizer_state()}
        now = self._training.snapshot()
        self._training.restore(self._best)
        tensors["best"] = self._training.weights()
        self._training.restore(now)
        seen = {
            "steps": self._steps,
            "losses": self._losses,
            "accuracies": self._accuracies,
            "test": self._test,
            "resumed": self.how.get("resumed", []),
            "engines": self.engines,
        }
        seconds = self._bench.clock() - self._began
        self._bench.store.keep(self._run, Outcome({"step": step, "seconds": seconds, **seen}, tensors))

    def _resume(self, kept: Outcome) -> None:
        """Stand where `kept` stood; the training has its weights already."""
        values = kept.values
        self._steps, self._losses, self._accuracies = values["steps"], values["losses"], values["accuracies"]
        self._test = [(step, accuracy) for step, accuracy in values["test"]]
        self.begin = values["step"]
        self._began -= values["seconds"]
        self.engines = [*values["engines"], *self.engines]
        self.how |= {"resumed": [*values["resumed"], self.begin], "seconds_before": values["seconds"]}
        now = self._training.snapshot()
        self._training.load(kept.tensors["best"])
        self._best = self._training.snapshot()
        self._training.restore(now)

    def _look(self, step: int) -> None:
        if step in self._validation_steps:
            seen = self._on_validation()
            if not abs(seen.loss) < float("inf"):
                raise Diverged(
                    f"the validation loss is {seen.loss} after {step} steps; expected a finite number. "
                    "Lower recipe.optimizer.lr, or add a recipe.warmup."
                )
            if not self._losses or seen.loss < min(self._losses):
                self._best = self._training.snapshot()
            self._steps.append(step)
            self._losses.append(seen.loss)
            self._accuracies.append(seen.accuracy)
            self._tell(step - self._run.begin, self._run.until - self._run.begin, seen.loss)
        if step in self._test_steps:
            self._test.append((step, self._on_test().accuracy))

    def _on_training(self) -> Evaluation:
        return self._training.evaluate(self._dataset.images, self._dataset.labels, self._train_places)

    def finish(self) -> dict[str, Any]:
        """The numbers of the training; leaves the weights as they came."""
        best, train_final, test_final = early_stop(self._losses), self._on_training(), self._test[-1][1]
        train_best, test_best = train_final, test_final  # the last look was at the end, and may have been the best
        if best < len(self._losses) - 1:
            final = self._training.snapshot()
            self._training.restore(self._best)
            train_best, test_best = self._on_training(), self._on_test().accuracy
            self._training.restore(final)
        return {
            "early_stop_step": self._steps[best],
            "early_stop_validation_loss": self._losses[best],
            "early_stop_test_accuracy": test_best,
            "early_stop_train_accuracy": train_best.accuracy,
            "final_test_accuracy": test_final,
            "final_train_accuracy": train_final.accuracy,
            "final_train_loss": train_final.loss,
            "final_validation_loss": self._losses[-1],
            "final_validation_accuracy": self._accuracies[-1],
            "curve": {
                "step": self._steps,
                "validation_loss": self._losses,
                "validation_accuracy": self._accuracies,
                "test_step": [step for step, _ in self._test],
                "test_accuracy": [accuracy for _, accuracy in self._test],
            },
        }
