"""A ticket without its dead units, channels and attention heads: a smaller model that computes the same.

A unit goes if nothing living reads it, or if what reads it reads a constant: then the constant is folded into the
reader's bias. Both are found together, to a fixpoint, on the graph of `tombola.cash.channels`.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tombola import weights
from tombola.cash import (
    attention_heads,
    channels,
    embedding_rows,
    equivalence,
    experts,
    hardcoded_sizes,
    recurrent_units,
)
from tombola.cash.channels import CompactableLayer, Flow, Reading, RecurrentLayer
from tombola.cash.factors import REDUCE, two
from tombola.cash.masking import masked
from tombola.cash.quantization import QUANTISED, SCALE, quantised_layer
from tombola.cash.recurrent_units import Way
from tombola.cash.removal import without
from tombola.cash.replaceable import LAYERS, copied, kind_of
from tombola.cash.resizing import TENSORS, pick, put, reshape, tell_sizes
from tombola.cash.trace import calls
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.weights import Weights

_CARRIES = 1e-3  # of the largest constant


REMOVALS = (
    embedding_rows.removals,
    attention_heads.removals,
)  # what is no unit of a layer, in the order in which it is looked for


@dataclass(frozen=True, eq=False)
class Compacted:
    """A smaller model that computes the same.

    Attributes:
        model: without what is dead.
        left: names of modules of which something dead is still there, and why.
    """

    model: nn.Module
    left: Mapping[str, str]


class Inputs(nn.Module):
    """Picks the features that the layer behind it reads, along the last axis."""

    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, values: Tensor) -> Tensor:
        """[..., features] -> [..., features that are read]."""
        return values.index_select(-1, self.index)

    def extra_repr(self) -> str:
        """How many it picks."""
        return f"{len(self.index)}"


def compact(model: nn.Module, mask: Mask, example: Tensor | tuple[Tensor, ...]) -> nn.Module:
    """A copy of `model`, in eval mode, without what is dead under `mask`: f(x; m ⊙ theta) with fewer units.

    The outputs are those of the masked model on every input that is called with the arguments of `example`, up to
    rounding: hand in every argument that you will use, masks and states too. Outputs of the model all stay. Of a linear
    layer that reads the model's own input, features that no unit reads are left out by an `Inputs` in front of it. A
    layer of which nothing lives keeps one unit, whose weights are 0. Layers that share parameters, or are called twice,
    stay as they are, and so do the channels around layers that are not known (see `tombola.cash.channels`).

    Args:
        model: trained; it is left as it was.
        mask: of the ticket; a weight that is 0 counts as dead too.
        example: what `model` is called with; both models are called with it, and with random numbers of its shape.
            Arguments that it leaves out are followed as what they are by default. Where torch.fx cannot follow the
            model, what it decides by sizes, `if x.shape[-1] > 100`, is taken to be decided as on the example.

    Returns:
        A model of the same class, with smaller layers under the same names; only if a width of a layer is written into
        its code, `x.view(-1, 400)`, is it a `torch.fx.GraphModule` instead.

    Raises:
        BadInput: the mask is another model's, the model cannot be called with `example`, what it calls depends on its
            input's values, it has experts that `example` does not reach, or what it computes depends on the sizes of
            its layers.

    >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> alive = Mask({"0.weight": torch.tensor([[True, True, False], [False, False, False]])})
    >>> compact(net, alive, torch.zeros(1, 3))
    Sequential(
      (0): Sequential(
        (inputs): Inputs(2)
        (linear): Linear(in_features=2, out_features=1, bias=True)
      )
      (1): ReLU()
      (2): Linear(in_features=1, out_features=1, bias=True)
    )
    """
    return compacted(model, mask, example).model


def compacted(model: nn.Module, mask: Mask, example: Tensor | tuple[Tensor, ...]) -> Compacted:
    """What `compact` gives, and which dead parts of the model are left in it.

    Args, Raises: as for `compact`.
    """
    example = example if isinstance(example, tuple) else (example,)
    small, left = masked(model, mask), dict[str, str]()
    for find in REMOVALS:
        small, stays = without(small, find(small), example)
        left |= stays
    narrow, dead = _with_fewer_channels(small, example)
    left |= dead
    narrow, stays = without(narrow, experts.removals(small, narrow, example), example)
    return Compacted(narrow, left | stays)


def _with_fewer_channels(
    model: nn.Module, example: tuple[Any, ...], recur: bool = True
) -> tuple[nn.Module, dict[str, str]]:
    small = copy.deepcopy(model)
    flow, picked, left = _followed(model, example, recur)
    for layer in flow.layers:
        module = small.get_submodule(layer.name)
        columns = _shrink(module, layer, picked)
        if layer.first and not columns.all():
            _put_inputs_before(small, layer.name, columns.nonzero().flatten())
    for recurrent in flow.recurrent:
        whole: Any = small.get_submodule(recurrent.name)
        recurrent_units.shrink(whole, [_kept(way, given, picked) for way, given, _ in recurrent.ways])
    for name, units in flow.along:
        pick(small.get_submodule(name), picked.stays[units])
    other = {node: int(stay.sum()) for node, units in flow.flattenings if not (stay := picked.stays[units]).all()}
    if other:
        small = hardcoded_sizes.rewritten(small, flow.trace.called, flow.trace.graph, other)
    if apart := equivalence.difference(model, small, example):
        if flow.recurrent:  # of which the code may know how wide they are
            small, _ = _with_fewer_channels(model, example, recur=False)
            return small, {
                each.name: f"with fewer units the model's code gives something else: {apart}" for each in flow.recurrent
            }
        raise _not_compacted(model, apart)
    if any(_of_single_channels(small, layer) for layer in flow.layers):  # which go one by one from here on
        return _settled(small, example), left
    return small, left


def _followed(model: nn.Module, example: tuple[Any, ...], recur: bool) -> tuple[Flow, "_Picked", dict[str, str]]:
    """The channels, which of them stay, and which dead units of recurrent layers do, and why.

    Where units of such a layer go, states for all that it had are refused by their size. One that stays as wide as it
    is may be handed any, so that none of its units is known to be 0.
    """
    begun, left = set[str](), dict[str, str]()
    while True:
        flow = channels.follow(model, example, recurrent=recur, begun=begun)
        picked = _pick(flow)
        for layer in flow.recurrent:
            why = "; ".join(_dead_units(model.get_submodule(layer.name), layer, picked, flow))
            if why and layer.name not in begun:
                left.setdefault(layer.name, why)
        as_wide = {
            layer.name for layer in flow.recurrent if all(picked.stays[to.gives].all() for _, to, _ in layer.ways)
        }
        if as_wide <= begun:
            return flow, picked, left | _apart(model, flow)
        begun |= as_wide


def _apart(model: nn.Module, flow: Flow) -> dict[str, str]:
    """Recurrent layers whose units all stay though no weight moves some of them, and why."""
    found = dict[str, str]()
    for name, why in flow.apart.items():
        module: Any = model.get_submodule(name)
        still = sum(
            int(recurrent_units.unmoved(module, way).sum()) for layer in recurrent_units.ways(module) for way in layer
        )
        if still:
            stay = _say(still, "unit that no weight moves stays", "units that no weight moves stay")
            found[name] = f"{stay}, as {why}"
    return found


def _settled(model: nn.Module, example: tuple[Any, ...]) -> nn.Module:
    """Compacted again and again, until nothing more goes."""
    small, _ = _with_fewer_channels(model, example)
    return model if weights.equal(weights.of(small), weights.of(model)) else _settled(small, example)


def _of_single_channels(model: nn.Module, layer: CompactableLayer) -> bool:
    """Whether the groups of a convolution have come down to one channel each: it is a depthwise one."""
    weight = model.get_parameter(f"{layer.name}.weight") if layer.groups > 1 else None
    return weight is not None and len(weight) == layer.groups and weight.shape[1] == 1


def _not_compacted(model: nn.Module, apart: str) -> BadInput:
    return BadInput(
        where=type(model).__name__,
        expected="the same outputs from smaller layers",
        found=apart,
        todo="It cannot be compacted: its code may read the sizes or classes of its layers, or drop axes of size "
        "1. Quantised and exported it can be.",
    )


def fitted(model: nn.Module, values: Weights) -> nn.Module:
    """A copy of `model`, in eval mode, whose layers have the sizes of `values`, the state of a compacted model.

    Its weights are not those of `values` yet. Layers are quantised where those are. As with `compact` it is of another
    class where a width is written into its code.

    >>> fitted(nn.Sequential(nn.Linear(30, 20)), {"0.weight": torch.ones(5, 7), "0.bias": torch.zeros(5)})
    Sequential(
      (0): Linear(in_features=7, out_features=5, bias=True)
    )
    """
    small = copied(model)
    if _is_rounded("", values) and kind_of(model) in QUANTISED:  # other models have a `scale` of their own
        return quantised_layer(small)
    embedding_rows.fit(small, values)
    experts.fit(small, values)
    for name, module in list(small.named_modules()):
        if kind_of(module) is nn.Linear and f"{name}.inputs.index" in values:
            _put_inputs_before(small, name, values[f"{name}.inputs.index"])
    for name, module in list(small.named_modules()):
        if isinstance(module, nn.Linear) and f"{name}.{REDUCE}.weight" in values:
            small.set_submodule(name, two(module, len(values[f"{name}.{REDUCE}.weight"])))
    attention_heads.fit(small, values)
    for name, module in list(small.named_modules()):
        recurrent_units.fit(module, name, values)
        if kind_of(module) in LAYERS:
            shapes = {part: values[f"{name}.{part}"].shape for part in TENSORS if f"{name}.{part}" in values}
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
                weights.check_bias(name, shapes)
            reshape(module, shapes)
        if _is_rounded(f"{name}.", values):
            small.set_submodule(name, quantised_layer(module))
    with suppress(BadInput):  # what cannot be followed has not been compacted
        called, graph = calls(attention_heads.fit(copied(model), values))  # whose heads may be written into the graph
        other = hardcoded_sizes.outdated(model, graph, values)
        if other:
            return hardcoded_sizes.rewritten(small, called, graph, other)
    return small


def _is_rounded(prefix: str, values: Weights) -> bool:
    """Whether the weights of a layer are int8 there: one has its scale, those of a recurrent layer one each."""
    return f"{prefix}scale" in values or f"{prefix}weight_ih_l0{SCALE}" in values


# ---- which units stay


@dataclass(frozen=True, eq=False)
class _Picked:
    """What stays.

    Attributes:
        stays: of each unit, whether it does.
        fillers: of each unit, whether it does only because its layer would have none otherwise.
        carriers: of a layer, the input into which all other constants that it reads are merged.
    """

    stays: Tensor
    fillers: Tensor
    carriers: Mapping[str, int]

    def read(self, layer: CompactableLayer) -> Tensor:
        """The inputs that a layer's remaining units do read, [inputs]; all others are constants, or meet no weight."""
        read = _read(layer, self.stays & ~self.fillers)
        if layer.name in self.carriers:
            read[self.carriers[layer.name]] = True
        return read


