"""The compiled kernels: found, loaded, and described to `ctypes`. What they do is in `kernels.c` and `kernels.h`."""

import ctypes
import hashlib
import platform
from collections.abc import Mapping
from ctypes import POINTER, Structure, byref, c_double, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 4  # of what Python and the kernels say to each other: it changes with any meaning, here and in kernels.c
SETS = ("portable", "avx2", "avx512")
DENSE, SPARSE = range(2)
SGD, MOMENTUM, NESTEROV, ADAM, ADAMW = range(5)
SEGMENT = np.dtype([("row", np.int32), ("begin", np.int32), ("end", np.int32)])
ALIGNMENT = 64


def _pointers(names: str) -> list[tuple[str, type]]:
    return [(name, c_void_p) for name in names.split()]


def _integers(names: str) -> list[tuple[str, type]]:
    return [(name, c_int32) for name in names.split()]


class LayerStruct(Structure):
    """`layer` of kernels.c."""

    _fields_ = [
        *_integers("kind relu inputs outputs stride count n_segments n_t_segments"),
        *_integers("size height width pitch plane corner inner pool z_pitch z_plane z_inner padding"),
        *_pointers("w m v bias bias_m bias_v alive row column segments t_column t_place t_segments t_w"),
        *_pointers("y dy xt g z dz"),
    ]


class OptimiserStruct(Structure):
    """`optimiser` of kernels.c."""

    _fields_ = [
        ("kind", c_int32),
        ("padding", c_int32),
        ("done_before", c_int64),
        *((name, c_double) for name in ("decay", "momentum", "beta1", "beta2", "eps")),
    ]


class NetworkStruct(Structure):
    """`network` of kernels.c."""

    _fields_ = [
        *_integers("n_layers inputs pixels batch rows unit"),
        ("layers", POINTER(LayerStruct)),
        *_pointers("pixel row scale shift bytes x scratch"),
        ("idle", c_int64),
        *_pointers("idle_w idle_m idle_v"),
        ("optimiser", OptimiserStruct),
    ]


class PackStruct(Structure):
    """`pack` of kernels.c."""

    _fields_ = [
        *_integers("active examples"),
        ("size", c_int64),
        *_pointers("words labels input place column segments"),
    ]


class StageStruct(Structure):
    """`stage` of kernels.c."""

    _fields_ = [
        *_integers("inputs outputs relu n_slices"),
        ("room", c_int64),
        *_pointers("begin column slice slice_column order w bias slice_w slice_bias"),
    ]


class Moved(Structure):
    """`moved` of kernels.c."""

    _fields_ = _integers("channel move begin end keep padding")


class ConvolutionStruct(Structure):
    """`convolution` of kernels.c."""

    _fields_ = [
        *_integers("inputs height width outputs out_height out_width stride padding relu n_moved"),
        *_integers("abreast apart pitch groups band rows"),
        ("line", c_int64),
        *_pointers("moved keep order begin offset w bias"),
    ]


@dataclass(frozen=True)
class Kernels:
    """The kernels for one instruction set and number type.

    Attributes:
        set_name: `portable`, `avx2` or `avx512`.
        width: numbers in a vector; a panel of examples is four vectors.
        dtype: float32 or float64.
    """

    library: Any
    set_name: str
    width: int
    dtype: np.dtype[Any]

    @property
    def panel(self) -> int:
        """Examples that meet a weight at once."""
        return 4 * self.width

    def train(
        self,
        network: NetworkStruct,
        images: int,
        labels: int,
        order: NDArray[np.int64],
        rates: NDArray[np.float64],
        done: int,
    ) -> None:
        """A step for each of `rates`, on the examples `order`, a batch each; `done` steps came before."""
        self.library.tombola_train(
            SETS.index(self.set_name),
            self.dtype.itemsize == 8,
            byref(network),
            images,
            labels,
            order.ctypes.data,
            len(order),
            rates.ctypes.data,
            done,
        )

    def evaluate(
        self, network: NetworkStruct, images: int, labels: int, places: NDArray[np.int64]
    ) -> tuple[float, int]:
        """The summed loss and the number of correct answers on the examples at `places`."""
        loss, correct = c_double(), c_int64()
        self.library.tombola_evaluate(
            SETS.index(self.set_name),
            self.dtype.itemsize == 8,
            byref(network),
            images,
            labels,
            places.ctypes.data,
            len(places),
            byref(loss),
            byref(correct),
        )
        return loss.value, correct.value

    def evaluate_packed(self, network: NetworkStruct, packs: Any) -> tuple[float, int]:
        """The same for images that were packed: an array of `PackStruct`. For float32 alone."""
        loss, correct = c_double(), c_int64()
        self.library.tombola_evaluate_packed(
            SETS.index(self.set_name), byref(network), packs, len(packs), byref(loss), byref(correct)
        )
        return loss.value, correct.value

    def packed(
        self, network: NetworkStruct, images: int, places: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint32]]:
        """Up to a panel of images: each input's position among those that are not 0 in all of them, or -1; which those
        are; their words, as a `PackStruct` has them."""
        position, used = np.empty(network.inputs, np.int32), np.empty(network.inputs, np.int32)
        words = aligned((network.inputs, 2, self.width), np.uint32)
        active = self.library.tombola_pack(
            byref(network),
            self.width,
            images,
            places.ctypes.data,
            len(places),
            position.ctypes.data,
            used.ctypes.data,
            words.ctypes.data,
        )
        return position, used[:active], words[:active]

    def sifted(
        self, layer: LayerStruct, position: NDArray[np.int32]
    ) -> tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int32]]:
        """Of a sparse layer what meets columns with a position >= 0: segments, places of weights, their positions."""
        place, column = np.empty(layer.count, np.int32), np.empty(layer.count, np.int32)
        segments = np.empty(layer.outputs, SEGMENT)
        scratch = np.empty(2 * layer.count + layer.n_segments + 2 * layer.outputs, np.int32)
        count = self.library.tombola_sift(
            byref(layer), *(array.ctypes.data for array in (position, segments, place, column, scratch))
        )
        return segments, place[:count], column[:count]

    def infer(self, stages: Any, given: int, examples: int, result: int, room: int) -> None:
        """The outputs of a chain of `StageStruct` for `examples` at the address `given`. For float32 alone."""
        self.library.tombola_infer(SETS.index(self.set_name), stages, len(stages), given, examples, result, room)

    def slide(self, convolution: ConvolutionStruct, given: int, images: int, result: int, room: int) -> None:
        """The outputs of a convolution for `images` at the address `given`. For float32 alone."""
        self.library.tombola_slide(SETS.index(self.set_name), byref(convolution), given, images, result, room)


