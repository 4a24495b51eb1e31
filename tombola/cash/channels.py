"""How channels flow through a model: which layer gives them, which layers read them, which are the same for any input.

A *unit* is one output of a linear layer or convolution. It flows on through activations, normalisations, pooling,
sums, concatenations, cuts and flattenings as one channel of each value, until other layers read it. What is none of
these - LayerNorm, softmax, attention, whatever is not known here - is a barrier: the units that flow in stay, and so
does all that flows out.
"""

import copy
import operator
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx, nn

from tombola import weights
from tombola.cash import hardcoded_sizes
from tombola.cash.recurrent_units import Way, alive, follows, ways, zero
from tombola.cash.replaceable import kind_of
from tombola.cash.trace import Trace, is_attention, trace

STAYS = 0  # the unit that stands for all that is not ours to remove; what is tied to it stays

Function = Callable[..., Any]
_Parts = Sequence[Any]  # Channels, or such sequences

_CONVOLUTIONS: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}  # to the axes of their windows
_TRANSPOSED: dict[type[nn.Module], int] = {nn.ConvTranspose1d: 1, nn.ConvTranspose2d: 2, nn.ConvTranspose3d: 3}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_POINTWISE_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh),
    *(nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Tanhshrink, nn.Threshold),
)
_RESIZING = (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)
_SAME_MODULES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_POOL_MODULES = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)


def _functions(names: str) -> set[object]:
    """What is called so in torch and in torch.nn.functional, and as a method of a tensor, in place or not."""
    found: set[object] = set()
    for name in names.split():
        found |= {name, f"{name}_"}
        found |= {getattr(home, each) for home in (torch, F) for each in (name, f"{name}_") if hasattr(home, each)}
    return found


