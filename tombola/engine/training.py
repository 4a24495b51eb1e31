"""What an engine is asked: one training, described; what it is begun with; what it is like while it goes on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tombola import data, models
from tombola.data.facts import Answers, Facts
from tombola.dynamics import Dynamics, Timeline
from tombola.errors import TombolaError
from tombola.models.layer import Layer
from tombola.objective import Objective
from tombola.recipe import Optimizer, Precision, Recipe

if TYPE_CHECKING:  # `tombola plan` asks for names and times and touches no tensor
    from torch import Tensor, nn

    from tombola.data import Batches, Dataset
    from tombola.engine.native.layer_formats import Timed
    from tombola.evaluate import Evaluation
    from tombola.mask import Mask
    from tombola.sparse.times import Times
    from tombola.train import Span

DataKind = Literal["images", "files", "tokens", "numbers"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """All that decides which engine does a training, from names and sizes alone: the plan knows what the run will do.

    Attributes:
        optimizer, batch, precision, objective, dynamics: as the recipe has them.
        layers: by weight, from the input on.
        products: multiply-adds of an example that no weight takes part in, as `models.products` has them.
        sequential: whether the model is these layers, with ReLU and pooling between them, and nothing else.
        densities: of the weights that the mask names, in [0, 1]; all others are whole.
        examples: images as bytes in memory, in files, texts, or real numbers.
        answers: what is asked of an example.
        augmented: whether images are changed on their way.
        ours: whether the model's code is Tombola's own.
        direct: whether its parameters are its weights, which are made of no others.
        device: where.
        choice: `auto`, or the name of an engine that is asked for.
        processes: that train together.
        count: trainings of this description that can be done at once; 1 for one by itself.
        times: how long layers take in each format, as far as it is known.
    """

    optimizer: Optimizer
    batch: int
    layers: Mapping[str, Layer] = field(default_factory=dict)
    products: int = 0
    sequential: bool = False
    densities: Mapping[str, float] = field(default_factory=dict)
    examples: DataKind = "images"
    answers: Answers = "class"
    augmented: bool = False
    precision: Precision | None = None
    objective: Objective | None = None
    dynamics: Dynamics | None = None
    ours: bool = True
    direct: bool = True
    device: str = "cpu"
    choice: str = "auto"
    processes: int = 1
    count: int = 1
    times: "Mapping[Timed, Times]" = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe, facts: Facts, choice: str = "auto", device: str = "cpu") -> "Training":
        """A training of `recipe` on the data of these `facts`, dense and by itself.

        >>> recipe = Recipe(model="lenet-300-100", data="mnist", length="1ep", batch=60,
        ...                 optimizer={"name": "sgd", "lr": 0.1})
        >>> training = Training.of(recipe, data.facts("mnist"))
        >>> training.sequential, list(training.layers)
        (True, ['fc1.weight', 'fc2.weight', 'output.weight'])
        """
        return cls(
            optimizer=recipe.optimizer,
            batch=recipe.batch,
            layers=models.layers(recipe.model, facts.shape, facts.classes),
            products=models.products(recipe.model, facts.shape),
            sequential=models.sequential(recipe.model),
            examples=_kind(recipe.data, facts),
            answers=facts.answers,
            augmented=recipe.augment is not None,
            precision=recipe.precision,
            objective=recipe.objective,
            dynamics=recipe.dynamics,
            ours=models.source(recipe.model) is None,
            direct=not models.varied(recipe.model),
            device=device,
            choice=choice,
        )


def _kind(name: str, facts: Facts) -> DataKind:
    if data.is_folder(name):
        return "files"
    return "tokens" if facts.text else "numbers" if facts.real else "images"


@dataclass(frozen=True)
class Start:
    """What a training begins with.

    Attributes:
        model: holds the weights to start from; the engine may or may not write into it.
        mask: True = alive.
        dataset: what is trained on.
        state: the optimiser's, where one is carried over.
        inputs: what else the objective or the dynamics ask for, by name.
        timeline: of the whole training, which dynamics ask for; None where there are none.
        seed: what dynamics draw from.
        standing: what `TrainingState.standing` gave, of a training with dynamics that goes on; None at its beginning.
    """

    model: "nn.Module"
    mask: "Mask"
    dataset: "Dataset"
    state: "Mapping[str, Tensor]" = field(default_factory=dict)
    inputs: "Mapping[str, Mapping[str, Tensor]]" = field(default_factory=dict)
    timeline: Timeline | None = None
    seed: int = 0
    standing: "Mapping[str, Tensor] | None" = None


@dataclass(frozen=True)
class Moved:
    """What dynamics have made of a training's mask, and what its steps took.

    Attributes:
        mask: what is alive where it stands.
        multiply_adds: of all steps so far and all their examples, on a machine that skips what is pruned.
        numbers: what else is recorded.
        holds: whether pruned weights are held at other values than 0.
    """

    mask: "Mask"
    multiply_adds: int
    numbers: Mapping[str, Any] = field(default_factory=dict)
    holds: bool = False


class TrainingState(Protocol):
    """One training where it stands, to be looked at and put back."""

    def evaluate(self, images: "Tensor", labels: "Tensor", places: "Tensor | None" = None) -> "Evaluation":
        """Loss and accuracy of the weights as they stand."""

    def repeatedly(
        self, images: "Tensor", labels: "Tensor", places: "Tensor | None" = None
    ) -> "Callable[[], Evaluation]":
        """The same, to be asked for again and again."""

    def snapshot(self) -> Any:
        """The weights as they stand, for `restore`."""

    def restore(self, snapshot: Any) -> None:
        """Put a snapshot back."""

    def load(self, start: "Mapping[str, Tensor]") -> None:
        """Put in what `standing()` gave; the optimiser's state stays."""

    def standing(self) -> "dict[str, Tensor]":
        """All that it stands on beside the optimiser's state: the weights, and what its dynamics remember."""

    @property
    def moved(self) -> Moved | None:
        """The mask that its dynamics have made; None without dynamics: its mask is the one that it was given."""

    def weights(self) -> "dict[str, Tensor]":
        """The state_dict as it stands."""

    def optimizer_state(self) -> "dict[str, Tensor]":
        """The optimiser's state by name."""