def sets() -> tuple[str, ...]:
    """The instruction sets that this processor has and the kernels know, the best last; none without kernels."""
    library = _library()
    return SETS[: library.tombola_best() + 1] if library else ()


def load(set_name: str, dtype: Any = np.float32) -> Kernels:
    """The kernels of one of `sets()`."""
    library, number = _library(), SETS.index(set_name)
    kind = np.dtype(dtype)
    return Kernels(library, set_name, library.tombola_width(number, kind.itemsize == 8), kind)


@cache
def version() -> str:
    """Changes whenever the kernels do, or the processor: what was measured then holds no more."""
    code = b""
    for compiled in ("tombola.engine._kernels", "tombola.sparse._kernels"):
        spec = find_spec(compiled)
        code += Path(spec.origin).read_bytes() if spec and spec.origin else b""
    return hashlib.sha256(code + f"{platform.machine()} {processor()} {sets()[-1:]}".encode()).hexdigest()[:16]


@cache
def processor() -> str:
    """The processor's name; empty where the machine does not say it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


@cache
def _library() -> Any:
    spec = find_spec("tombola.engine._kernels")
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
        layout = library.tombola_layout
    except (OSError, AttributeError):  # of another machine, or left from an older version
        return None
    layout.restype = c_int64
    structures = LayerStruct, NetworkStruct, PackStruct, StageStruct, ConvolutionStruct
    sizes = VERSION, *(ctypes.sizeof(structure) for structure in structures)
    if layout() != int("".join(f"{size:03}" for size in sizes)):
        return None
    library.tombola_train.argtypes = [c_int32, c_int32, *[c_void_p] * 4, c_int64, c_void_p, c_int64]
    library.tombola_train.restype = None
    library.tombola_evaluate.argtypes = [c_int32, c_int32, *[c_void_p] * 4, c_int64, c_void_p, c_void_p]
    library.tombola_evaluate.restype = None
    library.tombola_evaluate_packed.argtypes = [c_int32, c_void_p, c_void_p, c_int64, c_void_p, c_void_p]
    library.tombola_evaluate_packed.restype = None
    library.tombola_pack.argtypes = [c_void_p, c_int64, c_void_p, c_void_p, c_int64, *[c_void_p] * 3]
    library.tombola_pack.restype = c_int64
    library.tombola_sift.argtypes = [c_void_p] * 6
    library.tombola_sift.restype = c_int64
    library.tombola_infer.argtypes = [c_int32, c_void_p, c_int64, c_void_p, c_int64, c_void_p, c_void_p]
    library.tombola_infer.restype = None
    library.tombola_slide.argtypes = [c_int32, c_void_p, c_void_p, c_int64, c_void_p, c_void_p]
    library.tombola_slide.restype = None
    return library


def aligned(shape: int | tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Zeros that begin where a vector may be loaded from."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    begin = -raw.ctypes.data % ALIGNMENT
    whole: NDArray[Any] = raw[begin : begin + size].view(kind)
    return whole.reshape(shape)


def one_buffer(arrays: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.uint8], dict[str, int]]:
    """Copies of the arrays, one after the other in one buffer, and the address of each: it may be loaded as vectors."""
    sizes = [-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays.values()]
    whole, addresses, begin = aligned(sum(sizes), np.uint8), {}, 0
    for (name, array), size in zip(arrays.items(), sizes, strict=True):
        whole[begin : begin + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        addresses[name] = whole.ctypes.data + begin
        begin += size
    return whole, addresses
