"""A layer's outputs and gradients by the kernels, on several threads, each with its own share of the examples."""

import contextlib
import ctypes
import mmap
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola.sparse import kernels
from tombola.sparse.layout import Layout
from tombola.sparse.pattern import Pattern

PAGE = 1 << 21  # bytes of a huge page: fewer of them are looked up
# Of this process alone: memory that is shared, as mmap's is where nothing else is said, a fork would compute in, too.
ALONE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


@dataclass(frozen=True)
class Form:
    """How a tensor that the kernels read or write lies in memory.

    Attributes:
        shape: its sizes.
        last: whether its channels are innermost, as `torch.channels_last` has it.
        dtype: float32 or float64.
    """

    shape: torch.Size
    last: bool
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> "Form":
        """The form of one that the kernels can read."""
        return cls(tensor.shape, not tensor.is_contiguous(), tensor.dtype)

    def empty(self) -> Tensor:
        """A tensor of this form with anything in it."""
        return torch.empty(self.shape, dtype=self.dtype, device="cpu", memory_format=self._memory)

    def fit(self, tensor: Tensor) -> Tensor:
        """The numbers of `tensor` in this form; itself where it has it."""
        return tensor.resolve_neg().to("cpu", self.dtype).contiguous(memory_format=self._memory)

    @property
    def _memory(self) -> torch.memory_format:
        return torch.channels_last if self.last else torch.contiguous_format


def whole(weight: Tensor, pattern: Pattern) -> bool:
    """Whether all that is not 0 of a weight in main memory, NaN with it, is where the pattern's weights live."""
    if weight.shape != pattern.mask.shape:
        return False
    last = weight.dim() == 4 and not weight.is_contiguous()
    lies = weight.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    if not kernels.sets() or weight.dtype not in (torch.float32, torch.float64) or not lies:
        return not bool((weight.detach().ne(0) & ~pattern.mask).any())
    one = kernels.load(kernels.sets()[-1], weight.dtype == torch.float64)
    return one.whole(weight, pattern.kept(("alive", last), lambda: _bits(pattern.mask, last)))


def _bits(mask: Tensor, last: bool) -> NDArray[np.uint64]:
    """A bit for each weight as they lie, 64 to a word."""
    flat = (mask.permute(0, 2, 3, 1) if last else mask).cpu().numpy().reshape(-1)
    return np.packbits(np.pad(flat, (0, -len(flat) % 64)), bitorder="little").view(np.uint64)


def forward(layout: Layout, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The layer's outputs for maps x, (examples, channels, rows, columns), in x's memory format."""
    one, struct = layout.kernels, layout.struct
    y = _like(x, (len(x), struct.outputs.channels, *layout.size))
    living = one.gathered(weight, struct.forward)
    shift, size = None if bias is None else bias.contiguous(), x.element_size()

    def share(begin: int, end: int, number: int) -> None:
        one.library.sparse_forward(
            *one.instance,
            ctypes.byref(struct),
            *_tensor(x),
            *_tensor(y),
            living.data_ptr(),
            None if shift is None else shift.data_ptr(),
            len(x),
            begin,
            end,
            _room(sum(layout.room) * size),
        )

    _shared(share, -(-len(x) // layout.panel))
    return y


def backward(
    layout: Layout,
    given: tuple[Tensor | None, Tensor | None],
    forms: tuple[Form, Form],
    dy: Tensor,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of maps x, of the dense weight and of the bias, as far as they are wanted.

    The sums of several threads are added in their order: as many threads give the same bytes again.

    Args:
        given: x and the weight, however they lie by now. The weight may be None where no gradient of x is wanted, and x
            where none of the weight is.
        forms: theirs in the forward pass, which their gradients have.
    """
    one, struct, (x_form, weight_form) = layout.kernels, layout.struct, forms
    dy = dy.resolve_neg()
    if not dy.is_contiguous(memory_format=torch.channels_last):
        dy = dy.contiguous()
    examples, panels = len(dy), -(-len(dy) // layout.panel)
    threads, channels, count = _threads(panels), struct.outputs.channels, struct.backward.count
    x, weight = (None if each is None else form.fit(each) for each, form in zip(given, forms, strict=True))
    living = None if weight is None else one.gathered(weight, struct.backward)
    dx = x_form.empty() if wanted[0] else None
    sums = dy.new_zeros(threads, count + one.width) if wanted[1] else None
    totals = dy.new_zeros(threads, channels) if wanted[2] else None
    room = 2 * layout.room[0] + layout.room[1] + channels * one.width

    def share(begin: int, end: int, number: int) -> None:
        one.library.sparse_backward(
            *one.instance,
            ctypes.byref(struct),
            None if x is None else x.data_ptr(),
            int(x_form.last),
            *_tensor(dy),
            None if dx is None else dx.data_ptr(),
            None if living is None else living.data_ptr(),
            None if sums is None else sums[number].data_ptr(),
            None if totals is None else totals[number].data_ptr(),
            examples,
            begin,
            end,
            _room(room * dy.element_size()),
        )

    _shared(share, panels)
    dw = None
    if sums is not None:
        dw = weight_form.empty().zero_()
        one.scatter(sums, struct.backward, dw)
    return dx, dw, None if totals is None else totals.sum(0)


def _tensor(maps: Tensor) -> tuple[int, int]:
    """Where it is, and whether its channels are innermost."""
    return maps.data_ptr(), int(not maps.is_contiguous())


def _like(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    form = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    return torch.empty(shape, dtype=x.dtype, device="cpu", memory_format=form)


# ---- threads


def _threads(panels: int) -> int:
    return max(1, min(torch.get_num_threads(), panels))


def _shared(work: Callable[[int, int, int], None], panels: int) -> None:
    """Each thread does its share of the panels: work(begin, end, number)."""
    threads = _threads(panels)
    bounds = [panels * number // threads for number in range(threads + 1)]
    shares = [(bounds[number], bounds[number + 1], number) for number in range(threads)]
    others = [_pool(os.getpid(), threads - 1).submit(work, *share) for share in shares[1:]]
    work(*shares[0])
    for other in others:
        other.result()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process: a fork has none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="tombola-sparse")


class _Rooms(threading.local):
    """Memory that a thread keeps from layer to layer: fresh pages would cost more than the arithmetic."""

    held: mmap.mmap | None = None
    address = 0

    def of(self, size: int) -> int:
        """The address of at least `size` bytes, with anything in them."""
        if self.held is None or len(self.held) - PAGE < size:
            self.held = mmap.mmap(-1, (size // PAGE + 2) * PAGE, **ALONE)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                with contextlib.suppress(OSError):  # a system without huge pages
                    self.held.madvise(mmap.MADV_HUGEPAGE)
            begin = ctypes.addressof(ctypes.c_char.from_buffer(self.held))
            self.address = -(-begin // PAGE) * PAGE
        return self.address


_room = _Rooms().of
