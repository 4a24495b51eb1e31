"""Seconds of a training step against density, for each engine and for what one would use instead.

LeNet-300-100, MNIST, batch 60, Adam, one thread, without evaluation: from picking the batch to the updated weights.
Densities are those of a search's levels, with the exact counts of weights that Tombola's pruning leaves in each layer;
masks are random, and once more those of a short real search, which live mostly where the images do.

- floor: the 8 matrix products of a dense step (3 forward, 3 for the weights' gradients, 2 for the inputs') and fused
  Adam on 266,200 weights, each alone, by torch: a step that did nothing else and saved nothing would take this long.
- native: Tombola's compiled kernels as a run gets them; "all dense" and "all sparse" force one form on every layer.
- reference: Tombola's plain loop, which all else is checked against.
- plain loop: see lenet.py.
- torch prune: the plain loop with torch.nn.utils.prune.custom_from_mask on the three layers.
- torch CSR: weights as torch.sparse_csr matrices, forward and for the inputs' gradients; the weights' gradients are
  dense products of which the living entries are picked; Adam on the living weights alone.

    python benchmarks/step.py [--data-dir DIR] [--write]
"""

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import lenet
import torch
from section import Bar, Measure, bars, interleaved, load, load_line, machine, options, publish, table
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from tombola import data, weights
from tombola.engine import kernels
from tombola.engine.native.sequential_layers import sequential_layers
from tombola.engine.native.trainer import Native
from tombola.engine.training import Start, Training
from tombola.mask import Mask
from tombola.sparse.times import Format
from tombola.train import Span

LEVELS = (0, 1, 3, 5, 7, 10, 12, 15, 18, 20)  # 100 % to 1.2 %
SPARSE = 15  # 3.6 %, the level that the bar is about
WIDTHS = ((784, 300), (300, 100), (100, 10))
WEIGHTS = sum(inputs * outputs for inputs, outputs in WIDTHS)
ENGINES = ("native", "native, ticket", "native all dense", "native all sparse", "reference")
OTHERS = ("plain loop", "torch prune", "torch CSR")

Weights = dict[str, Tensor]


def products(steps: int) -> Measure:
    """The floor's matrix products, into tensors that are there already."""
    passes: list[tuple[Tensor, Tensor, Tensor]] = []
    for number, (inputs, outputs) in enumerate(WIDTHS):
        x, w, dy = torch.randn(lenet.BATCH, inputs), torch.randn(outputs, inputs), torch.randn(lenet.BATCH, outputs)
        passes += [(x, w.t(), torch.empty(lenet.BATCH, outputs)), (dy.t(), x, torch.empty(outputs, inputs))]
        if number:
            passes.append((dy, w, torch.empty(lenet.BATCH, inputs)))

    def step(_: int) -> None:
        for left, right, out in passes:
            torch.mm(left, right, out=out)

    return repeated(step, steps)


def adam(steps: int) -> Measure:
    """The floor's optimiser: fused Adam on all weights as one tensor."""
    parameter = nn.Parameter(torch.randn(WEIGHTS))
    parameter.grad = torch.randn(WEIGHTS)
    optimizer = torch.optim.Adam([parameter], lr=lenet.RATE, fused=True)
    return repeated(lambda _: optimizer.step(), steps)


def repeated(step: Callable[[int], Any], steps: int) -> Measure:
    """Seconds of one `step(number)` among `steps`; what is trained goes on from where it was."""
    done = 0

    def measure() -> float:
        nonlocal done
        began = time.perf_counter()
        for number in range(done, done + steps):
            step(number)
        done += steps
        return (time.perf_counter() - began) / steps

    return measure


def tombola(trained: Any, dataset: data.Dataset, train: Tensor, steps: int) -> Measure:
    """Seconds of one step, among `steps`, of one of Tombola's engines."""
    batches, done = data.Batches(dataset, train, lenet.BATCH, 0), 0

    def measure() -> float:
        nonlocal done
        began = time.perf_counter()
        trained.train(batches, Span(done, done + steps, lambda _: lenet.RATE), lambda _: None)
        done += steps
        return (time.perf_counter() - began) / steps

    return measure


def forced(form: Format, start: Weights, living: Mask, dataset: data.Dataset) -> Native:
    """The kernels with every layer in one form."""
    network = lenet.model()
    weights.put(network, start)
    layers = sequential_layers(network, dataset.facts.shape)
    assert layers is not None
    training = Training(optimizer=lenet.ADAM, batch=lenet.BATCH)
    return Native(training, Start(network, living, dataset), layers, dict.fromkeys(living, form))


def by_loop(network: nn.Module, living: Mask | None, batches: lenet.Batches, steps: int) -> Measure:
    """Seconds of one step, among `steps`, of the plain loop on `network`."""
    loop = lenet.Plain(network, living)
    return repeated(lambda number: loop.step(*batches(number)), steps)


def torch_pruned(start: Weights, living: Mask) -> nn.Module:
    """The network as torch.nn.utils.prune makes it: the mask multiplied in at every forward pass."""
    network = lenet.model()
    weights.put(network, start)
    for name, alive in living.items():
        torch_prune.custom_from_mask(network.get_submodule(name.removesuffix(".weight")), "weight", alive.float())
    return network


