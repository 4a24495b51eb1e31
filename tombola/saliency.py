"""Scores of gradients: how much the loss, its descent, or the flow through the network would miss a weight.

Most were made for networks at initialisation; all of them score any network, as it is. They see the batches that they
are given, all of them, and of each batch the mean loss, so that a batch counts as one whatever its size: hand over one
batch where a paper takes one. g is dL/dtheta of the network under its mask, and theta are the weights of the `Scored`:
where these are the dense ones beside a sparse network, pruned weights have scores, too, as in FORCE.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING

from tombola.errors import BadInput
from tombola.macs import GRADIENT
from tombola.score import Batch, Scored

if TYPE_CHECKING:  # `tombola plan` reads which scores there are, and touches no tensor
    from torch import Tensor

    from tombola.loss_of_weights import LossOfWeights

    Scores = dict[str, Tensor]

TEMPERATURE = 200.0  # GraSP's own, of the logits
INNER_STEPS, INNER_LR, INNER_MOMENTUM = 3, 0.5, 0.9  # ProsPr's own


def gradient(scored: Scored) -> "Scores":
    """|g_i|, the size of the gradient of the loss of all batches.

    >>> import torch
    >>> from torch import nn
    >>> from tombola import prunable
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> layer.weight.data = torch.tensor([[1.0, 3.0]])
    >>> seen = Scored(layer, {"weight": layer.weight.detach()}, prunable.full(layer), [torch.tensor([[2.0, -1.0]])],
    ...     loss=lambda model, inputs: model(inputs).sum())
    >>> gradient(seen)
    {'weight': tensor([[2., 1.]])}
    """
    return {name: g.abs() for name, g in _gradient(scored).items()}


def snip(scored: Scored) -> "Scores":
    """|theta_i g_i| = |dL/dc_i| at c = 1, of the loss L(c ⊙ theta) of all batches.

    The size is taken of the sum over batches, as in the paper, whose batch is one. A later implementation, OpenLTH's,
    takes it of each batch and adds these up, where opposite signs no longer cancel.

    Source: SNIP: Single-shot Network Pruning based on Connection Sensitivity (Lee, Ajanthan & Torr, 2019),
    https://arxiv.org/abs/1810.02340; on the network as it is masked between steps, FORCE's (de Jorge et al., 2021).
    """
    return {name: (scored.weights[name] * g).abs() for name, g in _gradient(scored).items()}


def grasp(scored: Scored, temperature: float = TEMPERATURE) -> "Scores":
    """theta_i (H g)_i, with H the Hessian and g the gradient of the loss of all batches.

    To first order pruning weight i changes half of |g|^2, how fast the loss falls, by -theta_i (H g)_i: what goes first
    is what leaves it largest. The paper calls -theta ⊙ H g the score, and removes the highest.

    Args:
        temperature: what the network's outputs, logits, are divided by before the loss; 1 where they are none.

    Source: Picking Winning Tickets Before Training by Preserving Gradient Flow (Wang, Zhang & Grosse, 2020),
    https://arxiv.org/abs/2002.07376.
    """
    import torch

    from tombola.loss_of_weights import LossOfWeights, cooled, derivative

    loss = LossOfWeights.of(scored)
    names = list(scored.mask)
    with cooled(scored.model, temperature):
        g = _summed(loss, scored)
        flow = {name: value.new_zeros(value.shape) for name, value in g.items()}
        for batch in scored.batches:
            own = loss.gradient(loss.theta, batch, names, again=True)
            # g is a constant here, so that the derivative is H g
            along = torch.stack([(g[name] * own[name]).sum() for name in names]).sum()
            for name, part in zip(names, derivative(along, [loss.theta[name] for name in names]), strict=True):
                flow[name] += part
    return {name: scored.weights[name] * part.cpu() for name, part in flow.items()}


def grasp_magnitude(scored: Scored) -> "Scores":
    """|theta_i (H g)_i|: what changes how fast the loss falls, either way.

    Source: Pruning Neural Networks at Initialization: Why Are We Missing the Mark? (Frankle, Dziugaite, Roy & Carbin,
        2021), https://arxiv.org/abs/2009.08576, where it does better than GraSP's own sign.
    """
    return {name: part.abs() for name, part in grasp(scored).items()}


def synflow(scored: Scored) -> "Scores":
    """theta_i dR/dtheta_i, with R = sum of the outputs f(1; |theta|): all weights are positive, and all inputs are 1.

    In evaluation mode and float64, and of the batches only the shape of an example counts. Nothing is added on the way,
    as in the paper's R = 1ᵀ |theta_L| ... |theta_1| 1: biases and running means count as 0, which they are at
    initialisation in the authors' program, and a normalisation multiplies by |gamma| / sqrt(running variance). So in a
    network of linear layers, convolutions and ReLUs each unit has as much on its way in as on its way out, and each
    layer as much as any other, R; a layer that has little left is not cut off. Biases that are scored themselves are
    there, as |theta|, and part of what comes in.

    Raises:
        BadInput: an input is no tensor of numbers, or an output no tensor.

    Source: Pruning Neural Networks without Any Data by Iteratively Conserving Synaptic Flow (Tanaka, Kunin, Yamins &
    Ganguli, 2020), https://arxiv.org/abs/2006.05467, where it is taken 100 times on the way down.
    """
    import torch
    from torch.func import functional_call

    from tombola.evaluating import evaluating
    from tombola.loss_of_weights import LossOfWeights, derivative

    theta = {name: _positive(name, value, scored) for name, value in LossOfWeights.of(scored).theta.items()}
    buffers = {name: _neutral(name, value) for name, value in scored.model.named_buffers()}
    inputs = _example(next(batches(scored)))
    ones = torch.ones((1, *inputs.shape[1:]), dtype=torch.float64, device=inputs.device)
    with evaluating(scored.model):
        outputs = functional_call(scored.model, buffers | theta, (ones,))
    if not isinstance(outputs, torch.Tensor):
        raise _no_flow("a network that gives one tensor", f"one that gives {type(outputs).__name__}")
    flow = derivative(outputs.sum(), [theta[name] for name in scored.mask])
    return {name: scored.weights[name].abs() * part.cpu() for name, part in zip(scored.mask, flow, strict=True)}


def prospr(
    scored: Scored, steps: int = INNER_STEPS, lr: float = INNER_LR, momentum: float = INNER_MOMENTUM
) -> "Scores":
    """|dL(theta_M)/dc_i| at c = 1, where theta_M is what M steps of SGD make of c ⊙ theta: SNIP with a look ahead.

    Each step has a batch of its own, and so has the loss at the end; fewer are gone through again. All parameters that
    are trained move, and the derivative goes through all steps, second derivatives included. (The authors' program
    takes the gradient of the first step for a constant, and so leaves out what goes through it.)

    Args:
        steps: M, 0 or more; 0 is SNIP on the first batch.
        lr, momentum: of these steps.

    Source: Prospect Pruning: Finding Trainable Weights at Initialization using Meta-Gradients (Alizadeh et al., 2022),
    https://arxiv.org/abs/2202.08132.
    """
    from tombola.loss_of_weights import LossOfWeights, derivative

    loss, batches = LossOfWeights.of(scored), _over_again(scored)
    alive = {name: value.to(loss.theta[name].device) for name, value in scored.mask.items()}
    moving = [name for name, value in scored.model.named_parameters() if value.requires_grad or name in alive]
    theta = {name: value.requires_grad_(name in moving) for name, value in loss.theta.items()}
    beginning = [theta[name] for name in alive]
    velocity = {name: theta[name].new_zeros(theta[name].shape) for name in moving}
    for _ in range(steps):
        g = loss.gradient(theta, next(batches), moving, again=True)
        velocity = {name: momentum * velocity[name] + alive.get(name, 1) * g[name] for name in moving}
        theta = theta | {name: theta[name] - lr * velocity[name] for name in moving}
    ahead = derivative(loss(theta, next(batches)), beginning)
    return {name: (scored.weights[name] * g.cpu()).abs() for name, g in zip(alive, ahead, strict=True)}


def _gradient(scored: Scored) -> "Scores":
    """g, of the sum of all batches' losses."""
    from tombola.loss_of_weights import LossOfWeights

    return {name: g.cpu() for name, g in _summed(LossOfWeights.of(scored), scored).items()}


