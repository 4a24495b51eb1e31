"""Layers for CPUs that cost what their living weights cost: drop-in modules around the kernels of engine/inference.h.

They infer; they do not train. Where they pay is measured, layer by layer: at 20 % density and more a dense product is
often faster, and then stays.
"""

import copy
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from ctypes import addressof
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils import fusion

from tombola import coding
from tombola.cash import timing
from tombola.cash.quantise import QuantisedConv2d, QuantisedLinear
from tombola.engine import kernels
from tombola.errors import BadInput

LANES = 16  # of the widest vectors: rows of maps are padded to it
ABREAST = 8  # small images side by side, at most
MOST_SIZES = 8  # of maps, that a convolution is prepared for at once
MOST_VECTORS = 8  # of one row, in a block of outputs
ROOM = 2**17  # numbers that a convolution lays out at once where it can: half a megabyte, in a core's own cache
ROWS = 8  # of outputs, at least, for as many lines are laid out again at the border of each such band

Connected = nn.Linear | QuantisedLinear
Convolved = nn.Conv2d | QuantisedConv2d


def sparse(model: nn.Module, example: Tensor | tuple[Tensor, ...], *, everywhere: bool = False) -> nn.Module:
    """A copy of `model`, in eval mode, whose layers are sparse where that is faster on inputs like `example`.

    What is 0 in a weight is left out: hand in a trained ticket, whole or compacted, its weights m ⊙ theta. Batch
    normalisations are folded into the layers before them, ReLUs become part of these, and fully connected layers with
    nothing but ReLUs between them one call. Outputs are those of `model` up to rounding: sums have another order.

    Where torch.fx cannot follow the model, as its calls depend on its input's values, layers are replaced one by one:
    those that `example` reaches, whose weights no other layer shares, and of which nothing is read but what they give.

    Args:
        model: linear layers and 2-D convolutions, or their quantised forms; all other modules stay as they are.
        example: what the model is called with, N x ...; layers are timed on what it becomes on its way. Its N is the
            batch to be fast at.
        everywhere: whether to replace layers also where that is slower.

    Raises:
        BadInput: the kernels were not compiled.

    >>> network = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 2))
    >>> sparse(network, torch.zeros(1, 40), everywhere=True)
    SparseChain(40 -> 30 -> 2, density 1)
    """
    if not kernels.sets():
        raise BadInput(
            where="cash.sparse",
            expected="compiled kernels",
            found="none: when Tombola was installed there was no C compiler that could do it",
            todo="Install one and Tombola again; `cash.compact` needs none.",
        )
    inputs = example if isinstance(example, tuple) else (example,)
    traced = _traced(copy.deepcopy(model).eval(), inputs)
    if traced is None:
        return _one_by_one(copy.deepcopy(model).eval(), inputs, everywhere)
    graph = _fused(traced, inputs)
    runs = list(_runs(graph))
    given = _given(graph, [run.first for run in runs], inputs)
    for run in runs:
        new = run.sparse()
        if everywhere or _faster(new, run.dense, given[run.first]):
            run.replace(graph, new)
    graph.graph.lint()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return _alone(graph)


def prepared_bytes(model: nn.Module) -> int:
    """What the sparse layers of `model` hold beside their buffers: the same weights as the kernels want them."""
    ready = [module._ready for module in model.modules() if isinstance(module, SparseChain | SparseConv2d)]
    return sum(one.nbytes for one in ready)


# ---- the modules