def _read(layer: CompactableLayer | Reading, stays: Tensor) -> Tensor:
    """The inputs that vary and meet a living weight of a unit that stays, [inputs]."""
    return layer.alive[stays[layer.gives]].any(dim=0) & ~layer.reads.constant


def _pick(flow: Flow) -> _Picked:
    """The units that a living path leads on from, through layers that read them, to an output or a barrier.

    What is constant needs no unit: it is folded into the reader's bias. One case needs a unit all the same: a constant
    that is not 0 meets the zeros of a convolution's padding, and what comes out differs at the border. All constants
    that such a convolution reads are multiples of one of them there, so that one, the carrier, stays for all:
    sum_i w_i c_i = (sum_i w_i c_i / c_0) c_0.
    """
    needed = torch.zeros(int(flow.groups.max()) + 1, dtype=torch.bool)
    needed[flow.groups[channels.STAYS]] = True
    carriers: dict[str, int] = {}
    while True:
        _close(flow, needed)
        stays = needed[flow.groups]
        missing = next((layer for layer in flow.layers if _misses_carrier(layer, stays, carriers)), None)
        if missing is None:
            break
        carriers[missing.name] = _carrier(missing, stays)
        needed[flow.groups[missing.reads.units[carriers[missing.name]]]] = True
    fill = torch.zeros_like(needed)
    for layer in flow.layers:
        if not (needed | fill)[flow.groups[layer.gives]].any():
            fill[flow.groups[layer.gives[0]]] = True
    for recurrent in flow.recurrent:
        _widen(recurrent, flow.groups, needed, fill)
    fillers = fill[flow.groups]
    return _Picked(stays | fillers, fillers, carriers)


