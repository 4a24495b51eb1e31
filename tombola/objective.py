"""What a training makes small: the loss of a batch. That of the answers, unless a recipe names another objective.

To add one: write a class like `LabelSmoothing` below and name it in `OBJECTIVES`; docs/adding-an-objective.md.
Validation and test losses are that of the answers under every objective, so that networks can be compared:
cross-entropy of classes, squared error of numbers, sigmoid cross-entropy of several answers of yes or no.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, computed_field, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from tombola import distillation
from tombola.code import code_of, defined_at
from tombola.data.facts import IGNORED, Answers
from tombola.errors import BadInput
from tombola.macs import GRADIENT
from tombola.value import Count, Number, Proportion, Value

if TYPE_CHECKING:  # `tombola plan` reads recipes, and touches no tensor
    from torch import Tensor, nn

Reduction = Literal["mean", "sum", "none"]
TEACHER = "teacher"  # the weights of one, among what a training is given
TAUGHT = "taught"  # what it puts out for the examples of a step


def cross_entropy(
    outputs: "Tensor", labels: "Tensor", reduction: Reduction = "mean", smoothing: float = 0.0
) -> "Tensor":
    """-sum_c q_c log p_c with p = softmax(outputs), of scores [N, classes] and labels [N], or [N, T, classes], [N, T].

    Maps of classes are as in torch: scores [N, classes, H, W] and labels [N, H, W].

    Args:
        outputs: scores of each class, before the softmax.
        labels: classes; `facts.IGNORED` is no label.
        reduction: over all labels that are some.
        smoothing: epsilon, in [0, 1]: q is 1 - epsilon at the label, and epsilon / classes everywhere beside.

    >>> import torch
    >>> outputs, labels = torch.zeros(2, 3, 4), torch.tensor([[0, 1, -100], [2, 3, 0]])
    >>> round(float(cross_entropy(outputs, labels, "sum") / torch.tensor(4.0).log()), 5)
    5.0
    """
    from torch.nn import functional

    scores, answers = _classes_last(outputs, labels).flatten(0, -2), labels.flatten()
    return functional.cross_entropy(
        scores, answers, ignore_index=IGNORED, reduction=reduction, label_smoothing=smoothing
    )


def _classes_last(outputs: "Tensor", labels: "Tensor") -> "Tensor":
    as_in_torch = outputs.dim() > 2 and (len(outputs), *outputs.shape[2:]) == labels.shape
    as_in_texts = outputs.dim() == 3 and outputs.shape[:-1] == labels.shape
    return outputs.movedim(1, -1) if as_in_torch and not as_in_texts else outputs


def asked(outputs: "Tensor", labels: "Tensor") -> Answers:
    """What labels of these outputs are: real numbers are numbers, and as many as there are outputs are tasks."""
    if labels.is_floating_point():
        return "number"
    return "tasks" if labels.shape == outputs.shape else "class"


def loss_of_answers(outputs: "Tensor", labels: "Tensor", reduction: Reduction = "mean") -> "Tensor":
    """The loss of `outputs` where the answers are `labels`.

    Of classes -log p(label); of numbers (o - y)^2 with outputs [N, 1] and labels [N]; of tasks
    -sum_t (y_t log s(o_t) + (1 - y_t) log(1 - s(o_t))) with s the sigmoid, outputs [N, T] and labels [N, T] of 0 and 1.

    Args:
        reduction: over all labels, of tasks over all examples.

    >>> import torch
    >>> float(loss_of_answers(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 3.0])))
    0.5
    >>> twice = loss_of_answers(torch.zeros(5, 2), torch.ones(5, 2, dtype=torch.int64))
    >>> round(float(twice / torch.tensor(2.0).log()), 5)
    2.0
    """
    from torch.nn import functional

    match asked(outputs, labels):
        case "class":
            return cross_entropy(outputs, labels, reduction)
        case "number":
            return functional.mse_loss(outputs.squeeze(-1), labels, reduction=reduction)
        case "tasks":
            each = functional.binary_cross_entropy_with_logits(outputs, labels.to(outputs.dtype), reduction="none")
            summed = each.sum(dim=-1)
            return summed.mean() if reduction == "mean" else summed.sum() if reduction == "sum" else summed


class Objective(Value, ABC):
    """What the weights descend: its name, its parameters as fields, and the loss of a batch.

    Attributes:
        name: by which a recipe names it: `objective = {name = "l1", strength = 1e-5}`.
    """

    about: ClassVar[str] = ""  # one sentence
    paper: ClassVar[str] = ""
    year: ClassVar[int] = 0
    # Whether `torch.func.vmap` can go through `loss`: it asks no tensor for its numbers. Then a stack can do it.
    stacks: ClassVar[bool] = False
    # Whether `loss` needs classes among which to choose: of numbers, and of answers of yes or no, it is refused.
    of_classes: ClassVar[bool] = False
    # Whether `loss` depends on weights in other ways than through what the network puts out.
    sees_weights: ClassVar[bool] = False
    # Whether `loss` changes pixels: `inputs["pixels"]` has then the scale and shift, per channel, that make inputs of
    # pixels in [0, 1].
    sees_pixels: ClassVar[bool] = False
    # Whether `loss` asks how many training examples there are: `inputs["examples"]` has then their `count`.
    counts_examples: ClassVar[bool] = False
    # Whether `loss` asks for weights that are drawn: of a plain network, whose weights are numbers, it is refused.
    of_gaussian: ClassVar[bool] = False
    # Whether `loss` asks for `inputs["teacher"]`, the weights of a trained network of the same kind: the replicate's
    # dense one, or those of `teacher_file`.
    taught: ClassVar[bool] = False

    name: str

    @computed_field(repr=False)  # type: ignore[prop-decorator]
    @property
    def code(self) -> str | None:
        """SHA-256 of the extension whose class it is; None for what is installed. It is in the keys of its trainings.

        Of the class, and never set: what a method makes of a class that no table lists has it too.
        """
        return code_of(type(self))

    @property
    def draws(self) -> bool:
        """Whether `loss` draws: `inputs["draw"]` has then the `seed` of the training's draws."""
        return False

    @property
    def forwards(self) -> int:
        """What a step takes, in forward passes f of its batch: 3 for a gradient of the weights, by which costs go."""
        return GRADIENT

    def __hash__(self) -> int:
        return hash((type(self), self.model_dump_json()))  # its parameters may be lists

    @abstractmethod
    def loss(
        self, model: "nn.Module", batch: "tuple[Tensor, Tensor]", inputs: "Mapping[str, Mapping[str, Tensor]]"
    ) -> "Tensor":
        """The number that the optimiser's step that follows makes smaller.

        Args:
            model: the network in training mode, pruned weights at 0.
            batch: inputs and labels, on the model's device.
            inputs: what else the training was given, by name: weights of a teacher, for one.

        Returns:
            A scalar with a gradient.
        """

    @property
    def teacher_file(self) -> str | None:
        """The path of a file with the teacher's weights; None for the replicate's dense network."""
        return None

    def following(
        self,
        model: "nn.Module",
        batches: "Callable[[int], tuple[Tensor, Tensor]]",
        inputs: "Mapping[str, Mapping[str, Tensor]]",
    ) -> "Callable[[int, Tensor], Mapping[str, Mapping[str, Tensor]]]":
        """step, examples -> the `inputs` of `loss` at a step of a training: at every step those that it was given.

        Args:
            model: the network, which is about to be trained.
            batches: step -> inputs and labels.
            inputs: what else the training was given, by name.
        """
        return lambda step, examples: inputs


