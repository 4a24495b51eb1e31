"""LeNet-5: two convolutions of 5 x 5 without borders, pooling after each, then three layers; ReLU throughout.

Gradient-Based Learning Applied to Document Recognition (LeCun et al., 1998), in the modern form in which Gradient Flow
in Sparse Neural Networks and How Lottery Tickets Win (Evci et al., 2022) prunes it: 44,190 weights on MNIST.
"""

from collections import OrderedDict
from itertools import pairwise
from typing import TYPE_CHECKING

from tombola.models.layer import Layer

if TYPE_CHECKING:
    from torch import nn

SEQUENTIAL = False  # the kernels' convolutions keep the size of their map
FORM = "lenet-5, for images of 16 x 16 or more"
CHANNELS = (6, 16)
UNITS = (120, 84)  # of the fully connected layers before the output
WINDOW = 5


def check(name: str, shape: tuple[int, ...], classes: int) -> None:
    """Raise ValueError, with what was expected, unless the model takes such inputs."""
    if name != "lenet-5":
        raise ValueError(FORM)
    _, height, width = shape
    if min(_sides(height)[-1], _sides(width)[-1]) < 1:
        raise ValueError(f"a model for images of {height} x {width}; lenet-5 takes some of 16 x 16 or more")


def layers(name: str, shape: tuple[int, ...], classes: int) -> dict[str, Layer]:
    """Its layers, by the name of their weight.

    >>> sum(layer.weights for layer in layers("lenet-5", (1, 28, 28), 10).values())
    44190
    """
    inputs, height, width = shape
    maps: dict[str, Layer] = {}
    for outputs in CHANNELS:
        height, width = height - WINDOW + 1, width - WINDOW + 1
        maps[f"conv{len(maps) + 1}.weight"] = Layer("conv", inputs, outputs, WINDOW, height, width)
        inputs, height, width = outputs, height // 2, width // 2
    first, second, last = pairwise((inputs * height * width, *UNITS, classes))
    return maps | {
        "fc1.weight": Layer("linear", *first),
        "fc2.weight": Layer("linear", *second),
        "output.weight": Layer("output", *last),
    }


def build(name: str, shape: tuple[int, ...], classes: int) -> "nn.Module":
    """The network, its weights not yet drawn: conv1, conv2, fc1, fc2, output."""
    from torch import nn

    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (weight, layer) in enumerate(layers(name, shape, classes).items(), start=1):
        path = weight.removesuffix(".weight")
        if layer.kind == "conv":
            parts[path] = nn.Conv2d(layer.inputs, layer.outputs, WINDOW)
        else:
            parts.setdefault("flatten", nn.Flatten())
            parts[path] = nn.Linear(layer.inputs, layer.outputs)
        if layer.kind != "output":
            parts[f"relu{number}"] = nn.ReLU()
        if layer.kind == "conv":
            parts[f"pool{number}"] = nn.MaxPool2d(2)
    return nn.Sequential(parts)


def _sides(side: int) -> list[int]:
    """Of the map after each pooling."""
    found = [side]
    for _ in CHANNELS:
        found.append((found[-1] - WINDOW + 1) // 2)
    return found[1:]
