"""The coupled channels of a model, found by following one call of it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tombola.cash import channels
from tombola.cash.channels import STAYS, Flow
from tombola.cash.replaceable import copied, hooked
from tombola.coupling import Along, Coupling
from tombola.prunable import prunable
from tombola.weights import bare

_SHARED = "it is called twice, or shares its weights"
_HOOKED = "it has hooks"
_UNKNOWN = "it is of a kind, or called in a way, that is not known here"


def coupling(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Coupling:
    """Which channels of `model` live and die together.

    Args:
        model: any module whose calls can be followed; it is left as it was.
        example: what it is called with.

    Raises:
        BadInput: it cannot be followed, or not be called with `example`.

    >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> found = coupling(net, torch.zeros(1, 3))
    >>> [along.name for along in found.makes], dict(found.alone)
    (['0.weight', '2.weight'], {'2.weight': "they flow into the model's answer"})
    """
    small = copied(bare(model))
    flow = channels.follow(small, example if isinstance(example, tuple) else (example,))
    return _of(small, flow)


def _of(model: nn.Module, flow: Flow) -> Coupling:
    groups = flow.groups
    makes = [Along(f"{layer.name}.weight", int(layer.transposed), groups[layer.gives]) for layer in flow.layers]
    reads = [Along(f"{layer.name}.weight", int(not layer.transposed), _read(layer, groups)) for layer in flow.layers]
    scales: list[Along] = []
    for name, units in flow.along:
        module = model.get_submodule(name)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            scales += [Along(f"{name}.weight", 0, groups[units])] if module.affine else []
        else:
            makes.append(Along(f"{name}.weight", 0, groups[units]))
    whole = torch.zeros(int(groups.max()) + 1, dtype=torch.bool)
    whole[groups[STAYS]] = True
    for name in flow.attentions:
        heads = _heads(model.get_submodule(name), len(whole))
        makes += [Along(f"{name}.{part}.weight", 0, heads) for part in ("query", "key", "value")]
        reads.append(Along(f"{name}.projection.weight", 1, heads))
        whole = torch.cat([whole, whole.new_zeros(int(heads.max()) + 1 - len(whole))])
    return Coupling(tuple(makes), tuple(reads), tuple(scales), whole, dict(_alone(model, flow, makes, whole)))


def _read(layer: channels.CompactableLayer, groups: Tensor) -> Tensor:
    """The channels along a weight's inputs: in a grouped convolution those of its first group stand for all."""
    read = groups[layer.reads.units]
    return read[: len(read) // layer.groups]


def _heads(attention: Any, first: int) -> Tensor:
    """The number of the head of each feature, from `first` on."""
    heads = torch.arange(first, first + attention.heads)
    return heads.repeat_interleave(attention.head_width)


def _alone(model: nn.Module, flow: Flow, makes: list[Along], whole: Tensor) -> Iterator[tuple[str, str]]:
    """Why the channels of a layer all stay."""
    followed = {along.name: along for along in makes}
    gives = {f"{layer.name}.weight": layer.gives for layer in flow.layers}
    for name in prunable(model):
        if name not in followed:
            yield name, _not_followed(name, model, flow)
        elif name in gives and bool(whole[followed[name].channels].all()):
            yield name, _why(gives[name], flow)
        elif len(followed[name].channels.unique()) == 1:
            yield name, _one(len(followed[name].channels), attends=name not in gives)


def _not_followed(name: str, model: nn.Module, flow: Flow) -> str:
    layer = name.rpartition(".")[0]
    if layer in flow.shared:
        return _SHARED
    return _HOOKED if hooked(model.get_submodule(layer)) else _UNKNOWN


def _one(outputs: int, attends: bool) -> str:
    """Why the only channel of a layer stays."""
    if outputs == 1 or attends:
        return "it has one channel, and one always stays"
    return f"its {outputs} outputs are one channel, as groups stay as wide as each other; one always stays"


def _why(units: Tensor, flow: Flow) -> str:
    """What keeps units: what one of them flows into."""
    for stopped, why in flow.stops:
        if bool(torch.isin(stopped, units).any()):
            return f"they flow into {why}"
    return "they are added to what cannot go, such as the model's input"
