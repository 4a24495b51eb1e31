"""The engine of the compiled kernels: the same training as `train.py`, at the cost of the living weights.

A layer is held in one of two formats. Dense: the matrix between the live units, pruned weights at 0. Sparse: the living
weights alone, with their places. Weights that live but lead nowhere are held apart, for weight decay to move them.
Both formats and all instruction sets compute what the plain loop computes, summed in another order.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola import weights
from tombola.data import Batches
from tombola.data.normalise import affine
from tombola.engine import kernels
from tombola.engine.native.live_units import Flags, live_units
from tombola.engine.native.sequential_layers import SequentialLayer
from tombola.engine.training import Moved, Start, Training
from tombola.evaluate import Evaluation
from tombola.mask import Mask
from tombola.recipe import SGD, Adam, AdamW, Optimizer
from tombola.sparse.times import Format
from tombola.train import Span

Array = NDArray[Any]

SPAN = 256  # steps that one call of the kernels makes at most: a signal waits no longer
_NEAR = 64  # columns that stay in the first cache
_RUN = 16  # weights of one row, on average, that are worth a visit
_MOST = 16  # the widest vector: arrays are padded to it


@dataclass(frozen=True)
class _Part:
    """Where some of a parameter's numbers are held: `held.flat[slots]` is `parameter.flat[places]`."""

    name: str
    places: NDArray[np.int64]
    slots: NDArray[np.int64]
    held: Array
    first: Array  # Adam's m, or the momentum buffer
    second: Array  # Adam's v

    def take(self, array: Array, full: Tensor) -> None:
        array.reshape(-1)[self.slots] = full.reshape(-1).numpy()[self.places]

    def give(self, array: Array, full: Tensor) -> None:
        full.view(-1)[torch.from_numpy(self.places)] = torch.from_numpy(array.reshape(-1)[self.slots])


