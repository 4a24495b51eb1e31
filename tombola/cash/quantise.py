"""Weights as whole numbers of eight bits: a quarter of the memory, activations as they were.

They are turned back into float32 at each call. torch can also multiply int8 by int8, but rounds the activations too for
that: measured on one core of an AVX-512 CPU, 300 x 784, it takes as long as float32 at batch 1 and half as long at
batch 64, for an error a hundred times that of rounding; and the public operators for it are deprecated.
"""

import copy
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST = 127  # symmetric: -128 is not used


class QuantisedLinear(nn.Module):
    """A linear layer of int8 weights, y = (x Q^T) s + b, with one scale s for each output."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        _store(self, layer.weight, layer.bias)

    def forward(self, values: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        product = F.linear(values, self.weight.to(values.dtype)) * self.scale
        return product if self.bias is None else product + self.bias

    def extra_repr(self) -> str:
        """Its size."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class QuantisedConv2d(nn.Module):
    """A convolution of int8 weights, y = (x * Q) s + b, with one scale s for each channel that it gives."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = layer.in_channels, layer.out_channels, layer.kernel_size
        self.stride, self.padding, self.dilation, self.groups = (
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
        )
        _store(self, layer.weight, layer.bias)

    def forward(self, maps: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H', W']."""
        weight = self.weight.to(maps.dtype)
        product = F.conv2d(maps, weight, None, self.stride, self.padding, self.dilation, self.groups)
        product = product * self.scale[:, None, None]
        return product if self.bias is None else product + self.bias[:, None, None]

    def extra_repr(self) -> str:
        """Its size."""
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"


def quantise(model: nn.Module) -> nn.Module:
    """A copy of `model`, in eval mode, whose linear layers and 2-D convolutions have weights of int8.

    q = round(w / s) with s = max |w| / 127 over the weights of one output: |w - s q| <= s / 2, and what is pruned stays
    exactly 0. Biases, norms and embeddings stay floats, and so do weights that two layers share, and convolutions that
    pad with anything but zeros.

    >>> layer = nn.Linear(3, 1, bias=False)
    >>> layer.weight = nn.Parameter(torch.tensor([[-1.0, 0.0, 0.5]]))
    >>> quantise(layer).weight
    tensor([[-127,    0,   64]], dtype=torch.int8)
    """
    small = copy.deepcopy(model).eval()
    uses = Counter(id(value) for _, value in small.named_parameters(remove_duplicate=False))
    made: dict[int, nn.Module] = {}
    for name, module in list(small.named_modules(remove_duplicate=False)):
        new = made.setdefault(id(module), quantised(module)) if not _tied(module, uses) else module
        if new is not module and not name:
            return new
        if new is not module:
            small.set_submodule(name, new)
    return small


def quantised(module: nn.Module) -> nn.Module:
    """The layer with weights of int8; any other module as it is."""
    if type(module) is nn.Linear:
        return QuantisedLinear(module)
    if type(module) is nn.Conv2d and module.padding_mode == "zeros":
        return QuantisedConv2d(module)
    return module


def restored(layer: QuantisedLinear | QuantisedConv2d) -> Tensor:
    """The weights that it computes with, s q, as floats."""
    return layer.weight * layer.scale.view(-1, *[1] * (layer.weight.dim() - 1))


def _tied(module: nn.Module, uses: Counter[int]) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and uses[id(weight)] > 1


def _store(module: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    weight = weight.detach()
    scale = weight.flatten(1).abs().amax(dim=1) / LARGEST
    steps = torch.where(scale > 0, scale, 1).view(-1, *[1] * (weight.dim() - 1))
    module.register_buffer("weight", (weight / steps).round().clamp(-LARGEST, LARGEST).to(torch.int8))
    module.register_buffer("scale", scale)
    module.register_buffer("bias", None if bias is None else bias.detach().clone())
