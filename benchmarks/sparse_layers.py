"""Milliseconds of one layer, forward and both gradients: the sparse kernels and torch's dense layer, against density.

Between torch's tensors, as in anyone's loop: what the kernels' own layout costs is in it. The dense layer is taken
in the faster of its memory formats, contiguous or channels_last, as two rounds find it, and the sparse one
in the same. float32, one thread, masks at random places. Where the processor has AMX the dense layer in bfloat16 stands
beside them.

Times are the thread's seconds of work, not the clock's: a shared machine then adds what it takes from the caches and no
more. Warm: the same call just came before; cold: 256 MiB were written between the calls.

    python benchmarks/sparse_layers.py [--rounds 5] [--write]
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from section import Bar, bars, interleaved, load, load_line, machine, options, publish, table
from torch import Tensor
from torch.nn import functional

from tombola.sparse.functional import conv2d, linear
from tombola.sparse.pattern import Pattern

DENSITIES = (0.2, 0.1, 0.05, 0.02)
COLD = ("conv 64-64, 32x32, batch 64", "linear 768-3072, batch 512")
FLOORS = {  # warm: what layers that share a layout promised; cold: what those between torch's tensors did
    "warm": {COLD[0]: {0.1: 3.5, 0.05: 5.0}, COLD[1]: {0.1: 3.5, 0.05: 5.0}},
    "cold": {COLD[0]: {0.1: 2.0, 0.05: 2.5}, COLD[1]: {0.1: 1.7, 0.05: 2.3}},
}
# Dense over SparseProp (Nikdan et al., 2023), beside the faster dense layout on another quiet core with AVX-512.
PEER = {COLD[0]: {0.1: 106 / 110, 0.05: 106 / 67}, COLD[1]: {0.1: 52 / 60, 0.05: 52 / 37}}
OVER_PEER = 2.0
SWEPT = 1 << 26  # float32 numbers: more than any cache holds

Call = Callable[[], object]


@dataclass(frozen=True)
class Shape:
    """A layer and its inputs; a map of no rows is that of a linear layer."""

    batch: int
    inputs: int
    outputs: int
    size: int = 0
    window: int = 3
    stride: int = 1

    @property
    def name(self) -> str:
        if not self.size:
            return f"linear {self.inputs}-{self.outputs}, batch {self.batch}"
        more = "" if self.window == 3 else f", {self.window}x{self.window}"
        more += "" if self.stride == 1 else f", stride {self.stride}"
        return f"conv {self.inputs}-{self.outputs}{more}, {self.size}x{self.size}, batch {self.batch}"

    def tensors(self, form: torch.memory_format) -> tuple[Tensor, Tensor]:
        """Inputs and weight, in a memory format."""
        if not self.size:
            return torch.randn(self.batch, self.inputs), torch.randn(self.outputs, self.inputs)
        x = torch.randn(self.batch, self.inputs, self.size, self.size)
        weight = torch.randn(self.outputs, self.inputs, self.window, self.window)
        return x.contiguous(memory_format=form), weight.contiguous(memory_format=form)

    def dense(self, x: Tensor, weight: Tensor) -> Tensor:
        """torch's layer."""
        if not self.size:
            return functional.linear(x, weight)
        return functional.conv2d(x, weight, None, self.stride, self.window // 2)


SHAPES = (
    Shape(64, 64, 64, 32),
    Shape(128, 16, 16, 32),
    Shape(128, 32, 32, 16),
    Shape(128, 64, 64, 8),
    Shape(60, 128, 128, 16),
    Shape(128, 512, 512, 4),
    Shape(64, 64, 128, 16, stride=2),
    Shape(64, 256, 64, 16, window=1),
    Shape(512, 768, 3072),
    Shape(1024, 512, 2048),
)


def sparse(shape: Shape, density: float, form: torch.memory_format) -> Call:
    """A step of the sparse layer."""
    x, weight = shape.tensors(form)
    mask = torch.rand_like(weight) < density
    pattern = Pattern.of(mask, shape.stride, shape.window // 2) if shape.size else Pattern.of(mask)
    layer = conv2d if shape.size else linear
    return step(lambda x, weight: layer(x, weight, None, pattern), x, weight * mask)


def step(layer: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> Call:
    """Outputs, and the gradients of inputs and weight."""
    x, weight = (one.clone(memory_format=torch.preserve_format).requires_grad_() for one in (x, weight))
    slope = torch.randn_like(layer(x, weight))
    return lambda: torch.autograd.grad(layer(x, weight), [x, weight], slope)


def narrow(shape: Shape) -> Call:
    """The dense layer under autocast."""

    def layer(x: Tensor, weight: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return shape.dense(x, weight)

    return step(layer, *shape.tensors(torch.channels_last))


def seconds(call: Call, before: Call) -> float:
    """This thread's work in a call, right after another one."""
    before()
    begun = time.thread_time()
    call()
    return time.thread_time() - begun


def measured(shape: Shape, rounds: int, sweep: Call | None) -> tuple[float, dict[float, float], float | None]:
    """Seconds of the dense layer, of the sparse one at each density, and of the dense one in bfloat16."""
    formats = (torch.contiguous_format, torch.channels_last) if shape.size else (torch.contiguous_format,)
    dense = {form: step(shape.dense, *shape.tensors(form)) for form in formats}
    tried = interleaved({str(form): partial(seconds, call, sweep or call) for form, call in dense.items()}, 2)
    best = min(formats, key=lambda form: tried[str(form)])
    calls = {"dense": dense[best]} | {str(density): sparse(shape, density, best) for density in DENSITIES}
    if torch.cpu._is_amx_tile_supported():
        calls["bfloat16"] = narrow(shape)
    taken = interleaved({name: partial(seconds, call, sweep or call) for name, call in calls.items()}, rounds)
    return taken["dense"], {density: taken[str(density)] for density in DENSITIES}, taken.get("bfloat16")


def rows(shapes: list[Shape], rounds: int, sweep: Call | None, kept: list[Bar]) -> list[list[str]]:
    """A row for each shape; what was promised of it goes to `kept`."""
    found = []
    for shape in shapes:
        dense, sparse_at, other = measured(shape, rounds, sweep)
        gains = [f"{1e3 * taken:.2f} ms, {dense / taken:.1f}x" for taken in sparse_at.values()]
        found.append([shape.name, f"{1e3 * dense:.1f} ms", *gains, f"{1e3 * other:.1f} ms" if other else "no AMX"])
        caches = "cold" if sweep else "warm"
        for density, floor in FLOORS[caches].get(shape.name, {}).items():
            about = f"{shape.name}, {density:.0%}, {caches}: dense over sparse"
            gain = dense / sparse_at[density]
            kept.append(Bar(about, gain, ">=", floor, "x"))
            if not sweep:
                over = gain / PEER[shape.name][density]
                kept.append(Bar(f"{shape.name}, {density:.0%}: over SparseProp's gain", over, ">=", OVER_PEER, "x"))
    return found


def main(arguments: list[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken")
    given = parser.parse_args(arguments)
    busy = load()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    memory = torch.zeros(SWEPT)
    kept: list[Bar] = []
    warm = rows(list(SHAPES), given.rounds, None, kept)
    cold = rows([shape for shape in SHAPES if shape.name in COLD], given.rounds, lambda: memory.add_(1), kept)
    head = ["forward and both gradients", "dense", *(f"{density:.0%}" for density in DENSITIES), "dense bfloat16"]
    publish(
        "sparse-layers",
        "A sparse layer in training",
        [
            f"`python benchmarks/sparse_layers.py`: {machine()} {load_line(busy)}",
            "Milliseconds of work of one thread for outputs, input gradient and weight gradient of one layer between "
            "torch's tensors, float32, random masks, beside the dense layer in the faster of its memory formats; "
            f"medians of {given.rounds} rounds in which the columns take turns. Warm: the same call just came before.",
            table(head, warm),
            "Cold: 256 MiB written before each call.",
            table(head, cold),
            bars(kept),
        ],
        given.write,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
