"""How long the formats of a layer take on this machine: measured once, kept, never guessed.

The time of a training step is measured for single layers of the wanted shapes: in the dense format, in the sparse one
at a few densities, and by the plain loop, whose libraries are good at dense convolutions. What was measured is kept
beside the user's other caches, so that a run that is repeated or resumed takes the same formats and gives the same
bytes; it holds as long as the processor, the kernels, torch and this file are the same.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import metadata
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tombola import files
from tombola.data.download import cache_dir
from tombola.engine import kernels
from tombola.engine.native.layer_formats import Shape, Timed
from tombola.sparse import choice
from tombola.sparse.choice import Call
from tombola.sparse.times import DENSITIES, Format, Times

if TYPE_CHECKING:
    from torch import nn

    from tombola.engine.native.sequential_layers import SequentialLayer

ROUNDS, STEPS = 9, 10  # of a fully connected layer
ROUNDS_OF_MAPS, STEPS_OF_MAPS = 3, 1  # of a convolution, which takes a hundred times longer
ASSUMED = Times(0.4, DENSITIES)  # where the machine's own cannot be kept: a break-even of 0.4
ASSUMED_BETWEEN_TENSORS = Times(0.15, DENSITIES)  # as the conversions of layers by themselves take most of a step

_Timed = TypeVar("_Timed", bound=Timed)


def times(shapes: Iterable[_Timed]) -> dict[_Timed, Times]:
    """The times of layers of these shapes on this machine; what is not kept yet is measured now and kept.

    Where nothing can be kept nothing is measured either: the times are then `ASSUMED`.
    """
    distinct = list(dict.fromkeys(shapes))
    kept = _read()
    if any(shape.name not in kept for shape in distinct):
        try:
            path = _path()
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.turn(path.with_suffix(".lock")):  # one measures, the others wait: two would disturb each other
                files.replace(path, _written(_read()))  # before anything is measured: it may be that it cannot be kept
                kept = _read()
                kept |= {shape.name: _measured(shape) for shape in distinct if shape.name not in kept}
                files.replace(path, _written(kept))
        except (OSError, RuntimeError, NotImplementedError):  # no room, no right, no home
            return {each: assumed(each) for each in distinct}
    return {shape: kept[shape.name] for shape in distinct}


def assumed(shape: Timed) -> Times:
    """The times where the machine's own are not known."""
    return ASSUMED_BETWEEN_TENSORS if isinstance(shape, Call) else ASSUMED


def known(shapes: Iterable[_Timed]) -> dict[_Timed, Times]:
    """What of it is kept from earlier; nothing is measured."""
    kept = _read()
    return {shape: kept[shape.name] for shape in shapes if shape.name in kept}


def record(measured: Mapping[_Timed, Times]) -> dict[str, Any]:
    """What the record of a training says of the times that its engine was chosen by: all of them, under one `id`."""
    seconds = {shape.name: _plain(times) for shape, times in measured.items()}
    named = hashlib.sha256(json.dumps(seconds, sort_keys=True).encode()).hexdigest()[:12]
    return {"id": named, "seconds": seconds}


def _plain(times: Times) -> dict[str, Any]:
    return {name: seconds for name, seconds in vars(times).items() if seconds != inf}


def _path() -> Path:
    return cache_dir() / f"engine-{_made_by()}.json"


@cache
def _made_by() -> str:
    """Another one for other kernels, another processor, another torch or plain loop, and another way to measure."""
    made = f"{kernels.version()} {metadata.version('torch')}".encode()
    here, plain, apart = Path(__file__), Path(__file__).parents[1] / "reference" / "trainer.py", Path(choice.__file__)
    made += here.read_bytes() + plain.read_bytes() + apart.read_bytes()
    return hashlib.sha256(made).hexdigest()[:16]


def _written(kept: dict[str, Times]) -> bytes:
    return json.dumps({name: vars(one) for name, one in kept.items()}, indent=1).encode()


def _read() -> dict[str, Times]:
    try:
        content = json.loads(_path().read_text(encoding="utf-8"))
        return {
            name: Times(
                float(one["dense"]), tuple(map(float, one["sparse"])), float(one["plain"]), float(one["masked"])
            )
            for name, one in content.items()
            if len(one["sparse"]) == len(DENSITIES)
        }
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ):  # absent, no home, or written by a hand that slipped
        return {}


def _measured(shape: Timed) -> Times:
    """Round after round through all formats, the least of each: what else the machine does disturbs all alike.

    On one thread, as workers train; a layer by itself on as many as it says.
    """
    if isinstance(shape, Call):
        return choice.measured(shape)
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _timed(shape)
    finally:
        torch.set_num_threads(threads)