class Trainer(TrainingState, Protocol):
    """One training: where it stands, and how it goes on."""

    def train(self, batches: "Batches", span: "Span", watch: Callable[[int], None]) -> None:
        """Train over `span`; call `watch` at each of its looks, before the step that follows."""


class Trainings(Protocol):
    """Trainings that go on step by step at once: those of a stack, or one by itself."""

    @property
    def states(self) -> Sequence[TrainingState]:
        """Where each of them stands."""

    def train(
        self, batches: "Sequence[Batches]", span: "Span", watches: Sequence[Callable[[int], None]]
    ) -> list[TombolaError | None]:
        """Train all over `span`; each of `watches` is called at each of its looks.

        Returns:
            Why a training failed, None for those that did not: each fails alone, and the others go on.
        """


@dataclass(frozen=True)
class Alone:
    """One training by itself."""

    trainer: Trainer

    @property
    def states(self) -> Sequence[TrainingState]:
        """Where it stands."""
        return [self.trainer]

    def train(
        self, batches: "Sequence[Batches]", span: "Span", watches: Sequence[Callable[[int], None]]
    ) -> list[TombolaError | None]:
        """Train over `span`; why it failed, None if it did not."""
        try:
            self.trainer.train(batches[0], span, watches[0])
        except TombolaError as error:
            return [error]
        return [None]


@dataclass(frozen=True)
class Engine:
    """One way to carry out trainings. All of them compute the same, but for the order of sums.

    Attributes:
        name: `native`, ...
        accepts: why it does not take a training; "" where it does.
        step_seconds: of one optimiser step of a training, measured where that is known, else guessed.
        begin: trainings that it accepts, as many as are started at once, and a name for the record.
        forecast: a name and a reason for the plan, of a training and why the engine before did not take it.
        on_request: whether a spec may ask for it by its name.
        times_of: by weight, the layers whose times decide whether it takes a training.
    """

    name: str
    accepts: Callable[[Training], str]
    step_seconds: Callable[[Training], float]
    begin: Callable[[Training, Sequence[Start]], tuple[Trainings, str]]
    forecast: Callable[[Training, str], tuple[str, str]]
    on_request: bool = False
    times_of: "Callable[[Training], Mapping[str, Timed]]" = lambda _: {}
