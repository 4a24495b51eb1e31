"""Sparse layers for CPUs, which cost what their living weights cost: drop-in modules around engine/inference.h.

They infer; they do not train.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, reduce
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.compiler import is_compiling, is_dynamo_compiling

from tombola import mask_codec
from tombola.cash.kernel_packing import ConvolutionLayout, Window, convolution_layouts, convolution_of, stages_of, up
from tombola.cash.quantization import QuantisedConv2d, QuantisedLinear
from tombola.cash.stacked_layers import StackedLinear
from tombola.engine import kernels
from tombola.errors import BadInput

ABREAST = 8  # small images side by side, at most
NUMBER = 4  # bytes
PANEL = 64  # examples that the widest vectors take together
SHARE = 2**22  # multiplications, as many as a thread is worth waking for
MOST_SIZES = 8  # of maps, that a convolution is prepared for at once

Connected = nn.Linear | QuantisedLinear | StackedLinear
Convolved = nn.Conv1d | nn.Conv2d | QuantisedConv2d


class _Sparse(nn.Module):
    """A layer around a kernel: what it is handed is made of its buffers when it is first called."""

    _ready: "_Ready"

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        _make_room(self, state, prefix)
        super()._load_from_state_dict(state, prefix, *args)
        self._ready.forget()

    def _slow_forward(self, *given: Any, **named: Any) -> Any:
        """What torch calls in place of `forward` while torch.jit traces, which sees nothing of what a kernel writes."""
        raise not_exported(type(self).__name__)


class SparseChain(_Sparse):
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
        stages, held = stages_of(weights, biases, self.relu, best.width)
        room = max(self.sizes[0], *(up(size, best.width) for size in self.sizes[1:])) * best.panel
        for stage in stages:
            stage.room = room
        return best.infer, stages, 2 * room, PANEL + SHARE // max(1, _alive(self)), held

    def forward(self, values: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs], float32."""
        if is_dynamo_compiling():
            return _uncompiled(self, values)
        values = _usable(values)
        infer, stages, size, least, _, room = self._ready()
        axes, shape = 1 if self.flatten else -1, values.shape
        examples, inputs = shape[:axes], shape[axes:].numel()
        if inputs != self.sizes[0]:
            raise _misfit(self, f"{self.sizes[0]} inputs", f"{inputs}")
        result = values.new_empty(*examples, self.sizes[-1])  # twice as fast as of a tuple
        given, made = values.data_ptr(), result.data_ptr()

        def some(begin: int, end: int) -> None:
            at = given + NUMBER * begin * inputs, made + NUMBER * begin * self.sizes[-1]
            infer(stages, at[0], end - begin, at[1], room(size))

        _shared(some, examples.numel(), least)
        return result

    def extra_repr(self) -> str:
        """Its sizes and its density."""
        places = sum(into * out for into, out in pairwise(self.sizes))
        return f"{' -> '.join(map(str, self.sizes))}, density {_alive(self) / places:.3g}"


