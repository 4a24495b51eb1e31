"""What the times of a layer between torch's own tensors depend on, and how they are measured on this machine.

The names and sizes need no torch: a plan asks for them, too. What is measured is kept by the engines' own cache.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tombola.sparse.times import DENSITIES, Times

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.sparse.pattern import Pattern

ROUNDS = 5
LONG = 5.0  # seconds, beyond which there are fewer rounds
LEAST = 2_000_000  # multiply-adds of a layer's dense pass: below it the calls themselves take the time
GAIN = 0.9  # of the dense time: what is measured in a layer by itself is not to be had to the last percent in a network


@dataclass(frozen=True)
class Call:
    """What the times of a layer depend on, but for its density.

    Attributes:
        inputs, outputs: features, or channels.
        rows: of a linear layer, how many are multiplied at once; of a convolution, examples.
        window, stride, padding, dilation: of a convolution, down and across; () of a linear layer.
        groups: of a convolution.
        maps: height and width of what a convolution is given.
        channels_last: whether these maps lie channel by channel in each place.
        double: whether the weights are float64.
        first: whether no gradient of its inputs is asked for.
        threads: that torch uses.
    """

    inputs: int
    outputs: int
    rows: int
    window: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    maps: tuple[int, ...] = ()
    channels_last: bool = False
    double: bool = False
    first: bool = False
    threads: int = 1

    @property
    def name(self) -> str:
        """All of it, as the cache's file has it."""
        sizes = [f"{self.inputs} to {self.outputs}"]
        if self.window:
            for what in ("window", "stride", "padding", "dilation", "maps"):
                sizes.append(f"{what} {' x '.join(map(str, getattr(self, what)))}")
            sizes += [f"groups {self.groups}"] if self.groups > 1 else []
        flags = [name for name in ("channels_last", "double", "first") if getattr(self, name)]
        return ", ".join(["between tensors", *sizes, *flags, f"batch {self.rows}", f"threads {self.threads}"])

    @property
    def work(self) -> int:
        """Multiply-adds of a dense forward pass, about."""
        weights = self.inputs * self.outputs // self.groups
        for side in self.window:
            weights *= side
        positions = self.rows
        for length, step in zip(self.maps, self.stride, strict=True):
            positions *= -(-length // step)
        return weights * positions


def observed(layer: "nn.Linear | nn.Conv2d", inputs: "Tensor") -> Call:
    """What a layer was called with, in a loop."""
    import torch
    from torch import nn

    double, threads = layer.weight.dtype is torch.float64, torch.get_num_threads()
    first = not inputs.requires_grad
    if not isinstance(layer, nn.Conv2d):
        rows = inputs.numel() // max(layer.in_features, 1)
        return Call(layer.in_features, layer.out_features, rows, double=double, first=first, threads=threads)
    nchw = inputs.is_contiguous() or not inputs.is_contiguous(memory_format=torch.channels_last)
    return Call(
        layer.in_channels,
        layer.out_channels,
        len(inputs),
        window=layer.kernel_size,
        stride=layer.stride,
        padding=_sides(layer),
        dilation=layer.dilation,
        groups=layer.groups,
        maps=tuple(inputs.shape[-2:]),
        channels_last=not nchw,
        double=double,
        first=first,
        threads=threads,
    )


def _sides(layer: "nn.Conv2d") -> tuple[int, ...]:
    if not isinstance(layer.padding, str):
        return tuple(layer.padding)
    same = layer.padding == "same"
    return tuple(reach * (size - 1) // 2 * same for reach, size in zip(layer.dilation, layer.kernel_size, strict=True))


def measured(call: Call) -> Times:
    """Seconds of forward and backward of such a layer, densely and at each of `DENSITIES`; the least of some rounds.

    Taking turns: what else the machine does disturbs all alike.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(call.threads)
    try:
        with torch.enable_grad(), torch.autocast("cpu", enabled=False):
            given = _Given(call)
            steps = [given.step(density) for density in (1.0, *DENSITIES)]
            for step in steps:  # memory is given out when it is first touched
                step()
            first = [step() for step in steps]
            taken = [first, *([step() for step in steps] for _ in range(min(ROUNDS, int(LONG / sum(first)))))]
    finally:
        torch.set_num_threads(threads)
    dense, *sparse = (min(each) for each in zip(*taken, strict=True))
    return Times(dense, tuple(sparse), plain=dense, masked=dense)


class _Given:
    """What the steps of a layer share: its inputs, and what comes back to its outputs."""

    def __init__(self, call: Call) -> None:
        import torch

        self._call, self._draw = call, torch.Generator().manual_seed(0)
        self._weight = self._random(call.outputs, call.inputs // call.groups, *call.window)
        self._inputs = self._random(call.rows, call.inputs, *call.maps).requires_grad_(not call.first)
        outputs = self._answers(self._weight, None).detach()
        self._slope = outputs.copy_(self._random(*outputs.shape))  # laid out as what the layer gives

    def _random(self, *sizes: int) -> "Tensor":
        import torch

        kind = torch.float64 if self._call.double else torch.float32
        values = torch.randn(sizes, generator=self._draw, dtype=kind)
        last = self._call.channels_last and len(sizes) == 4
        return values.to(memory_format=torch.channels_last) if last else values

    def _answers(self, weight: "Tensor", pattern: "Pattern | None") -> "Tensor":
        from torch.nn import functional as torchs

        from tombola.sparse import functional

        call, inputs = self._call, self._inputs
        if pattern is not None:
            function = functional.conv2d if call.window else functional.linear
            return function(inputs, weight, None, pattern)
        if not call.window:
            return torchs.linear(inputs, weight)
        return torchs.conv2d(inputs, weight, None, call.stride, call.padding, call.dilation, call.groups)

    def step(self, density: float) -> "Callable[[], float]":
        """Seconds of a step of which this share of the weights lives; densely where it is 1."""
        import torch

        call, slope = self._call, self._slope
        alive = torch.rand(self._weight.shape, generator=self._draw) < density
        weight = (self._weight * alive).requires_grad_()
        pattern = None if density == 1 else pattern_of(call, alive)
        asked = [weight] if call.first else [weight, self._inputs]
        clock = time.thread_time if call.threads == 1 else time.perf_counter  # the first does not see other programs

        def seconds() -> float:
            begin = clock()
            torch.autograd.grad(self._answers(weight, pattern), asked, slope)
            return clock() - begin

        return seconds


def pattern_of(call: Call, alive: "Tensor") -> "Pattern":
    """The pattern of such a layer with these living weights."""
    from tombola.sparse.pattern import Pattern

    if not call.window:
        return Pattern.of(alive)
    return Pattern.of(alive, stride=call.stride, padding=call.padding, dilation=call.dilation, groups=call.groups)


def gains(call: Call, density: float, times: Times) -> bool:
    """Whether such a layer is faster with its living weights only, by a margin."""
    return call.work >= LEAST and times.sparse_at(density) < GAIN * times.dense