_POINTWISE_CALLS = _functions(
    "relu relu6 leaky_relu elu selu celu gelu silu mish sigmoid tanh hardtanh hardswish hardsigmoid softplus softsign "
    "logsigmoid tanhshrink threshold clamp abs neg square sqrt exp"
) | {operator.neg, operator.truediv, operator.itruediv, operator.pow, operator.ipow}  # with a number only
_DROPOUTS = _functions("dropout dropout1d dropout2d dropout3d alpha_dropout")
_COPIES = _functions("contiguous clone detach")
_POOL_CALLS = _functions(
    "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"
)
_SUMS = _functions("add sub") | {operator.add, operator.iadd, operator.sub, operator.isub}
_PRODUCTS = _functions("mul") | {operator.mul, operator.imul}
_RESHAPES = hardcoded_sizes.VIEWS | _functions("flatten squeeze")
_JOINS = _functions("cat concat")
_MEANS = _functions("mean amax amin")  # of the positions of each channel
_RESIZES = _functions("interpolate")
_PADS = _functions("pad")
_TURNS = _functions("permute transpose swapaxes")


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels of a value.

    Attributes:
        axis: of the value, that they lie along.
        units: the unit that each comes from, [channels].
        constants: what each is for every input and at every position, NaN where there is no such number, [channels].
    """

    axis: int
    units: Tensor
    constants: Tensor

    @property
    def constant(self) -> Tensor:
        """Whether each is the same for every input, [channels]."""
        return ~self.constants.isnan()


@dataclass(frozen=True, eq=False)
class CompactableLayer:
    """A linear layer or convolution whose units may go.

    Attributes:
        name: of the module.
        weights: [outputs, inputs, positions of the window], float64.
        reads: the channels of the value that it reads.
        gives: its units, [outputs].
        pads: whether its windows meet zeros at the border, so that a constant is none behind it.
        first: whether it is a linear layer that reads the model's own input.
        groups: of a convolution; `weights` are 0 between them, and what stays is the same in each.
        transposed: whether its own weight is [inputs, outputs, ...].
    """

    name: str
    weights: Tensor
    reads: Channels
    gives: Tensor
    pads: bool = False
    first: bool = False
    groups: int = 1
    transposed: bool = False

    @cached_property
    def alive(self) -> Tensor:
        """Whether an output reads an input, [outputs, inputs].

        By the numbers, not by the mask: a living weight that is exactly 0 computes nothing either.
        """
        return (self.weights != 0).any(dim=2)


@dataclass(frozen=True, eq=False)
class Reading:
    """What units of a recurrent layer hear of: of its inputs, or of each other.

    Attributes:
        alive: whether a unit reads an input, [units, inputs].
        reads: the channels of the value that they read.
        gives: the units.
    """

    alive: Tensor
    reads: Channels
    gives: Tensor


@dataclass(frozen=True, eq=False)
class RecurrentLayer:
    """An LSTM, GRU or RNN whose units may go.

    Attributes:
        name: of the module.
        ways: its layers and directions, each with what it is given and what it is fed back.
    """

    name: str
    ways: Sequence[tuple[Way, Reading, Reading]]


@dataclass(frozen=True, eq=False)
class Flow:
    """The channels of a whole model.

    Attributes:
        layers: in the order in which they are computed.
        along: name and units of each module that treats every channel by itself: norms, depthwise convolutions.
        attentions: names of the attention modules that may lose heads.
        flattenings: nodes that flatten to a width written into the code, with the units of what they give.
        groups: the group of each unit; units of a group stay or go together, as their channels are added.
        trace: of the calls.
        stops: units that stay, with what they flow into that keeps them.
        shared: layers that are called twice or share their weights.
        answer: the channels of what the model gives, where that is one value that has some.
        recurrent: layers with units that are fed back.
        apart: recurrent layers that are called in a way, or of a kind, in which all their units stay, and why.
    """

    layers: Sequence[CompactableLayer]
    along: Sequence[tuple[str, Tensor]]
    attentions: Sequence[str]
    flattenings: Sequence[tuple[fx.Node, Tensor]]
    groups: Tensor
    trace: Trace
    stops: Sequence[tuple[Tensor, str]] = ()
    shared: frozenset[str] = frozenset()
    answer: Channels | None = None
    recurrent: Sequence[RecurrentLayer] = ()
    apart: Mapping[str, str] = field(default_factory=dict)

    @property
    def readings(self) -> list[CompactableLayer | Reading]:
        """All that reads channels and gives others, in the order in which it is computed."""
        return [*self.layers, *(each for layer in self.recurrent for _, *both in layer.ways for each in both)]


def follow(
    model: nn.Module, example: tuple[Tensor, ...], *, recurrent: bool = False, begun: Collection[str] = ()
) -> Flow:
    """Follow the channels through one call of `model`, which is in eval mode.

    Args:
        recurrent: whether units of recurrent layers may go; else these are barriers.
        begun: recurrent layers that may be handed states to begin with, so that no unit of theirs is known to be 0.

    Raises:
        BadInput: what the model calls depends on its input's values, so that there is no one graph of calls; or it
            cannot be called with `example`.
    """
    traced = trace(model, example)
    follower = _Follower(model, traced, recurrent, begun)
    for node in traced.graph.nodes:
        follower.visit(node)
    return follower.flow()


class _Follower:
    """Goes from call to call; `values` holds the channels of each value that has some, None behind a barrier."""

    def __init__(self, model: nn.Module, traced: Trace, recurrent: bool, begun: Collection[str]) -> None:
        self.modules = dict(model.named_modules())
        self.trace, self.shapes = traced, traced.shapes
        self.shared = _shared(model, traced.graph)
        self.values: dict[fx.Node, Channels | None] = {}
        self.inputs: set[fx.Node] = set()  # the model's own, flattened or not
        self.units = 1  # STAYS
        self.ties: list[tuple[Tensor, Tensor]] = []
        self.layers: list[CompactableLayer] = []
        self.along: list[tuple[str, Tensor]] = []
        self.attentions: list[str] = []
        self.flattenings: list[tuple[fx.Node, Tensor]] = []
        self.stops: list[tuple[Tensor, str]] = []
        self.answer: Channels | None = None
        self.recurrent: list[RecurrentLayer] | None = [] if recurrent else None
        self.begun = begun
        self.apart: dict[str, str] = {}
        self.parts: dict[fx.Node, _Parts] = {}  # of values that are several, or have channels of several layers

    def flow(self) -> Flow:
        """What was found."""
        ties = torch.cat([torch.stack(tie) for tie in self.ties] or [torch.zeros(2, 0, dtype=torch.int64)], dim=1)
        ends = ties.numpy()
        edges = coo_array((np.ones(ends.shape[1], dtype=bool), (ends[0], ends[1])), shape=(self.units, self.units))
        groups = torch.from_numpy(connected_components(edges, directed=False)[1].astype(np.int64))
        shared = frozenset(self.shared)
        found = self.layers, self.along, self.attentions, self.flattenings, groups, self.trace, self.stops, shared
        return Flow(*found, self.answer, self.recurrent or (), self.apart)

    def visit(self, node: fx.Node) -> None:
        """Find the channels of what `node` gives."""
        channels = self._channels(node)
        if channels is not None and node in self.trace.overwritten:
            self._keep(channels, "what is overwritten in place")
            channels = None
        self.values[node] = channels

    def _channels(self, node: fx.Node) -> Channels | None:
        if node.op == "placeholder":
            self.inputs.add(node)
            return None
        if node.op == "output" and isinstance(node.args[0], fx.Node):
            self.answer = self.values.get(node.args[0])
        if any(source in self.parts for source in node.all_input_nodes):
            return self._part(node)
        if node.op == "call_module" and self._recurs(node):
            self._recurrent(node)
            return None
        known = self._of_module(node) if node.op == "call_module" else self._of_call(node)
        return known(node) if known and node in self.shapes else self._barrier(node)

    def _of_module(self, node: fx.Node) -> Function | None:
        """What knows the module that `node` calls, if it is plain: of torch's own class, unshared, without hooks."""
        name, module = str(node.target), self.modules[str(node.target)]
        if name in self.shared or _hooked(module):
            return None
        if is_attention(module):
            self.attentions.append(name)
            return None
        kind = kind_of(module)
        if kind is nn.Linear:
            return self._linear
        if kind in _CONVOLUTIONS:
            return self._convolution
        if kind in _TRANSPOSED:
            return self._transposed
        if kind in _RESIZING:
            return self._resize
        if kind in _NORMS:
            return self._norm if module.running_mean is not None else None
        if kind in _POINTWISE_MODULES:
            return self._pointwise
        if kind in _SAME_MODULES:
            return self._same
        if kind in _POOL_MODULES:
            return self._pool
        return self._reshape if kind is nn.Flatten else None

    def _of_call(self, node: fx.Node) -> Function | None:
        """What knows the function or method that `node` calls."""
        families: list[tuple[set[object], Function]] = [
            (_POINTWISE_CALLS, self._pointwise),
            (_DROPOUTS, self._dropout),
            (_COPIES, self._same),
            (_SUMS | _PRODUCTS, self._arithmetic),
            (_POOL_CALLS, self._pool),
            (_RESHAPES, self._reshape),
            (_JOINS, self._join),
            (_MEANS, self._mean),
            (_PADS, self._pad),
            (_RESIZES, self._resize),
            ({operator.getitem}, self._cut),
            (_functions("unsqueeze"), self._new_axis),
            (_TURNS, self._turn),
        ]
        if node.op not in ("call_function", "call_method"):
            return None
        return next((known for calls, known in families if node.target in calls), None)

    # ---- units

    def _fresh(self, count: int) -> Tensor:
        self.units += count
        return torch.arange(self.units - count, self.units)

    def _tie(self, left: Tensor, right: Tensor) -> None:
        self.ties.append((left, right))

    def _keep(self, channels: Channels, why: str) -> None:
        self._tie(channels.units, torch.full_like(channels.units, STAYS))
        self.stops.append((channels.units, why))

    def _barrier(self, node: fx.Node) -> Channels | None:
        """All that flows in stays, and what comes out is not ours to remove."""
        for source in node.all_input_nodes:
            channels = self.values.get(source)
            if channels is not None and not self._asks_other_sizes(node, channels.axis):
                self._keep(channels, _named(node, self.modules))
            for each in _all(self.parts.get(source, ())):
                self._keep(each, _named(node, self.modules))
        return None

    def _asks_other_sizes(self, node: fx.Node, axis: int) -> bool:
        """Whether `node` asks for nothing that depends on `axis`: sizes of others, like x.size(0), or the device."""
        source = _source(node)
        if node.target is getattr and node.args[1] in ("device", "dtype", "ndim"):
            return True
        if node.op == "call_method" and node.target == "size" and len(node.args) == 2:
            asked: list[Any] = [node.args[1]]
        elif (node.op, node.target, node.args[1:]) in (
            ("call_method", "size", ()),
            ("call_function", getattr, ("shape",)),
        ):
            picks = [user for user in node.users if user.users or user.op == "output"]
            if any(pick.target is not operator.getitem for pick in picks):
                return False
            asked = [pick.args[1] for pick in picks]
        else:
            return False
        return all(isinstance(each, int) and each % len(self.shapes[source]) != axis for each in asked)

    def _at(self, node: fx.Node, axis: int) -> Channels:
        """The channels of `node` along `axis`; behind a barrier, or where they lie along another one, all stay."""
        channels = self.values[node]
        if channels is not None and channels.axis == axis:
            return channels
        if channels is not None:
            self._keep(channels, "a layer that reads another axis")
        size = self.shapes[node][axis]
        return Channels(axis, torch.full((size,), STAYS), torch.full((size,), torch.nan, dtype=torch.float64))

    # ---- layers

    def _linear(self, node: fx.Node) -> Channels:
        source, weights = _source(node), _double(self.modules[str(node.target)].weight)
        reads = self._at(source, len(self.shapes[source]) - 1)
        return self._layer(node, reads, weights[:, :, None], first=source in self.inputs)

    def _convolution(self, node: fx.Node) -> Channels | None:
        module = self.modules[str(node.target)]
        if len(self.shapes[_source(node)]) != 2 + _CONVOLUTIONS[kind_of(module)]:
            return self._barrier(node)  # one example, without the axis of a batch
        if module.groups == module.in_channels == module.out_channels and module.groups > 1:
            return self._depthwise(node)
        reads, weights = self._at(_source(node), 1), _double(module.weight).flatten(2)
        if module.groups > 1:
            return self._grouped(node, reads, weights)
        return self._layer(node, reads, weights, pads=_pads(module))

    def _grouped(self, node: fx.Node, reads: Channels, weights: Tensor) -> Channels:
        """Each group by itself; for all to be as wide afterwards, the channels at one place of each are tied."""
        module = self.modules[str(node.target)]
        self._tie_across(reads.units, module.groups)
        if _pads(module):  # no constant can carry those of another group
            reads = Channels(reads.axis, reads.units, reads.constants.masked_fill(reads.constants != 0, torch.nan))
        return self._layer(node, reads, _between(weights, module.groups), pads=_pads(module), groups=module.groups)

    def _transposed(self, node: fx.Node) -> Channels | None:
        module = self.modules[str(node.target)]
        if len(self.shapes[_source(node)]) != 2 + _TRANSPOSED[kind_of(module)] or module.groups > 1:
            return self._barrier(node)
        if len(node.args) + len(node.kwargs) > 1:
            return self._barrier(node)  # one that is told how large its maps are
        weights = _double(module.weight).flatten(2).transpose(0, 1)
        return self._layer(node, self._at(_source(node), 1), weights, pads=True, transposed=True)

    def _layer(self, node: fx.Node, reads: Channels, weights: Tensor, **how: Any) -> Channels:
        layer = CompactableLayer(str(node.target), weights, reads, self._fresh(len(weights)), **how)
        self._tie_across(layer.gives, layer.groups)
        self.layers.append(layer)
        return Channels(reads.axis, layer.gives, _constants(layer, self.modules[layer.name].bias))

    def _tie_across(self, units: Tensor, groups: int) -> None:
        first, *others = units.view(groups, -1)
        for other in others:
            self._tie(first, other)

    def _depthwise(self, node: fx.Node) -> Channels | None:
        """Each channel by its own window, on to the channel of the same number."""
        module, channels = self.modules[str(node.target)], self.values[_source(node)]
        if channels is None or channels.axis != 1:
            return self._barrier(node)
        weights = _double(module.weight).flatten(1)
        bias = torch.zeros(len(weights), dtype=torch.float64) if module.bias is None else _double(module.bias)
        constants = channels.constants
        if _pads(module):
            constants = constants.masked_fill(constants != 0, torch.nan)
        dead = (weights == 0).all(dim=1)
        self.along.append((str(node.target), channels.units))
        return Channels(1, channels.units, torch.where(dead, bias, bias + weights.sum(dim=1) * constants))

    # ---- recurrent layers

    def _recurs(self, node: fx.Node) -> bool:
        """Whether `node` calls a recurrent layer on a tensor alone, so that its units start at 0."""
        name, module = str(node.target), self.modules[str(node.target)]
        if self.recurrent is None or not isinstance(module, nn.RNNBase):
            return False
        read, *states = *node.args, *node.kwargs.values()
        why = {
            "it is called more than once, or shares its weights": name in self.shared,
            "it has hooks": _hooked(module),
            "it is of a class of its own, or projects its outputs": not follows(module),
            "what it reads is no plain tensor": not isinstance(read, fx.Node) or read not in self.shapes,
            "it is handed states to begin with": any(each is not None for each in states),
        }
        if found := next((each for each, holds in why.items() if holds), None):
            self.apart[name] = found
        return found is None

    def _recurrent(self, node: fx.Node) -> None:
        module: Any = self.modules[str(node.target)]
        source, found, last = _source(node), [], []
        axis = len(self.shapes[source]) - 1
        reads = self._at(source, axis)
        for layer in ways(module):
            if not module.bias:  # which no constant can be folded into
                reads = Channels(axis, reads.units, reads.constants.masked_fill(reads.constants != 0, torch.nan))
            for way in layer:
                units = self._fresh(way.units)
                silent = zero(module, way, reads.constants == 0) & (str(node.target) not in self.begun)
                states = Channels(axis, units, torch.where(silent, 0.0, torch.nan).double())
                given = Reading(alive(module, way, "weight_ih"), reads, units)
                found.append((way, given, Reading(alive(module, way, "weight_hh"), states, units)))
            last.append([fed.reads for _, _, fed in found[-len(layer) :]])
            reads = Channels(
                axis, *(torch.cat([getattr(each, of) for each in last[-1]]) for of in ("units", "constants"))
            )
        assert self.recurrent is not None
        self.recurrent.append(RecurrentLayer(str(node.target), found))
        # [layers and directions, N, units] each, of which one alone has the units along its last axis
        ends = [Channels(axis - 1, each.units, each.constants) for layer in last for each in layer]
        self.parts[node] = [reads, [ends, ends] if isinstance(module, nn.LSTM) else ends]

    def _part(self, node: fx.Node) -> Channels | None:
        """One of several values, or of several layers' states; whatever else is made of them is a barrier."""
        parts = self.parts.get(_source(node), ())
        index = node.args[1] if node.target is operator.getitem else 0 if _first_of_one(node, parts) else None
        if not isinstance(index, int) or len(node.all_input_nodes) > 1 or not -len(parts) <= index < len(parts):
            return self._barrier(node)
        part = parts[index]
        if isinstance(part, Channels):
            return part
        self.parts[node] = part
        return None

    # ---- what keeps channels apart

    def _norm(self, node: fx.Node) -> Channels | None:
        module, channels = self.modules[str(node.target)], self.values[_source(node)]
        if channels is None or channels.axis != 1:
            return self._barrier(node)
        scale = (_double(module.running_var) + module.eps).rsqrt()
        shift = -_double(module.running_mean) * scale
        if module.affine:
            scale, shift = scale * _double(module.weight), shift * _double(module.weight) + _double(module.bias)
        self.along.append((str(node.target), channels.units))
        return Channels(1, channels.units, torch.where(scale == 0, shift, channels.constants * scale + shift))

    def _pointwise(self, node: fx.Node) -> Channels | None:
        channels = self.values[_source(node)]
        if len(node.all_input_nodes) != 1 or channels is None:
            return self._barrier(node)
        return Channels(channels.axis, channels.units, self._evaluated(node, [channels]))

    def _same(self, node: fx.Node) -> Channels | None:
        return self.values[_source(node)] or self._barrier(node)

    def _dropout(self, node: fx.Node) -> Channels | None:
        """A function is not told by `eval` that nothing is dropped, but by its argument only."""
        return self._barrier(node) if node.kwargs.get("training", True) else self._same(node)

    def _evaluated(self, node: fx.Node, channels: Sequence[Channels]) -> Tensor:
        """What `node` makes of constant channels, by calling it on them."""
        known = torch.stack([each.constant for each in channels]).all(dim=0)
        values = dict(zip(node.all_input_nodes, (each.constants.where(known, 0) for each in channels), strict=True))
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        if node.op == "call_module":
            call: Function = copy.deepcopy(self.modules[str(node.target)]).double()
        elif node.op == "call_method":
            call = getattr(Tensor, str(node.target))
        else:
            call = node.target  # type: ignore[assignment]
        with torch.no_grad():
            result: Tensor = call(*args, **kwargs)
        return result.where(known, torch.nan)

    def _arithmetic(self, node: fx.Node) -> Channels | None:
        """Sums and products, channel by channel: tied from here on."""
        sources = node.all_input_nodes
        if len(sources) == 1:  # with a number, or with itself
            return self._pointwise(node)
        left, right = (self.values[source] for source in sources)
        ranks = {len(self.shapes[node]), *(len(self.shapes.get(source, ())) for source in sources)}
        if left is None or right is None or len(ranks) > 1 or node.kwargs:
            return self._barrier(node)
        if left.axis != right.axis or len(left.units) != len(right.units):
            return self._barrier(node)
        self._tie(left.units, right.units)
        constants = self._evaluated(node, [left, right])
        if node.target in _PRODUCTS:
            constants = constants.masked_fill((left.constants == 0) | (right.constants == 0), 0)
        return Channels(left.axis, left.units, constants)

    def _pool(self, node: fx.Node) -> Channels | None:
        channels, axes = self.values[_source(node)], int(_called(node, self.modules)[-2])
        if channels is None or channels.axis != 1 or len(self.shapes[_source(node)]) != 2 + axes:
            return self._barrier(node)  # without the axis of a batch it would pool across channels
        constants = channels.constants
        if not _keeps_constants(node, self.modules):
            constants = constants.masked_fill(constants != 0, torch.nan)
        return Channels(1, channels.units, constants)

    def _pad(self, node: fx.Node) -> Channels | None:
        """Zeros around the positions of each channel."""
        channels, rank = self.values[_source(node)], len(self.shapes[_source(node)])
        given = dict(zip(("input", "pad", "mode", "value"), node.args, strict=False)) | node.kwargs
        pads, zeros = given["pad"], given.get("mode", "constant") == "constant" and not given.get("value")
        if channels is None or not isinstance(pads, (list, tuple)) or not zeros or len(node.all_input_nodes) > 1:
            return self._barrier(node)
        if rank - len(pads) // 2 <= channels.axis:
            return self._barrier(node)
        constants = channels.constants.masked_fill(channels.constants != 0, torch.nan)
        return Channels(channels.axis, channels.units, constants)

    def _resize(self, node: fx.Node) -> Channels | None:
        """Each channel by itself, a constant to the same: what is interpolated is a mean of its neighbours."""
        source = _source(node)
        channels = self.values[source]
        if channels is None or channels.axis != 1 or len(self.shapes[source]) < 3:
            return self._barrier(node)
        return channels

    def _cut(self, node: fx.Node) -> Channels | None:
        """Some of the positions, along other axes than that of the channels; None is a new axis."""
        channels, index = self.values.get(_source(node)), node.args[1]
        parts = index if isinstance(index, tuple) else (index,)
        if channels is None or len(node.all_input_nodes) > 1 + _sizes_in(parts):
            return self._barrier(node)
        if Ellipsis in parts:
            before, after = parts[: (place := parts.index(Ellipsis))], parts[place + 1 :]
            rank = len(self.shapes[_source(node)]) + before.count(None) + after.count(None)
            parts = (*before, *[slice(None)] * (rank - len(before) - len(after)), *after)
        places = [place for place, part in enumerate(parts) if part is not None]
        plain = all(isinstance(parts[at], int | slice) and not isinstance(parts[at], bool) for at in places)
        places += range(len(parts), len(parts) + channels.axis + 1)  # axes that are not mentioned are whole
        axis = places[channels.axis]
        if not plain or (axis < len(parts) and parts[axis] != slice(None)):
            return self._barrier(node)
        gone = sum(isinstance(part, int) for part in parts[:axis])
        return Channels(axis - gone, channels.units, channels.constants)

    def _new_axis(self, node: fx.Node) -> Channels | None:
        channels, rank = self.values[_source(node)], len(self.shapes[_source(node)])
        at = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        if channels is None or not isinstance(at, int):
            return self._barrier(node)
        return Channels(channels.axis + (at % (rank + 1) <= channels.axis), channels.units, channels.constants)

    def _turn(self, node: fx.Node) -> Channels | None:
        """The axes in another order."""
        channels, rank = self.values[_source(node)], len(self.shapes[_source(node)])
        given = node.args[1:]
        axes = given[0] if len(given) == 1 and isinstance(given[0], list | tuple) else given
        if channels is None or node.kwargs or not all(isinstance(axis, int) for axis in axes):
            return self._barrier(node)
        order: list[int] = [axis % rank for axis in axes]  # type: ignore[operator, misc]
        if "permute" not in _called(node, self.modules):
            (one, other), order = order, [*range(rank)]
            order[one], order[other] = other, one
        return Channels(order.index(channels.axis), channels.units, channels.constants)

    def _mean(self, node: fx.Node) -> Channels | None:
        channels, rank = self.values[_source(node)], len(self.shapes[_source(node)])
        dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        dims = dims if isinstance(dims, (list, tuple)) else (dims,)
        if channels is None or not dims or not all(isinstance(dim, int) for dim in dims):
            return self._barrier(node)
        over: set[int] = {dim % rank for dim in dims}
        if channels.axis in over:
            return self._barrier(node)
        gone = sum(dim < channels.axis for dim in over) if len(self.shapes[node]) < rank else 0
        return Channels(channels.axis - gone, channels.units, channels.constants)

    def _reshape(self, node: fx.Node) -> Channels | None:
        """A flattening of all axes but the batch's: a channel becomes as many features as it had positions."""
        source = _source(node)
        before, after = self.shapes[source], self.shapes[node]
        width = hardcoded_sizes.written(node)
        if len(after) != 2 or before[:1] != after[:1] or not isinstance(width, int):
            return self._barrier(node)
        channels = self.values[source]
        if channels is None:
            if source in self.inputs:
                self.inputs.add(node)
            return None
        if channels.axis == 0:
            return self._barrier(node)

        def spread(values: Tensor) -> Tensor:
            places = [-1 if axis == channels.axis else 1 for axis in range(1, len(before))]
            return values.view(places).expand(before[1:]).flatten()

        if width != -1 and (_hooked(self.modules[""]) or not self.trace.general):
            return self._barrier(node)  # the graph that would take the model's place has no hooks, or other sizes
        flat = Channels(1, spread(channels.units), spread(channels.constants))
        if width != -1:
            self.flattenings.append((node, flat.units))
        return flat

    def _join(self, node: fx.Node) -> Channels | None:
        parts = node.args[0] if node.args else node.kwargs.get("tensors")
        dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        if not isinstance(parts, (list, tuple)) or not isinstance(dim, int):
            return self._barrier(node)
        axis = dim % len(self.shapes[node])
        if axis == 0:
            return self._barrier(node)
        empty = [part for part in parts if self.shapes.get(part) == (0,)]  # which torch passes over, as empty caches
        joined = [self._at(part, axis) for part in parts if isinstance(part, fx.Node) and part not in empty]
        units, constants = (torch.cat([getattr(each, name) for each in joined]) for name in ("units", "constants"))
        return Channels(axis, units, constants)


