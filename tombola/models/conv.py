"""Conv-2, Conv-4 and Conv-6: small VGG-like networks, convolutions in pairs, pooling after each, then three layers.

Figure 2 of The Lottery Ticket Hypothesis (Frankle & Carbin, 2019), after Very Deep Convolutional Networks for
Large-Scale Image Recognition (Simonyan & Zisserman, 2014).
"""

from collections import OrderedDict
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

FORM = "conv-2, conv-4 or conv-6"
CHANNELS = (64, 128, 256)  # of the two convolutions before each pooling
UNITS = (256, 256)  # of the fully connected layers before the output
WINDOW = 3


def pairs(name: str) -> int:
    """How many pairs of convolutions `name` asks for.

    Raises:
        ValueError: it is none of `FORM`.

    >>> pairs("conv-4")
    2
    """
    if name not in ("conv-2", "conv-4", "conv-6"):
        raise ValueError(FORM)
    return int(name.removeprefix("conv-")) // 2


def check(name: str, shape: tuple[int, int, int], classes: int) -> None:
    """Raise ValueError, with what was expected, unless the model takes such inputs."""
    _, height, width = shape
    if min(height, width) < 2 ** pairs(name):
        raise ValueError(f"a model for images of {height} x {width}; {name} halves them {pairs(name)} times")


def chain(name: str, shape: tuple[int, int, int], classes: int) -> dict[str, tuple[int, ...]]:
    """(inputs, outputs, window, height, width) of each convolution, (inputs, outputs) of each layer after them.

    >>> chain("conv-2", (3, 32, 32), 10)["conv2.weight"]
    (64, 64, 3, 32, 32)
    """
    channels, height, width = shape
    layers: dict[str, tuple[int, ...]] = {}
    for outputs in CHANNELS[: pairs(name)]:
        for _ in range(2):
            layers[f"conv{len(layers) + 1}.weight"] = (channels, outputs, WINDOW, height, width)
            channels = outputs
        height, width = height // 2, width // 2
    units = pairwise((channels * height * width, *UNITS, classes))
    return layers | dict(zip(("fc1.weight", "fc2.weight", "output.weight"), units, strict=True))


def weight_counts(name: str, shape: tuple[int, int, int], classes: int) -> dict[str, int]:
    """How many prunable weights each layer has.

    >>> sum(weight_counts("conv-2", (3, 32, 32), 10).values())
    4300992
    """
    sizes = chain(name, shape, classes)
    return {weight: prod(size[:2]) * (WINDOW**2 if len(size) > 2 else 1) for weight, size in sizes.items()}


def build(name: str, shape: tuple[int, int, int], classes: int) -> "nn.Module":
    """The network, its weights not yet drawn: conv1, conv2, ..., fc1, fc2, output."""
    from torch import nn

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (weight, (inputs, outputs, *maps)) in enumerate(chain(name, shape, classes).items(), start=1):
        layer = weight.removesuffix(".weight")
        if maps:
            layers[layer] = nn.Conv2d(inputs, outputs, WINDOW, padding=WINDOW // 2)
        else:
            layers.setdefault("flatten", nn.Flatten())
            layers[layer] = nn.Linear(inputs, outputs)
        if layer != "output":
            layers[f"relu{number}"] = nn.ReLU()
        if maps and number % 2 == 0:
            layers[f"pool{number // 2}"] = nn.MaxPool2d(2)
    return nn.Sequential(layers)