class CrossEntropy(Objective):
    """The mean of -log p(label); of numbers the mean squared error, of tasks their cross-entropies added up."""

    about = "The mean of -log p(label), of numbers the squared error: what all trainings descend that name nothing else"
    stacks = True

    name: Literal["cross-entropy"] = "cross-entropy"

    def loss(
        self, model: "nn.Module", batch: "tuple[Tensor, Tensor]", inputs: "Mapping[str, Mapping[str, Tensor]]"
    ) -> "Tensor":
        """-log p(label), averaged over the batch, or what `loss_of_answers` has in its place."""
        examples, labels = batch
        return loss_of_answers(model(examples), labels)


class LabelSmoothing(Objective):
    """Cross-entropy with labels that are 1 - epsilon sure: the rest is shared among all classes.

    Attributes:
        epsilon: the share that all classes have in common.
    """

    about = "Cross-entropy with a share epsilon of each label spread evenly over all classes"
    paper = "Rethinking the Inception Architecture for Computer Vision (Szegedy et al.)"
    year = 2016
    stacks = True
    of_classes = True

    name: Literal["label-smoothing"] = "label-smoothing"
    epsilon: Number = Field(default=0.1, gt=0, lt=1)

    def loss(
        self, model: "nn.Module", batch: "tuple[Tensor, Tensor]", inputs: "Mapping[str, Mapping[str, Tensor]]"
    ) -> "Tensor":
        """-sum_c ((1 - epsilon) [c = label] + epsilon / classes) log p_c, averaged over the batch."""
        examples, labels = batch
        return cross_entropy(model(examples), labels, smoothing=self.epsilon)


