"""A training step of whole networks, with their living weights only, beside the loop without Tombola.

Each network is trained by an ordinary loop of SGD with momentum on random inputs: without Tombola, dense, in torch's
contiguous layout and channels last; and in `Search` at a random mask, dense (what the guard costs) and with
`engine="auto"`, which takes the layers that are measured to gain. The lab's engine `sparse` puts on the same layers.
Each loop is in a process of its own, as what one asks of the allocator another one would have, too. One thread, the
thread's own seconds, as machines are shared. Where the processor has AMX, the dense loop under autocast to bfloat16
stands beside them. Then what the guard costs where a step is shortest, small networks: with all weights, beside the
loop without Tombola; pruned, beside a loop that is masked by hand.

    python benchmarks/sparse_networks.py [--only NAME] [--write]
"""

import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from section import Bar, bars, interleaved, load, load_line, machine, options, publish, table
from torch import Tensor, nn
from torch.nn import functional

from tombola import Search, models, prunable
from tombola.mask import Mask
from tombola.models import Initialisation
from tombola.sparse.layers import sparse_layers

ROUNDS = 7
PLAIN, DENSE, AUTO, NARROW = "without Tombola", "Search, dense", "Search, auto", "bfloat16"
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


@dataclass(frozen=True)
class Row:
    """A network, its inputs, how many weights of each layer live, and by how much a step is promised to be faster."""

    name: str
    shape: tuple[int, ...]
    classes: int
    batch: int
    density: float
    promised: float = 0
    init: Initialisation = "kaiming-normal"

    def model(self) -> nn.Module:
        return models.build(self.name, self.shape, self.classes, self.init, 0)

    def inputs(self) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(0)
        if self.name.startswith("gpt"):
            tokens = torch.randint(0, self.classes, (self.batch, self.shape[0] + 1), generator=draw)
            return tokens[:, :-1], tokens[:, 1:]
        images = torch.randn(self.batch, *self.shape, generator=draw)
        return images, torch.randint(0, self.classes, (self.batch,), generator=draw)

    def mask(self, model: nn.Module) -> Mask:
        draw, kinds = torch.Generator().manual_seed(1), prunable.prunable(model)
        whole = prunable.full(model)
        return Mask(
            {
                name: torch.rand(alive.shape, generator=draw) < (1 if kinds[name] == "output" else self.density)
                for name, alive in whole.items()
            }
        )


ROWS = (
    Row("conv-4", (3, 32, 32), 10, 60, 0.1, 2.5),
    Row("resnet-20", (3, 32, 32), 10, 128, 0.1, 1.5),
    Row("vgg-16", (3, 32, 32), 10, 64, 0.05, 2.5),
    Row("gpt-4-256", (64, 65), 65, 16, 0.1, 1.5, "normal-0.02"),
)

SMALL = (Row("lenet-300-100", (1, 28, 28), 10, 60, 0.8), Row("lenet-5", (1, 28, 28), 10, 60, 0.8))
OF_SMALL = 11  # rounds
AT_ONCE = 50  # steps that are measured together
GUARD = 1.15
SLOW = 1e-6  # learning rate

Optimiser = Callable[[Any], torch.optim.Optimizer]
# Of one batch a faster loop would soon have learned all: the squares of what is left are too small for the processor.
OPTIMISERS: dict[str, Optimiser] = {
    "SGD": partial(torch.optim.SGD, lr=SLOW, momentum=0.9),
    "AdamW": partial(torch.optim.AdamW, lr=SLOW),
    "AdamW, fused": partial(torch.optim.AdamW, lr=SLOW, fused=True),
    "RMSprop": partial(torch.optim.RMSprop, lr=SLOW),
}


@dataclass(frozen=True)
class Loop:
    """A training loop, which a process of its own goes through.

    Attributes:
        row: what it trains.
        engine: of `Search`; None for a loop without Tombola.
        layout: of `LAYOUTS`.
        optimiser: of `OPTIMISERS`.
        pruned: whether weights are pruned; without Tombola by a product with the mask, as one writes it by hand.
        narrow: whether it is under autocast to bfloat16.
        at_once: steps that are measured together.
    """

    row: Row
    engine: str | None
    layout: str = "contiguous"
    optimiser: str = "SGD"
    pruned: bool = True
    narrow: bool = False
    at_once: int = 1

    def stepping(self) -> tuple[Callable[[], None], nn.Module]:
        """Does a step, of a model."""
        torch.manual_seed(0)
        row, form = self.row, LAYOUTS[self.layout]
        model = row.model().to(memory_format=form)  # type: ignore[call-overload]
        inputs, labels = row.inputs()
        inputs = inputs.to(memory_format=form) if inputs.dim() == 4 else inputs
        optimizer = OPTIMISERS[self.optimiser](model.parameters())
        mask = row.mask(model) if self.pruned else None
        by_hand = {name: alive.float() for name, alive in mask.items()} if mask and not self.engine else {}
        masked = [(value, by_hand[name]) for name, value in model.named_parameters() if name in by_hand]
        for value, alive in masked:
            value.data.mul_(alive)
        if self.engine:
            Search(model, optimizer, levels=1, engine=self.engine, mask=mask).begin()
        model.train()

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.narrow):
                loss = functional.cross_entropy(model(inputs).flatten(0, -2), labels.flatten())
            loss.backward()
            for value, alive in masked:
                assert value.grad is not None
                value.grad.mul_(alive)
            optimizer.step()
            for value, alive in masked:
                value.data.mul_(alive)

        return step, model


