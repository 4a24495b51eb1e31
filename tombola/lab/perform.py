"""Do one run: from the outcomes of its inputs to its own outcome. One function per kind of run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tombola import data, engine, mask, models, prune, score, weights
from tombola.data.likeness import alike
from tombola.data.shared import attach
from tombola.errors import Diverged
from tombola.evaluate import Evaluation, early_stop
from tombola.lab.runs import FullMask, Init, Network, Prune, RandomMask, Run, ShuffledMask, Train
from tombola.lab.store import Outcome, Store
from tombola.recipe import Recipe, learning_rate

Tell = Callable[[int, int, float], None]  # steps done, steps in all, validation loss


class Bench:
    """What a worker has at hand: the store, the data sets, and how it trains.

    Args:
        data_dir: where data sets lie.
        engine: what trains.
        shared: where `data.shared.publish` has put them, to be mapped instead of read.
    """

    def __init__(
        self, store: Store, data_dir: Path | None, engine: engine.Choice = "auto", shared: Path | None = None
    ) -> None:
        self.store, self.engine, self._data_dir, self._shared = store, engine, data_dir, shared
        self._datasets: dict[str, data.Dataset] = {}
        self._tests: dict[tuple[str, bool], Tensor] = {}
        self._splits: dict[tuple[str, int, bool], tuple[Tensor, Tensor]] = {}

    def dataset(self, name: str) -> data.Dataset:
        if name not in self._datasets:
            self._datasets[name] = attach(name, self._shared) if self._shared else data.load(name, self._data_dir)
        return self._datasets[name]

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
            return _mask(_prunable(run.network, run.keep)[0])
        case RandomMask():
            return _mask(mask.random_like(bench.store.mask(run.like), run.mask_seed))
        case ShuffledMask():
            return _mask(mask.shuffle(bench.store.mask(run.like), run.mask_seed))
    raise TypeError(f"no way to perform {run!r}")


def _model(network: Network) -> nn.Module:
    """The network, for its shapes; whoever asks puts the weights in."""
    return models.build(network.model, network.shape, network.classes, "glorot-normal", init_seed=0)


def _init(run: Init) -> Outcome:
    network = run.network
    model = models.build(network.model, network.shape, network.classes, run.init, run.init_seed)
    return Outcome(values={}, tensors={"weights": weights.of(model)})


def _prune(run: Prune, store: Store) -> Outcome:
    everything, kinds = _prunable(run.network, run.keep)
    before = store.mask(run.mask) if run.mask else everything
    scores = score.SCORES[run.score](store.weights(run.trained), before, run.score_seed)
    rates = dict(run.rates)
    if run.scope == "global":
        return _mask(prune.globally(scores, before, rates["linear"]))
    return _mask(prune.by_layer(scores, before, {name: rates[kinds[name]] for name in before}))


def _prunable(network: Network, keep: tuple[str, ...]) -> tuple[mask.Mask, dict[str, mask.Kind]]:
    """The full mask over what may be pruned and is not kept, and the kinds of its layers."""
    model = _model(network)
    kinds = {name: kind for name, kind in mask.prunable(model).items() if name not in keep and kind not in keep}
    full = mask.full(model)
    return mask.Mask({name: full[name] for name in kinds}), kinds


def _mask(made: mask.Mask) -> Outcome:
    values = {
        "density": made.density,
        "alive": made.alive,
        "total": made.total,
        "counts": made.counts,
        "shapes": {name: list(alive.shape) for name, alive in made.items()},
    }
    return Outcome(values, tensors={"mask": mask.pack(made)})


def _train(run: Train, bench: Bench, tell: Tell) -> Outcome:
    store, recipe = bench.store, run.recipe
    dataset = bench.dataset(recipe.data)
    facts = dataset.facts
    model = _model(Network(recipe.model, facts.shape, facts.classes))
    weights.put(model, store.weights(run.start))
    living = store.mask(run.mask) if run.mask else mask.full(model)
    state = store.tensors(run.start, "optimizer") if run.optimizer_state == "carried" else {}
    training, name = engine.begin(bench.engine, model, living, recipe.optimizer, state, dataset, recipe.batch)
    train_places, validation_places = bench.split(recipe, run.split_seed)
    looks = _Looks(run, training, dataset, train_places, validation_places, bench.test(recipe), tell)
    training.train(
        data.Batches(dataset, train_places, recipe.batch, run.order_seed),
        lambda step: learning_rate(recipe, step, facts.epoch_iterations(recipe.batch)),
        run.begin,
        run.until,
        looks.steps,
        looks,
    )
    numbers = looks.finish()
    trained = training.weights()
    tensors = {"weights": mask.compress(trained, living) if run.mask else trained}
    if run.keep_optimizer:
        tensors["optimizer"] = training.optimizer_state()
    return Outcome(
        {"alive": living.alive, "total": living.total, "density": living.density, **numbers},
        tensors,
        how={"engine": name},
    )


class _Looks:
    """Watches one training: the validation loss, now and then the test accuracy, and the weights at the best point.

    The test set is drawn from nothing and chooses nothing: the early stop is where the validation loss is smallest, and
    the test accuracy reported for it is measured with the weights kept from that step.
    """

    def __init__(
        self,
        run: Train,
        training: engine.Engine,
        dataset: data.Dataset,
        train_places: Tensor,
        validation_places: Tensor,
        test_places: Tensor,
        tell: Tell,
    ) -> None:
        self._run, self._training, self._dataset, self._tell = run, training, dataset, tell
        self._train_places = train_places
        self._on_validation = training.repeatedly(dataset.images, dataset.labels, validation_places)
        self._on_test = training.repeatedly(dataset.test_images, dataset.test_labels, test_places)
        ends = {run.begin, run.until}
        steps = range(run.begin, run.until + 1)
        self._validation_steps = ends | {step for step in steps if step % run.evaluate_every == 0}
        self._test_steps = ends | {step for step in steps if step % run.test_every == 0}
        self.steps = sorted(self._validation_steps | self._test_steps)
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._accuracies: list[float] = []
        self._test: list[tuple[int, float]] = []
        self._best: Any = None

    def __call__(self, step: int) -> None:
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