def _summed(loss: "LossOfWeights", scored: Scored) -> "Scores":
    total: Scores = {}
    for batch in batches(scored):
        own = loss.gradient(loss.theta, batch, scored.mask)
        total = {name: total[name] + g if total else g for name, g in own.items()}
    return total


def _over_again(scored: Scored) -> Iterator[Batch]:
    """The batches, and when they end once more."""
    while True:
        yield from batches(scored)


def batches(scored: Scored) -> Iterator[Batch]:
    """The batches that a score sees, from the first one on.

    Raises:
        BadInput: there is none.
    """
    batches = iter(scored.batches)
    first = next(batches, None)
    if first is None:
        raise _no_batch()
    return chain([first], batches)


def _positive(name: str, value: "Tensor", scored: Scored) -> "Tensor":
    size = value.detach().double().abs()
    if name in scored.mask:
        return size.requires_grad_()
    return size.zero_() if "bias" in _last(name) else size


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _neutral(name: str, buffer: "Tensor") -> "Tensor":
    """A buffer with which signs stay as they are: nothing is subtracted on the way."""
    value = buffer.double() if buffer.is_floating_point() else buffer.clone()
    return value.new_zeros(value.shape) if _last(name) == "running_mean" else value


def _example(batch: object) -> "Tensor":
    from torch import Tensor

    inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        found = f"{inputs.dtype} numbers" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise _no_flow("inputs that are real numbers, which can all be 1", found)
    return inputs


def _no_flow(expected: str, found: str) -> BadInput:
    return BadInput(where="score synflow", expected=expected, found=found, todo="Take another score: snip, for one.")


def _no_batch() -> BadInput:
    return BadInput(
        where="batches",
        expected="at least one batch of the training set, each time that they are gone through",
        found="none",
        todo="Hand over a loader, or a list of batches; an iterator ends once.",
    )


def grasp_macs(forward: int, batches: Sequence[int]) -> int:
    """12 f an example: two gradients, 3 f each, and a derivative of the second one, 6 f, of its 3 f two for each."""
    return 4 * GRADIENT * forward * sum(batches)


def synflow_macs(forward: int, batches: Sequence[int]) -> int:
    """A gradient for one example, which is all 1."""
    return GRADIENT * forward


def prospr_macs(forward: int, batches: Sequence[int]) -> int:
    """9 f an example of each step, whose gradient is differentiated in turn, and 3 f of the batch that comes after."""
    *steps, last = islice(cycle(batches), INNER_STEPS + 1)
    return 3 * GRADIENT * forward * sum(steps) + GRADIENT * forward * last