def serve(loop: Loop, asked: Any) -> None:
    """Seconds of a step, whenever they are asked for, and how many layers are sparse in it."""
    torch.set_num_threads(1)
    step, model = loop.stepping()
    step()  # it shows what the layers are called with, which are then measured
    while asked.recv():
        begin = time.thread_time()
        for _ in range(loop.at_once):
            step()
        taken = (time.thread_time() - begin) / loop.at_once
        asked.send((taken, len([*sparse_layers(model)])))


def measured(loops: Mapping[str, Loop], rounds: int) -> tuple[dict[str, float], int]:
    """Seconds of a step of each loop, in turns; and of how many layers the sparsest had its living weights only."""
    context, most = multiprocessing.get_context("spawn"), 0
    processes, pipes = [], {}
    for name, loop in loops.items():
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(loop, theirs), daemon=True))
        processes[-1].start()

    def asked(pipe: Any) -> float:
        nonlocal most
        pipe.send(True)
        taken, sparse = pipe.recv()
        most = max(most, sparse)
        return float(taken)

    for pipe in pipes.values():
        asked(pipe)  # all have begun
    taken = interleaved({name: partial(asked, pipe) for name, pipe in pipes.items()}, rounds)
    for process, pipe in zip(processes, pipes.values(), strict=True):
        pipe.send(False)
        process.join()
    return taken, most


def network(row: Row) -> tuple[dict[str, float], int]:
    """Seconds of a step of each kind of loop, the faster layout's; and how many layers are sparse."""
    kinds = {
        PLAIN: Loop(row, None, pruned=False),
        DENSE: Loop(row, "dense"),
        AUTO: Loop(row, "auto"),
    }
    if torch.cpu._is_amx_tile_supported():
        kinds[NARROW] = replace(kinds[PLAIN], narrow=True)
    layouts = [layout for layout in LAYOUTS if layout == "contiguous" or not row.name.startswith("gpt")]
    loops = {f"{kind}, {layout}": replace(loop, layout=layout) for kind, loop in kinds.items() for layout in layouts}
    taken, sparse = measured(loops, ROUNDS)
    return {kind: min(taken[f"{kind}, {layout}"] for layout in layouts) for kind in kinds}, sparse


def guard(row: Row, optimiser: str) -> dict[str, float]:
    """Seconds of a step of small loops, without Tombola and in `Search`, dense: with all weights, and pruned."""
    loops = {
        "plain": Loop(row, None, pruned=False),
        "guarded": Loop(row, "dense", pruned=False),
        "by hand": Loop(row, None),
        "pruned": Loop(row, "dense"),
    }
    taken, _ = measured(
        {name: replace(loop, optimiser=optimiser, at_once=AT_ONCE) for name, loop in loops.items()}, OF_SMALL
    )
    return taken


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--only", help="one network by its name")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    before, rows, small, promises = load(), [], [], []
    for row in ROWS:
        if asked.only in (None, row.name):
            found, sparse = network(row)
            plain, dense, auto = found[PLAIN], found[DENSE], found[AUTO]
            rows.append(
                [
                    f"{row.name}, batch {row.batch}, {row.density:.0%}",
                    *(f"{1000 * each:.1f}" for each in (plain, dense, auto)),
                    str(sparse),
                    f"{dense / plain:.2f}x",
                    f"{plain / auto:.2f}x",
                    f"{1000 * found[NARROW]:.1f}" if NARROW in found else "no AMX",
                ]
            )
            promises.append(Bar(f"{row.name} at {row.density:.0%}", plain / auto, ">=", row.promised, "x"))
            print(rows[-1], flush=True)
    for row in SMALL:
        for name in OPTIMISERS if asked.only in (None, row.name) else ():
            found = guard(row, name)
            whole, pruned = found["guarded"] / found["plain"], found["pruned"] / found["by hand"]
            small.append([f"{row.name}, {name}", *(f"{1000 * seconds:.3f}" for seconds in found.values())])
            small[-1][3:3], small[-1][6:] = [f"{whole:.2f}x"], [f"{pruned:.2f}x"]
            promises.append(Bar(f"guard of {row.name} with {name}, all weights", whole, "<=", GUARD, "x"))
            promises.append(Bar(f"guard of {row.name} with {name}, pruned", pruned, "<=", GUARD, "x"))
            print(small[-1], flush=True)
    head = [
        "network, weights left",
        PLAIN,
        DENSE,
        AUTO,
        "layers sparse",
        "guard",
        "gain",
        "dense bfloat16",
    ]
    of_small = [
        "network, optimiser",
        "all weights, without Tombola",
        "Search, dense",
        "guard",
        "pruned, by hand",
        "Search, dense",
        "guard",
    ]
    publish(
        "sparse-networks",
        "A training step of whole networks at their living weights",
        [
            f"`python benchmarks/sparse_networks.py`: {machine()} {load_line(before)}",
            "Milliseconds of a step of SGD with momentum, random masks, one thread (its own seconds); medians of "
            f"{ROUNDS} rounds, taking turns, each loop in a process of its own, caches as the loop before leaves them; "
            "of each kind the faster of torch's two layouts. Guard: `Search`, dense, over the loop without Tombola. "
            "Gain: the latter over auto.",
            table(head, rows),
            "The guard where a step is shortest: batches of 60, medians of "
            f"{OF_SMALL} rounds of {AT_ONCE} steps. Once with all weights, as at level 0; once with 80 % of them left, "
            "beside a loop that multiplies gradients and weights by the mask, as one writes it by hand.",
            table(of_small, small),
            bars(promises),
        ],
        asked.write and not asked.only,
    )


if __name__ == "__main__":
    main()
