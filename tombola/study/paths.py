"""The graph of a mask: units are its nodes, living weights its edges, layer after layer from the inputs to the outputs.

A weight that lies on no path from an input to an output does nothing for the answer but by a constant: its unit gives
what its bias gives, or nobody hears of it. What is left without such weights is what the mask effectively keeps:
Connectivity Matters: Neural Network Pruning Through the Lens of Effective Sparsity (Vysogorets & Kempe, 2023).

The units of a convolution are its channels, and an edge is there if any weight of a window lives. A layer that reads
flattened maps reads as many inputs of each channel as these have places, one channel after the other.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tombola.errors import BadInput

if TYPE_CHECKING:
    from torch import nn

    from tombola.layers import Layout
    from tombola.mask import Mask

Links = NDArray[np.bool_]  # units x inputs of one layer: whether a living weight leads from one to the other


def of_model(mask: "Mask", model: "nn.Module") -> dict[str, Links]:
    """The links of each layer of a model that is an `nn.Sequential` of layers, the one that is called first first.

    Args:
        mask: of the model; a layer that it does not name is dense.

    Raises:
        BadInput: something in the model has a forward of its own that calls layers, or mixes units without weights.

    >>> import torch
    >>> from tombola.prunable import full
    >>> model = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()), torch.nn.Linear(3, 1))
    >>> {name: links.shape for name, links in of_model(full(model), model).items()}
    {'0.0.weight': (3, 2), '1.weight': (1, 3)}
    """
    import torch
    from torch import nn

    from tombola.layers import layer_weights, layouts
    from tombola.mask import Mask
    from tombola.weights import bare

    known, mixing = layouts(bare(model)), (nn.LayerNorm, nn.GroupNorm, nn.MultiheadAttention, nn.Softmax)
    named = dict(bare(model).named_modules())
    for path, module in named.items():
        inside = any(module.children()) and not isinstance(module, nn.Sequential)
        unknown = not layer_weights(module) and any(each.dim() > 1 for each in module.parameters(recurse=False))
        if inside or unknown or isinstance(module, mixing):
            raise _no_sequence(path, module)
    parameters = dict(bare(model).named_parameters())
    layers = {
        name: mask[name] if name in mask else torch.ones(parameters[name].shape, dtype=torch.bool) for name in known
    }
    return chain(Mask(layers), known)


def chain(mask: "Mask", layouts: "Mapping[str, Layout] | None" = None) -> dict[str, Links]:
    """The links of each layer, where each of the mask's layers reads what the one before it gives, and nothing else.

    Args:
        mask: of layers in the order in which they are called; of vectors, like biases, nothing is asked.
        layouts: how they are laid out; as linear layers and convolutions by default.

    Raises:
        BadInput: a layer cannot read what the one before it gives.

    >>> import torch
    >>> from tombola.mask import Mask
    >>> convolution, linear = torch.zeros(2, 1, 3, 3), torch.ones(1, 8)  # 2 channels of 4 places each
    >>> convolution[0, 0, 1, 1] = 1
    >>> chain(Mask({"conv": convolution.bool(), "fc": linear.bool()}))
    {'conv': array([[ True],
           [False]]), 'fc': array([[ True,  True]])}
    """
    from tombola.layers import Layout

    found: dict[str, Links] = {}
    units, before = 0, ""
    for name, alive in mask.items():
        if alive.ndim < 2:
            continue
        links = _links(alive.numpy(), (layouts or {}).get(name, Layout()))
        inputs = links.shape[1]
        units = units or inputs
        if not units or inputs % units:
            raise _no_chain(name, inputs, before, units)
        found[name] = np.asarray(links.reshape(len(links), units, inputs // units).any(2))
        units, before = len(links), name
    return found


def _links(alive: NDArray[np.bool_], layout: "Layout") -> Links:
    links = np.asarray(alive.any(axis=tuple(range(2, alive.ndim))))
    groups, (rows, columns) = layout.groups, links.shape
    if groups > 1:
        blocks = links.reshape(groups, rows // groups, columns)
        links = np.zeros((rows, groups * columns), bool)
        for group, block in enumerate(blocks):
            links[group * len(block) : (group + 1) * len(block), group * columns : (group + 1) * columns] = block
    return links.T if layout.outputs else links


def _no_sequence(path: str, module: "nn.Module") -> BadInput:
    return BadInput(
        where=f"{path or 'model'} ({type(module).__name__})",
        expected="an nn.Sequential of linear layers, convolutions, and what treats each unit by itself",
        found="a module in which units meet otherwise, or whose forward alone knows what reads what",
        todo="Paths are followed through layers in order, not through sums, joins and attention. If the mask's layers "
        "are called in their order, and no others, leave the model out.",
    )


def _no_chain(name: str, inputs: int, before: str, units: int) -> BadInput:
    return BadInput(
        where=f"mask of {name}",
        expected=f"a layer that reads the {units:,} units of {before}: layers in the order in which they are called",
        found=f"{inputs:,} inputs",
        todo="Networks with sums, joins or attention are not followed, as a mask does not say what reads what in them.",
    )


def reached(links: Sequence[Links]) -> list[NDArray[np.bool_]]:
    """Which units a path of living weights leads to from an input: the inputs, all of them, then layer by layer."""
    found = [np.ones(links[0].shape[1], bool)]
    for each in links:
        found.append(np.asarray(each[:, found[-1]].any(1)))
    return found


def heard(links: Sequence[Links]) -> list[NDArray[np.bool_]]:
    """Which units a path of living weights leads from to an output: as `reached` the other way round."""
    return reached([each.T for each in reversed(links)])[::-1]


def on_a_path(links: Sequence[Links]) -> list[NDArray[np.bool_]]:
    """Which units lie on a path of living weights from an input to an output: inputs, then the units of each layer.

    >>> on_a_path([np.array([[True, False], [False, False]]), np.array([[True, True]])])
    [array([ True, False]), array([ True, False]), array([ True])]
    """
    return [here & there for here, there in zip(reached(links), heard(links), strict=True)]


def effective(links: Sequence[Links]) -> list[Links]:
    """The links that lie on a path from an input to an output.

    >>> effective([np.array([[True, False], [False, True]]), np.array([[True, False]])])
    [array([[ True, False],
           [False, False]]), array([[ True, False]])]
    """
    into, out = reached(links), heard(links)
    return [each & out[layer + 1][:, None] & into[layer] for layer, each in enumerate(links)]