class SparseChain(nn.Module):
    """Fully connected layers, y = max(0, W x + b) each, at the cost of the weights that are not 0.

    Args:
        layers: one or more, each with as many inputs as the one before has outputs.
        relu: of each, whether a ReLU follows.
        flatten: whether inputs are flattened first, all but their first axis.
    """

    def __init__(self, layers: Sequence[Connected], relu: Sequence[bool], flatten: bool = False) -> None:
        super().__init__()
        self.flatten = flatten
        self.sizes = (layers[0].in_features, *(layer.out_features for layer in layers))
        self.relu = tuple(relu)
        for number, layer in enumerate(layers):
            _store(self, layer, str(number))
        self._ready = _Ready(self._prepare)

    def _prepare(self) -> tuple[Any, ...]:
        best = kernels.load(kernels.sets()[-1])
        weights = [_weight(self, str(n), (out, into)) for n, (into, out) in enumerate(pairwise(self.sizes))]
        biases = [_bias(self, str(number)) for number in range(len(weights))]
        stages, held = _stages(weights, biases, self.relu, best.width)
        room = max(self.sizes[0], *(_up(size, best.width) for size in self.sizes[1:])) * best.panel
        for stage in stages:
            stage.room = room
        return best.infer, stages, 2 * room, held

    def forward(self, values: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs], float32."""
        infer, stages, size, _, room = self._ready()
        values = _usable(values)
        axes = 1 if self.flatten else -1
        examples, inputs = values.shape[:axes], values.shape[axes:].numel()
        if inputs != self.sizes[0]:
            raise _misfit(self, f"{self.sizes[0]} inputs", f"{inputs}")
        result = values.new_empty((*examples, self.sizes[-1]))
        infer(stages, values.data_ptr(), examples.numel(), result.data_ptr(), room(size))
        return result

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        _make_room(self, state, prefix)
        super()._load_from_state_dict(state, prefix, *args)
        self._ready.forget()

    def extra_repr(self) -> str:
        """Its sizes and its density."""
        places = sum(into * out for into, out in pairwise(self.sizes))
        return f"{' -> '.join(map(str, self.sizes))}, density {_alive(self) / places:.3g}"


class SparseConv2d(nn.Module):
    """A convolution, y = max(0, W * x + b), at the cost of the weights that are not 0.

    Args:
        layer: with zeros as padding and the same stride both ways.
        relu: whether a ReLU follows.
    """

    def __init__(self, layer: Convolved, relu: bool = False) -> None:
        super().__init__()
        self.shape = tuple(layer.weight.shape)  # outputs, inputs of a group, height, width of the window
        self.inputs, self.groups, self.stride, self.relu = layer.in_channels, layer.groups, layer.stride[0], relu
        self.padding, self.dilation = _padding(layer), layer.dilation
        _store(self, layer, "0")
        self._ready = _Ready(_no_layout_yet)

    def forward(self, maps: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H', W'], float32."""
        kept, room = self._ready()
        maps = _usable(maps)
        if maps.dim() != 4 or maps.shape[1] != self.inputs:
            raise _misfit(self, f"N x {self.inputs} x H x W", " x ".join(map(str, maps.shape)))
        images, _, height, width = maps.shape
        key = height, width
        if key not in kept:
            if len(kept) == MOST_SIZES:
                self._ready.forget()
                kept, room = self._ready()
            kept[key] = self._prepare(height, width, images=1), self._prepare(height, width, images=ABREAST)
        alone, abreast = kept[key]
        slide, convolution, size, _ = abreast if images >= abreast[1].abreast else alone
        result = maps.new_empty(images, self.shape[0], convolution.out_height, convolution.out_width)
        slide(convolution, maps.data_ptr(), images, result.data_ptr(), room(size, (*key, convolution.abreast)))
        return result

    def _across(self, width: int) -> int:
        return _outputs(width, self.shape[3], self.padding[1], self.dilation[1], self.stride)

    def _prepare(self, height: int, width: int, images: int) -> tuple[Any, ...]:
        """For maps of one size, of which there are up to so many."""
        down = _outputs(height, self.shape[2], self.padding[0], self.dilation[0], self.stride)
        if down < 1 or self._across(width) < 1:
            raise _misfit(self, "maps as large as the window", f"{height} x {width}")
        best = kernels.load(kernels.sets()[-1])
        weight = _weight(self, "0", self.shape)
        layout = min(_layouts(self, height, width, down, self._across(width), images, best.width), key=_Layout.waste)
        convolution, held = _convolution(layout, weight, _bias(self, "0"), self.relu)
        return best.slide, convolution, convolution.rows * self.stride * convolution.line, held

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        _make_room(self, state, prefix)
        super()._load_from_state_dict(state, prefix, *args)
        self._ready.forget()

    def extra_repr(self) -> str:
        """Its sizes and its density."""
        return (
            f"{self.inputs}, {self.shape[0]}, kernel_size={self.shape[2:]}, stride={self.stride}, "
            f"padding={self.padding}, density {_alive(self) / np.prod(self.shape):.3g}"
        )


