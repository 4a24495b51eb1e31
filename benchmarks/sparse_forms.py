"""Recurrent layers and transposed convolutions, sparse, beside torch's own: one layer each, random weights and masks.

LSTM, GRU and RNN, 128 inputs, 256 units, 32 steps; transposed convolutions of 64 to 32 channels, windows of 4 and a
stride of 2, over maps of 16 x 16 and lines of 256. Maps are dense in either layout of memory, whichever is
faster. `chosen`: what `cash.sparsify` takes, which times them itself. One thread; all take turns, medians of single
calls with their quartiles.

    python benchmarks/sparse_forms.py [--rounds N] [--write]
"""

import sys
from collections.abc import Callable
from functools import partial

import lenet
import torch
from section import ROOT, load, load_line, machine, options, publish, table
from torch import Tensor, nn

from tombola.cash import sparsify
from tombola.cash.sparse_layers import has_kernels
from tombola.cash.timing import timed

PAGE = ROOT / "results" / "cash.md"
DENSITIES, BATCHES = (0.2, 0.1, 0.05, 0.02), (1, 64)
INPUTS, UNITS, STEPS = 128, 256, 32

Make = Callable[[], nn.Module]
LAYERS: dict[str, tuple[Make, tuple[int, ...]]] = {
    **{
        kind.__name__: (partial(kind, INPUTS, UNITS, batch_first=True), (STEPS, INPUTS))
        for kind in (nn.LSTM, nn.GRU, nn.RNN)
    },
    "ConvTranspose2d": (partial(nn.ConvTranspose2d, 64, 32, 4, 2, 1), (64, 16, 16)),
    "ConvTranspose1d": (partial(nn.ConvTranspose1d, 64, 32, 4, 2, 1), (64, 256)),
}


class First(nn.Module):
    """What a layer gives first: outputs without the last states."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, values: Tensor) -> Tensor:
        """The outputs."""
        made = self.layer(values)
        return made[0] if isinstance(self.layer, nn.RNNBase) else made


def drawn(make: Make, density: float) -> nn.Module:
    """A layer of which so much is left."""
    torch.manual_seed(0)
    layer = make().eval()
    with torch.no_grad():
        for value in layer.parameters():
            if value.dim() > 1:
                value *= torch.rand_like(value) < density
    return First(layer).requires_grad_(False)


def row(name: str, density: float, batch: int, rounds: int) -> list[str]:
    """How long calls take, and what is chosen."""
    make, shape = LAYERS[name]
    model, values = drawn(make, density), torch.randn(batch, *shape)
    sparse, chosen = sparsify(model, values, everywhere=True), sparsify(model, values)
    assert has_kernels(sparse)
    with torch.inference_mode():
        torch.testing.assert_close(sparse(values), model(values), rtol=1e-3, atol=1e-4)
        calls = {"dense": lambda: model(values), "sparse": lambda: sparse(values)}
        if values.dim() == 4:
            last = values.contiguous(memory_format=torch.channels_last)
            calls["channels last"] = lambda: model(last)
        taken = timed(calls, rounds)
    own = taken.pop("sparse")
    dense = min(taken.values(), key=lambda each: each.median_s)
    told = "sparse" if has_kernels(chosen) else "dense"
    return [name, f"{density:.0%}", str(batch), dense.text, own.text, f"{dense.median_s / own.median_s:.2f}x", told]


def main(arguments: list[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args(arguments)
    busy = load()
    lenet.one_thread()
    rows = []
    for name in LAYERS:
        for batch in BATCHES:
            for density in DENSITIES:
                rows.append(row(name, density, batch, given.rounds))
                print(" | ".join(rows[-1]), flush=True)
    head = f"`python benchmarks/sparse_forms.py`: {machine()} {load_line(busy)}"
    said = "Milliseconds of a call, the caches as the turn before left them, the machine shared with other work."
    columns = ["layer", "weights left", "batch", "dense, ms", "sparse, ms", "gain", "chosen"]
    title = "Recurrent layers and transposed convolutions"
    publish("sparse-forms", title, [head, said, table(columns, rows)], given.write, PAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
