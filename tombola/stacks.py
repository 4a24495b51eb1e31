"""Stacks: weights of which each leading index is a layer of its own, like the experts in [experts, outputs, inputs]."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from tombola.mask import Mask


def split(layers: Mapping[str, Tensor], stacks: Collection[str]) -> dict[str, Tensor]:
    """Each stack as its parts, every other layer as it is.

    Args:
        layers: a tensor for each layer: its mask, its weights, its scores.
        stacks: names of those to split, along their first axis.

    >>> {name: part.tolist() for name, part in split({"w": torch.tensor([[1, 2], [3, 4]])}, ["w"]).items()}
    {'w[0]': [1, 2], 'w[1]': [3, 4]}
    """
    parts: dict[str, Tensor] = {}
    for name, layer in layers.items():
        parts |= {f"{name}[{place}]": part for place, part in enumerate(layer)} if name in stacks else {name: layer}
    return parts


def join(parts: Mapping[str, Tensor], like: Mapping[str, Tensor], stacks: Collection[str]) -> Mask:
    """The inverse of `split`, for masks.

    Args:
        like: layers of the names and shapes that there were.

    >>> whole = Mask({"w": torch.tensor([[True, False], [False, False]])})
    >>> join(split(whole, ["w"]), whole, ["w"]) == whole
    True
    """

    def joined(name: str, layer: Tensor) -> Tensor:
        if name not in stacks:
            return parts[name]
        return torch.stack([parts[f"{name}[{place}]"] for place in range(len(layer))])

    return Mask({name: joined(name, layer) for name, layer in like.items()})
