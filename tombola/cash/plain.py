"""What is asked of a model whose layers are to be replaced: that it can be copied, and only calls them."""

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tombola import weights
from tombola.errors import BadInput

_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)


def copied(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode.

    Raises:
        BadInput: it is no model, or cannot be copied.
    """
    weights.check(model)
    try:
        return copy.deepcopy(model).eval()
    except RuntimeError as error:  # torch.nn.utils.prune leaves tensors behind that cannot be copied
        raise BadInput(
            where=type(model).__name__,
            expected="a plain model",
            found=f"one that cannot be copied ({error})",
            todo="Where torch.nn.utils.prune was used, call its `remove` first.",
        ) from error


def cloned(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a model may overwrite."""
    return tuple(each.clone() if isinstance(each, Tensor) else each for each in inputs)


def first_line(error: Exception) -> str:
    """What it says, or of what kind it is."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def not_taken(model: nn.Module, inputs: tuple[Any, ...], error: Exception) -> BadInput:
    """What to raise where `model` cannot be called with `inputs`."""
    given = ", ".join(str(tuple(each.shape)) if isinstance(each, Tensor) else type(each).__name__ for each in inputs)
    return BadInput(
        where="the example",
        expected=f"what {type(model).__name__} can be called with",
        found=f"{given or 'nothing'} ({first_line(error)})",
        todo="Give it a batch of inputs, as a tensor or a tuple of them.",
    )


def takes(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Make sure that `model` can be called with `inputs`, which it may overwrite a copy of.

    Raises:
        BadInput: it cannot.
    """
    try:
        with torch.no_grad():
            model(*cloned(inputs))
    except Exception as error:  # the model's own code may raise anything
        raise not_taken(model, inputs, error) from error


def hooked(module: nn.Module) -> bool:
    """Whether its call is more than its class's forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def only_called(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[tuple[str, Any]]:
    """The layers inside `model` of exactly these kinds of which only what they give is used, by name.

    They have no hooks, share their weight with nobody, and are no part of torch's compound modules, which reach into
    theirs. What the model's own code reads of them is not seen here.
    """
    uses = Counter(id(value) for value in model.state_dict(keep_vars=True).values())
    for name, layer in _reached(model):
        if type(layer) in kinds and not hooked(layer) and uses[id(layer.weight)] == 1:
            yield name, layer


def _reached(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        yield path + name, child
        if not _of_torch(child):
            yield from _reached(child, f"{path}{name}.")


def _of_torch(module: nn.Module) -> bool:
    """Whether code of torch calls its children, other than one after the other."""
    return any(base.__module__.startswith("torch.nn.") for base in type(module).__mro__ if base not in _CONTAINERS)


def tensors(output: Any) -> list[Tensor]:
    """Those of what a model gives, one after another; whatever else is in it is left out."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors(part)]
