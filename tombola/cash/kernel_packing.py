"""What the kernels of engine/inference.h are handed for a chain of sparse layers and for a sparse convolution."""

from collections.abc import Iterator, Sequence
from ctypes import addressof
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tombola.engine import kernels

LANES = 16  # of the widest vectors: rows of maps are padded to it
MOST_VECTORS = 8  # of one row, in a block of outputs
ROOM = 2**17  # numbers that a convolution lays out at once where it can: half a megabyte, in a core's own cache
ROWS = 8  # of outputs, at least, for as many lines are laid out again at the border of each such band


@dataclass(frozen=True)
class Window:
    """A convolution's fixed sizes.

    Attributes:
        shape: outputs, inputs of a group, rows and columns of the window.
        inputs, groups: channels in all, and in how many groups.
        stride: both ways.
        padding, dilation: down and across.
    """

    shape: tuple[int, ...]
    inputs: int
    groups: int
    stride: int
    padding: tuple[int, int]
    dilation: tuple[int, ...]

    def outputs(self, height: int, width: int) -> tuple[int, int]:
        """The size of the maps that maps of such a size give; less than 1 where they are too small."""
        down, across = (
            (size + 2 * padding - dilation * (window - 1) - 1) // self.stride + 1
            for size, window, padding, dilation in zip(
                (height, width), self.shape[2:], self.padding, self.dilation, strict=True
            )
        )
        return down, across


def up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def stages_of(
    weights: Sequence[NDArray[np.float32]], biases: Sequence[NDArray[np.float32]], relu: Sequence[bool], width: int
) -> tuple[Any, list[Any]]:
    """A stage for each layer, and what they point to.

    For single examples rows are sorted by length and cut into slices of `width`, padded to their longest. The next
    layer's columns are where its inputs then stand.
    """
    stages, held = (kernels.StageStruct * len(weights))(), []
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
        whole, addresses = kernels.one_buffer(
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


@dataclass(frozen=True)
class ConvolutionLayout:
    """Where a convolution's inputs lie when a weight meets its outputs, as inference.h has it."""

    window: Window
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
        lanes = up(self.abreast * self.apart, LANES)
        return LANES << (lanes // LANES - 1).bit_length() if self.sums else lanes  # a whole row is one block

    def waste(self) -> float:
        """Lanes for each output; and of layouts of like waste the first is as good."""
        return self.pitch / (self.abreast * self.out_width)

    def shift(self, row: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of rows of the window: the phase they read, and how many lines further down."""
        down = row * self.window.dilation[0]
        return down % self.window.stride, down // self.window.stride

    @property
    def further(self) -> int:
        return (self.window.shape[2] - 1) * self.window.dilation[0] // self.window.stride

    def whole(self, move: int) -> bool:
        """Whether a line of the one image may be read as a whole: what is beside it lies in the rows around it."""
        alone = self.abreast == 1 and self.window.stride == 1
        return alone and -move <= self.width and move + self.pitch <= 2 * self.width

    def band(self, line: int) -> int:
        """Rows of outputs that are laid out for at once."""
        rows = ROOM // (line * self.window.stride) - self.further
        return min(self.out_height, max(ROWS, rows))


def convolution_layouts(
    window: Window, height: int, width: int, images: int, vector: int
) -> Iterator[ConvolutionLayout]:
    """With moved sums where that can be; by numbers of images side by side, up to so many.

    Args:
        vector: numbers in a vector.
    """
    down, across = window.outputs(height, width)
    movable = window.stride == 1 and (window.shape[3], window.dilation[1], window.padding[1]) == (3, 1, 1)
    found = [
        [ConvolutionLayout(window, height, width, down, across, abreast, sums) for abreast in range(1, images + 1)]
        for sums in (True, False)
    ]
    whole = [layout for layout in found[0] if movable and layout.pitch <= MOST_VECTORS * vector]
    yield from whole or found[1]


def convolution_of(
    layout: ConvolutionLayout, weight: NDArray[np.float32], bias: NDArray[np.float32], relu: bool
) -> tuple[kernels.ConvolutionStruct, list[Any]]:
    """The convolution laid out so, and what it points to."""
    window = layout.window
    output, into, row, column = np.nonzero(weight)
    values = weight[output, into, row, column]
    channel = into + output // (window.shape[0] // window.groups) * window.shape[1]
    columns = 1 if layout.sums else window.shape[3]  # as which a channel is laid out
    found, place = np.unique(channel * columns + (0 if layout.sums else column), return_inverse=True)
    line = max(1, len(found)) * layout.pitch + LANES  # not a multiple of a page: lines would get into each other's way
    band = layout.band(line)
    rows = band + layout.further
    phase, further = layout.shift(row)
    offset = place * layout.pitch + (phase * rows + further) * line
    counts = np.bincount(output, minlength=window.shape[0])
    order = np.argsort(-counts, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    groups = 3 if layout.sums else 1
    group = rank[output] * groups + (np.array([1, 0, 2])[column] if layout.sums else 0)
    in_turn = np.lexsort((offset, group))
    begin = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=len(order) * groups))])
    whole, addresses = kernels.one_buffer(
        {
            "order": order.astype(np.int32),
            "begin": begin.astype(np.int32),
            "offset": offset[in_turn].astype(np.int32),
            "w": values[in_turn],
            "bias": bias[order],
        }
    )
    moved = (kernels.Moved * max(1, len(found)))()
    keep = kernels.aligned((columns, layout.pitch), np.int32)
    for each, key in zip(moved, found.tolist(), strict=False):
        each.channel, at = divmod(key, columns)
        each.move = 0 if layout.sums else at * window.dilation[1] - window.padding[1]
        each.begin = min(layout.out_width, max(0, -(each.move // window.stride)))
        each.end = max(each.begin, min(layout.out_width, (layout.width - 1 - each.move) // window.stride + 1))
        each.keep = at * layout.pitch if layout.whole(each.move) else -1
        keep[at, each.begin : each.end] = -1
    made = kernels.ConvolutionStruct(
        window.inputs,
        layout.height,
        layout.width,
        window.shape[0],
        layout.out_height,
        layout.out_width,
        window.stride,
        window.padding[0],
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
