"""The layers of a network as the page draws them: every weight as outputs x inputs x window."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from tombola.explorer.record import Layer
from tombola.layers import Layout


def layer(name: str, kind: str, shape: Sequence[int], layout: Layout) -> Layer:
    """A layer by the shape of its weight.

    >>> layer("conv.weight", "conv", (4, 2, 3, 3), Layout(groups=2))
    Layer(name='conv.weight', kind='conv', outputs=4, inputs=2, window=(3, 3), groups=2)
    """
    whole = (*shape, 1) if len(shape) == 1 else tuple(shape)  # a vector: one input
    outputs, inputs = whole[layout.outputs], whole[layout.inputs]
    return Layer(name, kind, outputs, inputs, tuple(whole[2:]), layout.groups)


def one_after_another(model: nn.Module) -> bool:
    """Whether a model does what its modules do, one after the other, and nothing else.

    >>> one_after_another(nn.Sequential(nn.Linear(1, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 1))))
    True
    >>> one_after_another(nn.TransformerEncoderLayer(4, 1))
    False
    """
    return not list(model.children()) or (
        type(model) is nn.Sequential and all(one_after_another(each) for each in model.children())
    )


def chained(layers: Sequence[Layer]) -> bool:
    """Whether each layer can read what the one before gives: as many inputs, or so many places of each map.

    >>> fc = [Layer("a.weight", "linear", 3, 5), Layer("b.weight", "output", 2, 3)]
    >>> chained(fc), chained(fc[::-1])
    (True, False)
    """
    return all(after.inputs * after.groups % before.outputs == 0 for before, after in pairwise(layers))
