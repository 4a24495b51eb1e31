"""What is measured on a network: where a run has left it, or at some steps of a training that is done again.

A `Measurement` is a frozen value with the number's name and parameters; a study brings its own. What it is handed is a
network as it stands, `Seen`; what it gives is numbers. Two kinds of run have it made:

    Measured   once, on the weights that a run made
    Watched    at some steps of a training, which is done again for that, and keeps no weights

The numerics are functions of tensors in `tombola.study`; here they meet the store and the data.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import computed_field

from tombola import engine
from tombola.code import code_of
from tombola.data.facts import Facts
from tombola.engine import machine
from tombola.lab.kinds.training import Train, begin, prepared, rates
from tombola.lab.runs import A_LOOK, Network, Outcome, Run, Tell, untold
from tombola.recipe import Recipe
from tombola.value import Value

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.data import Dataset
    from tombola.lab.worker import Worker
    from tombola.mask import Mask
    from tombola.weights import Weights


class Measurement(Value, ABC):
    """What is measured on a network: a name, which its parameters go with in keys, and the numbers.

    Attributes:
        version: to be raised whenever the numbers it gives change.
        name: of what is measured; a class declares it as a `Literal` with itself as the default.
    """

    version: ClassVar[int] = 1

    name: str

    @computed_field(repr=False)  # type: ignore[prop-decorator]
    @property
    def made_by(self) -> str | None:
        """The version, and the SHA-256 of the extension whose class it is; None for the first version of our own."""
        code = code_of(type(self))
        return None if code is None and self.version == 1 else f"{self.version} {code or ''}".strip()

    @abstractmethod
    def of(self, seen: "Seen") -> dict[str, Any]:
        """The numbers, as JSON values."""

    def examples(self, facts: Facts) -> int:
        """How many looks at an example it takes, about, for the time it takes."""
        return 0

    @property
    def further_data(self) -> tuple[str, ...]:
        """The data sets that it is handed beside that of the recipe."""
        return ()


@dataclass(frozen=True, eq=False)
class Seen:
    """A network where it stands, and all that can be asked about it.

    Attributes:
        model: with its weights, in evaluation mode, on the device; whoever changes it or its mode puts it back.
        weights: the same by name, pruned ones 0, on the CPU.
        mask: what is alive; every prunable weight where it has no mask.
        dataset: its data, on the device.
        train, validation, test: places in the pool and in the test set.
        recipe: of its training.
        seed: what is drawn is drawn from.
        others: the weights of further runs, by name, of those that made some.
        masks: the masks of those that made one, or were given one.
        network: its own.
        networks: those of further runs, by name.
        datasets: those that the measurement asks for beside its own, by name, as they were read.
    """

    model: "nn.Module"
    weights: "Weights"
    mask: "Mask"
    dataset: "Dataset"
    train: "Tensor"
    validation: "Tensor"
    test: "Tensor"
    recipe: Recipe
    seed: int
    others: "Mapping[str, Weights]"
    masks: "Mapping[str, Mask]"
    network: Network
    datasets: "Mapping[str, Dataset]" = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)

    def inputs(self, places: "Tensor") -> "tuple[Tensor, Tensor]":
        """Inputs and labels of the pool at `places`, where the model is."""
        images, labels = self._looked_up(self.dataset.images, self.dataset.labels, places)
        return self.dataset.inputs(images), labels

    def test_inputs(self, places: "Tensor") -> "tuple[Tensor, Tensor]":
        """Inputs and labels of the test set at `places`, where the model is."""
        images, labels = self.test_images(places)
        return self.dataset.inputs(images), labels

    def test_images(self, places: "Tensor") -> "tuple[Tensor, Tensor]":
        """What inputs are made of, and labels, of the test set at `places`, where the model is."""
        return self._looked_up(self.dataset.test_images, self.dataset.test_labels, places)

    def spread_test(self, count: int) -> "Tensor":
        """So many places of the test set, evenly spread: the second half of MNIST's is harder than the first."""
        import torch

        places = torch.linspace(0, len(self.test) - 1, min(count, len(self.test))).round().long()
        ascending = self.test.sort().values  # in whatever order a layout would have them looked at
        return ascending[places.to(self.test.device)]

    def _looked_up(self, images: "Tensor", labels: "Tensor", places: "Tensor") -> "tuple[Tensor, Tensor]":
        device = next(self.model.parameters()).device
        chosen = images.index_select(0, places.to(images.device)).to(device)
        return chosen, labels.index_select(0, places.to(labels.device)).to(device)

    def modelled(self, name: str) -> "nn.Module":
        """The network of a further run, with its weights, in evaluation mode, on the device."""
        from tombola import weights

        model = self.networks[name].build()
        weights.put(model, self.others[name])
        return model.to(next(self.model.parameters()).device).eval()


