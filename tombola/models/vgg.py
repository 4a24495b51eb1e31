"""VGG-11, 13, 16 and 19 for small images: convolutions with batch normalisation in five stages, one linear output.

Very Deep Convolutional Networks for Large-Scale Image Recognition (Simonyan & Zisserman, 2014), in the form that The
Lottery Ticket Hypothesis (Frankle & Carbin, 2019) has for CIFAR-10: 3 x 3 convolutions, each with batch normalisation
and ReLU; the map is halved by max pooling after each of the first four stages and averaged after the last; one fully
connected layer.

Those papers' code gives the convolutions biases. The normalisation subtracts them again, so that they neither change
the output nor get a gradient: here there are none. Gamma starts at 1; that code can also draw it uniformly.
"""

import re
from collections import OrderedDict
from typing import TYPE_CHECKING

from tombola.models.layer import Layer

if TYPE_CHECKING:
    from torch import nn

SEQUENTIAL = False
FORM = "vgg-11, vgg-13, vgg-16 or vgg-19, with other channels than 64 (1 to 9999) in the first stage like vgg-16-w16"
DEPTHS = {"11": (1, 1, 2, 2, 2), "13": (2, 2, 2, 2, 2), "16": (2, 2, 3, 3, 3), "19": (2, 2, 4, 4, 4)}
WIDER = (1, 2, 4, 8, 8)  # channels of each stage, those of the first = 1
WINDOW = 3


def stages(name: str) -> list[tuple[int, int]]:
    """(convolutions, channels) of each stage that `name` asks for.

    Raises:
        ValueError: it is not of the form `FORM`.

    >>> stages("vgg-16")
    [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)]
    """
    match = re.fullmatch(r"vgg-(11|13|16|19)(?:-w([1-9]\d{0,3}))?", name)
    if not match:
        raise ValueError(FORM)
    first = int(match[2] or 64)
    return [(depth, first * times) for depth, times in zip(DEPTHS[match[1]], WIDER, strict=True)]


def check(name: str, shape: tuple[int, ...], classes: int) -> None:
    """Raise ValueError, with what was expected, unless the model takes such inputs."""
    _, height, width = shape
    halvings = len(stages(name)) - 1
    if min(height, width) < 2**halvings:
        raise ValueError(f"a model for images of {height} x {width}; {name} halves them {halvings} times")


def layers(name: str, shape: tuple[int, ...], classes: int) -> dict[str, Layer]:
    """Its layers, by the name of their weight.

    >>> sum(layer.weights for layer in layers("vgg-19", (3, 32, 32), 10).values())
    20024000
    """
    inputs, height, width = shape
    found: dict[str, Layer] = {}
    for stage, (depth, outputs) in enumerate(stages(name), start=1):
        for number in range(1, depth + 1):
            found[f"stage{stage}.conv{number}.weight"] = Layer("conv", inputs, outputs, WINDOW, height, width)
            inputs = outputs
        height, width = height // 2, width // 2
    return found | {"output.weight": Layer("output", inputs, classes)}


def build(name: str, shape: tuple[int, ...], classes: int) -> "nn.Module":
    """The network, its weights not yet drawn: stage1.conv1, stage1.norm1, ..., output."""
    from torch import nn

    inputs, _, _ = shape
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for stage, (depth, outputs) in enumerate(stages(name), start=1):
        if stage > 1:
            parts[f"pool{stage - 1}"] = nn.MaxPool2d(2)
        inside: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(1, depth + 1):
            inside[f"conv{number}"] = nn.Conv2d(inputs, outputs, WINDOW, padding=WINDOW // 2, bias=False)
            inside[f"norm{number}"] = nn.BatchNorm2d(outputs)
            inside[f"relu{number}"] = nn.ReLU()
            inputs = outputs
        parts[f"stage{stage}"] = nn.Sequential(inside)
    parts |= {"average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "output": nn.Linear(inputs, classes)}
    return nn.Sequential(parts)
