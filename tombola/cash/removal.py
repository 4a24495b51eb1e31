"""What is dead in a model and no unit of its layers: each is taken out by itself, and only if nothing else changes.

What decides is that it was tried: a model's code may count on its heads, or read the weights of a layer.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tombola.cash import equivalence

Change = Callable[[nn.Module], None]  # in place
ITSELF = "it is the model itself, whose class stays"


@dataclass(frozen=True)
class Removals:
    """What may go.

    Attributes:
        changes: by the name of the module: what takes out what is dead in it.
        left: names of modules of which something dead stays in any case, and why.
    """

    changes: Mapping[str, Change] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)


def without(model: nn.Module, found: Removals, example: tuple[Any, ...]) -> tuple[nn.Module, dict[str, str]]:
    """`model` or a smaller copy that computes the same, and what stays in it, with the reason.

    All changes are tried at once, and one by one where that computes something else.
    """
    left = dict(found.left)
    small, apart = _changed(model, found.changes.values(), example)
    if not apart:
        return small, left
    small = model
    for name, change in found.changes.items():
        smaller, apart = (small, apart) if len(found.changes) == 1 else _changed(small, [change], example)
        if apart:
            left[name] = f"without what is dead in it the model's code gives something else: {apart}"
        else:
            small = smaller
    return small, left


def _changed(model: nn.Module, changes: Any, example: tuple[Any, ...]) -> tuple[nn.Module, str]:
    if not changes:
        return model, ""
    smaller = copy.deepcopy(model)
    for change in changes:
        change(smaller)
    return smaller, equivalence.difference(model, smaller, example)
