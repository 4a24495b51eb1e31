"""Scores of whole channels: one number for each, which all weights that make it have."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tombola.errors import BadInput
from tombola.layer_patterns import few
from tombola.score import Batch, Scored

if TYPE_CHECKING:  # `tombola plan` reads which scores there are, and touches no tensor
    from torch import Tensor, nn

    from tombola.coupling import Along, Coupling

    Scores = dict[str, Tensor]


def bn_scale(scored: Scored) -> "Scores":
    """|gamma|, by which batch normalisation multiplies a channel; the mean of several where channels are added.

    Source: Learning Efficient Convolutional Networks through Network Slimming (Liu et al., 2017),
    https://arxiv.org/abs/1708.06519, which trains them with a penalty first: the objective `slimming`.

    Raises:
        BadInput: a channel that may go is scaled by none.
    """
    import torch

    coupling = _coupling(scored)
    total, there = torch.zeros(coupling.size, dtype=torch.float64), torch.zeros(coupling.size, dtype=torch.float64)
    for along in coupling.scales:
        scale = scored.weights[along.name].cpu().abs()
        along.per_channel(scale, total)
        along.per_channel(torch.ones_like(scale), there)
    without = (there == 0) & coupling.may_go(scored.mask)
    if without.any():
        raise _no_scale([coupling.makers[channel][0] for channel in without.nonzero().flatten().tolist()])
    return _spread(scored, total / there.clamp(min=1))


def activation(scored: Scored) -> "Scores":
    """The mean size of a channel where layers read it, over all batches, examples and positions.

    Source: Pruning Convolutional Neural Networks for Resource Efficient Inference (Molchanov et al., 2017),
    https://arxiv.org/abs/1611.06440, which compares it with others; as there, of what comes after the activation.
    """
    import torch

    from tombola.evaluating import evaluating

    coupling = _coupling(scored)
    total, seen = torch.zeros(coupling.size, dtype=torch.float64), torch.zeros(coupling.size, dtype=torch.float64)

    def look(along: "Along", module: "nn.Module", values: "Tensor") -> None:
        axis = values.dim() - 1 if isinstance(module, torch.nn.Linear) else 1
        sizes = values.detach().abs().double().movedim(axis, -1).flatten(0, -2)
        channels = along.channels.repeat(sizes.shape[1] // len(along.channels))  # of every group of a convolution
        total.index_add_(0, channels, sizes.sum(dim=0).cpu())
        seen.index_add_(0, channels, torch.full((len(channels),), float(len(sizes)), dtype=torch.float64))

    with evaluating(scored.model), _looking(scored.model, coupling, look), torch.no_grad():
        for batch in _batches(scored):
            scored.loss(scored.model, batch)
    return _spread(scored, total / seen.clamp(min=1))


def activation_macs(forward: int, batches: Sequence[int]) -> int:
    """f an example: it is looked at forwards alone."""
    return forward * sum(batches)


def taylor(scored: Scored) -> "Scores":
    """|z dL/dz| of a channel z, summed over examples and positions: how much the loss changes without it, about.

    Of layers that read the channel with the weights theta it is |sum theta dL/dtheta| over all of these, to the same
    effect; of an attention head, over those of its outputs. Its root mean square over batches.

    Source: Importance Estimation for Neural Network Pruning (Molchanov et al., 2019),
    https://arxiv.org/abs/1906.10771, its first order, with a gate on each channel; of heads, Are Sixteen Heads Really
    Better than One? (Michel et al., 2019), https://arxiv.org/abs/1905.10650.
    """
    import torch

    from tombola.loss_of_weights import LossOfWeights

    coupling, loss = _coupling(scored), LossOfWeights.of(scored)
    total, number = torch.zeros(coupling.size, dtype=torch.float64), 0
    names = [along.name for along in coupling.reads]
    theta = {name: value.requires_grad_() if name in names else value for name, value in loss.theta.items()}
    for batch in _batches(scored):
        gradients = loss.gradient(theta, batch, names)
        change = torch.zeros(coupling.size, dtype=torch.float64)
        for along in coupling.reads:
            along.per_channel((theta[along.name].detach() * gradients[along.name]).cpu().double(), change)
        total, number = total + change.square(), number + 1
    return _spread(scored, (total / max(1, number)).sqrt())


def norm(scored: Scored) -> "Scores":
    """|theta_i|, of which the root mean square over all weights of a channel is taken: its l2 norm, per weight."""
    return {name: scored.weights[name].abs() for name in scored.mask}


@contextmanager
def _looking(
    model: "nn.Module", coupling: "Coupling", look: "Callable[[Along, nn.Module, Tensor], None]"
) -> Iterator[None]:
    """`look` at what flows into each layer that reads channels, while it lasts."""

    def hook(along: "Along") -> Callable[[Any, tuple[Any, ...]], None]:
        return lambda module, given: look(along, module, given[0])

    layers = ((along, model.get_submodule(along.name.rpartition(".")[0])) for along in coupling.reads)
    hooks = [layer.register_forward_pre_hook(hook(along)) for along, layer in layers]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def _batches(scored: Scored) -> Iterator[Batch]:
    from tombola.saliency import batches

    return batches(scored)


def _spread(scored: Scored, numbers: "Tensor") -> "Scores":
    from tombola.coupling import spread

    return spread(_coupling(scored), numbers, scored.mask)


def _coupling(scored: Scored) -> "Coupling":
    if scored.coupling is None:
        raise BadInput(
            where="score",
            expected="the channels of the network, which are known in the scopes channel and channel_global",
            found="none",
            todo="Take scope = 'channel', or another score: magnitude is of single weights.",
        )
    return scored.coupling


def _no_scale(names: list[str]) -> BadInput:
    return BadInput(
        where="score bn-scale",
        expected="a batch normalisation behind every layer whose channels may go",
        found=f"none behind {few(dict.fromkeys(names))}",
        todo="Keep these dense, or take another score: norm, for one.",
    )
