"""Whether what is given as a mask is one, and of these weights, and whether it holds: what to say where it does not."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from tombola.errors import BadInput, Diverged, GuardLost, shown
from tombola.weights import Weights

Layers = TypeVar("Layers", bound=Mapping[str, Tensor])
WITHOUT_ZERO = ("float8_e8m0fnu", "float4_e2m1fn_x2")  # powers of 2 alone; two numbers in one place


def check_layers(layers: object) -> None:
    """Raise BadInput unless these are tensors of bool by name."""
    if not isinstance(layers, Mapping):
        raise BadInput(
            where="Mask",
            expected="a mapping from names of weights to tensors of bool",
            found=type(layers).__name__,
            todo="Mask({'fc.weight': alive}), for one.",
        )
    for name, alive in layers.items():
        if not isinstance(alive, Tensor) or alive.dtype != torch.bool:
            raise _no_bool(name, alive)


def _no_bool(name: object, alive: object) -> BadInput:
    expected, where = "a tensor of bool", f"mask of {name}"
    if isinstance(alive, np.ndarray):
        todo = "torch.from_numpy(array != 0) makes one."
        return BadInput(where=where, expected=expected, found=f"an array of NumPy, {alive.dtype}", todo=todo)
    found = str(alive.dtype) if isinstance(alive, Tensor) else shown(repr(alive))
    return BadInput(where=where, expected=expected, found=found, todo="Compare or convert it first.")


def foreign(expected: str, name: str, alive: Tensor, known: Mapping[str, Tensor]) -> BadInput:
    """The error of a mask that is not one of `known` weights: `name`, which is `alive` in it, is none of theirs."""
    shape = f"{name} {tuple(alive.shape)}"
    if name not in known:
        names = ", ".join(list(known)[:3]) + (", ..." if len(known) > 3 else "")
        found = f"{shape}, where the names are {names}" if known else f"{shape}, where there are none"
    else:
        own = known[name]
        found = f"{shape}, which is {'lazy' if is_lazy(own) else tuple(own.shape)} there"
    todo = "The mask belongs to another model."
    return BadInput(where=f"mask of {name}", expected=expected, found=found, todo=todo)


def check_weights(mask: Mapping[str, Tensor], weights: Weights) -> None:
    """Raise BadInput unless all that `mask` names is in `weights`, in its shape: nothing broadcasts, or is left out."""
    for name, alive in mask.items():
        if name not in weights or weights[name].shape != alive.shape:
            raise foreign("one of the weights", name, alive, weights)
        if str(weights[name].dtype).removeprefix("torch.") in WITHOUT_ZERO:
            raise BadInput(
                where=f"mask of {name}",
                expected="a weight of a type that has a number 0, each in its own place",
                found=str(weights[name].dtype),
                todo="Convert it first, or keep it out of the mask.",
            )


def rearranged(made: object, like: Layers, where: str) -> Layers:
    """`made`, if it is a mask of the layers of the mask `like` that keeps as many weights in all; in their order.

    Args:
        made: by code that is not ours.
        where: what made it, for messages.

    Raises:
        BadInput: it is none.

    >>> from tombola import Mask, mask
    >>> like = Mask({"weight": torch.tensor([True, False, True])})
    >>> rearranged(mask.shuffle(like, 0), like, "shuffle").counts
    {'weight': 2}
    """
    if not isinstance(made, type(like)):
        raise _not_rearranged(where, "a Mask", f"a {type(made).__name__}")
    shapes, known = ({name: tuple(alive.shape) for name, alive in layers.items()} for layers in (made, like))
    if shapes != known:
        names = [name for name in {**known, **shapes} if shapes.get(name) != known.get(name)]
        whole, part = (", ".join(f"{name} {of.get(name, 'missing')}" for name in names[:3]) for of in (known, shapes))
        raise _not_rearranged(where, f"a mask of the layers that there are, {whole}", part)
    kept, count = (sum(int(alive.sum()) for alive in layers.values()) for layers in (like, made))
    if count != kept:
        raise _not_rearranged(where, f"a mask that keeps {kept:,} weights", f"one that keeps {count:,}")
    return type(like)({name: made[name] for name in like})  # type: ignore[call-arg]


def _not_rearranged(where: str, expected: str, found: str) -> BadInput:
    todo = "A control's mask has the layers of the mask that it is made from, and as many living weights in all."
    return BadInput(where=where, expected=expected, found=found, todo=todo)


def check_zero(name: str, what: str, pruned: Tensor) -> None:
    """Make sure that what is left of a pruned weight is exactly 0.

    Args:
        what: a weight, or optimiser state.
        pruned: its numbers where it is pruned.

    Raises:
        GuardLost: some are not.
        Diverged: some are not even numbers.
    """
    if not bool(pruned.isfinite().all()):
        raise Diverged(f"{name}: expected every pruned {what} to be 0, found NaN. The training diverged.")
    if moved := int(pruned.count_nonzero()):
        raise GuardLost(
            f"{name}: expected every pruned {what} to be 0, found {moved} that are not. Something changed them "
            "outside of the optimiser's step, as loading weights from before the rewind point does, a best "
            "checkpoint's for one."
        )


def check_finite(scores: Mapping[str, Tensor]) -> None:
    """Raise BadInput unless all scores that a mask is made of are numbers that can be compared."""
    for name, score in scores.items():
        if not bool(score.isfinite().all()):
            raise BadInput(
                where=f"scores of {name}",
                expected="finite numbers",
                found="NaN or infinity",
                todo="The training that gave them diverged.",
            )
