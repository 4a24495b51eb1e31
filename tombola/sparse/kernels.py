"""The compiled kernels of sparse layers: found, loaded, and described to `ctypes`. What they do is in `kernels.c`."""

import ctypes
from ctypes import Structure, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # a plan asks whether there are kernels, without torch
    from torch import Tensor

VERSION = 2  # of what Python and the kernels say to each other: it changes with any meaning, here and in kernels.c
STREWN, MET, STRAIGHT = range(3)
SETS = ("portable", "avx2", "avx512")
SEGMENT = np.dtype([("row", np.int32), ("begin", np.int32), ("end", np.int32)])
RUN = np.dtype([("begin", np.int32), ("length", np.int32)])


class ListStruct(Structure):
    """`list` of kernels.c."""

    _fields_ = [
        ("blocks", c_int32),
        ("count", c_int32),
        ("reach", c_int64),
        *((name, c_void_p) for name in ("block", "segments", "offset", "place")),
    ]


class MapStruct(Structure):
    """`map` of kernels.c."""

    _fields_ = [
        *((name, c_int32) for name in ("channels", "planes", "places", "n_gaps")),
        *((name, c_int64) for name in ("plane", "pitch", "first", "rows", "across")),
        *((name, c_void_p) for name in ("place", "order", "gaps")),
    ]


class LayerStruct(Structure):
    """`layer` of kernels.c."""

    _fields_ = [
        ("abreast", c_int64),
        ("inputs", MapStruct),
        ("outputs", MapStruct),
        ("forward", ListStruct),
        ("backward", ListStruct),
    ]


@dataclass(frozen=True)
class Kernels:
    """The kernels of one instruction set and number type.

    Attributes:
        set_name: `portable`, `avx2` or `avx512`.
        wide: float64 instead of float32.
        width: numbers in a vector.
    """

    library: Any
    set_name: str
    wide: bool
    width: int

    @property
    def instance(self) -> tuple[int, int]:
        """What the library's functions want to hear first."""
        return SETS.index(self.set_name), int(self.wide)

    def whole(self, dense: "Tensor", alive: NDArray[np.uint64]) -> bool:
        """Whether all that is not 0 of a dense layer's weights, as they lie, is where `alive` has a bit."""
        return bool(self.library.sparse_whole(*self.instance, dense.data_ptr(), dense.numel(), alive.ctypes.data))

    def gathered(self, dense: "Tensor", order: ListStruct) -> "Tensor":
        """The living weights of a dense layer's, in the order in which they are met."""
        some = dense.new_empty(order.count)
        self.library.sparse_gather(self.wide, dense.data_ptr(), order.place, order.count, some.data_ptr())
        return some

    def scatter(self, sums: "Tensor", order: ListStruct, dense: "Tensor") -> None:
        """The sum of the rows of `sums`, in their order, comes to its weights' places in `dense`."""
        self.library.sparse_scatter(
            self.wide, sums.data_ptr(), len(sums), sums.stride(0), order.place, order.count, dense.data_ptr()
        )


def sets() -> tuple[str, ...]:
    """The instruction sets that this processor has and the kernels know, the best last; none without kernels."""
    library = _library()
    return SETS[: library.sparse_best() + 1] if library else ()


@cache
def load(set_name: str, wide: bool) -> Kernels:
    """The kernels of one of `sets()`."""
    library = _library()
    return Kernels(library, set_name, wide, library.sparse_width(SETS.index(set_name), wide))


@cache
def _library() -> Any:
    spec = find_spec("tombola.sparse._kernels")
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
        layout = library.sparse_layout
    except (OSError, AttributeError):  # of another machine, or left from an older version
        return None
    layout.restype = c_int64
    if layout() != VERSION * 1000 + ctypes.sizeof(LayerStruct):
        return None
    number, address, small = c_int64, c_void_p, c_int32
    tensor: list[Any] = [address, small]
    panels: list[Any] = [number, number, number, address]
    library.sparse_forward.argtypes = [small, small, address, *tensor, *tensor, address, address, *panels]
    library.sparse_backward.argtypes = [small, small, address, *tensor, *tensor, *[address] * 4, *panels]
    library.sparse_whole.argtypes = [small, small, address, number, address]
    library.sparse_whole.restype = small
    library.sparse_gather.argtypes = [small, address, address, number, address]
    library.sparse_scatter.argtypes = [small, address, number, number, address, number, address]
    for function in (library.sparse_forward, library.sparse_backward, library.sparse_gather, library.sparse_scatter):
        function.restype = None
    return library