def _all(parts: "_Parts") -> Iterator[Channels]:
    for each in parts:
        yield from [each] if isinstance(each, Channels) else _all(each)


def _first_of_one(node: fx.Node, parts: "_Parts") -> bool:
    """Whether it takes the first axis, of one entry, away."""
    return node.target in ("squeeze", torch.squeeze) and node.args[1:] == (0,) and len(parts) == 1


def _shared(model: nn.Module, graph: fx.Graph) -> set[str]:
    """Layers that are called more than once, or whose parameters something else uses too: tied, or read directly.

    A module without parameters and buffers, as ReLU or pooling, treats each of its calls by itself.
    """
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    read = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    used = Counter(map(weights.place, parameters.values()))
    used.update(weights.place(parameters[name]) for name in read if name in parameters)
    tied = {
        name for name in calls for value in model.get_submodule(name).parameters() if used[weights.place(value)] > 1
    }
    return tied | {name for name, count in calls.items() if count > 1 and model.get_submodule(name).state_dict()}


def _between(weights: Tensor, groups: int) -> Tensor:
    """The weights of a grouped convolution as of a plain one: [outputs, inputs, positions], 0 between the groups."""
    rows, inputs = len(weights) // groups, weights.shape[1]
    whole = weights.new_zeros(len(weights), inputs * groups, weights.shape[2])
    for group in range(groups):
        own = slice(group * rows, (group + 1) * rows)
        whole[own, group * inputs : (group + 1) * inputs] = weights[own]
    return whole


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _constants(layer: CompactableLayer, bias: Tensor | None) -> Tensor:
    """What each unit of `layer` is for every input, NaN where it depends on it.

    A constant meets the zeros of a padded border: unless it is 0, what comes out there is something else.
    """
    constants = layer.reads.constants
    fixed = constants == 0 if layer.pads else layer.reads.constant
    reached = layer.alive[:, ~fixed].any(dim=1)
    values = layer.weights.sum(dim=2) @ constants.where(fixed, 0)
    if bias is not None:
        values = values + _double(bias)
    return values.masked_fill(reached, torch.nan)


