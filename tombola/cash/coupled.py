"""The coupled channels of a model, found by following one call of it."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from tombola.cash import channels
from tombola.cash.channels import STAYS, Flow
from tombola.cash.replaceable import copied
from tombola.coupling import Along, Coupling
from tombola.layers import layouts
from tombola.prunable import prunable
from tombola.weights import bare


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


def _heads(attention: nn.Module, first: int) -> Tensor:
    """The number of the head of each feature, from `first` on."""
    return first + torch.arange(attention.heads).repeat_interleave(attention.head_width)  # type: ignore[arg-type]


def _alone(
    model: nn.Module, flow: Flow, makes: list[Along], whole: Tensor
) -> Iterator[tuple[str, str]]:
    """Why the channels of a layer all stay."""
    followed = {along.name: along for along in makes}
    kept = {int(flow.groups[unit]): why for units, why in reversed(flow.stops) for unit in units.tolist()}
    behind = {layer.name: _why(layer.gives, flow) for layer in flow.layers}
    _ = kept
    for name, _kind in prunable(model).items():
        if name not in layouts(model):
            continue
        along = followed.get(name)
        if along is None:
            yield name, _unknown(model, name)
        elif bool(whole[along.channels].all()):
            yield name, behind.get(name.rpartition(".")[0], "they flow into what is not known here")


def _why(units: Tensor, flow: Flow) -> str:
    """What keeps units: what one of them, or one that is tied to it, flows into."""
    own = set(units.tolist())
    for stopped, why in flow.stops:
        if own & set(stopped.tolist()):
            return f"they flow into {why}"
    return "they are added to what cannot go, such as the model's input"


def _unknown(model: nn.Module, name: str) -> str:
    return "it is called twice, shares its weights, has hooks, or is of a kind that is not known here"


def sizes(coupled: Coupling) -> Mapping[tuple[str, ...], int]:
    """How many channels each set has."""
    return {names: sum(other == names for other in coupled.makers) for names in dict.fromkeys(coupled.makers)}