@dataclass(frozen=True, eq=False, repr=False)
class Measured(Run):
    """What is measured on the weights that a run made.

    Attributes:
        trained: whose weights: a training, an initialisation, a rewind point.
        mask: what of them is alive: the mask that they were trained under, or another one, which is then applied; the
            training itself where it ends under a mask of its own; None for all.
        recipe, split_seed: which model and data, and which part of them is trained on.
        seed: what the measurement draws from.
        further: (name, run) of what else it is handed: weights, and the mask of those that have one.
        data_fingerprint: of the data set's facts, where nothing of what is measured was made by these data.
    """

    kind = "measured"
    version = 1
    later = frozenset({"further", "data_fingerprint"})

    measurement: Measurement
    trained: Run
    mask: Run | None
    recipe: Recipe
    split_seed: int
    seed: int
    further: tuple[tuple[str, Run], ...] | None = None
    data_fingerprint: str | None = None

    @classmethod
    def of(
        cls, measurement: Measurement, training: Train, seed: int, further: Mapping[str, Run] | None = None
    ) -> "Measured":
        """What is measured at the end of a training, under the mask that it ends under."""
        mask = training.mask if training.keeps_mask else training
        others = tuple(further.items()) if further else None
        return cls(measurement, training, mask, training.recipe, training.split_seed, seed, others)

    @classmethod
    def before(cls, measurement: Measurement, training: Train, seed: int) -> "Measured":
        """What is measured where a training begins, under the mask that it is given."""
        start, mask, fingerprint = training.start, training.mask, training.data_fingerprint
        known = _made_of(fingerprint, [start, mask] if mask else [start])
        recipe, split_seed = training.recipe, training.split_seed
        return cls(measurement, start, mask, recipe, split_seed, seed, None, None if known else fingerprint)

    @property
    def data(self) -> tuple[str, ...]:
        return (self.recipe.data, *self.measurement.further_data)

    def seconds(self, facts: Facts, step_seconds: Callable[[], float]) -> float:
        return _seconds(self.measurement, facts, step_seconds, self.recipe)

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Put the weights into a network, under the mask, and measure."""
        from tombola import mask as masks
        from tombola import prunable, weights

        store, model = worker.store, _network(self.recipe, worker).build()
        found, made = store.weights(self.trained), store.masked_by(self.trained)
        living = store.mask(self.mask) if self.mask else prunable.full(model)
        if self.mask and made != self.mask:  # else pruned weights are 0, or what they were held at
            found = masks.apply(found, living)
        weights.put(model, found)
        values = self.measurement.of(_seen(self, model.to(worker.device).eval(), living, worker))
        return Outcome(values, how=machine.device_facts(worker.device))


def _made_of(data_fingerprint: str, runs: Sequence[Run]) -> bool:
    """Whether these data are in what the keys of the runs are made of."""
    known, left = set[Run](), list(runs)
    while left:
        run = left.pop()
        if getattr(run, "data_fingerprint", None) == data_fingerprint:
            return True
        if run not in known:
            known.add(run)
            left += run.inputs
    return False


@dataclass(frozen=True, eq=False, repr=False)
class Watched(Train):
    """A training that is done again, and measured after some of its steps.

    It takes the same steps from the same start; what it keeps is the measurements alone.

    Attributes:
        measurement: what is measured.
        looks: after which steps, ascending, from `begin` to `until`.
        seed: what the measurement draws from, at every look the same.
        beside: (name, run) of what else the measurement is handed.
    """

    kind = "watched"
    version = 1
    later = frozenset({*Train.later, "beside"})

    measurement: Measurement = field(kw_only=True)
    looks: tuple[int, ...] = field(kw_only=True)
    seed: int = field(kw_only=True)
    beside: tuple[tuple[str, Run], ...] | None = field(default=None, kw_only=True)

    @classmethod
    def of(
        cls,
        training: Train,
        measurement: Measurement,
        looks: Sequence[int],
        seed: int,
        further: Mapping[str, Run] | None = None,
    ) -> "Watched":
        """A training, watched."""
        same = {one.name: getattr(training, one.name) for one in fields(Train) if one.init}
        same["keep_optimizer"] = False
        others = tuple(further.items()) if further else None
        return cls(**same, measurement=measurement, looks=tuple(looks), seed=seed, beside=others)

    def __post_init__(self) -> None:
        inside = all(self.begin <= step <= self.until for step in self.looks)
        if not self.looks or not inside or list(self.looks) != sorted(set(self.looks)):
            raise ValueError(f"expected looks from {self.begin} to {self.until}, ascending, not {self.looks}")
        super().__post_init__()

    @property
    def data(self) -> tuple[str, ...]:
        return (*super().data, *self.measurement.further_data)

    def seconds(self, facts: Facts, step_seconds: Callable[[], float]) -> float:
        return step_seconds() * self.steps + len(self.looks) * _seconds(
            self.measurement, facts, step_seconds, self.recipe
        )

    def progress(self, done: int, total: int, loss: float) -> str:
        return f"watched at step {done} of {total}"

    def perform(self, worker: "Worker", tell: Tell = untold) -> Outcome:
        """Train as ever, and look."""
        from tombola import weights
        from tombola.train import Span

        start = prepared(self, worker)
        begun = engine.begin(worker.training(self.recipe), [begin(start, worker)], worker.times)
        (state,) = begun.trainings.states
        model = _network(self.recipe, worker).build().to(worker.device)
        found: list[dict[str, Any]] = []

        def look(step: int) -> None:
            weights.put(model, state.weights())
            living = state.moved.mask if state.moved else start.living
            found.append(self.measurement.of(_seen(self, model.eval(), living, worker)))
            tell(step, self.until, 0.0)

        span = Span(self.begin, self.until, rates(self, worker), self.looks)
        (error,) = begun.trainings.train([worker.batches(self)], span, [look])
        if error:
            raise error
        how = {"engine": begun.name, **machine.device_facts(worker.device)}
        return Outcome({"step": list(self.looks), "measured": found}, how=how)


def _seconds(measurement: Measurement, facts: Facts, step_seconds: Callable[[], float], recipe: Recipe) -> float:
    return step_seconds() * A_LOOK * measurement.examples(facts) / recipe.batch


def _network(recipe: Recipe, worker: "Worker") -> Network:
    facts = worker.placed(recipe).facts
    return Network(recipe.model, facts.shape, facts.classes)


def _model(run: Run) -> str | None:
    """The model whose weights a run makes, where it says: coordinates are in a basis of their own replicate's."""
    named = getattr(run, "recipe", None) or getattr(run, "network", None)
    return named.model if named else None


def _seen(run: Measured | Watched, model: "nn.Module", living: "Mask", worker: "Worker") -> Seen:
    from tombola import weights

    further = dict((run.further if isinstance(run, Measured) else run.beside) or ())
    store, (train, validation) = worker.store, worker.split(run.recipe, run.split_seed)
    masks = {name: mask for name, other in further.items() if (mask := store.living(other)) is not None}
    others = {name: store.weights(other) for name, other in further.items() if store.holds(other, "weights")}
    own = _network(run.recipe, worker)
    networks = {name: replace(own, model=_model(further[name]) or own.model) for name in others}
    return Seen(
        model,
        {name: value.cpu() for name, value in weights.of(model).items()},
        living,
        worker.placed(run.recipe),
        train,
        validation,
        worker.test(run.recipe),
        run.recipe,
        run.seed,
        others,
        masks,
        own,
        {name: worker.dataset(name) for name in run.measurement.further_data},
        networks,
    )
