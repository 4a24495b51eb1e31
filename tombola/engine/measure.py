"""How long the forms of a layer take on this machine: measured once, kept, never guessed.

The time of a training step is measured for single layers of the wanted shapes, in the dense form and in the sparse one
at a few densities; that of a convolution by the plain loop too, whose libraries are good at dense ones. What was
measured is kept beside the user's other caches, so that a run that is repeated or resumed takes the same forms and
gives the same bytes; it holds as long as the processor and the kernels are the same.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from tombola import files
from tombola.data.download import cache_dir
from tombola.engine import kernels
from tombola.engine.forms import DENSITIES, Form, Shape, Times

if TYPE_CHECKING:
    from torch import nn

    from tombola.engine.chain import Layer

ROUNDS, STEPS = 9, 10  # of a fully connected layer
ROUNDS_OF_MAPS, STEPS_OF_MAPS = 3, 1  # of a convolution, which takes a hundred times longer
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
            assumed = Times(ASSUMED_BREAK_EVEN, DENSITIES, None)
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
        return {
            name: Times(float(one["dense"]), tuple(map(float, one["sparse"])), one["plain"] and float(one["plain"]))
            for name, one in content.items()
            if len(one["sparse"]) == len(DENSITIES)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, or written by a hand that slipped
        return {}


def _measured(shape: Shape) -> Times:
    """Round after round through all forms, the least of each: what else the machine does disturbs all alike."""
    kinds: list[tuple[Form | None, float]] = [("dense", 1.0), *(("sparse", density) for density in DENSITIES)]
    if shape.window:
        kinds.append((None, 1.0))
        # One at a time: the maps of a single convolution can take a hundred megabytes.
        rounds = [[_seconds(_training(shape, *kind), STEPS_OF_MAPS) for kind in kinds] for _ in range(ROUNDS_OF_MAPS)]
    else:
        trainings = [_training(shape, *kind) for kind in kinds]
        rounds = [[_seconds(step, STEPS) for step in trainings] for _ in range(ROUNDS)]
    least = [min(taken) for taken in zip(*rounds, strict=True)]
    return Times(least[0], tuple(least[1 : 1 + len(DENSITIES)]), least[-1] if shape.window else None)


def _seconds(steps: Callable[[int], None], count: int) -> float:
    steps(1)  # memory is given out when it is first touched
    began = time.perf_counter()
    steps(count)
    return (time.perf_counter() - began) / count


def _training(shape: Shape, form: Form | None, density: float) -> Callable[[int], None]:
    """So many steps of a layer in a form, or by the plain loop.

    A layer that is not the first stands behind a narrow one, for its input gradient. A convolution is followed by a
    layer that makes two outputs of all its maps, a few percent of the work.
    """
    import torch

    from tombola.data import Batches, Dataset
    from tombola.data.facts import Facts
    from tombola.engine.chain import Layer
    from tombola.engine.native import Native
    from tombola.engine.reference import Reference
    from tombola.mask import Mask
    from tombola.recipe import Adam

    maps = {"height": shape.height, "width": shape.width}
    layer = Layer("1.weight", "1.bias", shape.inputs, shape.outputs, max(shape.window, 1) ** 2, shape.window, **maps)
    before = Layer("0.weight", "0.bias", 1, shape.inputs, 1, min(shape.window, 1), **maps)
    after = Layer("2.weight", "2.bias", shape.outputs, 2, shape.height * shape.width)
    layers = ([] if shape.first else [before]) + ([replace(layer, pool=1), after] if shape.window else [layer])
    draw = torch.Generator().manual_seed(0)
    examples, classes = STEPS * shape.batch, layers[-1].outputs
    size = (layers[0].inputs, shape.height, shape.width)
    images = torch.randint(0, 256, (examples, *size), dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, classes, (examples,), generator=draw)
    stretch = (0.5,) * size[0], (0.25,) * size[0]
    dataset = Dataset(Facts("", size, classes, examples, 0, 0, *stretch, 255, ""), images, labels, images, labels)
    alive = torch.rand((layer.outputs, layer.columns), generator=draw) < density
    start: dict[str, torch.Tensor] = {}
    for one in layers:
        start |= {one.weight: torch.randn((one.outputs, one.columns), generator=draw) / one.columns**0.5}
        start |= {one.bias: torch.zeros(one.outputs)}
    start[layer.weight] *= alive
    mask, adam = Mask({layer.weight: alive}), Adam(name="adam", lr=1e-3)
    training: Native | Reference
    if form:
        held: dict[str, Form] = {one.weight: form if one.weight == layer.weight else "dense" for one in layers}
        training = Native(tuple(layers), start, mask, held, adam, {}, dataset, shape.batch)
    else:
        training = Reference(_model(layers), Mask({}), adam, {}, dataset)
    batches = Batches(dataset, torch.arange(examples), shape.batch, order_seed=0)
    return lambda steps: training.train(batches, lambda _: 1e-3, 0, steps, [], lambda _: None)


def _model(layers: "Sequence[Layer]") -> "nn.Module":
    """What torch makes of convolutions and a fully connected layer after them."""
    from torch import nn

    parts: list[nn.Module] = []
    for one in layers:
        if one.window:
            parts += [nn.Conv2d(one.inputs, one.outputs, one.window, padding=one.window // 2), nn.ReLU()]
        else:
            parts += [nn.Flatten(), nn.Linear(one.columns, one.outputs)]
    return nn.Sequential(*parts)
