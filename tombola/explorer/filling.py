"""What goes into a page while there is room: all masks, then weights, replicate by replicate, the sparse first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tombola.explorer.coding import Blobs, coded, quantised
from tombola.explorer.record import Layer, Level, Series
from tombola.layers import Layout
from tombola.study.units import Excitement, Reading

if TYPE_CHECKING:
    from torch import Tensor

    from tombola.mask import Mask
    from tombola.weights import Weights


@dataclass(frozen=True)
class Look:
    """One network: its numbers, and its tensors, which are read when they are asked for.

    Attributes:
        level: its numbers.
        mask: what is kept.
        trained, start: its weights after and before training; None where they are not known.
        answers: those of its units under given weights, where it is another network than the rest of its line.
    """

    level: Level
    mask: "Callable[[], Mask]"
    trained: "Callable[[], Weights] | None" = None
    start: "Callable[[], Weights] | None" = None
    answers: "Callable[[Weights], Answers] | None" = None


@dataclass(frozen=True)
class Answers:
    """What the units of one network answer to: examples of the test set, and of texts single tokens."""

    exciting: Mapping[str, Excitement]
    reading: Mapping[str, Reading]


@dataclass(frozen=True)
class Line:
    """The networks of one arm and one replicate, by ascending level.

    Attributes:
        answers: those of the units under given weights; None where there are no examples.
        examples: the place of these among the page's sets.
    """

    arm: str
    replicate: int
    looks: Sequence[Look]
    answers: "Callable[[Weights], Answers] | None" = None
    examples: int | None = None


@dataclass(frozen=True)
class Network:
    """The layers of the networks, and how their weights are laid out."""

    layers: tuple[Layer, ...]
    layouts: Mapping[str, Layout]

    def flat(self, tensors: "Mapping[str, Tensor]") -> "list[np.ndarray]":
        """Each layer's weights, or flags, as outputs x inputs x window, flat."""
        return [self._turned(layer.name, tensors[layer.name]).ravel() for layer in self.layers]

    def _turned(self, name: str, value: "Tensor") -> "np.ndarray":
        array = (value.float() if value.is_floating_point() else value).detach().cpu().numpy()
        layout = self.layouts.get(name) or Layout()
        return array if layout.outputs == 0 or array.ndim < 2 else np.ascontiguousarray(np.swapaxes(array, 0, 1))


def fill(lines: Sequence[Line], network: Network, blobs: Blobs) -> tuple[list[Series], list[str]]:
    """The series of these networks, as far as there is room, and what had none, in sentences."""
    stride, kept, series = 1, list(lines), list[Series]()
    while not series:
        kept = [replace(line, looks=_every(stride, line.looks)) for line in lines]
        series = _masked(kept, network, blobs)
        stride *= 2
        if stride > 2 * max(len(line.looks) for line in lines):
            break
    notes = _unseen(lines, kept, series)
    filled = _weighed(kept[: len(series)], series, network, blobs)
    return filled, [*notes, *_without_weights(filled, kept)]


def _every(stride: int, looks: Sequence[Look]) -> Sequence[Look]:
    """Every so many-th, and the last."""
    return [look for place, look in enumerate(looks) if place % stride == 0 or place == len(looks) - 1]


def _masked(lines: Sequence[Line], network: Network, blobs: Blobs) -> list[Series]:
    """With all masks of each, up to the first that has no room."""
    series = []
    for line in lines:
        by_layer = zip(*(network.flat(look.mask()) for look in line.looks), strict=True)
        codes = [coded(masks) for masks in by_layer]
        numbers = blobs.add_all([code.content for code in codes])
        if numbers is None:
            break
        masks = tuple((code.code, number) for code, number in zip(codes, numbers, strict=True))
        series.append(Series(line.arm, line.replicate, masks, tuple(look.level for look in line.looks), line.examples))
    return series