class MaxPool2d(nn.Module):
    """torch's, of windows that do not overlap, as maxima of whole slices: up to nine times as fast on N x C x H x W."""

    def __init__(self, layer: nn.MaxPool2d) -> None:
        super().__init__()
        self.size = _pair(layer.kernel_size)

    def forward(self, maps: Tensor) -> Tensor:
        """[..., H, W] -> [..., H // rows, W // columns]; NaN is greater than any number, as in torch."""
        for axis, size in zip((-2, -1), self.size, strict=True):
            parts = maps.narrow(axis, 0, maps.shape[axis] // size * size).unflatten(axis, (-1, size)).unbind(axis)
            maps = reduce(torch.maximum, parts)
        return maps

    def extra_repr(self) -> str:
        """Its window."""
        return f"{self.size}"


def _pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _tiles(layer: nn.Module) -> bool:
    """Whether it is a maximum over windows that do not overlap."""
    if type(layer) is not nn.MaxPool2d or layer.return_indices or layer.ceil_mode:
        return False
    windows = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    size, stride, padding, dilation = (_pair(each) for each in windows)
    return size == stride and padding == (0, 0) and dilation == (1, 1)


class _Ready:
    """What the kernels are handed, made when it is first asked for, and each thread's own room to work in.

    Addresses are of no use in a copy or in another process: a copy makes its own.
    """

    def __init__(self, prepare: Callable[[], tuple[Any, ...]]) -> None:
        self._prepare = prepare
        self.forget()

    def forget(self) -> None:
        self._made: tuple[Any, ...] | None = None

    def __call__(self) -> tuple[Any, ...]:
        if self._made is None:
            self._made = (*self._prepare(), _Room())
        return self._made

    @property
    def nbytes(self) -> int:
        """Of the arrays that the kernels are handed."""
        return _nbytes(self._made)

    def __getstate__(self) -> dict[str, Any]:
        return {"_prepare": self._prepare, "_made": None}


def _no_layout_yet() -> tuple[dict[Any, Any]]:
    return ({},)


def _nbytes(made: Any) -> int:
    if isinstance(made, np.ndarray):
        return made.nbytes
    parts = made.values() if isinstance(made, dict) else made if isinstance(made, tuple | list) else ()
    return sum(map(_nbytes, parts))


class _Room(threading.local):
    def __init__(self) -> None:
        self._kept: dict[Any, Tensor] = {}

    def __call__(self, size: int, key: Any = None) -> int:
        """The address of `size` numbers that are this thread's own, zeros at first, and under `key` the same again."""
        if key not in self._kept:
            self._kept[key] = torch.zeros(size, dtype=torch.float32)
        return self._kept[key].data_ptr()


def _usable(values: Tensor) -> Tensor:
    if (
        values.dtype is not torch.float32
        or values.device.type != "cpu"
        or (values.requires_grad and torch.is_grad_enabled())
    ):
        kind = f"{values.dtype} on {values.device}"
        raise BadInput(
            where="a sparse layer",
            expected="float32 on the CPU that asks for no gradient",
            found=f"{kind} that asks for one" if values.requires_grad else kind,
            todo="Sparse layers only infer: train the masked model, and call this one under torch.inference_mode().",
        )
    return values.contiguous()


def _misfit(module: nn.Module, expected: str, found: str) -> BadInput:
    return BadInput(where=repr(module), expected=expected, found=found, todo="It is another layer's input.")


# ---- weights: flags and values, as they are stored


def _store(module: nn.Module, layer: Connected | Convolved, number: str) -> None:
    weight = layer.weight.detach()
    alive = weight != 0  # of what lives and is 0 nothing is lost
    module.register_buffer(f"flags{number}", coding.encode(alive))
    module.register_buffer(f"values{number}", weight[alive].clone())
    scale = layer.scale.clone() if isinstance(layer, QuantisedConv2d | QuantisedLinear) else None
    module.register_buffer(f"scale{number}", scale)
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach().clone()
    module.register_buffer(f"bias{number}", bias)


def _weight(module: nn.Module, number: str, shape: Sequence[int]) -> NDArray[np.float32]:
    alive = coding.decode(module.get_buffer(f"flags{number}").cpu(), shape)
    values, scale = module.get_buffer(f"values{number}").float().cpu(), getattr(module, f"scale{number}")
    weight = values.new_zeros(tuple(shape)).masked_scatter_(alive, values)
    if scale is not None:
        weight *= scale.view(-1, *[1] * (len(shape) - 1))
    whole: NDArray[np.float32] = weight.numpy()
    return whole


def _bias(module: nn.Module, number: str) -> NDArray[np.float32]:
    bias: NDArray[np.float32] = module.get_buffer(f"bias{number}").float().cpu().numpy()
    return bias


def _make_room(module: nn.Module, state: dict[str, Any], prefix: str) -> None:
    """As many flags and values as the state has: another ticket of the same layer has others."""
    for name, own in list(module.named_buffers(recurse=False)):
        given = state.get(prefix + name)
        if given is not None and given.dim() == own.dim() == 1 and name.startswith(("flags", "values")):
            module.register_buffer(name, torch.empty_like(given))


def _alive(module: nn.Module) -> int:
    return sum(len(value) for name, value in module.named_buffers() if name.startswith("values"))


# ---- a chain, as the kernels want it


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _stages(
    weights: Sequence[NDArray[np.float32]], biases: Sequence[NDArray[np.float32]], relu: Sequence[bool], width: int
) -> tuple[Any, list[Any]]:
    """A stage for each layer, and what they point to.

    For single examples rows are sorted by length and cut into slices of `width`, padded to their longest. The next
    layer's columns are where its inputs then stand.
    """
    stages, held = (kernels.Stage * len(weights))(), []
    place = np.arange(weights[0].shape[1])
    for stage, weight, bias, positive in zip(stages, weights, biases, relu, strict=True):
        outputs, inputs = weight.shape
        rows, columns = np.nonzero(weight)
        values, counts = weight[rows, columns], np.bincount(rows, minlength=outputs)
        begin = np.concatenate([[0], np.cumsum(counts)])
        order = np.argsort(-counts, kind="stable")
        rank = np.empty(outputs, np.int64)
        rank[order] = np.arange(outputs)
        slices = -(-outputs // width)
        lengths = (
            np.append(counts[order], np.zeros(slices * width - outputs, np.int64)).reshape(slices, width).max(axis=1)
        )
        first = np.concatenate([[0], np.cumsum(lengths * width)])
        # The k-th weight of a row is in its slice's k-th vector, in the lane of the row.
        at = first[rank[rows] // width] + (np.arange(len(rows)) - begin[rows]) * width + rank[rows] % width
        slice_w, slice_column = np.zeros(first[-1], np.float32), np.zeros(first[-1], np.int32)
        slice_w[at], slice_column[at] = values, place[columns]
        slice_bias = np.zeros(slices * width, np.float32)
        slice_bias[:outputs] = bias[order]
        whole, addresses = kernels.together(
            {
                "begin": begin.astype(np.int32),
                "column": columns.astype(np.int32),
                "slice": lengths.astype(np.int32),
                "slice_column": slice_column,
                "order": order.astype(np.int32),
                "w": values,
                "bias": bias,
                "slice_w": slice_w,
                "slice_bias": slice_bias,
            }
        )
        held.append(whole)
        stage.inputs, stage.outputs, stage.relu, stage.n_slices = inputs, outputs, positive, slices
        for name, address in addresses.items():
            setattr(stage, name, address)
        place = rank
    return stages, held


# ---- a convolution, as the kernels want it


@dataclass(frozen=True)
class _Layout:
    """Where a convolution's inputs lie when a weight meets its outputs, as inference.h has it."""

    module: SparseConv2d
    height: int
    width: int
    out_height: int
    out_width: int
    abreast: int
    sums: bool  # whether sums are moved, and not inputs

    @property
    def apart(self) -> int:
        """From one image to the next: a sum that is moved out of the one must not get into the other."""
        return self.out_width + (self.sums and self.abreast > 1)

    @property
    def pitch(self) -> int:
        lanes = _up(self.abreast * self.apart, LANES)
        return LANES << (lanes // LANES - 1).bit_length() if self.sums else lanes  # a whole row is one block

    def waste(self) -> float:
        """Lanes for each output; and of layouts of like waste the first is as good."""
        return self.pitch / (self.abreast * self.out_width)

    def shift(self, row: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of rows of the window: the phase they read, and how many lines further down."""
        down = row * self.module.dilation[0]
        return down % self.module.stride, down // self.module.stride

    @property
    def further(self) -> int:
        return (self.module.shape[2] - 1) * self.module.dilation[0] // self.module.stride

    def whole(self, move: int) -> bool:
        """Whether a line of the one image may be read as a whole: what is beside it lies in the rows around it."""
        alone = self.abreast == 1 and self.module.stride == 1
        return alone and -move <= self.width and move + self.pitch <= 2 * self.width

    def band(self, line: int) -> int:
        """Rows of outputs that are laid out for at once."""
        rows = ROOM // (line * self.module.stride) - self.further
        return min(self.out_height, max(ROWS, rows))


def _layouts(
    module: SparseConv2d, height: int, width: int, out_height: int, out_width: int, images: int, vector: int
) -> Iterator[_Layout]:
    """With moved sums where that can be; by numbers of images side by side."""
    movable = module.stride == 1 and (module.shape[3], module.dilation[1], module.padding[1]) == (3, 1, 1)
    found = [
        [_Layout(module, height, width, out_height, out_width, abreast, sums) for abreast in range(1, images + 1)]
        for sums in (True, False)
    ]
    whole = [layout for layout in found[0] if movable and layout.pitch <= MOST_VECTORS * vector]
    yield from whole or found[1]


def _outputs(size: int, window: int, padding: int, dilation: int, stride: int) -> int:
    return (size + 2 * padding - dilation * (window - 1) - 1) // stride + 1


def _convolution(
    layout: _Layout, weight: NDArray[np.float32], bias: NDArray[np.float32], relu: bool
) -> tuple[kernels.Convolution, list[Any]]:
    module = layout.module
    output, into, row, column = np.nonzero(weight)
    values = weight[output, into, row, column]
    channel = into + output // (module.shape[0] // module.groups) * module.shape[1]
    columns = 1 if layout.sums else module.shape[3]  # as which a channel is laid out
    found, place = np.unique(channel * columns + (0 if layout.sums else column), return_inverse=True)
    line = max(1, len(found)) * layout.pitch + LANES  # not a multiple of a page: lines would get into each other's way
    band = layout.band(line)
    rows = band + layout.further
    phase, further = layout.shift(row)
    offset = place * layout.pitch + (phase * rows + further) * line
    counts = np.bincount(output, minlength=module.shape[0])
    order = np.argsort(-counts, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    groups = 3 if layout.sums else 1
    group = rank[output] * groups + (np.array([1, 0, 2])[column] if layout.sums else 0)
    sorted_ = np.lexsort((offset, group))
    begin = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=len(order) * groups))])
    whole, addresses = kernels.together(
        {
            "order": order.astype(np.int32),
            "begin": begin.astype(np.int32),
            "offset": offset[sorted_].astype(np.int32),
            "w": values[sorted_],
            "bias": bias[order],
        }
    )
    moved = (kernels.Moved * max(1, len(found)))()
    keep = kernels.aligned((columns, layout.pitch), np.int32)
    for each, key in zip(moved, found.tolist(), strict=False):
        each.channel, at = divmod(key, columns)
        each.move = 0 if layout.sums else at * module.dilation[1] - module.padding[1]
        each.begin = min(layout.out_width, max(0, -(each.move // module.stride)))
        each.end = max(each.begin, min(layout.out_width, (layout.width - 1 - each.move) // module.stride + 1))
        each.keep = at * layout.pitch if layout.whole(each.move) else -1
        keep[at, each.begin : each.end] = -1
    made = kernels.Convolution(
        module.inputs,
        layout.height,
        layout.width,
        module.shape[0],
        layout.out_height,
        layout.out_width,
        module.stride,
        module.padding[0],
        relu,
        len(found),
        layout.abreast,
        layout.apart,
        layout.pitch,
        groups,
        band,
        rows,
        line,
        addressof(moved),
        keep.ctypes.data,
    )
    for name, address in addresses.items():
        setattr(made, name, address)
    return made, [whole, keep, moved]


def _padding(layer: Convolved) -> tuple[int, int]:
    if layer.padding == "same":
        down, across = (step * (size - 1) // 2 for step, size in zip(layer.dilation, layer.kernel_size, strict=True))
        return down, across
    if layer.padding == "valid":
        return 0, 0
    down, across = cast("tuple[int, int]", layer.padding)
    return down, across


def _convolvable(layer: Convolved) -> bool:
    """Whether it pads with zeros, as much on either side, and its stride is the same both ways."""
    window = zip(layer.kernel_size, layer.dilation, strict=True)
    even = layer.padding != "same" or all((size - 1) * step % 2 == 0 for size, step in window)
    return getattr(layer, "padding_mode", "zeros") == "zeros" and layer.stride[0] == layer.stride[1] and even


# ---- which layers of a model


@dataclass(frozen=True)
class _Run:
    """Layers that one module can stand for: a convolution, fully connected ones one after the other, or a pooling."""

    modules: tuple[str, ...]
    layers: tuple[Connected | Convolved | nn.MaxPool2d, ...]
    relu: tuple[bool, ...]
    first: fx.Node
    last: fx.Node
    flatten: bool = False

    def sparse(self) -> nn.Module:
        if isinstance(self.layers[0], nn.Conv2d | QuantisedConv2d):
            return SparseConv2d(self.layers[0], self.relu[0])
        if isinstance(self.layers[0], nn.MaxPool2d):
            return MaxPool2d(self.layers[0])
        return SparseChain(self.layers, self.relu, self.flatten)  # type: ignore[arg-type]

    def dense(self, values: Tensor) -> Tensor:
        values = values.flatten(1) if self.flatten else values
        for layer, positive in zip(self.layers, self.relu, strict=True):
            values = functional.relu(layer(values)) if positive else layer(values)
        return values

    def replace(self, graph: fx.GraphModule, new: nn.Module) -> None:
        name = "sparse_" + self.modules[0].replace(".", "_")
        while hasattr(graph, name):  # the layer is called again, perhaps without a ReLU
            name += "_"
        graph.add_submodule(name, new)
        with graph.graph.inserting_before(self.first):
            node = graph.graph.call_module(name, self.first.args[:1])
        self.last.replace_all_uses_with(node)
        # Not `eliminate_dead_code`: nothing may read what a ReLU in place gives, and it matters all the same.
        old = self.last
        while old is not self.first:
            before = old.all_input_nodes[0]
            graph.graph.erase_node(old)
            old = before
        graph.graph.erase_node(old)


class _Tracer(fx.Tracer):
    """Quantised layers are layers, as torch's own are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, QuantisedLinear | QuantisedConv2d) or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module, inputs: tuple[Tensor, ...]) -> fx.GraphModule | None:
    """The graph of its calls; None where there is no one graph for every input, or what was found cannot be run."""
    if isinstance(model, Connected | Convolved):  # a layer by itself would be looked into
        model = nn.Sequential(model)
    try:
        graph = fx.GraphModule(model, _Tracer().trace(model))
        _given(graph, [], inputs)
    except Exception:  # it runs the model's own code, which may raise anything
        return None
    return graph


def _fused(graph: fx.GraphModule, inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    """Batch normalisations become part of the layers whose only readers they are."""
    modules = dict(graph.named_modules())
    called = [node for node in graph.graph.nodes if node.op == "call_module" and node.args]
    of_units = [node for node in called if isinstance(modules[str(node.target)], nn.BatchNorm1d)]
    given = _given(graph, of_units, inputs) if of_units else {}
    for node in called:
        before = node.args[0]
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        norm, layer = modules[str(node.target)], modules[str(before.target)]
        if (
            not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
            or not norm.track_running_stats
            or _calls(graph, before) > 1
        ):
            continue
        if type(layer) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
            new: nn.Module = fusion.fuse_conv_bn_eval(layer, norm)
        elif type(layer) is nn.Linear and type(norm) is nn.BatchNorm1d and given[node].dim() == 2:  # else another axis
            new = fusion.fuse_linear_bn_eval(layer, norm)
        else:
            continue
        graph.set_submodule(str(before.target), new)
        modules[str(before.target)] = new
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _calls(graph: fx.GraphModule, node: fx.Node) -> int:
    return sum(other.op == "call_module" and other.target == node.target for other in graph.graph.nodes)


def _runs(graph: fx.GraphModule) -> Iterator[_Run]:
    modules = dict(graph.named_modules())
    done: set[fx.Node] = set()
    for node in graph.graph.nodes:
        layer = modules.get(str(node.target)) if node.op == "call_module" and node not in done else None
        if layer is not None and _tiles(layer) and len(node.args) == 1:
            yield _Run((str(node.target),), (cast(nn.MaxPool2d, layer),), (False,), node, node)
            continue
        if not isinstance(layer, nn.Linear | nn.Conv2d | QuantisedLinear | QuantisedConv2d) or len(node.args) != 1:
            continue
        if isinstance(layer, nn.Conv2d | QuantisedConv2d):
            if _convolvable(layer):
                last, positive = _through_relu(node, modules)
                yield _Run((str(node.target),), (layer,), (positive,), node, last)
            continue
        names, layers, relu, last = [], [], [], node
        following: fx.Node | None = node
        while following is not None:
            done.add(following)
            names.append(str(following.target))
            layers.append(modules[str(following.target)])
            last, positive = _through_relu(following, modules)
            relu.append(positive)
            after = _only_user(last)
            joins = after is not None and after.op == "call_module" and len(after.args) == 1
            linear = joins and after is not None and isinstance(modules[str(after.target)], nn.Linear | QuantisedLinear)
            following = after if linear else None
        before = node.args[0]
        flat = isinstance(before, fx.Node) and len(before.users) == 1 and _is_flatten(before, modules)
        first = before if flat and isinstance(before, fx.Node) else node
        yield _Run(tuple(names), tuple(layers), tuple(relu), first, last, flat)


def _through_relu(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[fx.Node, bool]:
    """The last of a layer's calls: itself, or the ReLU that alone reads it."""
    after = _only_user(node)
    return (after, True) if after is not None and _is_relu(after, modules) else (node, False)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(modules[str(node.target)]) is nn.ReLU
    if node.op == "call_method":
        return node.target in ("relu", "relu_")
    return node.op == "call_function" and node.target in (functional.relu, torch.relu, torch.relu_)


def _is_flatten(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether it flattens all axes but the first."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        return type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)
    flattens = (node.op, node.target) in (("call_function", torch.flatten), ("call_method", "flatten"))
    return flattens and (node.args[1:] in ((1,), (1, -1))) and not node.kwargs


def _alone(graph: fx.GraphModule) -> nn.Module:
    """The one module that a graph consists of, where it does: each call of a graph takes microseconds."""
    given, *calls, result = graph.graph.nodes
    if len(calls) == 1 and calls[0].op == "call_module" and calls[0].args == (given,) and result.args == (calls[0],):
        return graph.get_submodule(str(calls[0].target))
    return graph


class _Inputs(fx.Interpreter):
    """Runs a graph and keeps what some of its nodes are called with."""

    def __init__(self, graph: fx.GraphModule, wanted: Sequence[fx.Node]) -> None:
        super().__init__(graph)
        self.wanted, self.found = set(wanted), dict[fx.Node, Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        if n in self.wanted:
            self.found[n] = self.fetch_args_kwargs_from_env(n)[0][0]
        return super().run_node(n)


def _given(graph: fx.GraphModule, nodes: Sequence[fx.Node], inputs: tuple[Tensor, ...]) -> dict[fx.Node, Tensor]:
    """What each of the nodes is called with."""
    interpreter = _Inputs(graph, nodes)
    with torch.inference_mode():
        interpreter.run(*inputs)
    return interpreter.found


def _faster(new: nn.Module, dense: Callable[[Tensor], Tensor], values: Tensor) -> bool:
    """Whether the sparse form is faster than the dense one in either layout of memory."""
    with torch.inference_mode():
        calls: dict[str, Callable[[], object]] = {"sparse": lambda: new(values), "dense": lambda: dense(values)}
        if values.dim() == 4:
            last = values.contiguous(memory_format=torch.channels_last)
            calls["channels last"] = lambda: dense(last)
        taken = timing.seconds(calls)
    return min(taken, key=taken.__getitem__) == "sparse"


# ---- layers of a model without a graph


class _Watched(nn.Module):
    """Stands in for a layer while the model is called, and notes what it is given and whether it is only called."""

    def __init__(self, layer: Connected | Convolved) -> None:
        super().__init__()
        self.__dict__["layer"] = layer  # no child: whoever looks for its weight asks `__getattr__`
        self.given: list[Tensor] = []
        self.only_called = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and args[0].dtype is torch.float32:
            self.given.append(args[0])
        else:
            self.only_called = False
        return self.layer(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        self.only_called = False
        return getattr(self.__dict__["layer"], name)


def _one_by_one(model: nn.Module, inputs: tuple[Tensor, ...], everywhere: bool) -> nn.Module:
    """`model`, its layers replaced where they stand; nothing is folded or fused."""
    uses = Counter(id(value) for value in model.state_dict(keep_vars=True).values())
    watched = {name: _Watched(layer) for name, layer in _layers(model) if _replaceable(layer, uses)}
    for name, watch in watched.items():
        model.set_submodule(name, watch)
    with torch.no_grad():  # not inference mode: a model may keep what it computes
        model(*inputs)
    for name, watch in watched.items():
        layer: Connected | Convolved = watch.layer
        model.set_submodule(name, layer)
        if watch.given and watch.only_called:
            new = SparseConv2d(layer) if isinstance(layer, Convolved) else SparseChain([layer], [False])
            if everywhere or _faster(new, layer, max(watch.given, key=Tensor.numel)):
                model.set_submodule(name, new)
    return model


def _layers(module: nn.Module, path: str = "") -> Iterator[tuple[str, Connected | Convolved]]:
    """Those that its own code can only call: torch's compound modules reach into theirs."""
    for name, child in module.named_children():
        if type(child) in (nn.Linear, nn.Conv2d, QuantisedLinear, QuantisedConv2d):
            yield path + name, cast("Connected | Convolved", child)
        elif isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict) or not _of_torch(child):
            yield from _layers(child, f"{path}{name}.")


def _of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def _replaceable(layer: Connected | Convolved, uses: Counter[int]) -> bool:
    """Whether it is of float32, unhooked, a convolution that the kernels know, and its weight nobody else's."""
    numbers = layer.scale if isinstance(layer, QuantisedLinear | QuantisedConv2d) else layer.weight
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    known = not isinstance(layer, Convolved) or _convolvable(layer)
    return numbers.dtype is torch.float32 and not hooked and known and uses[id(layer.weight)] == 1