def _pads(module: nn.Module) -> bool:
    """Whether a convolution's windows meet zeros."""
    if module.padding_mode != "zeros" or module.padding == "valid":
        return False
    return max(module.kernel_size) > 1 if module.padding == "same" else any(module.padding)  # type: ignore


def _keeps_constants(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether pooling gives a constant back also at the border: not where zeros of a padding are averaged in."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        if not isinstance(module, (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)):
            return True
        padding, divisor = module.padding, getattr(module, "divisor_override", None)
        return divisor is None and padding in (0, (0,), (0, 0), (0, 0, 0))
    plain = len(node.args) <= 3 and not set(node.kwargs) - {"kernel_size", "stride", "input"}
    return not _called(node, modules).startswith("avg") or plain


def _called(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """The name of what is called: max_pool2d, MaxPool2d."""
    if node.op == "call_module":
        return type(modules[str(node.target)]).__name__
    return getattr(node.target, "__name__", str(node.target))


def _named(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """What `node` calls, in a message: `LayerNorm norm1`, `view`; the model's answer."""
    if node.op == "output":
        return "the model's answer"
    if node.op != "call_module":
        return _called(node, modules)
    hooks = ", which has hooks" if _hooked(modules[str(node.target)]) else ""
    return f"{_called(node, modules)} {node.target}{hooks}"


def _sizes_in(parts: Sequence[Any]) -> int:
    """How many sizes of tensors bound the slices of an index."""
    ends = (each for part in parts if isinstance(part, slice) for each in (part.start, part.stop, part.step))
    return len({each for each in ends if isinstance(each, fx.Node)})


def _source(node: fx.Node) -> fx.Node:
    """The value that a call works on, its first."""
    return node.all_input_nodes[0]


def _double(values: Any) -> Tensor:
    """On the CPU in float64, in which all constants are reckoned."""
    result: Tensor = values.detach().cpu().double()
    return result
