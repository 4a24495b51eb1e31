"""How long the forms of a layer take on this machine: measured once, kept, never guessed.

The time of a training step is measured for single layers of the wanted shapes, in the dense form and in the sparse one
at a few densities. What was measured is kept beside the user's other caches, so that a run that is repeated or resumed
takes the same forms and gives the same bytes; it holds as long as the processor and the kernels are the same.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from tombola import files
from tombola.data.download import cache_dir
from tombola.engine import kernels
from tombola.engine.forms import DENSITIES, Form, Shape, Times

ROUNDS = 9
STEPS = 10
ASSUMED_BREAK_EVEN = 0.4  # where the machine's own cannot be kept


def times(shapes: Iterable[Shape]) -> dict[Shape, Times]:
    """The times of layers of these shapes on this machine; what is not kept yet is measured now and kept.

    Where nothing can be kept nothing is measured either: the times then say no more than `ASSUMED_BREAK_EVEN`.
    """
    wanted = list(dict.fromkeys(shapes))
    path = _path()
    kept = _read(path)
    if any(shape.name not in kept for shape in wanted):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):  # one measures, the others wait: two would disturb each other
                kept = _read(path)
                kept |= {shape.name: _measured(shape) for shape in wanted if shape.name not in kept}
                files.replace(path, json.dumps({name: vars(one) for name, one in kept.items()}, indent=1).encode())
        except OSError:
            assumed = Times(ASSUMED_BREAK_EVEN, DENSITIES)
            return {shape: kept.get(shape.name, assumed) for shape in wanted}
    return {shape: kept[shape.name] for shape in wanted}


def known(shapes: Iterable[Shape]) -> dict[Shape, Times]:
    """What of it is kept from earlier; nothing is measured."""
    kept = _read(_path())
    return {shape: kept[shape.name] for shape in shapes if shape.name in kept}


def _path() -> Path:
    return cache_dir() / f"engine-{kernels.version()}.json"


def _read(path: Path) -> dict[str, Times]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: Times(float(one["dense"]), tuple(map(float, one["sparse"]))) for name, one in content.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, or written by a hand that slipped
        return {}


def _measured(shape: Shape) -> Times:
    """Round after round through all forms, the least of each: what else the machine does disturbs all alike."""
    trainings = [_training(shape, "dense", 1.0), *(_training(shape, "sparse", density) for density in DENSITIES)]
    rounds = [[_seconds(step) for step in trainings] for _ in range(ROUNDS)]
    dense, *sparse = (min(taken) for taken in zip(*rounds, strict=True))
    return Times(dense, tuple(sparse))


def _seconds(steps: Callable[[], None]) -> float:
    began = time.perf_counter()
    steps()
    return (time.perf_counter() - began) / STEPS


def _training(shape: Shape, form: Form, density: float) -> Callable[[], None]:
    """`STEPS` steps of a layer; one that is not the first stands behind a narrow one, for its input gradient.

    A convolution is followed by a layer that makes two outputs of all its maps, a few percent of the work.
    """
    import torch

    from tombola.data import Batches, Dataset
    from tombola.data.facts import Facts
    from tombola.engine.chain import Layer
    from tombola.engine.native import Native
    from tombola.mask import Mask
    from tombola.recipe import Adam

    maps = {"window": shape.window, "height": shape.height, "width": shape.width}
    layer = Layer("weight", "bias", shape.inputs, shape.outputs, max(shape.window, 1) ** 2, **maps)
    before = Layer("before.weight", "before.bias", 1, shape.inputs, **maps | {"window": min(shape.window, 1)})
    after = Layer("after.weight", "after.bias", shape.outputs, 2, shape.height * shape.width)
    layers = ([] if shape.first else [before]) + ([replace(layer, pool=1), after] if shape.window else [layer])
    draw = torch.Generator().manual_seed(0)
    examples, classes = STEPS * shape.batch, layers[-1].outputs
    size = (layers[0].inputs, shape.height, shape.width)
    images = torch.randint(0, 256, (examples, *size), dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, classes, (examples,), generator=draw)
    stretch = (0.5,) * size[0], (0.25,) * size[0]
    facts = Facts("", size, classes, examples, 0, 0, *stretch, 255, "")
    alive = torch.rand((layer.outputs, layer.columns), generator=draw) < density
    start: dict[str, torch.Tensor] = {}
    for one in layers:
        start |= {one.weight: torch.randn((one.outputs, one.columns), generator=draw) / one.columns**0.5}
        start |= {one.bias: torch.zeros(one.outputs)}
    start["weight"] *= alive
    dataset = Dataset(facts, images, labels, images, labels)
    native = Native(
        tuple(layers),
        start,
        Mask({"weight": alive}),
        {one.weight: "dense" for one in layers} | {"weight": form},
        Adam(name="adam", lr=1e-3),
        {},
        dataset,
        shape.batch,
    )
    batches = Batches(dataset, torch.arange(examples), shape.batch, order_seed=0)
    return lambda: native.train(batches, lambda _: 1e-3, 0, STEPS, [], lambda _: None)