class Native:
    """One training in the kernels' hands: its weights and optimiser state live here until they are asked for.

    Args:
        training: its optimiser and batch.
        start: the model whose weights it starts from, and what else it begins with. Layers that the mask does not name
            are whole.
        layers: of the model, from `sequential_layers`.
        formats: how each weight is held; by name.
        instructions: one of the kernels' instruction sets; by default the best that the processor has.
    """

    def __init__(
        self,
        training: Training,
        start: Start,
        layers: Sequence[SequentialLayer],
        formats: Mapping[str, Format],
        instructions: str | None = None,
    ) -> None:
        begun = weights.of(start.model)
        self._dtype = begun[layers[0].weight].dtype
        self._kernels = kernels.load(
            instructions or kernels.sets()[-1], np.float64 if self._dtype == torch.float64 else np.float32
        )
        self._layers, self._optimizer, self._batch = layers, training.optimizer, training.batch
        self._shapes = {name: value.shape for name, value in begun.items()}
        self._facts, self._dataset = start.dataset.facts, start.dataset
        self._held: list[Any] = []  # what the kernels point into
        self._parts: list[_Part] = []
        self._convolves = layers[0].window > 0
        self._panels = -(-training.batch // self._kernels.panel)
        alive = [_flags(layer, start.mask) for layer in layers]
        live = live_units(alive)
        border = max(layer.window // 2 for layer in layers)
        self._live_inputs = _strides(live[0], layers[0].height * layers[0].width)
        described = (kernels.LayerStruct * len(layers))()
        for number, layer in enumerate(layers):
            one = described[number]
            rows, columns = live[number + 1], _strides(live[number], layer.area)
            one.relu, one.outputs = number < len(layers) - 1, len(rows)
            one.inputs = len(live[number]) if layer.window else len(columns)
            _lay_out(one, layer, border, bordered=number + 1 < len(layers) and layers[number + 1].window > 0)
            within = alive[number].reshape(layer.outputs, -1)[np.ix_(rows, columns)]
            if formats[layer.weight] == "dense" and within.size:
                self._dense(one, layer, rows, columns, within)
            else:
                self._sparse(one, layer, rows, columns, within)
            self._outputs(one, layer, rows)
        self._network = self._described(described)
        self._idle(alive, live)
        self._done = 0
        self._begin_from(begun, start.state)

    # ---- how it is laid out

    def _array(self, shape: int | tuple[int, ...], dtype: Any = None) -> Array:
        return self._keep(kernels.aligned(shape, dtype or self._kernels.dtype))

    def _keep(self, array: Array) -> Array:
        self._held.append(array)
        return array

    def _pointer(self, array: Array) -> int:
        return int(self._keep(array).ctypes.data)

    def _dense(self, one: Any, layer: SequentialLayer, rows: Array, columns: Array, within: Flags) -> None:
        width = self._kernels.width
        one.kind, one.stride = kernels.DENSE, -(-len(columns) // width) * width
        shape = (len(rows), one.stride)
        slots = np.arange(len(rows))[:, None] * one.stride + np.arange(len(columns))
        places = rows[:, None] * layer.columns + columns
        part = self._part(layer.weight, places[within], slots[within], shape)
        one.w, one.m, one.v = (array.ctypes.data for array in (part.held, part.first, part.second))
        if layer.window:
            before, after = _distances(one, layer)
            one.g = self._array(shape).ctypes.data
            one.column, one.t_column = self._pointer(before), self._pointer(after)
            one.t_place = self._pointer(slots[:, : layer.area].astype(np.int32))  # of the first input's weights
        else:
            one.xt = self._array((self._batch, one.stride)).ctypes.data
        if not within.all():
            bits = np.zeros(shape, np.uint32)
            bits[:, : len(columns)] = within
            words = (bits.reshape(-1, width) << np.arange(width, dtype=np.uint32)).sum(axis=1)
            one.alive = self._pointer(words.astype(np.uint16))

    def _sparse(self, one: Any, layer: SequentialLayer, rows: Array, columns: Array, within: Flags) -> None:
        row, column = np.nonzero(within)
        order, segments = _arranged(row, column, within.shape)
        row, column = row[order], column[order]
        # Turned round: rows are inputs, columns the weights from one input to all outputs.
        area = layer.area if layer.window else 1
        unit, t_column = column // area, row * area + column % area
        back, back_segments = _arranged(unit, t_column, (len(columns) // area, len(rows) * area))
        one.kind, one.count = kernels.SPARSE, len(row)
        places = rows[row] * layer.columns + columns[column]
        part = self._part(layer.weight, places, np.arange(len(row)), _padded(len(row)))
        one.w, one.m, one.v = (array.ctypes.data for array in (part.held, part.first, part.second))
        reads, turned = column, t_column[back]
        if layer.window:
            before, after = _distances(one, layer)
            reads, turned = before[column], after[turned]
            one.g = self._array(_padded(len(row))).ctypes.data
        one.row, one.column = (self._pointer(_widened(array)) for array in (row, reads))
        one.t_column, one.t_place = (self._pointer(_widened(array)) for array in (turned, back))
        one.segments, one.n_segments = self._pointer(segments), len(segments)
        one.t_segments, one.n_t_segments = self._pointer(back_segments), len(back_segments)
        one.t_w = self._array(_padded(len(row))).ctypes.data

    def _outputs(self, one: Any, layer: SequentialLayer, rows: Array) -> None:
        part = self._part(layer.bias, rows, np.arange(len(rows)), _padded(len(rows)))
        one.bias, one.bias_m, one.bias_v = (array.ctypes.data for array in (part.held, part.first, part.second))
        maps = (self._panels, len(rows), one.plane, self._kernels.panel)
        one.y, one.dy = self._array(maps).ctypes.data, self._array(maps).ctypes.data
        if layer.pool:
            maps = (self._panels, len(rows), one.z_plane, self._kernels.panel)
            one.z, one.dz = self._array(maps).ctypes.data, self._array(maps).ctypes.data

    def _part(self, name: str, places: Array, slots: Array, shape: int | tuple[int, ...]) -> _Part:
        part = _Part(name, places.reshape(-1), slots.reshape(-1), *(self._array(shape) for _ in range(3)))
        self._parts.append(part)
        return part

    def _described(self, layers: Any) -> kernels.NetworkStruct:
        facts, panel, inputs, first = self._facts, self._kernels.panel, self._live_inputs, layers[0]
        channels, height, width = facts.shape
        pixels = channels * height * width
        # Each of the two in float32, as `normalise.inputs` has them.
        scale, shift = (
            np.repeat(np.array(numbers, np.float32), height * width)
            for numbers in affine(facts, self._dataset.normalisation)
        )
        network = kernels.NetworkStruct()
        network.n_layers, network.inputs, network.pixels, network.batch = len(layers), len(inputs), pixels, self._batch
        network.rows = first.inputs * first.plane
        network.unit = self._dataset.normalisation == "unit"
        network.layers = ctypes.cast(layers, ctypes.POINTER(kernels.LayerStruct))
        self._held.append(layers)
        network.pixel = self._pointer(inputs.astype(np.int32))
        image = np.arange(first.height)[:, None] * first.pitch + np.arange(first.width) + first.inner
        network.row = self._pointer((np.arange(first.inputs)[:, None] * first.plane + image.ravel()).astype(np.int32))
        network.scale, network.shift = self._pointer(scale[inputs]), self._pointer(shift[inputs])
        network.bytes = self._array((pixels, panel), np.uint8).ctypes.data
        network.x = self._array((self._panels, network.rows, panel)).ctypes.data
        network.scratch = self._array(_padded(max(layer.outputs for layer in layers))).ctypes.data
        network.optimiser = _described(self._optimizer)
        return network

    def _idle(self, alive: Sequence[Flags], live: Sequence[Array]) -> None:
        """Hold what lives and leads nowhere: all of the weights into dead units, and those units' biases."""
        places: list[tuple[str, Array]] = []
        for number, layer in enumerate(self._layers):
            dead = np.setdiff1d(np.arange(layer.outputs), live[number + 1])
            row, column = np.nonzero(alive[number].reshape(layer.outputs, -1)[dead])
            places += [(layer.weight, dead[row] * layer.columns + column), (layer.bias, dead)]
        size = sum(len(where) for _, where in places)
        arrays = [self._array(_padded(size)) for _ in range(3)]
        begin = 0
        for name, where in places:
            self._parts.append(_Part(name, where, np.arange(begin, begin + len(where)), *arrays))
            begin += len(where)
        self._network.idle = _padded(size)
        self._network.idle_w, self._network.idle_m, self._network.idle_v = (array.ctypes.data for array in arrays)

    def _begin_from(self, start: weights.Weights, state: Mapping[str, Tensor]) -> None:
        first, second = _ENTRIES[type(self._optimizer)]
        for part in self._parts:
            part.take(part.held, start[part.name])
            for entry, array in ((first, part.first), (second, part.second)):
                if entry and f"{entry}/{part.name}" in state:
                    part.take(array, state[f"{entry}/{part.name}"])
        steps = [int(value) for path, value in state.items() if path.startswith("step/")]
        self._network.optimiser.done_before = steps[0] if steps else 0
        self._carried = bool(state)

    # ---- what it does

    def train(self, batches: Batches, span: Span, watch: Callable[[int], None]) -> None:
        """Train over `span`; call `watch` at each of its looks, before the step that follows."""
        if batches.augment or batches.part != (0, 1):
            raise ValueError("expected whole batches of images as they are: the kernels read them by their places")
        stops, looks = iter([*span.looks, span.until]), set(span.looks)
        stop, step = next(stops), span.begin
        while True:
            if step == stop:
                if step in looks:
                    watch(step)
                if step == span.until:
                    return
                stop = next(stops)
            order, end = batches.places(step, min(stop, step + SPAN))
            rates = np.array([span.learning_rate(one) for one in range(step, end)], np.float64)
            if len(rates) != -(-len(order) // self._batch):
                raise ValueError(f"expected batches of {self._batch}, got {len(order)} examples for {len(rates)} steps")
            self._kernels.train(
                self._network,
                self._dataset.images.data_ptr(),
                self._dataset.labels.data_ptr(),
                order.numpy(),
                rates,
                self._done,
            )
            self._done += end - step
            step = end

    def evaluate(self, images: Tensor, labels: Tensor, places: Tensor | None = None) -> Evaluation:
        """Loss and accuracy on `images` at `places`, by default on all, every one counted once."""
        chosen = np.arange(len(labels)) if places is None else places.contiguous().numpy()
        loss, correct = self._kernels.evaluate(self._network, images.data_ptr(), labels.data_ptr(), chosen)
        return Evaluation(loss / len(chosen), correct, len(chosen))

    def repeatedly(self, images: Tensor, labels: Tensor, places: Tensor | None = None) -> Callable[[], Evaluation]:
        """The same as `evaluate`, to be asked for again and again: the images are packed now.

        Where images that follow each other leave pixels at zero in common, the first layer's weights need not be
        visited: y = W (x - x0) + (W x0 + b), where x0 is the input of a zero byte. `image_order` has the order.
        """
        if self._convolves or self._dtype != torch.float32 or self._dataset.normalisation == "unit":
            return lambda: self.evaluate(images, labels, places)
        chosen = np.arange(len(labels)) if places is None else places.contiguous().numpy()
        panel = self._kernels.panel
        parts = [chosen[begin : begin + panel] for begin in range(0, len(chosen), panel)]
        held: list[Array] = []
        packs = (kernels.PackStruct * len(parts))(*(self._pack(images, labels, part, held) for part in parts))

        def evaluation() -> Evaluation:
            assert held is not None  # the packs point into it
            loss, correct = self._kernels.evaluate_packed(self._network, packs)
            return Evaluation(loss / len(chosen), correct, len(chosen))

        return evaluation

    def _pack(self, images: Tensor, labels: Tensor, chosen: NDArray[np.int64], held: list[Array]) -> kernels.PackStruct:
        """Pack a panel of images; the buffer that the pack points into goes into `held`."""
        position, used, words = self._kernels.packed(self._network, images.data_ptr(), chosen)
        arrays = {"words": words, "labels": labels.numpy()[chosen], "input": used}
        first = self._network.layers[0]
        if first.kind == kernels.SPARSE:
            arrays["segments"], arrays["place"], arrays["column"] = self._kernels.sifted(first, position)
        whole, addresses = kernels.one_buffer(arrays)
        held.append(whole)
        return kernels.PackStruct(len(used), len(chosen), whole.nbytes, **addresses)

    def snapshot(self) -> Any:
        """The weights as they are held: quickly taken, for `restore`."""
        return [part.held.copy() for part in self._parts]

    def restore(self, snapshot: Any) -> None:
        """Put a snapshot back."""
        for part, held in zip(self._parts, snapshot, strict=True):
            part.held[...] = held

    def load(self, start: weights.Weights) -> None:
        """Put in what `standing()` gave; the optimiser's state stays."""
        for part in self._parts:
            part.take(part.held, start[part.name])

    def standing(self) -> dict[str, Tensor]:
        """The weights: there is nothing else but the optimiser's state."""
        return self.weights()

    @property
    def moved(self) -> Moved | None:
        """None: its mask is the one that it was given."""
        return None

    def weights(self) -> dict[str, Tensor]:
        """The state_dict of the model, pruned weights exactly 0."""
        return self._spread([(part, part.held) for part in self._parts])

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimiser's state, named and shaped as `optimizers.state_of` has it."""
        if not self._done and not self._carried:
            return {}
        state: dict[str, Tensor] = {}
        names = list(self._spread([]))
        first, second = _ENTRIES[type(self._optimizer)]
        if isinstance(self._optimizer, SGD) and not self._optimizer.momentum:
            return {}
        if isinstance(self._optimizer, Adam):
            count = float(self._network.optimiser.done_before + self._done)
            state |= {f"step/{name}": torch.tensor(count) for name in names}
        for entry, kept in ((first, "first"), (second, "second")):
            if entry:
                spread = self._spread([(part, getattr(part, kept)) for part in self._parts])
                state |= {f"{entry}/{name}": value for name, value in spread.items()}
        return state

    def _spread(self, held: list[tuple[_Part, Array]]) -> dict[str, Tensor]:
        full = {name: torch.zeros(shape, dtype=self._dtype) for name, shape in self._shapes.items()}
        for part, array in held:
            part.give(array, full[part.name])
        return full


_ENTRIES: dict[type, tuple[str, str]] = {
    SGD: ("momentum_buffer", ""),
    Adam: ("exp_avg", "exp_avg_sq"),
    AdamW: ("exp_avg", "exp_avg_sq"),
}


def _described(optimizer: Optimizer) -> kernels.OptimiserStruct:
    if isinstance(optimizer, Adam):
        kind = kernels.ADAMW if isinstance(optimizer, AdamW) else kernels.ADAM
        return kernels.OptimiserStruct(kind, 0, 0, optimizer.weight_decay, 0, *optimizer.betas, optimizer.eps)
    kind = kernels.SGD if not optimizer.momentum else kernels.NESTEROV if optimizer.nesterov else kernels.MOMENTUM
    return kernels.OptimiserStruct(kind, 0, 0, optimizer.weight_decay, optimizer.momentum, 0, 0, 0)


def _flags(layer: SequentialLayer, mask: Mask) -> Flags:
    shape = (layer.outputs, layer.inputs, layer.area)
    return mask[layer.weight].numpy().reshape(shape) if layer.weight in mask else np.ones(shape, bool)


def _strides(units: Array, size: int) -> NDArray[np.int64]:
    """All numbers of these units, `size` to each."""
    return (units[:, None] * size + np.arange(size)).reshape(-1)


def _lay_out(one: Any, layer: SequentialLayer, border: int, bordered: bool) -> None:
    """Where the positions of the layer's maps are, and those of what is pooled from them, `bordered` or not."""
    one.height, one.width, one.size, one.pool = layer.height, layer.width, layer.window, layer.pool
    if not layer.window:
        one.pitch = one.plane = 1
        return
    reach = border - layer.window // 2
    one.pitch = layer.width + 2 * border
    one.plane = (layer.height + 2 * border) * one.pitch
    one.corner, one.inner = reach * one.pitch + reach, border * one.pitch + border
    if layer.pool:
        around = border if bordered else 0
        one.z_pitch = layer.width // layer.pool + 2 * around
        one.z_plane = (layer.height // layer.pool + 2 * around) * one.z_pitch
        one.z_inner = around * one.z_pitch + around


def _distances(one: Any, layer: SequentialLayer) -> tuple[Array, Array]:
    """How far from its window's first position a weight's input is, by column; and its output's gradient, turned."""
    window = (np.arange(layer.window)[:, None] * one.pitch + np.arange(layer.window)).reshape(-1)
    before = np.arange(one.inputs)[:, None] * one.plane + window
    after = np.arange(one.outputs)[:, None] * one.plane + window[::-1]
    return before.reshape(-1).astype(np.int32), after.reshape(-1).astype(np.int32)


def _padded(size: int) -> int:
    return max(-(-size // _MOST), 1) * _MOST


def _widened(array: Array) -> NDArray[np.int32]:
    wide: NDArray[np.int32] = kernels.aligned(_padded(len(array)), np.int32)
    wide[: len(array)] = array
    return wide


def _arranged(row: Array, column: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The order in which the kernels visit weights, and its runs: tile by tile of near columns, row by row.

    A tile is wide enough for a visit to a row to find some weights, and no wider. In a tile, rows with equally many
    weights follow each other: the processor then foresees the end of the run.
    """
    if not len(row):
        return np.zeros(0, np.int64), np.zeros(0, kernels.SEGMENT)
    tile = column // _tile(len(row), shape)
    visit = tile * shape[0] + row
    counts = np.bincount(visit, minlength=(int(tile.max()) + 1) * shape[0])
    order = np.lexsort((column, row, counts[visit], tile))
    visit = visit[order]
    begin = np.flatnonzero(np.concatenate([[True], visit[1:] != visit[:-1]]))
    segments = np.zeros(len(begin), kernels.SEGMENT)
    segments["row"], segments["begin"], segments["end"] = row[order][begin], begin, [*begin[1:], len(row)]
    return order, segments


def _tile(count: int, shape: tuple[int, ...]) -> int:
    """How many columns are near each other."""
    return min(max(int(_RUN * shape[0] * shape[1] / max(count, 1)), _NEAR), max(shape[1], 1))