def _widen(layer: RecurrentLayer, groups: Tensor, needed: Tensor, fill: Tensor) -> None:
    """Fill up all layers and directions of a recurrent module to as many units as the widest has."""
    while True:
        stays = (needed | fill)[groups]
        counts = [int(stays[given.gives].sum()) for _, given, _ in layer.ways]
        least = counts.index(min(counts))
        if counts[least] == max(1, *counts):
            return
        units = layer.ways[least][1].gives
        fill[groups[units[~stays[units]][0]]] = True


def _close(flow: Flow, needed: Tensor) -> None:
    """Add to the groups that are needed those that they read, and so on."""
    before = -1
    while before != (before := int(needed.sum())):
        for layer in reversed(flow.readings):
            read = _read(layer, needed[flow.groups])
            needed[flow.groups[layer.reads.units[read]]] = True


def _misses_carrier(layer: CompactableLayer, stays: Tensor, carriers: Mapping[str, int]) -> bool:
    """Whether its units read constants through a padding, other than 0, and nothing carries them yet."""
    if not layer.pads or layer.name in carriers:
        return False
    met = layer.alive[stays[layer.gives]].any(dim=0)
    return bool((met & _carries(layer)).any())


def _carries(layer: CompactableLayer) -> Tensor:
    return layer.reads.constant & (layer.reads.constants != 0)