class CSRProduct(torch.autograd.Function):
    """x W^T with W in torch's CSR form; the gradient of its living weights alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, layer: "CSRLinear") -> Tensor:
        ctx.save_for_backward(x, values)
        ctx.layer = layer
        return (layer.matrix(values) @ x.t()).t()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None]:
        (dy,), (x, values), layer = grads, ctx.saved_tensors, ctx.layer
        dx = (layer.turned(values) @ dy.t()).t() if ctx.needs_input_grad[0] else None
        return dx, (dy.t() @ x).flatten().index_select(0, layer.places), None


class CSRLinear(nn.Module):
    """A linear layer that holds its living weights alone."""

    def __init__(self, weight: Tensor, alive: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.shape = tuple(weight.shape)
        self.places = alive.flatten().nonzero().squeeze(1)
        self.values, self.bias = nn.Parameter(weight[alive].clone()), nn.Parameter(bias.clone())
        pattern = alive.float().to_sparse_csr()
        self.rows, self.columns = pattern.crow_indices(), pattern.col_indices()
        # The transpose has the same values in another order.
        numbers = torch.zeros(alive.shape, dtype=torch.long).masked_scatter(alive, torch.arange(len(self.places)))
        self.order = numbers.t()[alive.t()]
        turned = alive.t().float().to_sparse_csr()
        self.turned_rows, self.turned_columns = turned.crow_indices(), turned.col_indices()

    def matrix(self, values: Tensor) -> Tensor:
        return torch.sparse_csr_tensor(self.rows, self.columns, values, self.shape, check_invariants=False)

    def turned(self, values: Tensor) -> Tensor:
        picked, shape = values.index_select(0, self.order), self.shape[::-1]
        return torch.sparse_csr_tensor(self.turned_rows, self.turned_columns, picked, shape, check_invariants=False)

    def forward(self, x: Tensor) -> Tensor:
        return CSRProduct.apply(x, self.values, self) + self.bias


def torch_csr(start: Weights, living: Mask) -> nn.Module:
    """The network with every layer in torch's CSR form."""
    layers: list[nn.Module] = [nn.Flatten()]
    for name, alive in living.items():
        layers += [CSRLinear(start[name], alive, start[name.replace("weight", "bias")]), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def competitors(dataset: data.Dataset, train: Tensor, searched: int, steps: int) -> dict[str, Measure]:
    """Everything that is measured, by `name @ level`."""
    floats = lenet.floats(dataset, train, train[:0])
    batches = lenet.batches(*floats.train)
    random, tickets = lenet.random_levels(), lenet.levels(dataset, train, searched)
    found: dict[str, Measure] = {"products": products(steps), "adam": adam(steps)}
    for level in LEVELS:
        start, living = random[level]
        network = lenet.model()
        weights.put(network, start)
        engines: dict[str, Any] = {
            "native": lenet.engine_of(dataset, living, start),
            "native, ticket": lenet.engine_of(dataset, tickets[level][1], tickets[level][0]),
            "reference": lenet.engine_of(dataset, living, start, "reference"),
        }
        if kernels.sets():
            engines["native all dense"] = forced("dense", start, living, dataset)
            engines["native all sparse"] = forced("sparse", start, living, dataset)
        found |= {f"{name} @ {level}": tombola(trained, dataset, train, steps) for name, trained in engines.items()}
        found |= {
            f"plain loop @ {level}": by_loop(network, living if level else None, batches, steps),
            f"torch prune @ {level}": by_loop(torch_pruned(start, living), None, batches, steps),
            f"torch CSR @ {level}": by_loop(torch_csr(start, living), None, batches, steps),
        }
    return found


def promises(taken: dict[str, float]) -> list[Bar]:
    """The bar: what a step may cost beside the floor, and what sparsity has to save."""
    floor = taken["products"] + taken["adam"]
    return [
        Bar("native step at 100 % over the floor", taken["native @ 0"] / floor, "<=", 1.6, "x"),
        *(
            Bar(f"{about}: dense step over its step at 3.6 %", taken[f"{name} @ 0"] / taken[at], ">=", 8, "x")
            for name, at, about in (
                ("native", f"native @ {SPARSE}", "native, random mask"),
                ("native, ticket", f"native, ticket @ {SPARSE}", "native, a search's mask"),
            )
        ),
    ]


def main(arguments: list[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="of which the median is taken")
    parser.add_argument("--steps", type=int, default=100, help="of each competitor per round")
    parser.add_argument("--search-steps", type=int, default=500, help="per level of the search that gives real masks")
    given = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", message=".*Sparse CSR tensor support is in beta")
    busy = load()
    lenet.one_thread()
    dataset, train, _ = lenet.load(given.data_dir)
    taken = interleaved(competitors(dataset, train, given.search_steps, given.steps), given.rounds)
    columns = [name for name in (*ENGINES, *OTHERS) if f"{name} @ 0" in taken]
    counts = {level: living for level, (_, living) in enumerate(lenet.random_levels())}
    rows = [
        [f"{counts[level].density:.1%}", *(f"{1e3 * taken[f'{name} @ {level}']:.3f}" for name in columns)]
        for level in LEVELS
    ]
    paragraphs = [
        f"`python benchmarks/step.py`: {machine()} {load_line(busy)}",
        f"Milliseconds of one training step of LeNet-300-100, batch {lenet.BATCH}, one thread; medians of "
        f"{given.rounds} rounds of {given.steps} steps each, all competitors taking turns. Masks are random with a "
        f"search's exact counts; 'ticket' is the native engine with the masks of a real search "
        f"({given.search_steps} steps a level).",
        f"The floor: {1e3 * taken['products']:.3f} ms for the 8 matrix products of a dense step and "
        f"{1e3 * taken['adam']:.3f} ms for fused Adam on {WEIGHTS:,} weights, "
        f"{1e3 * (taken['products'] + taken['adam']):.3f} ms together.",
        table(["weights left", *columns], rows),
        bars(promises(taken)),
    ]
    publish("step", "A training step", paragraphs, given.write)


if __name__ == "__main__":
    main(sys.argv[1:])
