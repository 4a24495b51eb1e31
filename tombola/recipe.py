"""How one training goes: model, data, optimiser, schedule, batch, length. A frozen value, checked when it is made."""

from math import cos, pi
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
)

from tombola.data import changed_inputs
from tombola.data.augment import Augmentation
from tombola.data.normalise import Normalisation
from tombola.dynamics import DYNAMICS, Dynamics, dynamics_of
from tombola.models import Initialisation, variants
from tombola.objective import OBJECTIVES, CrossEntropy, Objective, objective_of
from tombola.steps import Step
from tombola.value import Count, Number, Proportion, StepField, Value, listed


def _absent_if_standard(value: Any) -> Any:
    # The one that was always there is absent, as all later fields are where they have their old meaning.
    return None if value == "standard" else value


def _objective(table: Any, info: ValidationInfo) -> Objective | None:
    # Whoever reads a spec with an extension's objectives says so: `model_validate(..., context={"objectives": ...})`.
    return objective_of(table, (info.context or {}).get("objectives", OBJECTIVES))


def _dynamics(table: Any, info: ValidationInfo) -> Dynamics | None:
    return dynamics_of(table, (info.context or {}).get("dynamics", DYNAMICS))


def _change(name: str) -> str:
    """A change of the inputs, without a seed: each replicate has its own."""
    if "~" in name or changed_inputs.named(name) is None:
        raise ValueError(f"one of the changes of the inputs: {', '.join(changed_inputs.FORMS)}")
    return name


InputsChange = Annotated[str, AfterValidator(_change)]


