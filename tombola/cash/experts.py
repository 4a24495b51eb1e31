"""Experts of a mixture of which nothing lives: what is left of one is the constant that it gives, 0 or its bias.

The router stays as it is, so that every token goes where it went, and the shares of all experts are what they were.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tombola import weights
from tombola.cash import channels
from tombola.cash.ensemble import Ensemble
from tombola.cash.removal import Removals
from tombola.cash.replaceable import cloned
from tombola.errors import BadInput

CONSTANT = "constant"


class Constant(nn.Module):
    """Gives the same for every input, [..., inputs] -> [..., outputs].

    >>> Constant(torch.tensor([1.0, 2.0]))(torch.zeros(2, 5))
    tensor([[1., 2.],
            [1., 2.]])
    """

    constant: Tensor

    def __init__(self, constant: Tensor) -> None:
        super().__init__()
        self.register_buffer(CONSTANT, constant)

    def forward(self, values: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return self.constant.expand(values.shape[:-1] + self.constant.shape).clone()

    def extra_repr(self) -> str:
        """How many numbers it gives."""
        return f"{len(self.constant)}"


def removals(model: nn.Module, small: nn.Module, example: tuple[Any, ...]) -> Removals:
    """The dead experts of `small`, what `compact` has made of `model`: modules of one list that are like each other."""
    changes, left = {}, dict(_slices(model))
    names = [name for name in _alike(model) if _has_dead_matrix(small.get_submodule(name))]
    before, after = (_called(each, names, example) if names else {} for each in (model, small))
    for name in names:
        given, gives = after.get(name, (None, None))
        whole = before.get(name, (None, None))[1]
        if given is None or gives is None or whole is None or gives.shape != whole.shape:
            continue  # its outputs have gone: it is one of several layers in a row
        constant = _constant(small.get_submodule(name), given)
        if constant is None:
            continue
        if constant.shape != gives.shape[-1:] or gives.shape[:-1] != given.shape[:-1]:
            left[name] = "it gives a constant, but for each channel of a map"
        else:
            changes[name] = partial(_replace, name=name, constant=constant.to(gives))
    return Removals(changes, left)


def _alike(model: nn.Module) -> Iterator[str]:
    """Modules of a list or dict, but for an ensemble's, of which several have weights of the same shapes."""
    members = [module.members for module in model.modules() if isinstance(module, Ensemble)]
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.ModuleDict) and module not in members:
            children = dict(module.named_children())
            shapes = {name: [each.shape for each in child.parameters()] for name, child in children.items()}
            found = [*shapes.values()]
            yield from (f"{path}.{name}".lstrip(".") for name, own in shapes.items() if own and found.count(own) > 1)


def _has_dead_matrix(module: nn.Module) -> bool:
    """Whether it may give a constant: the last layer of what is compacted reads nothing then."""
    return any(value.dim() > 1 and not value.any() for value in module.parameters())


def _called(
    model: nn.Module, names: list[str], example: tuple[Any, ...]
) -> dict[str, tuple[Tensor | None, Tensor | None]]:
    """What modules are given and give in a call, where that is one tensor each."""
    seen: dict[str, tuple[Tensor | None, Tensor | None]] = {}

    def see(name: str, args: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
        plain = len(args) == 1 and not named and isinstance(args[0], Tensor) and isinstance(output, Tensor)
        if not plain:
            seen[name] = None, None
        elif name not in seen:
            seen[name] = args[0].clone(), output.clone()

    with ExitStack() as stack, torch.no_grad():
        for name in names:
            hook = model.get_submodule(name).register_forward_hook(
                lambda module, args, named, output, name=name: see(name, args, named, output), with_kwargs=True
            )
            stack.callback(hook.remove)
        model(*cloned(example))
    return seen


def _constant(module: nn.Module, given: Tensor) -> Tensor | None:
    """What `module` gives for every input, where there is such a thing."""
    try:
        answer = channels.follow(nn.Sequential(module), (given,)).answer
    except BadInput:  # its calls cannot be followed
        return None
    return answer.constants if answer is not None and bool(answer.constant.all()) else None


def _replace(model: nn.Module, name: str, constant: Tensor) -> None:
    model.set_submodule(name, Constant(constant))


def fit(model: nn.Module, values: weights.Weights) -> None:
    """Put constants where `values` have them in the place of experts of `model`."""
    for name in [*_alike(model)]:
        key = f"{name}.{CONSTANT}"
        if key in values and key not in model.state_dict():
            _replace(model, name, torch.zeros_like(values[key]))


def _slices(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Modules that hold many matrices in one tensor, as those of all experts, of which some are 0; why these stay."""
    for name, module in model.named_modules():
        own = [value for value in module.parameters(recurse=False) if value.dim() == 3 and len(value) > 1]
        dead = [int((~value.flatten(1).any(dim=1)).sum()) for value in own]
        if any(dead) and not type(module).__module__.startswith("torch."):
            yield (
                name,
                f"{max(dead)} of the {len(own[0])} matrices in its tensors are 0, but its code reads these tensors",
            )
