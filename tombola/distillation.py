"""What a network learns of another one, its teacher: softened outputs in the place of labels, or beside them.

Distilling the Knowledge in a Neural Network (Hinton, Vinyals & Dean, 2015); of tickets, Good Students Play Big Lottery
Better (Ma et al., 2021).
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tombola.data import Batches
from tombola.data.facts import IGNORED
from tombola.errors import BadInput
from tombola.probabilities import refuse_probabilities

if TYPE_CHECKING:  # `tombola plan` reads recipes, and touches no tensor
    from torch import Tensor, nn

KNOWN_AT_MOST = 2**30  # bytes of a teacher's outputs that are kept; of more, it is asked at every step
AT_ONCE = 1000  # examples


def loss(
    student: "Tensor",
    teacher: "Tensor",
    labels: "Tensor",
    alpha: float = 0.9,
    temperature: float = 5.0,
    spread_evenly: bool = False,
) -> "Tensor":
    """(1 - alpha) CE(z_s, y) + alpha T^2 KL(softmax(z_t / T) || softmax(z_s / T)), averaged over the labels.

    The factor T^2 lets gradients of the second term be as large at one temperature as at another one, about.

    Args:
        student: z_s, scores of each class before the softmax, [N, classes], or [N, T, classes] of a text.
        teacher: z_t, of the same shape; no gradient goes there.
        labels: y, classes, [N] or [N, T]; `facts.IGNORED` is no label.
        alpha: in [0, 1]; 0 is cross-entropy.
        temperature: T > 0.
        spread_evenly: whether all that is known of the teacher is how sure it is of these labels on average: each label
            has that probability, and all other classes have the same among them.

    Returns:
        A scalar.

    Raises:
        BadInput: shapes differ, or the teacher answers in probabilities; or alpha or T is out of range.

    >>> import torch
    >>> student, labels = torch.tensor([[2.0, 0.0, 0.0]], requires_grad=True), torch.tensor([1])
    >>> loss(student, student.detach(), labels, alpha=1.0).backward()
    >>> float(student.grad.abs().max()) < 1e-6
    True
    """
    _check(teacher, labels, alpha, temperature)
    return softened(student, teacher, labels, alpha, temperature, spread_evenly)


def softened(
    student: "Tensor", teacher: "Tensor", labels: "Tensor", alpha: float, temperature: float, spread_evenly: bool
) -> "Tensor":
    """`loss` where a recipe has checked the constants, and the teacher is a network like the student.

    Raises:
        BadInput: the two networks answer in other shapes.
    """
    from torch.nn import functional

    if student.shape != teacher.shape:
        raise _of_other_shape(tuple(student.shape), tuple(teacher.shape))
    answers = labels.flatten().long()
    asked = answers != IGNORED
    scores, taught, answers = student.flatten(0, -2)[asked], teacher.detach().flatten(0, -2)[asked], answers[asked]
    log_targets = functional.log_softmax(taught / temperature, dim=-1)
    if spread_evenly:
        log_targets = _evenly(log_targets, answers)
    log_answers = functional.log_softmax(scores / temperature, dim=-1)
    divergence = functional.kl_div(log_answers, log_targets, reduction="batchmean", log_target=True)
    return (1 - alpha) * functional.cross_entropy(scores, answers) + alpha * temperature**2 * divergence


def _evenly(log_targets: "Tensor", answers: "Tensor") -> "Tensor":
    """log q with q(y) the mean of exp(log_targets) at the labels, and q(c) the same at all other classes."""
    others = log_targets.shape[-1] - 1
    sure = log_targets.gather(-1, answers[:, None]).exp().mean()
    rest = ((1 - sure) / others).clamp_min(1e-12).log()
    return rest.expand_as(log_targets).scatter(-1, answers[:, None], sure.log().expand(len(answers), 1))


def still(model: "nn.Module", weights: "Mapping[str, Tensor]") -> "nn.Module":
    """A copy of `model` with other weights that is never trained: in evaluation mode, without gradients.

    Its weights are plain ones, also where a training makes those of `model` of others.
    """
    import copy

    from torch import nn
    from torch.nn.utils import parametrize

    from tombola import weights as states

    made = copy.deepcopy(model)
    for layer in filter(parametrize.is_parametrized, list(made.modules())):
        plain = {name: getattr(layer, name).detach().clone() for name in layer.parametrizations}  # type: ignore[union-attr]
        # Not `remove_parametrizations`: copies share their class with the original, which would lose its weight too.
        layer.__class__ = parametrize.type_before_parametrizations(layer)
        del layer.parametrizations
        for name, value in plain.items():
            layer.register_parameter(name, nn.Parameter(value, requires_grad=False))
    states.put(made, dict(weights))
    return made.eval().requires_grad_(False)


def with_weights(model: "nn.Module", weights: "Mapping[str, Tensor]", examples: "Tensor") -> "Tensor":
    """What `model` would put out in evaluation mode if it had these weights, without a copy of it.

    Args:
        model: of plain weights, which may be those that gradients are taken of.
        weights: its state.
        examples: a batch.
    """
    import torch
    from torch.func import functional_call

    from tombola.evaluating import evaluating

    with torch.no_grad(), evaluating(model):
        outputs: Tensor = functional_call(model, dict(weights), (examples,))
    return outputs


def answering(network: "nn.Module", batches: object) -> "Callable[[int, Tensor], Tensor]":
    """step, examples -> what `network` puts out for the examples of a step.

    Where an example is the same input in each pass, the network sees all examples that are trained on once, before the
    first step, in the order of the pool: an interrupted training is taught the same numbers.

    Args:
        network: in evaluation mode, on the device of the batches.
        batches: those of the training, which know where in the pool their examples are if they are `data.Batches`.
    """
    import torch

    if not (isinstance(batches, Batches) and batches.repeats):
        return lambda step, examples: _asked(network, examples)
    known: dict[str, Tensor | None] = {}

    def answers(step: int, examples: "Tensor") -> "Tensor":
        if "outputs" not in known:
            known["outputs"] = _of_all(network, batches)
        outputs = known["outputs"]
        if outputs is None:
            return _asked(network, examples)
        places, _ = batches.places(step, step + 1)
        return outputs.index_select(0, torch.searchsorted(batches.trained_on, places).to(outputs.device))

    return answers


def _asked(network: "nn.Module", examples: "Tensor") -> "Tensor":
    import torch

    with torch.no_grad():
        outputs: Tensor = network(examples)
    return outputs


def _of_all(network: "nn.Module", batches: Batches) -> "Tensor | None":
    """What a network puts out for each example that is trained on, in ascending places; None if that is too much."""
    import torch

    parts: list[Tensor] = []
    for places in batches.trained_on.split(AT_ONCE):
        parts.append(_asked(network, batches.at(places)))
        if parts[0].nbytes / len(parts[0]) * len(batches.trained_on) > KNOWN_AT_MOST:
            return None
    return torch.cat(parts)


def _check(teacher: "Tensor", labels: "Tensor", alpha: float, temperature: float) -> None:
    if labels.is_floating_point() or labels.shape != teacher.shape[:-1]:
        raise BadInput(
            where="distillation",
            expected=f"labels of the shape {list(teacher.shape[:-1])}, each the number of a class",
            found=f"{labels.dtype} of the shape {list(labels.shape)}",
            todo="Hand a class for each row of scores.",
        )
    if not (0 <= alpha <= 1 and 0 < temperature < float("inf")):
        raise BadInput(
            where="distillation",
            expected="alpha from 0 to 1 and a temperature above 0",
            found=f"alpha = {alpha:g}, temperature = {temperature:g}",
            todo="Hinton et al. take alpha = 0.9 and temperatures of 2 to 20.",
        )
    todo = "Leave the teacher's softmax out, or hand its logarithm."
    refuse_probabilities(teacher, "distillation", "the teacher's logits, before the softmax", todo)


def _of_other_shape(student: tuple[int, ...], teacher: tuple[int, ...]) -> BadInput:
    return BadInput(
        where="distillation",
        expected=f"a teacher whose outputs have the student's shape, {list(student)}",
        found=f"outputs of shape {list(teacher)}",
        todo="Take a teacher of the same classes, and its scores before the softmax.",
    )
