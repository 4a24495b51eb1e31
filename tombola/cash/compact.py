"""A ticket without its dead units, channels and attention heads: a smaller model that computes the same.

A unit goes if nothing living reads it, or if what reads it reads a constant: then the constant is folded into the
reader's bias. Both are found together, to a fixpoint, on the graph of `tombola.cash.flow`.
"""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from tombola import mask as masks
from tombola import weights
from tombola.cash import flow
from tombola.cash.flow import Flow, Layer, is_attention
from tombola.errors import BadInput
from tombola.mask import Mask


@dataclass(frozen=True)
class Size:
    """How large a linear layer or convolution is.

    Attributes:
        inputs, outputs: units, or channels of maps.
        weights: how many there are, biases not counted; `living` are those that are not 0.
        positions: of its output for one example: 1 for a linear layer, those of a map, or the tokens of a text.
    """

    inputs: int
    outputs: int
    weights: int
    living: int
    positions: int

    @property
    def multiply_adds(self) -> int:
        """For one example, if all weights are visited."""
        return self.weights * self.positions

    @property
    def living_multiply_adds(self) -> int:
        """For one example, if only living weights are visited."""
        return self.living * self.positions


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

    The outputs are those of the masked model on every input, up to rounding. Outputs of the model all stay. Of a linear
    layer that reads the model's own input, features that no unit reads are left out by an `Inputs` in front of it. A
    layer of which nothing lives keeps one unit, whose weights are 0. Layers that share parameters, or are called twice,
    stay as they are, and so do the channels around layers that are not known (see `tombola.cash.flow`).

    Args:
        model: trained; it is left as it was.
        mask: of the ticket; a weight that is 0 counts as dead too.
        example: what `model` is called with; only its shape matters.

    Returns:
        A model of the same class, with smaller layers under the same names; only if a width of a layer is written into
        its code, `x.view(-1, 400)`, is it a `torch.fx.GraphModule` instead.

    Raises:
        BadInput: the mask is another model's, or what the model calls depends on its input's values.

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
    small = _masked(model, mask)
    found = flow.follow(small, example if isinstance(example, tuple) else (example,))
    picked = _pick(found)
    for layer in found.layers:
        module = small.get_submodule(layer.name)
        columns = _shrink(module, layer, picked)
        if layer.first and not columns.all():
            inputs = Inputs(columns.nonzero().flatten().to(module.weight.device))  # type: ignore[union-attr]
            small.set_submodule(layer.name, nn.Sequential(OrderedDict(inputs=inputs, linear=module)))
    for name, units in found.along:
        _slice(small.get_submodule(name), picked.stays[units])
    for name in found.attentions:
        _drop_heads(small.get_submodule(name))
    return _without_written_widths(small, found, picked)


