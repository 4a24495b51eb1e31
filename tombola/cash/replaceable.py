"""What is asked of a model whose layers are to be replaced: that it can be copied, and only calls them."""

import copy
import sysconfig
import traceback
from collections import Counter
from collections.abc import Hashable, Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from tombola import weights
from tombola.errors import BadInput
from tombola.mask import Mask

_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
LAYERS = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
)
_ABOUT = {"__init__", "reset_parameters", "reset_running_stats", "extra_repr", "__repr__"}  # how one is made and shown
_TENSORS = ("weight", "bias", "running_mean", "running_var")
_OTHERS = (*(str(Path(home).parent) for home in (torch.__file__, weights.__file__)), "<")  # not the model's own code
_STDLIB = sysconfig.get_path("stdlib")
_LONGEST = 300  # characters of a message that is somebody else's
_REMOVED = {  # what leaves tensors behind that cannot be copied, and what ends it
    BasePruningMethod: "torch.nn.utils.prune.remove(layer, 'weight')",
    WeightNorm: "torch.nn.utils.remove_weight_norm(layer)",
    SpectralNorm: "torch.nn.utils.remove_spectral_norm(layer)",
}


def kind_of(module: nn.Module) -> type[nn.Module]:
    """The class of torch whose call this is: one of `LAYERS` for a subclass that adds nothing to it, else its own.

    >>> kind_of(type("Named", (nn.Linear,), {})(3, 2)).__name__
    'Linear'
    """
    own = type(module)
    kind = next((kind for kind in LAYERS if issubclass(own, kind)), None)
    if kind is None or any(hasattr(own, name) for name in _TENSORS):  # a parametrisation has its weight there
        return own
    names = {name for name in dir(kind) if callable(getattr(kind, name)) and name not in (*_ABOUT, "__class__")}
    names -= {name for name in dir(object) if name not in ("__getattribute__", "__setattr__")}
    return kind if all(getattr(own, name) is getattr(kind, name) for name in names) else own


def is_layer(module: nn.Module) -> bool:
    """Whether torch.fx is to see one layer in it: a subclass of one of torch's that adds nothing, as that one."""
    return kind_of(module) in LAYERS


def copied(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode.

    Raises:
        BadInput: it is no model, or cannot be copied.
    """
    weights.check(model)
    try:
        return copy.deepcopy(model, _sparse(model)).eval()
    except RuntimeError as error:  # tensors that were computed, and are kept, cannot be copied
        raise _not_copied(model, error) from error


def _not_copied(model: nn.Module, error: RuntimeError) -> BadInput:
    name, todo = _uncopied(model)
    return BadInput(
        where=f"{type(model).__name__}{name and f', {name}'}",
        expected="a plain model",
        found="one that keeps what it has computed" if name else f"one that cannot be copied ({first_line(error)})",
        todo=todo,
    )


def _sparse(model: nn.Module) -> dict[int, Tensor]:
    """Copies of what it holds in other layouts than the strided one, not all of which torch copies by itself."""
    # By the objects' identity, as `copy.deepcopy` is told what it need not copy.
    held = (value for module in model.modules() for value in (*module._buffers.values(), *vars(module).values()))
    return {id(each): each.clone() for each in held if isinstance(each, Tensor) and each.layout is not torch.strided}


def _uncopied(model: nn.Module) -> tuple[str, str]:
    """The layer that keeps a tensor it has computed, and what to do about it."""
    for name, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            for kind, call in _REMOVED.items():
                if isinstance(hook, kind):
                    return name, f"Call {call} first: it makes the weight a plain one."
        for attribute, value in vars(module).items():
            if isinstance(value, Tensor) and value.requires_grad and not value.is_leaf:
                return name, f"Keep `{attribute}` as `{attribute}.detach()`, or compute it anew in each call."
    return "", "What is computed in a call is not to be kept with its gradient: keep `value.detach()`."


def cloned(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a model may overwrite."""
    return tuple(each.clone() if isinstance(each, Tensor) else each for each in inputs)


def first_line(error: BaseException) -> str:
    """What it says, in one line of bounded length, or of what kind it is."""
    lines = str(error).strip().splitlines()
    return shorten(lines[0], _LONGEST, placeholder=" ...") if lines else type(error).__name__


def line_of(error: BaseException) -> tuple[str, str]:
    """The file and line of the model's own code in which it was raised, and what stands there; or nothing."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OTHERS)]
    installed = [frame for frame in frames if "site-packages" in frame.filename]
    own = [frame for frame in frames if frame not in installed and not frame.filename.startswith(_STDLIB)] or installed
    if not own:
        return "", ""
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}", (own[-1].line or "").strip()


def in_batch(inputs: tuple[Any, ...]) -> tuple[bool, ...]:
    """Of each input whether its first axis is the batch: whether that is as long as the first tensor's.

    >>> in_batch((torch.zeros(5, 2), torch.zeros(3, 3), 0.5))
    (True, False, False)
    """
    lengths = [len(each) if isinstance(each, Tensor) and each.dim() else -1 for each in inputs]
    size = next((length for length in lengths if length >= 0), -1)
    return tuple(
        isinstance(each, Tensor) and each.layout is torch.strided and length == size >= 0
        for each, length in zip(inputs, lengths, strict=True)
    )


def not_taken(model: nn.Module, inputs: tuple[Any, ...], error: Exception) -> BadInput:
    """What to raise where `model` cannot be called with `inputs`."""
    given = ", ".join(str(tuple(each.shape)) if isinstance(each, Tensor) else type(each).__name__ for each in inputs)
    return BadInput(
        where="the example",
        expected=f"what {type(model).__name__} can be called with",
        found=f"{given or 'nothing'} ({first_line(error)})",
        todo="Give it a batch of inputs, as a tensor or a tuple of them.",
    )


def no_mask(where: str, example: object) -> None:
    """Raise BadInput where a mask is handed in as the example."""
    if isinstance(example, Mask):
        raise BadInput(
            where=where,
            expected="a model and an example",
            found="a model and its mask",
            todo="It takes no mask: what is 0 is seen in the model's weights. Hand in the masked model, or what "
            "`cash.compact(model, mask, example)` made of it.",
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


def uses(model: nn.Module) -> Counter[Hashable]:
    """How many names each tensor of `model` has in its state_dict, by its `weights.place`.

    >>> layer = nn.Linear(2, 2)
    >>> uses(nn.Sequential(layer, layer))[weights.place(layer.weight)]
    2
    """
    state = model.state_dict(keep_vars=True).values()
    return Counter(weights.place(value) for value in state if isinstance(value, Tensor))  # what else is saved is no use


def only_called(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[tuple[str, Any]]:
    """The layers inside `model` of these kinds of which only what they give is used, by name.

    Subclasses that add nothing are of their base's kind. They have no hooks, share their weight with nobody, and are no
    part of torch's compound modules, which reach into theirs. What the model's own code reads of them is not seen here.
    """
    times = uses(model)
    for name, layer in _reached(model):
        if kind_of(layer) in kinds and not hooked(layer) and not _shares(layer, times):
            yield name, layer


def _shares(layer: nn.Module, times: Counter[Hashable]) -> bool:
    """Whether another layer has one of its weights too."""
    own = [value for _, value in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))]
    return any(times[weights.place(value)] > 1 for value in own if value.dim() > 1)


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