def _carrier(layer: CompactableLayer, stays: Tensor) -> int:
    """The constant into which the others are merged: the largest that stays anyway, or else the largest of all.

    The others are divided by it, so that its rounding grows with them: one that is much smaller than they are carries
    nothing.
    """
    sizes = layer.reads.constants.abs().where(_carries(layer), 0)
    anyway = sizes.where(stays[layer.reads.units], 0)
    return int((anyway if anyway.max() >= _CARRIES * sizes.max() else sizes).argmax())


# ---- smaller modules


def _kept(way: Way, given: Reading, picked: _Picked) -> recurrent_units.Kept:
    read, columns = _read(given, picked.stays & ~picked.fillers), picked.stays[given.reads.units]
    constants = given.reads.constants.where(given.reads.constant, 0)
    return recurrent_units.Kept(way, picked.stays[given.gives], picked.fillers[given.gives], columns, read, constants)


def _dead_units(module: Any, layer: RecurrentLayer, picked: _Picked, flow: Flow) -> Iterator[str]:
    """Why units stay that say nothing."""
    filled, alone, still, fixed = 0, True, list[Tensor](), 0
    for way, given, fed in layer.ways:
        fillers, silent = picked.fillers[given.gives], fed.reads.constants == 0
        others = picked.stays[given.gives] & ~fillers
        filled, alone = filled + int(fillers.sum()), alone and not bool(others.any())
        still.append(given.gives[others & silent])
        fixed += int((others & ~silent & recurrent_units.unmoved(module, way)).sum())
    if filled and not alone:
        yield f"{_say(filled, 'dead unit stays', 'dead units stay')}, as all its layers and directions are equally wide"
    if count := len(zeros := torch.cat(still)):
        into = dict.fromkeys(why for units, why in flow.stops if torch.isin(units, zeros).any())
        stay = _say(count, "unit that is 0 at every step stays", "units that are 0 at every step stay")
        yield f"{stay}, because of {', '.join(into) or 'what is added to or multiplied with it'}"
    if fixed:
        say = _say(fixed, "unit says", "units say")
        yield f"{say} the same for every input, but not 0 from the first step on"


def _say(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _shrink(module: Any, layer: CompactableLayer, picked: _Picked) -> Tensor:
    """Take from a layer the units and inputs that go, constants folded in; returns the inputs that stay, [inputs]."""
    rows, columns, read = picked.stays[layer.gives], picked.stays[layer.reads.units], picked.read(layer)
    if layer.first and not read.all():
        columns = read if read.any() else torch.arange(len(read)) == 0
    weights, constants = layer.weights.clone(), layer.reads.constants.where(~read & layer.reads.constant, 0)
    shift = torch.zeros(len(rows), dtype=torch.float64)
    if layer.name in picked.carriers:
        carrier = picked.carriers[layer.name]
        weights[:, carrier] += torch.einsum("oip,i->op", layer.weights, constants / layer.reads.constants[carrier])
    else:
        shift = layer.weights.sum(dim=2) @ constants
    weights[:, ~read] = 0
    weights[picked.fillers[layer.gives]] = 0
    put(module, "weight", _laid_out(weights[rows][:, columns], layer, module.weight.shape[2:]))
    if module.bias is not None or shift[rows].any():
        bias = shift if module.bias is None else shift + module.bias.detach().cpu()
        put(module, "bias", bias.masked_fill(picked.fillers[layer.gives], 0)[rows])
    tell_sizes(module)
    return columns


def _laid_out(weights: Tensor, layer: CompactableLayer, window: torch.Size) -> Tensor:
    """[outputs, inputs, positions] as the module has them."""
    if layer.groups > 1:
        rows, inputs = len(weights) // layer.groups, weights.shape[1] // layer.groups
        each = weights.unflatten(0, (layer.groups, rows)).unflatten(2, (layer.groups, inputs))
        weights = torch.cat([each[group, :, group] for group in range(layer.groups)])
    weights = weights.transpose(0, 1) if layer.transposed else weights
    return weights.unflatten(2, window) if window else weights[:, :, 0]


def _put_inputs_before(model: nn.Module, name: str, index: Tensor) -> None:
    """Let a linear layer read only the features of `index`."""
    layer: Any = model.get_submodule(name)
    inputs = Inputs(index.to(layer.weight.device))
    model.set_submodule(name, nn.Sequential(OrderedDict(inputs=inputs, linear=layer)))