def _weighed(lines: Sequence[Line], series: Sequence[Series], network: Network, blobs: Blobs) -> list[Series]:
    """With weights: of the first replicate all levels, then of all others, the sparsest level first."""
    levels = [list(each.levels) for each in series]
    first = min((line.replicate for line in lines), default=0)
    order = sorted(
        (lines[each].replicate != first, -place, each) for each, own in enumerate(levels) for place in range(len(own))
    )
    for _, negative, each in order:
        line, place = lines[each], -negative
        levels[each][place] = _with_weights(levels[each][place], line, line.looks[place], network, blobs)
    return [replace(each, levels=tuple(own)) for each, own in zip(series, levels, strict=True)]


def _with_weights(level: Level, line: Line, look: Look, network: Network, blobs: Blobs) -> Level:
    start = _part(network.flat(look.start()), blobs) if look.start else None
    if look.trained is None:
        return replace(level, start=start)
    trained, alive = look.trained(), network.flat(look.mask())
    living = [values[kept] for values, kept in zip(network.flat(trained), alive, strict=True)]
    part = _part(living, blobs)
    weighed = replace(level, start=start, trained=part)
    answers = look.answers or line.answers
    return _answered(weighed, answers(trained), network, blobs) if part and answers else weighed


def _answered(level: Level, answers: Answers, network: Network, blobs: Blobs) -> Level:
    exciting = blobs.add(_excitement_bytes(answers.exciting, network)) if answers.exciting else None
    names = [layer.name for layer in network.layers]
    read = [(place, answers.reading[name]) for place, name in enumerate(names) if name in answers.reading]
    tokens = b"".join(each.tokens.numpy().astype("<u2").tobytes() for _, each in read)
    values = b"".join(each.values.numpy().astype("<f4").tobytes() for _, each in read)
    part = blobs.add(tokens + values) if read else None
    reading = None if part is None else (part, tuple(place for place, _ in read))
    return replace(level, exciting=exciting, reading=reading)


def _part(values: Sequence[np.ndarray], blobs: Blobs) -> tuple[int, tuple[float, ...]] | None:
    codes = [quantised(each) for each in values]
    number = blobs.add(b"".join(content for content, _ in codes))
    return None if number is None else (number, tuple(unit for _, unit in codes))


def _excitement_bytes(excited: Mapping[str, Excitement], network: Network) -> bytes:
    """The places of all layers that have some, in their order; then where in them; then the values, as float32."""
    own = [excited[layer.name] for layer in network.layers if layer.name in excited]
    places = b"".join(each.examples.numpy().astype(np.uint8).tobytes() for each in own)
    spots = b"".join(each.spots.numpy().astype("<u2").tobytes() for each in own)
    return places + spots + b"".join(each.values.numpy().astype("<f4").tobytes() for each in own)


def _unseen(lines: Sequence[Line], kept: Sequence[Line], series: Sequence[Series]) -> list[str]:
    notes = []
    if whole := sum(len(line.looks) for line in lines) - sum(len(line.looks) for line in kept):
        notes.append(f"{whole} networks at levels in between are left out, so that the page stays small.")
    if missing := lines[len(series) :]:
        notes.append(f"Left out, so that the page stays small: {_listed(missing)}.")
    return notes


def _listed(lines: Sequence[Line]) -> str:
    return ", ".join(f"{line.arm} of replicate {line.replicate}" for line in lines)


def _without_weights(series: Sequence[Series], lines: Sequence[Line]) -> list[str]:
    lacking = []
    for each, line in zip(series, lines, strict=False):
        pairs = zip(each.levels, line.looks, strict=True)
        if levels := [level.level for level, look in pairs if look.trained and level.trained is None]:
            lacking.append(f"{each.arm} of replicate {each.replicate} (level {_ranges(levels)})")
    said = f"Masks only, and no weights, so that the page stays small: {'; '.join(lacking)}."
    return [said] if lacking else []


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers for people.

    >>> _ranges([0, 1, 2, 5, 7, 8])
    '0-2, 5, 7-8'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