def sizes(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> dict[str, Size]:
    """The size of each linear layer and convolution that a call of `model` uses, in the order in which it does.

    >>> sizes(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), torch.zeros(5, 1, 6, 6))
    {'0': Size(inputs=1, outputs=2, weights=18, living=18, positions=16)}
    """
    found: dict[str, Size] = {}

    def watch(name: str, module: nn.Module) -> None:
        def note(module: nn.Module, _: object, output: Tensor) -> None:
            weight = module.weight
            assert isinstance(weight, Tensor)
            outputs, inputs = weight.shape[:2]
            positions = output.numel() // (len(output) * outputs)
            living = int(weight.count_nonzero())
            found[name] = Size(inputs, outputs, weight.numel(), living, positions)

        handles.append(module.register_forward_hook(note))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    try:
        for name, module in model.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                watch(name, module)
        with torch.no_grad():
            model(*(example if isinstance(example, tuple) else (example,)))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _masked(model: nn.Module, mask: Mask) -> nn.Module:
    """A copy with m ⊙ theta."""
    try:
        copied = copy.deepcopy(model).eval()
    except RuntimeError as error:  # torch.nn.utils.prune leaves tensors behind that cannot be copied
        raise BadInput(
            where=type(model).__name__,
            expected="a plain model",
            found=f"one that cannot be copied ({error})",
            todo="Where torch.nn.utils.prune was used, call its `remove` first.",
        ) from error
    values = weights.of(copied)
    wrong = [name for name in mask if name not in values or values[name].shape != mask[name].shape]
    if wrong:
        raise BadInput(
            where=f"mask of {wrong[0]}",
            expected=f"the weights of {type(model).__name__}",
            found=f"{tuple(mask[wrong[0]].shape)}",
            todo="This mask belongs to another model.",
        )
    weights.put(copied, masks.apply(values, mask))
    return copied


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

    def read(self, layer: Layer) -> Tensor:
        """The inputs that a layer's remaining units do read, [inputs]; all others are constants, or meet no weight."""
        read = _read(layer, self.stays & ~self.fillers)
        if layer.name in self.carriers:
            read[self.carriers[layer.name]] = True
        return read


def _read(layer: Layer, stays: Tensor) -> Tensor:
    """The inputs that vary and meet a living weight of a unit that stays, [inputs]."""
    return layer.alive[stays[layer.gives]].any(dim=0) & ~layer.reads.constant


def _pick(found: Flow) -> _Picked:
    """The units that a living path leads on from, through layers that read them, to an output or a barrier.

    What is constant needs no unit: it is folded into the reader's bias. One case needs a unit all the same: a constant
    that is not 0 meets the zeros of a convolution's padding, and what comes out differs at the border. All constants
    that such a convolution reads are multiples of one of them there, so that one, the carrier, stays for all:
    sum_i w_i c_i = (sum_i w_i c_i / c_0) c_0.
    """
    needed = torch.zeros(int(found.groups.max()) + 1, dtype=torch.bool)
    needed[found.groups[flow.STAYS]] = True
    carriers: dict[str, int] = {}
    while True:
        _close(found, needed)
        missing = next((layer for layer in found.layers if _misses_carrier(layer, needed[found.groups], carriers)), None)
        if missing is None:
            break
        carriers[missing.name] = _carrier(missing, needed[found.groups])
        needed[found.groups[missing.reads.units[carriers[missing.name]]]] = True
    stays = needed[found.groups]
    fill = torch.zeros_like(needed)
    for layer in found.layers:
        if not (needed | fill)[found.groups[layer.gives]].any():
            fill[found.groups[layer.gives[0]]] = True
    fillers = fill[found.groups]
    return _Picked(stays | fillers, fillers, carriers)


def _close(found: Flow, needed: Tensor) -> None:
    """Add to the groups that are needed those that they read, and so on."""
    before = -1
    while before != (before := int(needed.sum())):
        for layer in reversed(found.layers):
            read = _read(layer, needed[found.groups])
            needed[found.groups[layer.reads.units[read]]] = True


def _misses_carrier(layer: Layer, stays: Tensor, carriers: Mapping[str, int]) -> bool:
    """Whether its units read constants through a padding, other than 0, and nothing carries them yet."""
    if not layer.pads or layer.name in carriers:
        return False
    met = layer.alive[stays[layer.gives]].any(dim=0)
    return bool((met & _carries(layer)).any())


def _carries(layer: Layer) -> Tensor:
    return layer.reads.constant & (layer.reads.constants != 0)


def _carrier(layer: Layer, stays: Tensor) -> int:
    """The constant into which the others are merged: one that stays anyway if there is any, of these the largest."""
    able = _carries(layer)
    anyway = able & stays[layer.reads.units]
    return int(layer.reads.constants.abs().where(anyway if anyway.any() else able, 0).argmax())


# ---- smaller modules


def _shrink(module: nn.Module, layer: Layer, picked: _Picked) -> Tensor:
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
    shape = module.weight.shape[2:]  # type: ignore[union-attr]
    _put(module, "weight", weights[rows][:, columns].unflatten(2, shape) if shape else weights[rows][:, columns, 0])
    if module.bias is not None or shift[rows].any():
        bias = shift if module.bias is None else shift + module.bias.detach().cpu()  # type: ignore[operator]
        _put(module, "bias", bias.masked_fill(picked.fillers[layer.gives], 0)[rows])
    _rename_sizes(module, int(columns.sum()), int(rows.sum()))
    return columns


def _slice(module: nn.Module, stays: Tensor) -> None:
    """Take channels from a module that treats each by itself."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(module, name, None)
        if value is not None:
            _put(module, name, value.detach()[stays.to(value.device)])
    _rename_sizes(module, int(stays.sum()), int(stays.sum()))


def _put(module: nn.Module, name: str, values: Tensor) -> None:
    """Give a module other values of the same type, on the same device."""
    old = getattr(module, name)
    like = module.weight if old is None else old
    values = values.to(like)  # type: ignore[call-overload]
    setattr(module, name, values if name in module._buffers else nn.Parameter(values.contiguous()))


def _rename_sizes(module: nn.Module, inputs: int, outputs: int) -> None:
    """What torch's own layers say about themselves."""
    names = {"in_features": inputs, "out_features": outputs, "in_channels": inputs, "out_channels": outputs}
    names["num_features"] = outputs
    if getattr(module, "groups", 1) > 1:  # type: ignore[operator]
        names["groups"] = outputs
    for name, size in names.items():
        if hasattr(module, name):
            setattr(module, name, size)


def _drop_heads(attention: nn.Module) -> None:
    """Take the heads whose values are constant, or are not read.

    The weights of attention add up to 1, so that a constant value comes out of the head as it is: v_h = b_h, and
    W_h b_h goes into the bias of the projection. One head stays in any case.
    """
    heads, width = int(attention.heads), int(attention.head_width)  # type: ignore[arg-type]
    value, projection = attention.value, attention.projection
    assert isinstance(value, nn.Linear) and isinstance(projection, nn.Linear)
    constant = (value.weight == 0).all(dim=1)  # [heads * width]
    unread = (projection.weight == 0).all(dim=0)
    gone = (constant | unread).view(heads, width).all(dim=1)
    if not gone.any():
        return
    features = gone.repeat_interleave(width)
    if value.bias is not None:
        shift = projection.weight.detach().double()[:, features] @ value.bias.detach().double()[features]
        _put(projection, "bias", shift if projection.bias is None else shift + projection.bias.detach())
    with torch.no_grad():
        projection.weight[:, features] = 0
    gone[0] &= not gone.all()
    stays = ~gone.repeat_interleave(width)
    for name in ("query", "key", "value"):
        part = getattr(attention, name)
        _slice(part, stays)
        part.in_features = value.weight.shape[1]
    _put(projection, "weight", projection.weight.detach()[:, stays])
    projection.in_features = int(stays.sum())
    attention.heads = int((~gone).sum())  # type: ignore[assignment]


def _without_written_widths(model: nn.Module, found: Flow, picked: _Picked) -> nn.Module:
    """The model itself, unless its code flattens to a width that is another one now."""
    outdated = [node for node, units in found.flattenings if not picked.stays[units].all()]
    if not outdated:
        return model
    for node in outdated:
        with found.graph.inserting_before(node):
            flat = found.graph.call_function(torch.flatten, (node.args[0], 1))
        node.replace_all_uses_with(flat)
        found.graph.erase_node(node)
    return fx.GraphModule(model, found.graph, type(model).__name__)
