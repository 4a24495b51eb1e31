"""Conv-2, Conv-4 and Conv-6: small VGG-like networks, convolutions in pairs, pooling after each, then three layers.

Figure 2 of The Lottery Ticket Hypothesis (Frankle & Carbin, 2019), after Very Deep Convolutional Networks for
Large-Scale Image Recognition (Simonyan & Zisserman, 2014).
"""

import re
from collections import OrderedDict
from itertools import pairwise
from typing import TYPE_CHECKING

from tombola.models.layer import Layer

if TYPE_CHECKING:
    from torch import nn

SEQUENTIAL = True
FORM = "conv-2, conv-4 or conv-6, with other channels than 64 (1 to 9999) in the first pair like conv-4-w32"
UNITS = (256, 256)  # of the fully connected layers before the output
WINDOW = 3


def channels(name: str) -> tuple[int, ...]:
    """Channels of each pair of convolutions that `name` asks for; the fully connected layers have 256 units always.

    Raises:
        ValueError: it is not of the form `FORM`.

    >>> channels("conv-4"), channels("conv-6-w8")
    ((64, 128), (8, 16, 32))
    """
    match = re.fullmatch(r"conv-([246])(?:-w([1-9]\d{0,3}))?", name)
    if not match:
        raise ValueError(FORM)
    return tuple(int(match[2] or 64) * 2**pair for pair in range(int(match[1]) // 2))


def check(name: str, shape: tuple[int, ...], classes: int) -> None:
    """Raise ValueError, with what was expected, unless the model takes such inputs."""
    _, height, width = shape
    pairs = len(channels(name))
    if min(height, width) < 2**pairs:
        raise ValueError(f"a model for images of {height} x {width}; {name} halves them {pairs} times")


def layers(name: str, shape: tuple[int, ...], classes: int) -> dict[str, Layer]:
    """Its layers, by the name of their weight.

    >>> layers("conv-2", (3, 32, 32), 10)["conv2.weight"]
    Layer(kind='conv', inputs=64, outputs=64, window=3, height=32, width=32)
    """
    inputs, height, width = shape
    maps: dict[str, Layer] = {}
    for outputs in channels(name):
        for _ in range(2):
            maps[f"conv{len(maps) + 1}.weight"] = Layer("conv", inputs, outputs, WINDOW, height, width)
            inputs = outputs
        height, width = height // 2, width // 2
    first, second, last = pairwise((inputs * height * width, *UNITS, classes))
    return maps | {
        "fc1.weight": Layer("linear", *first),
        "fc2.weight": Layer("linear", *second),
        "output.weight": Layer("output", *last),
    }


def build(name: str, shape: tuple[int, ...], classes: int) -> "nn.Module":
    """The network, its weights not yet drawn: conv1, conv2, ..., fc1, fc2, output."""
    from torch import nn

    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (weight, layer) in enumerate(layers(name, shape, classes).items(), start=1):
        path = weight.removesuffix(".weight")
        if layer.kind == "conv":
            parts[path] = nn.Conv2d(layer.inputs, layer.outputs, WINDOW, padding=WINDOW // 2)
        else:
            parts.setdefault("flatten", nn.Flatten())
            parts[path] = nn.Linear(layer.inputs, layer.outputs)
        if layer.kind != "output":
            parts[f"relu{number}"] = nn.ReLU()
        if layer.kind == "conv" and number % 2 == 0:
            parts[f"pool{number // 2}"] = nn.MaxPool2d(2)
    return nn.Sequential(parts)