class L1(Objective):
    """Cross-entropy + strength * sum |theta_i| over the living weights: the lasso, which drives weights towards 0.

    Pruned weights are 0, and so are their terms and the gradients of these; biases and normalisations are not counted.

    Attributes:
        strength: lambda, of the sum.
    """

    about = "Cross-entropy and strength times the sum of |theta_i| over the living weights"
    paper = "Regression Shrinkage and Selection via the Lasso (Tibshirani)"
    year = 1996
    sees_weights = True

    name: Literal["l1"] = "l1"
    strength: Number = Field(gt=0)

    def loss(
        self, model: "nn.Module", batch: "tuple[Tensor, Tensor]", inputs: "Mapping[str, Mapping[str, Tensor]]"
    ) -> "Tensor":
        """-log p(label), averaged over the batch, + strength * sum |theta_i|."""
        from tombola.prunable import prunable

        examples, labels = batch
        parameters = dict(model.named_parameters())
        size = sum(parameters[name].abs().sum() for name in prunable(model))
        return loss_of_answers(model(examples), labels) + self.strength * size


class Slimming(Objective):
    """Cross-entropy + strength * sum |gamma| over the batch normalisations: channels that do little fade out.

    The subgradient at gamma = 0 is 0, as in the authors' code.

    Attributes:
        strength: of the sum.
    """

    about = "Cross-entropy and strength times the sum of |gamma| over the batch normalisations"
    paper = "Learning Efficient Convolutional Networks through Network Slimming (Liu et al.)"
    year = 2017
    sees_weights = True

    name: Literal["slimming"] = "slimming"
    strength: Number = Field(gt=0)

    def loss(
        self, model: "nn.Module", batch: "tuple[Tensor, Tensor]", inputs: "Mapping[str, Mapping[str, Tensor]]"
    ) -> "Tensor":
        """-log p(label), averaged over the batch, + strength * sum |gamma|."""
        from torch import nn

        examples, labels = batch
        normalisations = (each for each in model.modules() if isinstance(each, nn.modules.batchnorm._NormBase))
        size = sum(each.weight.abs().sum() for each in normalisations if each.affine)
        return loss_of_answers(model(examples), labels) + self.strength * size


