"""How a layer's maps and living weights lie in memory for the kernels: `kernels.c` says why."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tombola.sparse.kernels import MET, RUN, SEGMENT, STRAIGHT, STREWN, Kernels, LayerStruct, ListStruct, MapStruct
from tombola.sparse.pattern import Pair, Pattern

Numbers = NDArray[np.int64]
TILES = (8, 4, 2, 1)  # vectors that a weight meets at once
MOST_ABREAST = 8
FIXED = 2  # what a tile costs beside its vectors, in vectors


@dataclass(frozen=True)
class Axis:
    """One direction of a convolution: rows or columns.

    Attributes:
        places: of torch's map, in this direction.
        results: places of the outputs.
        planes: into how many planes the places are dealt out.
        plane: of each place, its plane, or -1 where no window meets it.
        at: of each place, its position in its plane.
        length: positions of a plane.
        first: the first position that is a place.
        computed: positions from there to the last.
        tap_plane: of each weight of the window, the plane that it meets.
        tap: and how far from the window's first position.
        before: positions of border before the outputs, when the inputs' gradients are made.
        result_length: positions of the outputs and their border.
    """

    places: int
    results: int
    planes: int
    plane: Numbers
    at: Numbers
    length: int
    first: int
    computed: int
    tap_plane: Numbers
    tap: Numbers
    before: int
    result_length: int

    @classmethod
    def of(cls, places: int, window: int, stride: int, padding: Pair, dilation: int) -> "Axis | None":
        """The axis, or None where the window is wider than the map or meets none of it."""
        reach = np.arange(window) * dilation
        results = (places + sum(padding) - int(reach[-1]) - 1) // stride + 1
        used, tap_plane = np.unique(reach % stride, return_inverse=True)
        tap, padded = reach // stride, np.arange(places) + padding[0]
        length, at = results + int(tap.max()), padded // stride
        number = np.full(stride, -1)
        number[used] = np.arange(len(used))
        plane = np.where(at < length, number[padded % stride], -1)
        met = at[plane >= 0]
        if results <= 0 or not met.size:
            return None
        first, computed = int(met.min()), int(met.max() - met.min()) + 1
        before = max(0, int(tap.max()) - first)
        whole = before + max(results, first + computed)
        return cls(places, results, len(used), plane, at, length, first, computed, tap_plane, tap, before, whole)


@dataclass(frozen=True)
class Layout:
    """A layer as the kernels know it, for maps of one size.

    Attributes:
        kernels: that it is made for.
        struct: `layer` of kernels.c.
        arrays: what it points to.
        panel: examples that are computed together.
        size: rows and columns of the outputs.
        room: numbers that one panel's inputs need, and its outputs.
    """

    kernels: Kernels
    struct: LayerStruct
    arrays: tuple[NDArray[Any], ...]
    panel: int
    size: Pair
    room: Pair


def layout(pattern: Pattern, size: Pair, abreast: int, kernels: Kernels, weight_last: bool) -> Layout | None:
    """The layout of a layer for maps of `size`, or None where the kernels have none.

    Args:
        abreast: vectors beside each other at each position, from `abreast`.
        kernels: of one instruction set and number type.
        weight_last: the dense weight lies in memory as `torch.channels_last` has it.
    """
    window = pattern.mask.shape[2:] or (1, 1)
    down, across = (
        Axis.of(*one) for one in zip(size, window, pattern.stride, pattern.padding, pattern.dilation, strict=True)
    )
    if down is None or across is None:
        return None
    unit = abreast * kernels.width
    planes, channels = down.planes * across.planes, _inputs(pattern)
    positions = _odd(down.length * across.length)
    result_positions = _odd(down.result_length * across.result_length)
    plane, result_plane = positions * unit, result_positions * unit
    if max(channels * planes * plane, len(pattern.mask) * result_plane) >= 2**31:
        return None
    arrays: list[NDArray[Any]] = []
    in_plane = down.at[:, None] * across.length + across.at
    number = down.plane[:, None] * across.planes + across.plane
    unmet = (down.plane[:, None] < 0) | (across.plane < 0)
    place = np.where(unmet, -1, number * positions + in_plane)
    result_row = (np.arange(down.results) + down.before)[:, None] * across.result_length
    result_place = result_row + np.arange(across.results) + across.before
    inputs = MapStruct(channels, planes, place.size, 0, plane, across.length * unit)
    inputs.first = (down.first * across.length + across.first) * unit
    inputs.rows, inputs.across = down.computed, across.computed * abreast
    _point(inputs, place, planes * positions, kernels.width, arrays)
    outputs = MapStruct(len(pattern.mask), 1, result_place.size, 0, result_plane, across.result_length * unit)
    outputs.first = (down.before * across.result_length + across.before) * unit
    outputs.rows, outputs.across = down.results, across.results * abreast
    _point(outputs, result_place, result_positions, kernels.width, arrays)
    forward, backward = _lists(pattern, down, across, inputs, outputs, unit, weight_last, arrays)
    return Layout(
        kernels,
        LayerStruct(abreast, inputs, outputs, forward, backward),
        tuple(arrays),
        unit,
        (down.results, across.results),
        (channels * planes * plane, len(pattern.mask) * result_plane),
    )


def _odd(positions: int) -> int:
    """Planes of as many positions do not all begin in the same set of a cache."""
    return positions | 1


def _inputs(pattern: Pattern) -> int:
    return pattern.mask.shape[1] * pattern.groups


def abreast(pattern: Pattern, columns: int, examples: int, width: int) -> int:
    """How many vectors of examples lie beside each other, so that the fewest are computed, in the longest tiles."""
    reach = pattern.dilation[1] * ((*pattern.mask.shape, 1)[3] - 1) if pattern.mask.dim() == 4 else 0
    results = max(1, (columns + sum(pattern.padding[1]) - reach - 1) // pattern.stride[1] + 1)

    def cost(abreast: int) -> tuple[int, int]:
        across, panels = results * abreast, -(-examples // (abreast * width))
        tile = next(tile for tile in TILES if tile <= across)
        return panels * -(-across // tile) * (tile + FIXED), abreast

    return min((1, 2, 4, MOST_ABREAST), key=cost)


def _point(to: MapStruct, place: Numbers, positions: int, width: int, arrays: list[NDArray[Any]]) -> None:
    """The map's places, how vectors of them lie, and the runs of positions that are none."""
    order = np.full(-(-place.size // width), STREWN, np.uint8)
    whole = place.reshape(-1)[: place.size // width * width].reshape(-1, width)
    met, straight = (whole >= 0).all(1), (np.diff(whole) == 1).all(1)
    order[: len(whole)] = np.where(met & straight, STRAIGHT, np.where(met, MET, STREWN))
    border = np.ones(positions + 2, bool)
    border[0] = border[-1] = False
    border[1 + place[place >= 0]] = False
    change = np.flatnonzero(border[1:] != border[:-1])
    gaps = np.empty(len(change) // 2, RUN)
    gaps["begin"], gaps["length"] = change[::2], change[1::2] - change[::2]
    to.n_gaps = len(gaps)
    to.place = _address(place.astype(np.int32), arrays)
    to.order, to.gaps = _address(order, arrays), _address(gaps, arrays)


def _address(array: NDArray[Any], arrays: list[NDArray[Any]]) -> int:
    arrays.append(np.ascontiguousarray(array))
    return arrays[-1].ctypes.data


def _lists(
    pattern: Pattern,
    down: Axis,
    across: Axis,
    inputs: MapStruct,
    outputs: MapStruct,
    unit: int,
    weight_last: bool,
    arrays: list[NDArray[Any]],
) -> tuple[ListStruct, ListStruct]:
    """The living weights in the order in which the outputs meet them, and in that of the inputs' gradients."""
    mask = pattern.mask.cpu().numpy()
    mask = mask.reshape(*mask.shape[:2], *(mask.shape[2:] or (1, 1)))
    output, of_group, row, column = np.nonzero(mask)
    channel = of_group + output // (len(mask) // pattern.groups) * mask.shape[1]
    shape = tuple(np.array(mask.shape)[[0, 2, 3, 1]]) if weight_last else mask.shape
    index = (output, row, column, of_group) if weight_last else (output, of_group, row, column)
    place = np.ravel_multi_index(index, shape)
    plane = channel * inputs.planes + down.tap_plane[row] * across.planes + across.tap_plane[column]
    read = plane * inputs.plane + down.tap[row] * inputs.pitch + across.tap[column] * unit
    back = output * outputs.plane + (down.first + down.before - down.tap[row]) * outputs.pitch
    back += (across.first + across.before - across.tap[column]) * unit
    per = channels_at_once(len(place) / max(1, mask.size), mask[0, 0].size if mask.size else 1)
    forward = _list(output, channel // per, read, place, len(mask), arrays)
    forward.reach = int(down.tap.max()) * inputs.pitch + int(across.tap.max()) * unit
    backward = _list(plane, output // per, back, place, inputs.channels * inputs.planes, arrays)
    backward.reach = (down.first + down.before) * outputs.pitch + (across.first + across.before) * unit
    return forward, backward


def channels_at_once(density: float, window: int) -> int:
    """Channels read in a block: what a tile reads of them stays in the first cache, and segments are not too short."""
    some = 16 if density > 0.14 else 32 if density > 0.07 else 64
    return some if window > 1 else 4 * some


def _list(
    row: Numbers, block: Numbers, offset: Numbers, place: Numbers, rows: int, arrays: list[NDArray[Any]]
) -> ListStruct:
    blocks = int(block.max(initial=0)) + 1
    order = np.lexsort((offset, row, block))
    lengths = np.bincount(block * rows + row, minlength=blocks * rows)
    ends = np.cumsum(lengths)
    named = (lengths > 0) | (np.arange(blocks * rows) < rows)  # the first block names all channels written
    segments = np.empty(int(named.sum()), SEGMENT)
    segments["row"] = (np.arange(blocks * rows) % rows)[named]
    segments["begin"], segments["end"] = (ends - lengths)[named], ends[named]
    firsts = np.concatenate([[0], np.cumsum(named.reshape(blocks, rows).sum(1))])
    fields: Sequence[NDArray[Any]] = (
        firsts.astype(np.int32),
        segments,
        offset[order].astype(np.int32),
        place[order].astype(np.int32),
    )
    return ListStruct(blocks, len(place), 0, *(ctypes.c_void_p(_address(field, arrays)) for field in fields))
