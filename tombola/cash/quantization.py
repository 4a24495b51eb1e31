"""Weights as whole numbers of eight bits: a quarter of the memory, activations as they were.

They are turned back into floats at each call, which makes this form no faster. Where activations are rounded too, int8
can be multiplied by int8, which is: `tombola.cash.onnx_quantization`.
"""

import copy
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from tombola.cash.replaceable import copied, kind_of, only_called
from tombola.cash.trace import Calls

LARGEST = 127  # symmetric: -128 is not used
SCALE = "_scale"  # behind the name of a weight that is one of several
RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
QUANTISED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, *RECURRENT)


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


class QuantisedConvTranspose(nn.Module):
    """A transposed convolution of int8 weights, one scale for each channel that it gives in a group."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    shape: nn.Module

    def __init__(self, layer: nn.ConvTranspose1d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.__dict__["shape"] = copy.deepcopy(layer).to("meta")  # no child: its weight is made at each call
        self.groups = layer.groups
        _store(self, layer.weight.transpose(0, 1), layer.bias)
        self.weight = self.weight.transpose(0, 1).contiguous()

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As the layer that it was made of."""
        weight = self.weight.to(self.scale.dtype) * self.scale.view(1, -1, *[1] * (self.weight.dim() - 2))
        held = {"weight": weight} | ({} if self.bias is None else {"bias": self.bias})
        made: Tensor = functional_call(self.shape, held, (maps, output_size))
        return made

    def extra_repr(self) -> str:
        """What it was made of."""
        return repr(self.shape)


class QuantisedRecurrent(nn.Module):
    """An LSTM, GRU or RNN with weights of int8, one scale for each unit of a gate, restored at each call."""

    shape: nn.Module

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.__dict__["shape"] = copy.deepcopy(layer).to("meta")  # no child: its weights are made at each call
        for name, value in layer.named_parameters():
            if value.dim() > 1:
                steps = value.detach().abs().amax(dim=1) / LARGEST
                divisor = torch.where(steps > 0, steps, 1)[:, None]
                rounded = (value.detach() / divisor).round().clamp(-LARGEST, LARGEST).to(torch.int8)
                self.register_buffer(name, rounded)
                self.register_buffer(name + SCALE, steps)
            else:
                self.register_parameter(name, nn.Parameter(value.detach().clone(), requires_grad=False))

    def forward(self, *given: Any, **named: Any) -> Any:
        """As the layer that it was made of."""
        return functional_call(self.shape, dict(self._restored()), given, named)

    def _restored(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.named_parameters(recurse=False)
        for name, value in self.named_buffers(recurse=False):
            if value.dtype is torch.int8:
                scale = getattr(self, name + SCALE)
                yield name, value.to(scale.dtype) * scale[:, None]

    def extra_repr(self) -> str:
        """What it was made of."""
        return repr(self.shape)


QuantisedLayer = QuantisedLinear | QuantisedConv2d | QuantisedConvTranspose | QuantisedRecurrent


def quantize(model: nn.Module) -> nn.Module:
    """A copy of `model`, in eval mode, whose linear layers, convolutions and recurrent layers have weights of int8.

    q = round(w / s) with s = max |w| / 127 over the weights of one output: |w - s q| <= s / 2, and what is pruned stays
    exactly 0. Biases, norms and embeddings stay floats, and so do weights that two layers share, that the model's own
    code or torch's reads, or whose layer has hooks, and convolutions that pad with anything but zeros or are 3-D.
    No parameter that is left asks for a gradient.

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
    if kind in RECURRENT:
        return QuantisedRecurrent(cast(nn.RNNBase, module))
    if kind in QUANTISED and isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d):
        return QuantisedConvTranspose(module)
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
