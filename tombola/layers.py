"""Which layers have weights that may be pruned, of which kind, and along which axes their inputs and outputs stand.

One table: what is pruned, what is counted and what is drawn of a ticket read it. To add a layer, add a line.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from tombola.weights import place

Kind = Literal["linear", "conv", "embedding", "output", "named"]


@dataclass(frozen=True)
class Layout:
    """Along which axes of a weight its inputs and outputs stand.

    Attributes:
        inputs, outputs: 0 and 1, or 1 and 0.
        groups: of a convolution: axis 1 has as many units in each of them.

    >>> Layout(groups=2).units((4, 1, 3, 3)), Layout(inputs=0, outputs=1).units((3, 5))
    ((2, 4), (3, 5))
    """

    inputs: int = 1
    outputs: int = 0
    groups: int = 1

    def units(self, shape: Sequence[int]) -> tuple[int, int]:
        """(inputs, outputs), how many there are in a weight of this shape."""
        along = shape[0], shape[1] * self.groups
        return along[self.inputs], along[self.outputs]


@dataclass(frozen=True)
class LayerWeights:
    """What the table says of a layer: the kind of its weights, their names in it, and how they are laid out."""

    kind: Kind
    weights: tuple[str, ...] = ("weight",)
    layout: Layout = Layout()


_SIDEWAYS = Layout(inputs=0, outputs=1)

_LAYERS: dict[type[nn.Module], LayerWeights] = {
    nn.Linear: LayerWeights("linear"),
    nn.Conv1d: LayerWeights("conv"),
    nn.Conv2d: LayerWeights("conv"),
    nn.Conv3d: LayerWeights("conv"),
    nn.ConvTranspose1d: LayerWeights("conv", layout=_SIDEWAYS),
    nn.ConvTranspose2d: LayerWeights("conv", layout=_SIDEWAYS),
    nn.ConvTranspose3d: LayerWeights("conv", layout=_SIDEWAYS),
    nn.Embedding: LayerWeights("embedding", layout=_SIDEWAYS),
    nn.MultiheadAttention: LayerWeights(
        "linear", ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    ),
}
_CONV1D = LayerWeights("linear", layout=_SIDEWAYS)  # GPT-2's, of `transformers`


def layouts(model: nn.Module) -> dict[str, Layout]:
    """How each weight of the layers in the table is laid out, under each of its names.

    A table of embeddings that is an output's weight too is laid out as that.

    >>> layouts(nn.Sequential(nn.Linear(2, 3), nn.GRU(3, 3)))
    {'0.weight': Layout(inputs=1, outputs=0, groups=1)}
    """
    found: dict[Hashable, Layout] = {}  # by the place of the weight
    for module in model.modules():
        each = layer_weights(module)
        if each is None:
            continue
        for parameter in (getattr(module, name) for name in each.weights):
            if isinstance(parameter, nn.Parameter) and not (each.kind == "embedding" and place(parameter) in found):
                found[place(parameter)] = each.layout
    parameters = model.named_parameters(remove_duplicate=False)
    return {name: found[place(each)] for name, each in parameters if place(each) in found}


def layer_weights(module: nn.Module) -> LayerWeights | None:
    """What the table says of `module`: the line of the first class there that it is of; None where it is of none.

    >>> layer_weights(nn.ConvTranspose2d(4, 6, 3, groups=2))
    LayerWeights(kind='conv', weights=('weight',), layout=Layout(inputs=0, outputs=1, groups=2))
    """
    kind = type(module)
    if kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers."):
        return _CONV1D
    found = next((each for base, each in _LAYERS.items() if isinstance(module, base)), None)
    groups = getattr(module, "groups", 1)
    if found and found.kind == "conv" and groups != 1:
        layout = Layout(found.layout.inputs, found.layout.outputs, groups)
        return LayerWeights(found.kind, found.weights, layout)
    return found
