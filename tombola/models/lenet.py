"""LeNet-300-100 and its kin: fully connected layers with ReLU between them.

Gradient-Based Learning Applied to Document Recognition (LeCun et al., 1998), as in Figure 2 of The Lottery Ticket
Hypothesis (Frankle & Carbin, 2019). Without biases as in The Search for Sparse, Robust Neural Networks (Cosentino,
Zaiter, Pei & Zhu, 2019).
"""

import re
from collections import OrderedDict
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

from tombola.models.layer import Layer

if TYPE_CHECKING:
    from torch import nn

SEQUENTIAL = True
FORM = "lenet-W1-W2-..., hidden widths from the input on, like lenet-300-100, or lenet-300-100-no-bias"
NO_BIAS = "-no-bias"


def widths(name: str) -> tuple[int, ...]:
    """The hidden widths that `name` asks for.

    Raises:
        ValueError: it is not of the form `lenet-W1-W2-...` with widths > 0.

    >>> widths("lenet-300-100"), widths("lenet-20-no-bias")
    ((300, 100), (20,))
    """
    if not re.fullmatch(rf"lenet(-[1-9]\d{{0,5}})+({NO_BIAS})?", name):
        raise ValueError(FORM)
    return tuple(int(width) for width in name.removesuffix(NO_BIAS).split("-")[1:])


def biased(name: str) -> bool:
    """Whether its layers have biases."""
    return not name.endswith(NO_BIAS)


def sizes(name: str, shape: tuple[int, ...], classes: int) -> list[tuple[int, int]]:
    """(inputs, outputs) of each layer.

    >>> sizes("lenet-300-100", (1, 28, 28), 10)
    [(784, 300), (300, 100), (100, 10)]
    """
    all_widths = [prod(shape), *widths(name), classes]
    return list(pairwise(all_widths))


def build(name: str, shape: tuple[int, ...], classes: int) -> "nn.Module":
    """The network, its weights not yet drawn: fc1, fc2, ..., output."""
    from torch import nn

    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    *hidden, last = sizes(name, shape, classes)
    for number, (inputs, outputs) in enumerate(hidden, start=1):
        layers[f"fc{number}"] = nn.Linear(inputs, outputs, bias=biased(name))
        layers[f"relu{number}"] = nn.ReLU()
    layers["output"] = nn.Linear(*last, bias=biased(name))
    return nn.Sequential(layers)


def check(name: str, shape: tuple[int, ...], classes: int) -> None:
    """Raise ValueError, with what was expected, unless the model takes such inputs; all numbers can be flattened."""
    widths(name)


def layers(name: str, shape: tuple[int, ...], classes: int) -> dict[str, Layer]:
    """Its layers, by the name of their weight.

    >>> layers("lenet-20", (1, 8, 8), 10)["output.weight"]
    Layer(kind='output', inputs=20, outputs=10, window=1, height=1, width=1)
    """
    *hidden, last = sizes(name, shape, classes)
    units = {f"fc{number}.weight": Layer("linear", *layer) for number, layer in enumerate(hidden, start=1)}
    return units | {"output.weight": Layer("output", *last)}