def _timed(shape: Shape) -> Times:
    kinds: list[tuple[Format | None, float]] = [("dense", 1.0), *(("sparse", density) for density in DENSITIES)]
    kinds += [(None, 1.0), (None, 0.5)]
    rounds, steps = (ROUNDS_OF_MAPS, STEPS_OF_MAPS) if shape.window else (ROUNDS, STEPS)
    if shape.window:  # made anew each time: the maps of a single convolution can take a hundred megabytes
        taken = [[_training(shape, *kind)(steps) for kind in kinds] for _ in range(rounds)]
    else:
        trainings = [_training(shape, *kind) for kind in kinds]
        taken = [[seconds(steps) for seconds in trainings] for _ in range(rounds)]
    dense, *sparse, plain, masked = (min(each) for each in zip(*taken, strict=True))
    return Times(dense, tuple(sparse), plain, masked)


def _training(shape: Shape, format: Format | None, density: float) -> Callable[[int], float]:
    """Seconds of a step, given the number of steps, of a layer in a format, or by the plain loop.

    A layer that is not the first stands behind a narrow one, for its input gradient. A convolution is followed by a
    layer that makes two outputs of all its maps, a few percent of the work.
    """
    import torch

    from tombola.data import Batches, Dataset
    from tombola.data.facts import Facts
    from tombola.engine.native.sequential_layers import SequentialLayer
    from tombola.engine.native.trainer import Native
    from tombola.engine.reference.trainer import Reference
    from tombola.engine.training import Start, Training
    from tombola.mask import Mask
    from tombola.recipe import Adam
    from tombola.train import Span

    maps = {"height": shape.height, "width": shape.width}
    layer = SequentialLayer(
        "1.weight", "1.bias", shape.inputs, shape.outputs, max(shape.window, 1) ** 2, shape.window, **maps
    )
    before = SequentialLayer("0.weight", "0.bias", 1, shape.inputs, 1, min(shape.window, 1), **maps)
    after = SequentialLayer("2.weight", "2.bias", shape.outputs, 2, shape.height * shape.width)
    layers = ([] if shape.first else [before]) + ([replace(layer, pool=1), after] if shape.window else [layer])
    draw = torch.Generator().manual_seed(0)
    examples, classes = STEPS * shape.batch, layers[-1].outputs
    size = (layers[0].inputs, shape.height, shape.width)
    images = torch.randint(0, 256, (examples, *size), dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, classes, (examples,), generator=draw)
    stretch = (0.5,) * size[0], (0.25,) * size[0]
    dataset = Dataset(Facts("", size, classes, examples, 0, 0, *stretch, 255, ""), images, labels, images, labels)
    alive = torch.rand((layer.outputs, layer.columns), generator=draw) < density
    model = _model(layers)
    mask = Mask({layer.weight: alive.reshape(model.get_parameter(layer.weight).shape)})
    training = Training(optimizer=Adam(name="adam", lr=1e-3), batch=shape.batch)
    start = Start(model, mask, dataset)
    formats: dict[str, Format] = {one.weight: "dense" for one in layers}
    trainer: Native | Reference
    if format:
        trainer = Native(training, start, layers, formats | {layer.weight: format})
    else:
        trainer = Reference(training, start)
    batches = Batches(dataset, torch.arange(examples), shape.batch, order_seed=0)

    def seconds(steps: int) -> float:
        # From the second step on - memory is given out when it is first touched -, and not to the last, after which the
        # plain loop makes sure of the pruned weights, as it does once per training.
        times: list[float] = []
        span = Span(0, steps + 2, lambda _: 1e-3, [1, steps + 1])
        trainer.train(batches, span, lambda _: times.append(time.perf_counter()))
        return (times[1] - times[0]) / steps

    return seconds


def _model(layers: "Sequence[SequentialLayer]") -> "nn.Module":
    """The layers as torch has them, by their own names."""
    import torch
    from torch import nn

    model = nn.Sequential()
    with torch.random.fork_rng(devices=[]):  # torch draws weights, and nobody's random state is disturbed
        for one in layers:
            name = one.weight.removesuffix(".weight")
            if one.window:
                model.add_module(name, nn.Conv2d(one.inputs, one.outputs, one.window, padding=one.window // 2))
                model.add_module(f"{name} relu", nn.ReLU())
            else:
                model.add_module(f"{name} flatten", nn.Flatten())
                model.add_module(name, nn.Linear(one.columns, one.outputs))
    return model