class _Decaying(Value):
    """What optimisers that weights decay under have in common.

    Attributes:
        decay: of what: all parameters where it is None; `kernels`: weights of layers alone, no biases and no scales of
            normalisations. Keras' l2(w), which is added to the loss, is a weight decay of 2 w.
    """

    decay: Literal["kernels"] | None = None

    @model_serializer(mode="wrap")
    def _serialized(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = plain(self)  # it came later, and is absent from keys and names where it is None
        return {name: value for name, value in values.items() if name != "decay" or value is not None}


class SGD(_Decaying):
    """theta <- theta - lr v, v = momentum v + g + weight_decay theta; Nesterov's form steps along g + momentum v."""

    name: Literal["sgd"]
    lr: Number = Field(gt=0)
    momentum: Number = Field(default=0.0, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: Number = Field(default=0.0, ge=0)


class Adam(_Decaying):
    """Adam: A Method for Stochastic Optimization (Kingma & Ba, 2015); weight decay enters the gradient."""

    name: Literal["adam"]
    lr: Number = Field(gt=0)
    betas: tuple[Annotated[Number, Field(ge=0, lt=1)], Annotated[Number, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: Number = Field(default=1e-8, gt=0)
    weight_decay: Number = Field(default=0.0, ge=0)


class AdamW(Adam):
    """Decoupled Weight Decay Regularization (Loshchilov & Hutter, 2019)."""

    name: Literal["adamw"]  # type: ignore[assignment]
    weight_decay: Number = Field(default=0.01, ge=0)


class Constant(Value):
    """The learning rate stays."""

    name: Literal["constant"] = "constant"


class Steps(Value):
    """The learning rate is multiplied by `factor` at each milestone."""

    name: Literal["step"]
    milestones: tuple[StepField, ...] = Field(min_length=1)
    factor: Number = Field(default=0.1, gt=0)


class Cosine(Value):
    """From lr to `final` * lr along half a cosine over the whole length (SGDR, Loshchilov & Hutter, 2017)."""

    name: Literal["cosine"]
    final: Proportion = 0.0


class Linear(Value):
    """From lr to `final` * lr along a straight line over the whole length."""

    name: Literal["linear"]
    final: Proportion = 0.0


# Fields of a recipe that came later are None where they are not used, and then absent from the key.
Precision = Literal["bfloat16"]
Optimizer = Annotated[SGD | Adam | AdamW, Field(discriminator="name")]
Schedule = Annotated[Constant | Steps | Cosine | Linear, Field(discriminator="name")]


class Recipe(Value):
    """Everything that decides how one training goes, but for its seeds, its mask and where it starts.

    Attributes:
        model: a name that `tombola.models.build` knows, like `lenet-300-100`.
        data: a name that `tombola.data.load` knows, like `mnist`.
        length: the whole training; a schedule spans it, and a rewound training ends where it ends.
        batch: examples per step; the last batch of an epoch is smaller where the numbers do not divide.
        init: how weights are drawn; biases start at 0.
        warmup: the learning rate rises linearly, lr s / warmup at step s, before the schedule's value holds.
        augment: how training images are changed from pass to pass, as `data.augment` has it; None for not at all.
        precision: what products are computed in, forward and backward, while weights and sums stay float32 (mixed
            precision); None for float32, of which a GPU shortens the factors of convolutions as torch lets it (TF32).
        normalise: how the bytes of an image become inputs, as `data.normalise` has it; None, and in words `standard`,
            for the data set's mean and deviation.
        objective: what is made small, as `tombola.objective` has it; None for cross-entropy.
        inputs: changes of all inputs, in this order, as `data.changed_inputs` has them, drawn anew for each replicate;
            None for none. In the recipe of a run both stand in the name of its data, with the replicate's seed.
        label_noise: the share of the training examples that get a false label, others in each replicate, as
            `data.label_noise` has it; None for none.
        dynamics: what moves the mask, or makes the weights, beside the optimizer's steps, as `tombola.dynamics` has it;
            None for nothing: the mask stays.
    """

    model: Annotated[str, AfterValidator(variants.written)]
    data: str
    length: StepField
    batch: Count = Field(gt=0)
    optimizer: Optimizer
    init: Initialisation = "glorot-normal"
    schedule: Schedule = Constant()
    warmup: StepField = Step("0it")
    augment: Augmentation | None = None
    precision: Precision | None = None
    normalise: Annotated[Normalisation | None, BeforeValidator(_absent_if_standard)] = None
    objective: Annotated[SerializeAsAny[Objective] | None, PlainValidator(_objective)] = None
    dynamics: Annotated[SerializeAsAny[Dynamics] | None, PlainValidator(_dynamics)] = None
    inputs: Annotated[Annotated[tuple[InputsChange, ...], Field(min_length=1)] | None, BeforeValidator(listed)] = None
    label_noise: Annotated[Number, Field(gt=0, lt=1)] | None = None

    @property
    def forwards(self) -> int:
        """What a step takes, in forward passes of its batch, by its objective."""
        return (self.objective or CrossEntropy()).forwards

    @property
    def draws(self) -> bool:
        """Whether what the network is trained on is changed at random, by the augmentation or by the objective."""
        return self.augment is not None or (self.objective is not None and self.objective.draws)

    @model_serializer(mode="wrap")
    def _serialized(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = plain(self)
        later = ("objective", "dynamics", "inputs", "label_noise")
        return {name: value for name, value in values.items() if name not in later or value is not None}


def on_data(recipe: Recipe, name: str) -> Recipe:
    """The recipe on the data set of this name, nothing more of which is changed.

    >>> plain = Recipe(model="lenet-20", data="digits", length="1it", batch=60, optimizer={"name": "sgd", "lr": 0.1},
    ...                inputs=["rotated"])
    >>> on_data(plain, "digits+rotated~7").model_dump(include={"data", "inputs"})
    {'data': 'digits+rotated~7'}
    """
    if name == recipe.data and recipe.inputs is None and recipe.label_noise is None:
        return recipe
    return recipe.model_copy(update={"data": name, "inputs": None, "label_noise": None})


def with_dynamics(recipe: Recipe, dynamics: Dynamics) -> Recipe:
    """The recipe of a training whose mask, or weights, change as `dynamics` has it."""
    return recipe.model_copy(update={"dynamics": dynamics})


def learning_rate(recipe: Recipe, step: int, epoch_iterations: int) -> float:
    """The learning rate of the optimiser step that follows after `step` steps.

    A function of the step alone: a training that continues from step k, or is rewound to it, takes the rates that the
    first one took from there. During warm-up the rate is lr * step / warmup: 0 at step 0, as in the authors' code.

    >>> recipe = Recipe(model="lenet-300-100", data="mnist", length="100it", batch=60, warmup="10it",
    ...                 optimizer={"name": "sgd", "lr": 0.1}, schedule={"name": "step", "milestones": ["50it"]})
    >>> [round(learning_rate(recipe, step, epoch_iterations=917), 6) for step in (0, 5, 10, 49, 50, 99)]
    [0.0, 0.05, 0.1, 0.1, 0.01, 0.01]
    """
    length = recipe.length.iterations(epoch_iterations)
    warmup = recipe.warmup.iterations(epoch_iterations)
    rising = step / warmup if step < warmup else 1.0
    match recipe.schedule:
        case Constant():
            shape = 1.0
        case Steps(milestones=milestones, factor=factor):
            shape = factor ** sum(step >= milestone.iterations(epoch_iterations) for milestone in milestones)
        case Cosine(final=final):
            shape = final + (1 - final) * (1 + cos(pi * step / length)) / 2
        case Linear(final=final):
            shape = 1 - (1 - final) * step / length
    return recipe.optimizer.lr * rising * shape


def at_final_rate(recipe: Recipe, epoch_iterations: int) -> Recipe:
    """The recipe of fine-tuning: the same, at the last learning rate of `recipe` throughout.

    Comparing Rewinding and Fine-tuning in Neural Network Pruning (Renda, Frankle & Carbin, 2020).
    """
    last = learning_rate(recipe, recipe.length.iterations(epoch_iterations) - 1, epoch_iterations)
    optimizer = recipe.optimizer.model_copy(update={"lr": last})
    return recipe.model_copy(update={"optimizer": optimizer, "schedule": Constant(), "warmup": Step("0it")})


def stretched(recipe: Recipe, steps: int, epoch_iterations: int) -> Recipe:
    """The same recipe over so many steps: what its schedule does, it does at the same part of the whole.

    The warm-up stays as long as it is.

    >>> recipe = Recipe(model="lenet-300-100", data="mnist", length="100it", batch=60,
    ...                 optimizer={"name": "sgd", "lr": 0.1}, schedule={"name": "step", "milestones": ["50it", "75it"]})
    >>> longer = stretched(recipe, 150, epoch_iterations=917)
    >>> str(longer.length), [str(milestone) for milestone in longer.schedule.milestones]
    ('150it', ['75it', '112it'])
    """
    length, schedule = recipe.length.iterations(epoch_iterations), recipe.schedule
    if isinstance(schedule, Steps):
        at = (milestone.iterations(epoch_iterations) for milestone in schedule.milestones)
        milestones = tuple(Step(f"{step * steps // length}it") for step in at)
        schedule = schedule.model_copy(update={"milestones": milestones})
    return recipe.model_copy(update={"length": Step(f"{steps}it"), "schedule": schedule})