class Adversarial(Objective):
    """(1 - share) loss(x) + share loss(x'): x' the batch changed so that the network as it stands errs on it.

    x' is made in pixels before the normalisation, |x' - x| <= epsilon in [0, 1], by a network in evaluation mode; both
    losses are those of the network in training mode, whose batch normalisations see both batches.

    Attributes:
        attack: fgsm takes one step of epsilon, pgd `steps` of `step`.
        epsilon: the largest change of a pixel; 1 is the whole way from black to white.
        step, steps, random_start: of pgd, and whether it begins at a point drawn from the ball; None for fgsm.
        share: of the loss on the changed batch.
        away_from: what the changed examples lead away from: their label, or what the network says of x, by which the
            label is not leaked to whoever trains on them.
        smoothing: of the labels in both losses, as `cross_entropy` has it.
    """

    about = (
        "Adversarial training: cross-entropy of a batch, and of the same batch changed so that the network errs on it"
    )
    paper = "Explaining and Harnessing Adversarial Examples (Goodfellow et al.)"
    year = 2015
    of_classes = True
    sees_pixels = True

    name: Literal["adversarial"] = "adversarial"
    attack: Literal["fgsm", "pgd"] = "pgd"
    epsilon: Number = Field(default=0.3, ge=0, le=1)
    step: Number = Field(default=0.05, gt=0, le=1)
    steps: Count = Field(default=10, gt=0, le=1000)
    random_start: bool = True
    share: Proportion = 0.5
    away_from: Literal["label", "prediction"] = "label"
    smoothing: Number = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _of_its_attack(self) -> "Adversarial":
        if self.attack == "fgsm" and (wrong := sorted(self.model_fields_set & _OF_PGD)):
            raise ValueError(f"{', '.join(wrong)}: only pgd has any; leave it out, or set attack = 'pgd'")
        return self

    @model_serializer(mode="wrap")
    def _serialized(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = plain(self)
        return {name: value for name, value in values.items() if self.attack == "pgd" or name not in _OF_PGD}

    @property
    def draws(self) -> bool:
        """Of pgd, unless it begins at the pixels themselves."""
        return self.attack == "pgd" and self.random_start and self.share > 0

    @property
    def forwards(self) -> int:
        """A gradient for each loss, there and back for each step of the attack, and f for what the network says."""
        attack = 2 * (self.steps if self.attack == "pgd" else 1) + (self.away_from == "prediction")
        return GRADIENT * (self.share < 1) + (GRADIENT + attack) * (self.share > 0)

    def loss(
        self, model: "nn.Module", batch: "tuple[Tensor, Tensor]", inputs: "Mapping[str, Mapping[str, Tensor]]"
    ) -> "Tensor":
        """(1 - share) * -log p(label | x) + share * -log p(label | x'), averaged over the batch."""
        examples, labels = batch
        parts = []
        if self.share > 0:
            changed = self._changed(model, batch, inputs)
            parts.append(self.share * cross_entropy(model(changed), labels, smoothing=self.smoothing))
        if self.share < 1:
            parts.append((1 - self.share) * cross_entropy(model(examples), labels, smoothing=self.smoothing))
        return sum(parts[1:], parts[0])

    def following(
        self,
        model: "nn.Module",
        batches: "Callable[[int], tuple[Tensor, Tensor]]",
        inputs: "Mapping[str, Mapping[str, Tensor]]",
    ) -> "Callable[[int, Tensor], Mapping[str, Mapping[str, Tensor]]]":
        """step, examples -> with what the training was given, the step that it draws by."""
        return _by_step(inputs) if self.draws else super().following(model, batches, inputs)

    def _changed(
        self, model: "nn.Module", batch: "tuple[Tensor, Tensor]", inputs: "Mapping[str, Mapping[str, Tensor]]"
    ) -> "Tensor":
        """x', as the network's inputs: those of x bit for bit where no pixel is changed."""
        import torch

        from tombola.data.augment import generator
        from tombola.evaluating import evaluating
        from tombola.perturbation import Ball, Climb, OfPixels, fgsm, pgd

        examples, labels = batch
        scale, shift = inputs["pixels"]["scale"], inputs["pixels"]["shift"]
        pixels = ((examples - shift) / scale).clamp(0, 1)

        def given(points: "Tensor") -> "Tensor":
            return examples + scale * (points - pixels)

        if self.away_from == "prediction":
            with torch.no_grad(), evaluating(model):
                labels = model(examples).argmax(dim=-1)
        attacked, ball = OfPixels(model, given), Ball(self.epsilon)
        if self.attack == "fgsm":
            return given(fgsm(attacked, pixels, labels, ball))
        draw = None
        if self.draws:  # what has no step, a score's sample for one, draws as at step 0
            draw = generator("perturb", *(int(inputs["draw"].get(each, 0)) for each in ("seed", "step")))
        return given(pgd(attacked, pixels, labels, ball, Climb(self.step, self.steps), draw))


_OF_PGD = {"step", "steps", "random_start"}


class Distill(Objective):
    """Labels and the softened outputs of a teacher: the replicate's dense network as it was trained, or another one.

    Attributes:
        alpha: how much of the loss is the teacher's; 0 is cross-entropy.
        temperature: T, by which scores are divided before the softmax.
        spread: what is known of the teacher: its probabilities, `taught`; or how sure of labels it is on average, with
            the same for all other classes, `even`, which is to smooth labels as much as it does.
        teacher: `dense`, or the path of a safetensors file with the weights of a network like the recipe's.
    """

    about = "Cross-entropy and the divergence from a teacher's softened outputs, that of the dense network"
    paper = "Distilling the Knowledge in a Neural Network (Hinton, Vinyals & Dean)"
    year = 2015
    of_classes = True
    taught = True

    name: Literal["distill"] = "distill"
    alpha: Number = Field(default=0.9, ge=0, le=1)
    temperature: Number = Field(default=5.0, gt=0)
    spread: Literal["taught", "even"] = "taught"
    teacher: str = Field(default="dense", min_length=1)

    @model_serializer(mode="wrap")
    def _serialized(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = plain(self)
        return {name: value for name, value in values.items() if name != "teacher" or value != "dense"}

    @property
    def teacher_file(self) -> str | None:
        """The path, unless the teacher is the dense network."""
        return None if self.teacher == "dense" else self.teacher

    def loss(
        self, model: "nn.Module", batch: "tuple[Tensor, Tensor]", inputs: "Mapping[str, Mapping[str, Tensor]]"
    ) -> "Tensor":
        """(1 - alpha) CE + alpha T^2 KL(teacher || network), as `distillation.loss` has it."""
        examples, labels = batch
        if (known := inputs.get(TAUGHT)) is not None:
            taught = known["outputs"]
        else:  # of a score's sample, say
            taught = distillation.with_weights(model, inputs[TEACHER], examples)
        even = self.spread == "even"
        return distillation.softened(model(examples), taught, labels, self.alpha, self.temperature, even)

    def following(
        self,
        model: "nn.Module",
        batches: "Callable[[int], tuple[Tensor, Tensor]]",
        inputs: "Mapping[str, Mapping[str, Tensor]]",
    ) -> "Callable[[int, Tensor], Mapping[str, Mapping[str, Tensor]]]":
        """step, examples -> with what the training was given, what the teacher puts out for the step's examples."""
        answers = distillation.answering(distillation.still(model, inputs[TEACHER]), batches)
        return lambda step, examples: {**inputs, TAUGHT: {"outputs": answers(step, examples)}}


class Elbo(Objective):
    """The evidence lower bound of a network with Gaussian weights: cross-entropy + temperature / N KL(q || p).

    N are the examples of the training set, and p is N(0, 1) of each weight.

    Attributes:
        temperature: T; 1 is Bayes' own, below it is a cold posterior.
        samples: S, draws of the weights for each batch.
    """

    about = "Variational training of Gaussian weights: cross-entropy and T / N times the divergence from the prior"
    paper = "Bayesian Lottery Ticket Hypothesis (Kuhn et al.)"
    year = 2026
    of_classes = True
    sees_weights = True
    counts_examples = True
    of_gaussian = True

    name: Literal["elbo"] = "elbo"
    temperature: Number = Field(default=0.1, ge=0)
    samples: Count = Field(default=10, gt=0, le=1000)

    @property
    def draws(self) -> bool:
        """The weights."""
        return True

    @property
    def forwards(self) -> int:
        """A gradient for each draw."""
        return GRADIENT * self.samples

    def loss(
        self, model: "nn.Module", batch: "tuple[Tensor, Tensor]", inputs: "Mapping[str, Mapping[str, Tensor]]"
    ) -> "Tensor":
        """-1/S sum_s log p(label | w_s), averaged over the batch, + T / N KL(q || p), as `bayes.elbo` has it.

        Raises:
            BadInput: the weights of the network are numbers.
        """
        import torch

        from tombola import bayes
        from tombola.data.augment import generator

        if not isinstance(model, bayes.Gaussian):
            raise BadInput(
                where="loss of the objective elbo",
                expected="a network with Gaussian weights, tombola.bayes.Gaussian",
                found=f"a {type(model).__name__}",
                todo="Wrap it, or name the model with +gaussian behind it.",
            )
        draw = generator("elbo", *(int(inputs["draw"].get(each, 0)) for each in ("seed", "step")))
        device = batch[1].device
        if device.type != "cpu":  # weights are drawn where they are
            draw = torch.Generator(device).manual_seed(draw.initial_seed())
        examples = int(inputs["examples"]["count"])
        return bayes.elbo(model, batch, examples, self.temperature, self.samples, draw)

    def following(
        self,
        model: "nn.Module",
        batches: "Callable[[int], tuple[Tensor, Tensor]]",
        inputs: "Mapping[str, Mapping[str, Tensor]]",
    ) -> "Callable[[int, Tensor], Mapping[str, Mapping[str, Tensor]]]":
        """step, examples -> with what the training was given, the step that it draws by."""
        return _by_step(inputs)


def _by_step(
    inputs: "Mapping[str, Mapping[str, Tensor]]",
) -> "Callable[[int, Tensor], Mapping[str, Mapping[str, Tensor]]]":
    """step, examples -> with what a training was given, the step that its objective draws by."""
    import torch

    return lambda step, examples: {**inputs, "draw": {**inputs["draw"], "step": torch.tensor(step)}}


def descended(objective: Objective, loss: Any, gradient: bool = True) -> "Tensor":
    """The loss that an objective gave, where an optimiser's step can descend it.

    Args:
        gradient: whether it has to have one by now; inside of `torch.func.vmap` nothing has.

    Raises:
        BadInput: it is no scalar, or has no gradient.
    """
    import torch

    if not isinstance(loss, torch.Tensor):
        found = f"a {type(loss).__name__}"
    elif loss.numel() != 1:
        found = f"a tensor of shape {tuple(loss.shape)}"
    elif gradient and not loss.requires_grad:
        found = "one without a gradient"
    else:
        return loss
    raise BadInput(
        where=f"loss of the objective {objective.name}",
        expected="a scalar tensor with a gradient",
        found=found,
        todo=f"Let loss return the mean over the batch, neither detached nor made a number{_place(objective)}.",
    )


def _place(objective: Objective) -> str:
    return f" ({place})" if (place := defined_at(type(objective).loss)) else ""


OBJECTIVES: dict[str, type[Objective]] = {
    "cross-entropy": CrossEntropy,
    "label-smoothing": LabelSmoothing,
    "l1": L1,
    "slimming": Slimming,
    "adversarial": Adversarial,
    "distill": Distill,
    "elbo": Elbo,
}


def objective_of(table: Any, known: Mapping[str, type[Objective]] = OBJECTIVES) -> Objective | None:
    """The objective that a recipe's `table` means, by its `name`; None for cross-entropy, which is absent from keys.

    Args:
        table: as it was written, or an objective.
        known: by name, those that there are.

    Raises:
        ValidationError: there is no such objective, or it has no such parameters.

    >>> objective_of({"name": "label-smoothing", "epsilon": 0.2})
    LabelSmoothing(name='label-smoothing', epsilon=0.2)
    >>> objective_of({"name": "cross-entropy"}) is None
    True
    """
    if table is None or isinstance(table, Objective):
        made = table
    elif not isinstance(table, Mapping):
        raise PydanticCustomError("model_type", "Input should be a table")
    elif table.get("name") not in known:
        raise PydanticCustomError(
            "union_tag_invalid",
            "Input should be one of {expected_tags}",
            {"expected_tags": ", ".join(map(repr, known))},
        )
    else:
        made = known[table["name"]].model_validate(table)
    return None if type(made) is CrossEntropy else made  # what is built on it is another one
