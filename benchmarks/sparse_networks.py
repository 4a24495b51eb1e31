"""A training step of whole networks, with their living weights only, beside the loop without Tombola.

Each network is trained by an ordinary loop of SGD with momentum on random inputs: without Tombola, dense, in torch's
contiguous layout and channels last; and in `Search` at a random mask, dense (what the guard costs) and with
`engine="auto"`, which takes the layers that are measured to gain. The lab's engine `sparse` puts on the same layers.
One thread, the thread's own seconds, as machines are shared; caches as the step before leaves them. Where the processor
has AMX, the dense loop under autocast to bfloat16 stands beside them. Then what the guard costs where a step is
shortest: small networks at their first level.

    python benchmarks/sparse_networks.py [--only NAME] [--write]
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from section import Bar, bars, interleaved, load, load_line, machine, options, publish, table
from torch import Tensor, nn
from torch.nn import functional

from tombola import Search, models, prunable
from tombola.mask import Mask
from tombola.models import Initialisation

ROUNDS, OF_LONG = 7, 5
LONG = 0.5  # seconds of a step, from which on there are fewer rounds
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
SGD: Optimiser = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
# Of one batch a faster loop would soon have learned all: the squares of what is left are too small for the processor.
OPTIMISERS: dict[str, Optimiser] = {
    "SGD": partial(torch.optim.SGD, lr=SLOW, momentum=0.9),
    "AdamW": partial(torch.optim.AdamW, lr=SLOW),
    "AdamW, fused": partial(torch.optim.AdamW, lr=SLOW, fused=True),
    "RMSprop": partial(torch.optim.RMSprop, lr=SLOW),
}


def stepping(
    row: Row, layout: Any, engine: str | None, made: Optimiser = SGD, narrow: bool = False
) -> tuple[Callable[[], float], Callable[[], int]]:
    """Seconds of a step of a loop, without Tombola where `engine` is None; and how many layers are sparse in it.

    Args:
        made: makes the optimiser of the parameters.
        narrow: under autocast to bfloat16.
    """
    torch.manual_seed(0)
    model = row.model().to(memory_format=layout)  # type: ignore[call-overload]
    inputs, labels = row.inputs()
    inputs = inputs.to(memory_format=layout) if inputs.dim() == 4 else inputs
    optimizer = made(model.parameters())
    search = None
    if engine:
        search = Search(model, optimizer, levels=1, engine=engine, mask=row.mask(model))
        search.begin()
    model.train()

    def step() -> float:
        begin = time.thread_time()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = functional.cross_entropy(model(inputs).flatten(0, -2), labels.flatten())
        loss.backward()
        optimizer.step()
        return time.thread_time() - begin

    if engine:
        step()  # it shows what the layers are called with, which are then measured

    def sparse() -> int:
        from tombola.sparse.layers import sparse_layers

        return len([*sparse_layers(model)])

    return step, sparse


def measured(row: Row) -> dict[str, float]:
    """Seconds of a step of each competitor, the faster layout's of each kind; and how many layers are sparse."""
    kinds: dict[str, str | None] = {"without Tombola": None, "Search, dense": "dense", "Search, auto": "auto"}
    kinds |= {"bfloat16": None} if torch.cpu._is_amx_tile_supported() else {}
    competitors, counts = {}, {}
    for kind, engine in kinds.items():
        for layout, form in LAYOUTS.items():
            if row.name.startswith("gpt") and layout != "contiguous":
                continue
            one = stepping(row, form, engine, narrow=kind == "bfloat16")
            competitors[f"{kind}, {layout}"], counts[f"{kind}, {layout}"] = one
    long = max(step() for step in competitors.values()) > LONG
    taken = interleaved(competitors, OF_LONG if long else ROUNDS, warm_up=1)
    found = {kind: min(seconds for name, seconds in taken.items() if name.startswith(kind)) for kind in kinds}
    return found | {"layers": max(count() for name, count in counts.items() if name.startswith("Search, auto"))}


def guarded(row: Row, optimiser: Optimiser) -> tuple[float, float]:
    """Seconds of a step of a loop without Tombola, and in `Search`, dense."""

    def together(step: Callable[[], float]) -> Callable[[], float]:
        return lambda: sum(step() for _ in range(AT_ONCE)) / AT_ONCE

    kinds = {"plain": None, "guarded": "dense"}
    steps = {kind: stepping(row, torch.contiguous_format, engine, optimiser)[0] for kind, engine in kinds.items()}
    taken = interleaved({kind: together(step) for kind, step in steps.items()}, OF_SMALL)
    return taken["plain"], taken["guarded"]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--only", help="one network by its name")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    before, rows, small, promises = load(), [], [], []
    for row in ROWS:
        if asked.only in (None, row.name):
            found = measured(row)
            plain, dense, auto = (found[kind] for kind in ("without Tombola", "Search, dense", "Search, auto"))
            rows.append(
                [
                    f"{row.name}, batch {row.batch}, {row.density:.0%}",
                    *(f"{1000 * each:.1f}" for each in (plain, dense, auto)),
                    f"{found['layers']:.0f}",
                    f"{dense / plain:.2f}x",
                    f"{plain / auto:.2f}x",
                    f"{1000 * found['bfloat16']:.1f}" if "bfloat16" in found else "no AMX",
                ]
            )
            promises.append(Bar(f"{row.name} at {row.density:.0%}", plain / auto, ">=", row.promised, "x"))
            print(rows[-1], flush=True)
    for row in SMALL:
        for name, optimiser in OPTIMISERS.items() if asked.only in (None, row.name) else ():
            plain, dense = guarded(row, optimiser)
            small.append([f"{row.name}, {name}", *(f"{1000 * each:.3f}" for each in (plain, dense))])
            small[-1].append(f"{dense / plain:.2f}x")
            promises.append(Bar(f"guard of {row.name} with {name}", dense / plain, "<=", GUARD, "x"))
            print(small[-1], flush=True)
    head = [
        "network, weights left",
        "without Tombola",
        "Search, dense",
        "Search, auto",
        "layers sparse",
        "guard",
        "gain",
        "dense bfloat16",
    ]
    publish(
        "sparse-networks",
        "A training step of whole networks at their living weights",
        [
            f"`python benchmarks/sparse_networks.py`: {machine()} {load_line(before)}",
            "Milliseconds of a step of SGD with momentum, random masks, one thread (its own seconds); medians of "
            f"{ROUNDS} rounds ({OF_LONG} where a step takes more than {LONG} s), taking turns, "
            "caches as the step before leaves them; of each kind the faster of "
            "torch's two layouts. Guard: `Search`, dense, over the loop without Tombola. Gain: the latter over auto. "
            "The process keeps its memory from step to step, which a sparse `Search` asks of it, for all columns "
            "alike.",
            table(head, rows),
            "The guard where a step is shortest: batches of 60, 80 % of the weights left, medians of "
            f"{OF_SMALL} rounds of {AT_ONCE} steps.",
            table(["network, optimiser", "without Tombola", "Search, dense", "guard"], small),
            bars(promises),
        ],
        asked.write and not asked.only,
    )


if __name__ == "__main__":
    main()