class SparseConv2d(_Sparse):
    """A convolution, y = max(0, W * x + b), at the cost of the weights that are not 0.

    Args:
        layer: with zeros as padding and the same stride both ways; one over lines has windows of one row.
        relu: whether a ReLU follows.
    """

    def __init__(self, layer: Convolved, relu: bool = False) -> None:
        super().__init__()
        (outputs, inputs, *sides), row = layer.weight.shape, len(layer.kernel_size) == 1
        shape, dilation = (outputs, inputs, *[1] * row, *sides), (*[1] * row, *layer.dilation)
        self.window = Window(shape, layer.in_channels, layer.groups, layer.stride[0], _padding(layer), dilation)
        self.relu = relu
        _store(self, layer, "0")
        self._ready = _Ready(_no_layout_yet)

    def forward(self, maps: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H', W'], float32; of one example without an N too, as in torch."""
        if is_dynamo_compiling():
            return _uncompiled(self, maps)
        maps = _usable(maps)
        if maps.dim() == 3 and len(maps) == self.window.inputs:
            return cast(Tensor, self(maps[None])[0])
        kept, room = self._ready()
        if maps.dim() != 4 or maps.shape[1] != self.window.inputs:
            raise _misfit(self, f"N x {self.window.inputs} x H x W", " x ".join(map(str, maps.shape)))
        images, _, height, width = maps.shape
        key = height, width, ABREAST if images >= ABREAST else 1
        if key not in kept:
            if len(kept) == MOST_SIZES:
                self._ready.forget()
                kept, room = self._ready()
            kept[key] = self._prepare(*key)
        slide, convolution, size, least, _ = kept[key]
        result = maps.new_empty(images, convolution.outputs, convolution.out_height, convolution.out_width)
        given, made = maps.data_ptr(), result.data_ptr()
        area = convolution.out_height * convolution.out_width

        def some(begin: int, end: int) -> None:
            at = given + NUMBER * begin * maps[:1].numel(), made + NUMBER * begin * convolution.outputs * area
            slide(convolution, at[0], end - begin, at[1], room(size, key))

        _shared(some, images, least)
        return result

    def _prepare(self, height: int, width: int, images: int) -> tuple[Any, ...]:
        """For maps of one size, of which there are up to so many."""
        if min(self.window.outputs(height, width)) < 1:
            raise _misfit(self, "maps as large as the window", f"{height} x {width}")
        best = kernels.load(kernels.sets()[-1])
        layout = min(convolution_layouts(self.window, height, width, images, best.width), key=ConvolutionLayout.waste)
        convolution, held = convolution_of(layout, _weight(self, "0", self.window.shape), _bias(self, "0"), self.relu)
        room = convolution.rows * self.window.stride * convolution.line
        least = layout.abreast + SHARE // max(1, _alive(self) * layout.out_height * layout.out_width)
        return best.slide, convolution, room, least, held

    def extra_repr(self) -> str:
        """Its sizes and its density."""
        window = self.window
        return (
            f"{window.inputs}, {window.shape[0]}, kernel_size={window.shape[2:]}, stride={window.stride}, "
            f"padding={window.padding}, density {_alive(self) / np.prod(window.shape):.3g}"
        )


class SparseConv1d(nn.Module):
    """A convolution over lines, as one over maps of one row.

    Args:
        layer: with zeros as padding.
        relu: whether a ReLU follows.
    """

    def __init__(self, layer: Convolved, relu: bool = False) -> None:
        super().__init__()
        self.maps = SparseConv2d(layer, relu)

    def forward(self, lines: Tensor) -> Tensor:
        """[N, inputs, L] -> [N, outputs, L'], float32; of one example without an N too, as in torch."""
        if lines.dim() not in (2, 3) or lines.shape[-2] != self.maps.window.inputs:
            raise _misfit(self, f"N x {self.maps.window.inputs} x L", " x ".join(map(str, lines.shape)))
        return cast(Tensor, self.maps(lines.unsqueeze(-2))).squeeze(-2)


def sparse_convolution(layer: Convolved, relu: bool = False) -> SparseConv1d | SparseConv2d:
    """The sparse form of a convolution over lines or maps."""
    return (SparseConv1d if len(layer.kernel_size) == 1 else SparseConv2d)(layer, relu)


class MaxPool2d(nn.Module):
    """torch's, of windows that do not overlap, as maxima of whole slices: up to nine times as fast on N x C x H x W."""

    def __init__(self, layer: nn.MaxPool2d) -> None:
        super().__init__()
        self.size = _pair(layer.kernel_size)

    def forward(self, maps: Tensor) -> Tensor:
        """[..., H, W] -> [..., H // rows, W // columns]; NaN is greater than any number, as in torch."""
        if maps.shape[-2] < self.size[0] or maps.shape[-1] < self.size[1]:
            raise _misfit(self, "maps as large as the window", f"{maps.shape[-2]} x {maps.shape[-1]}")
        for axis, size in zip((-2, -1), self.size, strict=True):
            parts = maps.narrow(axis, 0, maps.shape[axis] // size * size).unflatten(axis, (-1, size)).unbind(axis)
            maps = reduce(torch.maximum, parts)
        return maps

    def extra_repr(self) -> str:
        """Its window."""
        return f"{self.size}"


def _pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def tiles(layer: nn.Module) -> bool:
    """Whether it is a maximum over windows that do not overlap; over one number it would give its input itself."""
    if type(layer) is not nn.MaxPool2d or layer.return_indices or layer.ceil_mode:
        return False
    windows = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    size, stride, padding, dilation = (_pair(each) for each in windows)
    return size == stride != (1, 1) and padding == (0, 0) and dilation == (1, 1)


def _padding(layer: Convolved) -> tuple[int, int]:
    """Above and beside; over lines nothing is above."""
    if layer.padding == "same":
        sides = [step * (size - 1) // 2 for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    else:
        sides = [0, 0] if layer.padding == "valid" else [int(side) for side in layer.padding]
    return (0 if len(layer.kernel_size) == 1 else sides[0]), sides[-1]


def convolvable(layer: Convolved) -> bool:
    """Whether it pads with zeros, as much on either side, and its stride is the same both ways."""
    window = zip(layer.kernel_size, layer.dilation, strict=True)
    even = layer.padding != "same" or all((size - 1) * step % 2 == 0 for size, step in window)
    return getattr(layer, "padding_mode", "zeros") == "zeros" and len(set(layer.stride)) == 1 and even


def prepared_bytes(model: nn.Module) -> int:
    """What the sparse layers of `model` hold beside their buffers: the same weights as the kernels want them."""
    return sum(module._ready.nbytes for module in model.modules() if isinstance(module, _Sparse))


def has_kernels(model: nn.Module) -> bool:
    """Whether any of its layers calls a kernel: it computes on this machine, and has weights of other names."""
    return any(isinstance(module, _Sparse) for module in model.modules())


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


def _shared(work: Callable[[int, int], None], count: int, least: int) -> None:
    """Do `work(begin, end)` for all of `count`, by as many threads as torch has, each for so many at least."""
    threads = min(torch.get_num_threads(), count // least)
    if threads < 2:
        return work(0, count)
    ends = [count * number // threads for number in range(threads + 1)]
    for done in [_pool(threads).submit(work, *part) for part in pairwise(ends)]:
        done.result()
    return None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Its threads call kernels, for which Python's lock is released."""
    return ThreadPoolExecutor(threads, thread_name_prefix="tombola")


def _uncompiled(layer: nn.Module, values: Tensor) -> Tensor:
    """What torch.compile calls between its graphs.

    Not a decorator of `forward`: for that torch imports its compiler, for a second, and each call takes longer.
    """
    result: Tensor = torch.compiler.disable(type(layer).forward)(layer, values)
    return result


def not_exported(model: str) -> BadInput:
    """What to raise where a model with sparse layers is to become a file that computes the same elsewhere."""
    return BadInput(
        where=model,
        expected="a model without sparse layers: these call kernels of this machine, and cannot be exported",
        found="sparse ones",
        todo="Export what they were made of, or its compact form: `cash.compact`.",
    )


def _usable(values: Tensor) -> Tensor:
    if (
        type(values) is not Tensor
        or values.dtype is not torch.float32
        or not values.is_cpu
        or (values.requires_grad and torch.is_grad_enabled())
    ):
        _check(values)
    return values.contiguous()


def _check(values: Tensor) -> None:
    """Raise what is wrong with them; tensors of somebody's own kind may be as they should."""
    if is_compiling():
        raise not_exported("a sparse layer")
    todo = "Sparse layers only infer: train the masked model, and call this one under torch.inference_mode()."
    if not isinstance(values, Tensor):
        found, todo = type(values).__name__, "Hand in a tensor: torch.from_numpy makes one of an array."
    elif values.requires_grad and torch.is_grad_enabled():
        found = f"{values.dtype} on {values.device} that asks for one"
    elif values.dtype is torch.float32 and values.is_cpu:
        return
    else:
        found = f"{values.dtype} on {values.device}"
        if torch.is_autocast_enabled("cpu") and values.is_cpu and values.dtype == torch.get_autocast_dtype("cpu"):
            found, todo = f"{found}, under torch.autocast", "Call it outside of that, or where it is disabled."
    expected = "float32 on the CPU that asks for no gradient"
    raise BadInput(where="a sparse layer", expected=expected, found=found, todo=todo)


def _misfit(module: nn.Module, expected: str, found: str) -> BadInput:
    return BadInput(where=repr(module), expected=expected, found=found, todo="It is another layer's input.")


# ---- weights: flags and values, as they are stored


def _store(module: nn.Module, layer: Connected | Convolved, number: str) -> None:
    weight = layer.matrix() if isinstance(layer, StackedLinear) else layer.weight.detach()
    alive = weight != 0  # of what lives and is 0 nothing is lost
    module.register_buffer(f"flags{number}", mask_codec.encode(alive))
    module.register_buffer(f"values{number}", weight[alive].clone())
    scale = layer.scale.clone() if isinstance(layer, QuantisedConv2d | QuantisedLinear) else None
    module.register_buffer(f"scale{number}", scale)
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach().flatten().clone()
    module.register_buffer(f"bias{number}", bias)


def _weight(module: nn.Module, number: str, shape: Sequence[int]) -> NDArray[np.float32]:
    alive = mask_codec.decode(module.get_buffer(f"flags{number}").cpu(), shape)
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
