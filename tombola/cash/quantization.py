"""Weights as whole numbers of eight bits: a quarter of the memory, activations as they were.

They are turned back into floats at each call, which makes this form no faster. torch can also multiply int8 by int8,
but rounds the activations too for that. Measured on one core of an AVX-512 CPU, 300 x 784: as long as float32 at
batch 1, half as long at batch 64, with errors of up to 3 % of the outputs' standard deviation; and what is public of
it is deprecated.
"""

from contextlib import suppress
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tombola.cash.replaceable import copied, kind_of, only_called
from tombola.cash.trace import Calls

LARGEST = 127  # symmetric: -128 is not used
QUANTISED = (nn.Linear, nn.Conv1d, nn.Conv2d)


class QuantisedLinear(nn.Module):
    """A linear layer of int8 weights, y = x (s Q)^T + b, with one scale s for each output."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        _store(self, layer.weight, layer.bias)

    def forward(self, values: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return F.linear(values, restored(self), self.bias)

    def extra_repr(self) -> str:
        """Its size."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class QuantisedConv2d(nn.Module):
    """A convolution of int8 weights, y = x * (s Q) + b, with one scale s for each channel that it gives."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = layer.in_channels, layer.out_channels, layer.kernel_size
        self.stride, self.padding = layer.stride, layer.padding
        self.dilation, self.groups = layer.dilation, layer.groups
        _store(self, layer.weight, layer.bias)

    def forward(self, maps: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H', W']."""
        return F.conv2d(maps, restored(self), self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """Its size."""
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"


class QuantisedConv1d(QuantisedConv2d):
    """The same over lines."""

    def forward(self, lines: Tensor) -> Tensor:
        """[N, inputs, L] -> [N, outputs, L']."""
        return F.conv1d(lines, restored(self), self.bias, self.stride, self.padding, self.dilation, self.groups)


def quantize(model: nn.Module) -> nn.Module:
    """A copy of `model`, in eval mode, whose linear layers and 1-D and 2-D convolutions have weights of int8.

    q = round(w / s) with s = max |w| / 127 over the weights of one output: |w - s q| <= s / 2, and what is pruned stays
    exactly 0. Biases, norms and embeddings stay floats, and so do weights that two layers share, that the model's own
    code or torch's reads, or whose layer has hooks, and convolutions that pad with anything but zeros. No parameter
    that is left asks for a gradient.

    Raises:
        BadInput: the model cannot be copied.

    >>> layer = nn.Linear(3, 1, bias=False)
    >>> layer.weight = nn.Parameter(torch.tensor([[-1.0, 0.0, 0.5]]))
    >>> quantize(layer).weight
    tensor([[-127,    0,   64]], dtype=torch.int8)
    """
    small, read = nn.Sequential(copied(model)), read_by_code(model)
    for name, layer in list(only_called(small, QUANTISED)):
        if name not in read:
            small.set_submodule(name, quantised_layer(layer))
    return small[0].requires_grad_(False)


def quantised_layer(module: nn.Module) -> nn.Module:
    """The layer with weights of int8; any other module as it is."""
    kind = kind_of(module)
    if kind is nn.Linear:
        return QuantisedLinear(cast(nn.Linear, module))
    if kind in QUANTISED and module.padding_mode == "zeros":
        made = QuantisedConv2d if kind is nn.Conv2d else QuantisedConv1d
        return made(cast(nn.Conv2d, module))
    return module


def restored(layer: QuantisedLinear | QuantisedConv2d) -> Tensor:
    """The weights that it computes with, s q, as floats: not sums are scaled, which do not fit into a float16."""
    return (layer.weight.to(layer.scale.dtype).transpose(0, -1) * layer.scale).transpose(0, -1)


def read_by_code(model: nn.Module) -> set[str]:
    """The layers whose numbers the model's code reads, as far as torch.fx can follow it; by name, behind a "0."."""
    calls = Calls()
    with suppress(Exception):  # it runs the model's own code; what was found until then stays
        calls.trace(nn.Sequential(copied(model)))
    return {str(node.target).rpartition(".")[0] for node in calls.graph.nodes if node.op == "get_attr"}


def _store(module: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    weight = weight.detach()
    scale = weight.flatten(1).abs().amax(dim=1) / LARGEST
    steps = torch.where(scale > 0, scale, 1).view(-1, *[1] * (weight.dim() - 1))
    module.register_buffer("weight", (weight / steps).round().clamp(-LARGEST, LARGEST).to(torch.int8))
    module.register_buffer("scale", scale)
    # A parameter, so that `next(model.parameters())` still tells device and type.
    own = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
    module.register_parameter("bias", own)
