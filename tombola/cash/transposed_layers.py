"""Transposed convolutions, sparse: as convolutions whose outputs are put between each other.

y[o, q] = sum of x[i, p] w[i, o, k] over q + P = s p + d k. Of all q + P = s u + r with the same r it is a convolution
of x with the weights whose d k = s a + r, so that the s (or s x s) of them are the channels of one convolution. Most of
its weights are 0, which costs nothing here.
"""

from typing import cast

import torch
from torch import Tensor, nn

from tombola.cash.sparse_layers import SparseConv1d, SparseConv2d, sparse_convolution

Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d


class SparseConvTranspose(nn.Module):
    """A transposed convolution, y = max(0, W *^T x + b), at the cost of the weights that are not 0.

    Args:
        layer: with the same stride along all axes.
        relu: whether a ReLU follows.
    """

    def __init__(self, layer: Transposed, relu: bool = False) -> None:
        super().__init__()
        self.stride, self.padding = layer.stride[0], tuple(map(int, layer.padding))
        self.longer = tuple(
            dilation * (size - 1) + 1 - self.stride + extra
            for dilation, size, extra in zip(layer.dilation, layer.kernel_size, layer.output_padding, strict=True)
        )
        self.between: SparseConv1d | SparseConv2d = sparse_convolution(between(layer), relu)

    def forward(self, values: Tensor) -> Tensor:
        """[N, inputs, L], or [N, inputs, H, W], -> [N, outputs, ...], float32; of one example without an N too."""
        axes = len(self.padding)
        if values.dim() == axes + 1:
            return cast(Tensor, self(values[None])[0])
        stride = self.stride
        made: Tensor = self.between(values)
        if stride > 1:
            made = made.unflatten(1, (-1, *[stride] * axes))  # [N, outputs, s, ..., L', ...]
            order = [place for axis in range(axes) for place in (2 + axes + axis, 2 + axis)]
            made = made.permute(0, 1, *order)
            for axis in range(axes):
                made = made.flatten(2 + axis, 3 + axis)
        for axis, (padding, longer) in enumerate(zip(self.padding, self.longer, strict=True)):
            length = values.shape[2 + axis] * stride + longer - 2 * padding
            made = made.narrow(2 + axis, padding, length)
        return made.contiguous()


def transposable(layer: nn.Module) -> bool:
    """Whether it is a transposed convolution with one stride, of which no output lies beyond what its windows reach."""
    if not isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d) or len(set(layer.stride)) > 1:
        return False
    sides = zip(layer.output_padding, layer.padding, strict=True)
    return all(int(extra) <= int(padding) for extra, padding in sides)  # type: ignore[call-overload]


def between(layer: Transposed) -> nn.Conv1d | nn.Conv2d:
    """The convolution whose channels are those of `layer`, for each place between two of its inputs one after another.

    >>> between(nn.ConvTranspose1d(3, 5, 4, stride=2))
    Conv1d(3, 10, kernel_size=(2,), stride=(1,), padding=(1,))
    """
    weight, groups, axes = layer.weight.detach(), layer.groups, len(layer.kernel_size)
    inputs, outputs = len(weight) // groups, weight.shape[1]
    stride, steps = layer.stride[0], layer.dilation
    sides = [step * (size - 1) // stride for step, size in zip(steps, layer.kernel_size, strict=True)]
    # [groups, outputs, inputs, *place between inputs, *place in the window]
    made = weight.new_zeros(groups, outputs, inputs, *[stride] * axes, *[side + 1 for side in sides])
    for place in torch.cartesian_prod(*map(torch.arange, layer.kernel_size)).view(-1, axes).tolist():
        apart = [step * each for step, each in zip(steps, place, strict=True)]
        phase = [each % stride for each in apart]
        window = [side - each // stride for side, each in zip(sides, apart, strict=True)]
        part = weight[(slice(None), slice(None), *place)].unflatten(0, (groups, inputs)).transpose(1, 2)
        made[(slice(None), slice(None), slice(None), *phase, *window)] = part
    order = [0, 1, *range(3, 3 + axes), 2, *range(3 + axes, 3 + 2 * axes)]
    made = made.permute(order).flatten(0, 1 + axes)
    kind = nn.Conv1d if axes == 1 else nn.Conv2d
    found = kind(inputs * groups, len(made), made.shape[2:], padding=sides, groups=groups)  # type: ignore[arg-type]
    found.weight = nn.Parameter(made, requires_grad=False)
    bias = weight.new_zeros(outputs * groups) if layer.bias is None else layer.bias.detach()
    found.bias = nn.Parameter(bias.repeat_interleave(stride**axes), requires_grad=False)
    return found
