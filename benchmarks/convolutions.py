"""Milliseconds of a training step of Conv-2, Conv-4 and Conv-6 against density: Tombola's engines and the plain loop.

MNIST, whose images are 28 x 28, batch 60, Adam, one thread, without evaluation. Densities are those of a search's
levels, each layer at the paper's rate; masks are random.

- native: as a run gets it, each layer in its faster form; where the plain loop is faster for all layers together,
  that is what a run gets, and what is measured.
- all dense, all sparse: the kernels with one form forced on every layer.
- plain loop: Tombola's reference engine, torch's own convolutions, masks held by a guard.

    python benchmarks/convolutions.py [--data-dir DIR] [--write]
"""

import sys
import time
from functools import partial
from typing import Any

import lenet
from section import interleaved, load, load_line, machine, options, publish, table
from torch import Tensor

from tombola import data, engine, mask, models, prunable, prune, score, weights
from tombola.engine.native.sequential_layers import sequential_layers
from tombola.engine.native.trainer import Native
from tombola.engine.training import Alone, Start, Trainer, Training
from tombola.sparse.times import Format
from tombola.train import Span

NETWORKS = {"conv-2": 0.1, "conv-4": 0.1, "conv-6": 0.15}  # of a convolution's weights that a level prunes
LEVELS = (0, 3, 6, 9, 12)
STEPS = 2  # of a measurement
SHAPE = (1, 28, 28)

Level = tuple[dict[str, Tensor], mask.Mask]


def levels(name: str) -> list[Level]:
    """(initial weights under the mask, mask) of each level, with a search's exact counts at random places."""
    model = models.build(name, SHAPE, 10, "glorot-normal", 0)
    kinds, start, living = prunable.prunable(model), weights.of(model), prunable.full(model)
    rates = {"conv": NETWORKS[name], "linear": 0.2, "output": 0.1}
    found = []
    for level in range(max(LEVELS) + 1):
        found.append((mask.apply(start, living), living))
        by_layer = {layer: rates[kind] for layer, kind in kinds.items()}
        living = prune.by_layer(score.random(score.Scored(model, start, living, seed=level)), living, by_layer)
    return found


def engines(name: str, level: Level, dataset: data.Dataset) -> tuple[dict[str, Any], str]:
    """The competitors at one level, and what a run gets."""
    start, living = level

    def begun() -> Start:
        model = models.build(name, SHAPE, 10, "glorot-normal", 0)
        weights.put(model, start)
        return Start(model, living, dataset)

    def chosen(choice: engine.Choice) -> tuple[Trainer, str]:
        made = engine.begin(Training(optimizer=lenet.ADAM, batch=lenet.BATCH, choice=choice), [begun()])
        assert isinstance(made.trainings, Alone)
        return made.trainings.trainer, made.name

    def forced(form: Format) -> Native:
        training, from_here = Training(optimizer=lenet.ADAM, batch=lenet.BATCH), begun()
        layers = sequential_layers(from_here.model, SHAPE) or ()
        return Native(training, from_here, layers, dict.fromkeys(living, form))

    native, which = chosen("auto")
    return {
        "native": native,
        "all dense": forced("dense"),
        "all sparse": forced("sparse"),
        "plain loop": chosen("reference")[0],
    }, which


def step(training: Trainer, batches: data.Batches) -> float:
    """Seconds of a step; what the plain loop does before the first and after the last does not count."""
    times: list[float] = []
    training.train(
        batches, Span(0, STEPS + 1, lambda _: lenet.RATE, [0, STEPS]), lambda _: times.append(time.perf_counter())
    )
    return (times[1] - times[0]) / STEPS


def main(arguments: list[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is taken")
    given = parser.parse_args(arguments)
    busy = load()
    lenet.one_thread()
    dataset, train, _ = lenet.load(given.data_dir)
    batches = data.Batches(dataset, train, lenet.BATCH, 0)
    paragraphs = [
        f"`python benchmarks/convolutions.py`: {machine()} {load_line(busy)}",
        f"Milliseconds of one training step, batch {lenet.BATCH}, 28 x 28 images, one thread; medians of "
        f"{given.rounds} rounds of {STEPS} steps, the columns taking turns. The gain is the plain loop's time over "
        "native's.",
    ]
    for name in NETWORKS:
        rows, found = [], levels(name)
        for level in LEVELS:
            trainings, which = engines(name, found[level], dataset)
            measures = {one: partial(step, training, batches) for one, training in trainings.items()}
            taken = interleaved(measures, given.rounds)
            got = "plain loop" if which == "reference" else "native"
            rows.append(
                [
                    f"{found[level][1].density:.1%}",
                    *(f"{1e3 * taken[one]:.0f}" for one in trainings),
                    f"{taken['plain loop'] / taken['native']:.2f}x",
                    got,
                ]
            )
        head = [f"{name}: weights left", *trainings, "gain", "a run gets"]
        paragraphs.append(table(head, rows))
    publish("convolutions", "A training step of convolutions", paragraphs, given.write)


if __name__ == "__main__":
    main(sys.argv[1:])
