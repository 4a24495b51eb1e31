"""ResNet-20, 32, 44, 56 and 110 for small images (and 8 and 14, smaller still): three stages of 16, 32, 64 channels.

Deep Residual Learning for Image Recognition (He, Zhang, Ren & Sun, 2016), section 4.2, with 1 x 1 projections on the
two shortcuts that change shape, as in The Lottery Ticket Hypothesis (Frankle & Carbin, 2019), which calls ResNet-20
ResNet-18. Gamma of the batch normalisation starts at 1; those papers' code can also draw it uniformly.
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
    "resnet-8, -14, -20, -32, -44, -56 or -110, with other channels than 16 (1 to 9999) in the first stage like "
    "resnet-20-w32"
)
STAGES = 3


def depth_and_width(name: str) -> tuple[int, int]:
    """(blocks of each stage, channels of the first) that `name` asks for: depth = 6 blocks + 2.

    Raises:
        ValueError: it is not of the form `FORM`; the message says where networks of ImageNet's depths are found.

    >>> depth_and_width("resnet-20"), depth_and_width("resnet-56-w4")
    ((3, 16), (9, 4))
    """
    match = re.fullmatch(r"resnet-(8|14|20|32|44|56|110)(?:-w([1-9]\d{0,3}))?", name)
    if match:
        return (int(match[1]) - 2) // (2 * STAGES), int(match[2] or 16)
    larger = re.fullmatch(r"(resnet-(?:18|34|50))(?:-w\d+)?", name)
    if not larger:
        raise ValueError(FORM)
    papers = "; the lottery ticket papers' ResNet-18 for CIFAR-10 is resnet-20" if larger[1] == "resnet-18" else ""
    raise ValueError(f"{FORM}; ImageNet's {larger[1]} is imagenet-{larger[1]}{papers}")


def check(name: str, shape: tuple[int, ...], classes: int) -> None:
    """Raise ValueError, with what was expected, unless the model takes such inputs."""
    _, height, width = shape
    depth_and_width(name)
    if min(height, width) < 2 ** (STAGES - 1):
        raise ValueError(f"a model for images of {height} x {width}; {name} halves them {STAGES - 1} times")


def layers(name: str, shape: tuple[int, ...], classes: int) -> dict[str, Layer]:
    """Its layers, by the name of their weight.

    >>> sum(layer.weights for layer in layers("resnet-20", (3, 32, 32), 10).values())
    270896
    """
    channels, height, width = shape
    depth, first = depth_and_width(name)
    stem = Layer("conv", channels, first, 3, height, width)
    stages = residual.blocks([depth] * STAGES, first)
    return {"stem.conv.weight": stem} | residual.layers(stages, height, width, classes)


def build(name: str, shape: tuple[int, ...], classes: int) -> "nn.Module":
    """The network, its weights not yet drawn: stem.conv, stem.norm, stage1.block1.conv1, ..., output."""
    from torch import nn

    from tombola.models.modules import network

    depth, first = depth_and_width(name)
    conv = nn.Conv2d(shape[0], first, 3, padding=1, bias=False)
    stem = nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(first), relu=nn.ReLU()))
    return network(stem, residual.blocks([depth] * STAGES, first), classes)
