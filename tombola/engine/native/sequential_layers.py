"""What of a model the kernels can do: convolutions with ReLU and pooling, then fully connected layers with ReLU."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

# Torch asks the same with a function of its own, but has it only since later than 2.6.
_HOOKS_OF_ALL = (
    "_global_forward_pre_hooks",
    "_global_forward_hooks",
    "_global_backward_pre_hooks",
    "_global_backward_hooks",
)

Parts = Sequence[tuple[str, nn.Module | None]]


@dataclass(frozen=True)
class SequentialLayer:
    """One layer, y = W x + b or y = W * x + b: the names of its parameters, and its size.

    Attributes:
        inputs, outputs: units, or channels of maps; one input meets one output in `area` weights.
        area: positions of a convolution's window, or of the map that a fully connected layer reads.
        window: side of a convolution's square window, odd; 0 for a fully connected layer.
        height, width: of a convolution's maps.
        pool: side of the windows that are pooled after the ReLU; 1 copies, 0 does nothing.
    """

    weight: str
    bias: str
    inputs: int
    outputs: int
    area: int = 1
    window: int = 0
    height: int = 1
    width: int = 1
    pool: int = 0

    @property
    def columns(self) -> int:
        """Weights into one output."""
        return self.inputs * self.area


def sequential_layers(model: nn.Module, shape: tuple[int, ...]) -> tuple[SequentialLayer, ...] | None:
    """The layers of `model` from the input on, or None where it is anything else.

    It must be Sequential: (Conv2d, ReLU (, MaxPool2d))*, Flatten, Linear (, ReLU, Linear)*. Convolutions have stride 1
    and keep the size of their map. Whatever could make such a model compute something else - hooks, parametrizations,
    frozen or shared parameters, subclasses, other devices, mixed types - is None as well: the plain loop does those.

    Args:
        shape: channels, height, width of an input.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> [(layer.weight, layer.inputs, layer.outputs) for layer in sequential_layers(model, (1, 2, 2))]
    [('1.weight', 4, 3), ('3.weight', 3, 2)]
    >>> sequential_layers(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), (1, 2, 2)) is None
    True
    """
    if type(model) is not nn.Sequential or _hooked(model) or not _plain_parameters(model):
        return None
    parts = list(model._modules.items())  # named_children() leaves out what comes twice
    flatten = next((place for place, (_, part) in enumerate(parts) if _flattens(part)), len(parts))
    before, area = _convolutions(parts[:flatten], shape)
    after = _linear(parts[flatten + 1 :], before[-1].outputs if before else shape[0], area) if area else None
    if after is None:
        return None
    if before and not before[-1].pool:  # the fully connected layer reads maps without a border
        before[-1] = replace(before[-1], pool=1)
    if not before:  # each pixel is a unit
        after[0] = replace(after[0], inputs=after[0].columns, area=1)
    layers = (*before, *after)
    everything = len(list(model.parameters())) == 2 * len(layers)
    return layers if everything and all(layer.inputs and layer.outputs for layer in layers) else None


def _hooked(model: nn.Module) -> bool:
    """Whether anything is called beside the layers, or holds more than their parameters."""
    return any(getattr(nn.modules.module, hooks) for hooks in _HOOKS_OF_ALL) or any(map(_altered, model.modules()))


def _plain_parameters(model: nn.Module) -> bool:
    """Whether all parameters are plain ones, trained, of one type, on the CPU, and none of them twice."""
    parameters = list(model.parameters())
    kinds = {(value.dtype, value.device.type) for value in parameters}
    once = len(parameters) == len(list(model.named_parameters(remove_duplicate=False)))
    return (
        once
        and len(kinds) == 1
        and kinds <= {(torch.float32, "cpu"), (torch.float64, "cpu")}
        and all(type(value) is nn.Parameter and value.requires_grad for value in parameters)
        and not any(value._backward_hooks or value._post_accumulate_grad_hooks for value in parameters)
    )


def _convolutions(parts: Parts, shape: tuple[int, ...]) -> tuple[list[SequentialLayer], int]:
    """The convolutions among `parts`, and the positions of the last map; 0 of them where something else is there."""
    channels, height, width = shape
    layers: list[SequentialLayer] = []
    rest = iter(parts)
    for name, part in rest:
        if type(part) is nn.MaxPool2d and layers and not layers[-1].pool and _pools(part, height, width):
            side = _side(part)
            layers[-1] = replace(layers[-1], pool=side)
            height, width = height // side, width // side
        elif type(part) is nn.Conv2d and part.in_channels == channels and _keeps_size(part):
            side = int(part.kernel_size[0])
            names = f"{name}.weight", f"{name}.bias"
            layers.append(SequentialLayer(*names, channels, part.out_channels, side * side, side, height, width))
            channels = part.out_channels
            if type(next(rest, (None, None))[1]) is not nn.ReLU:
                return [], 0
        else:
            return [], 0
    return layers, height * width


def _linear(parts: Parts, inputs: int, area: int) -> list[SequentialLayer] | None:
    """Linear (, ReLU, Linear)*, of which the first reads `inputs` maps of `area` positions; else None."""
    layers = []
    for number, (name, part) in enumerate(parts):
        if number % 2:
            if type(part) is not nn.ReLU:
                return None
        elif type(part) is nn.Linear and part.bias is not None and part.in_features == inputs * area:
            layers.append(SequentialLayer(f"{name}.weight", f"{name}.bias", inputs, part.out_features, area))
            inputs, area = part.out_features, 1
        else:
            return None
    return layers if len(parts) % 2 else None


def _keeps_size(part: nn.Conv2d) -> bool:
    side = part.kernel_size[0]
    square = part.kernel_size == (side, side) and side % 2 == 1 and part.stride == part.dilation == (1, 1)
    padded = part.padding == "same" or part.padding == (side // 2, side // 2)
    plain = part.groups == 1 and part.padding_mode == "zeros" and part.bias is not None
    return square and padded and plain


def _pools(part: nn.MaxPool2d, height: int, width: int) -> bool:
    plain = part.padding == 0 and part.dilation == 1 and not part.ceil_mode and not part.return_indices
    return plain and part.stride == _side(part) and 1 < _side(part) <= min(height, width)


def _side(part: nn.MaxPool2d) -> int:
    return part.kernel_size if isinstance(part.kernel_size, int) else 0


def _flattens(part: nn.Module | None) -> bool:
    return type(part) is nn.Flatten and (part.start_dim, part.end_dim) == (1, -1)


def _altered(module: nn.Module) -> bool:
    hooks: list[dict[Any, Any]] = [
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    ]
    return any(hooks) or "forward" in vars(module) or bool(list(module.buffers(recurse=False)))
