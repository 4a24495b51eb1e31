"""ResNet-18, 34 and 50 for large images: a 7 x 7 stem with max pooling, and four stages of 64, 128, 256, 512 channels.

Deep Residual Learning for Image Recognition (He, Zhang, Ren & Sun, 2016), Table 1, in the form called v1.5: where a
bottleneck halves the map, its 3 x 3 convolution does. Layer by layer the same as torchvision's networks, under other
names. Every gamma of the batch normalisation starts at 1, also those at the end of a block.
"""

import re
from collections import OrderedDict
from typing import TYPE_CHECKING

from tombola.models import residual
from tombola.models.layer import Layer

if TYPE_CHECKING:
    from torch import nn

SEQUENTIAL = False
FORM = (
    "imagenet-resnet-18, imagenet-resnet-34 or imagenet-resnet-50, with other channels than 64 (1 to 9999) in the "
    "first stage like imagenet-resnet-18-w32"
)
DEPTHS = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3), "50": (3, 4, 6, 3)}
HALVINGS = 5  # the stem's convolution, its pooling, and the stages after the first


def blocks(name: str) -> list[residual.ResidualBlock]:
    """The residual blocks that `name` asks for.

    Raises:
        ValueError: it is not of the form `FORM`.

    >>> blocks("imagenet-resnet-50-w32")[3]
    ResidualBlock(path='stage2.block1', inputs=128, inner=64, stride=2, bottleneck=True)
    """
    match = re.fullmatch(r"imagenet-resnet-(18|34|50)(?:-w([1-9]\d{0,3}))?", name)
    if not match:
        raise ValueError(FORM)
    return residual.blocks(DEPTHS[match[1]], int(match[2] or 64), bottleneck=match[1] == "50")


def check(name: str, shape: tuple[int, ...], classes: int) -> None:
    """Raise ValueError, with what was expected, unless the model takes such inputs."""
    _, height, width = shape
    blocks(name)
    if min(height, width) < 2**HALVINGS:
        raise ValueError(f"a model for images of {height} x {width}; {name} halves them {HALVINGS} times")


def layers(name: str, shape: tuple[int, ...], classes: int) -> dict[str, Layer]:
    """Its layers, by the name of their weight.

    >>> layers("imagenet-resnet-50", (3, 224, 224), 1000)["stem.conv.weight"]
    Layer(kind='conv', inputs=3, outputs=64, window=7, height=112, width=112)
    """
    stages = blocks(name)
    channels, height, width = shape
    height, width = residual.halved(height), residual.halved(width)
    stem = Layer("conv", channels, stages[0].inputs, 7, height, width)
    height, width = residual.halved(height), residual.halved(width)
    return {"stem.conv.weight": stem} | residual.layers(stages, height, width, classes)


def build(name: str, shape: tuple[int, ...], classes: int) -> "nn.Module":
    """The network, its weights not yet drawn: stem.conv, stem.norm, stage1.block1.conv1, ..., output."""
    from torch import nn

    from tombola.models.modules import network

    stages = blocks(name)
    first = stages[0].inputs
    stem: OrderedDict[str, nn.Module] = OrderedDict(conv=nn.Conv2d(shape[0], first, 7, 2, padding=3, bias=False))
    stem |= {"norm": nn.BatchNorm2d(first), "relu": nn.ReLU(), "pool": nn.MaxPool2d(3, 2, padding=1)}
    return network(nn.Sequential(stem), stages, classes)
