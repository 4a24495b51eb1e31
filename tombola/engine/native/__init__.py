"""The compiled kernels: many steps in one call, pruned weights not visited; for chains of layers on a CPU."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from tombola.engine import kernels, reference, sparse
from tombola.engine.native.guess import guessed
from tombola.engine.native.layer_formats import Shape, network_seconds
from tombola.engine.training import Alone, Engine, Start, Training, Trainings
from tombola.models.layer import Layer
from tombola.sparse.times import Format

if TYPE_CHECKING:
    from tombola.data import Dataset
    from tombola.engine.native.sequential_layers import SequentialLayer
    from tombola.mask import Mask

OPTIMIZERS = ("sgd", "adam", "adamw")
MOST_NUMBERS = 2**31 - 1  # of a layer: the kernels count weights and positions with 32 bits


def accepts(training: Training) -> str:
    """What they know, and where all layers together are not faster by the plain loop, as far as that is measured."""
    if reason := hindrance(training):
        return reason
    if not measured(training):
        return ""
    by_kernels, by_torch = _seconds(training)
    return "the plain loop is faster for networks of this density" if by_torch < by_kernels else ""


def hindrance(training: Training) -> str:
    """What of a training the kernels do not know, whatever the times are; "" for nothing."""
    hindrances = {
        "the kernels know no augmentation": training.augmented,
        "the kernels know no mixed precision": training.precision is not None,
        "the kernels know no folders of pictures": training.examples == "files",
        "the kernels read images as bytes": training.examples == "numbers",
        "the kernels know no objective but cross-entropy": training.objective is not None,
        "the kernels know no answers but classes": training.answers != "class",
        "the kernels know no dynamics": training.dynamics is not None,
        "the kernels let all parameters decay, or none": training.optimizer.decay is not None,
        f"the kernels know no {training.optimizer.name}": training.optimizer.name not in OPTIMIZERS,
        "on GPUs, and for networks that are too large for a stack": training.device != "cpu",
        "the kernels know chains of convolutions and fully connected layers with biases only": not training.sequential,
        "the kernels know masks on the weights of layers only": bool(training.densities.keys() - training.layers),
        f"the kernels count to {MOST_NUMBERS:,} only": _largest(training.layers) > MOST_NUMBERS,
        "the kernels were not compiled: when Tombola was installed there was no C compiler that could do it": (
            not kernels.sets()
        ),
    }
    return next((words for words, there in hindrances.items() if there), "")


def shapes(training: Training) -> dict[str, Shape]:
    """By weight, what its times depend on: what has to be measured before the kernels train."""
    return {
        name: Shape(layer.sizes[0], layer.outputs, training.batch, number == 0, *layer.sizes[2:])
        for number, (name, layer) in enumerate(training.layers.items())
    }


def groups_images(training: Training) -> bool:
    """Whether images that leave the same pixels at zero are worth bringing together, as `image_order` does: what they
    multiply is left out in a first layer that is fully connected."""
    first = next(iter(training.layers.values()), None)
    return training.sequential and training.examples == "images" and first is not None and first.kind != "conv"


def measured(training: Training) -> bool:
    """Whether the times of all of its layers are known."""
    return training.times.keys() >= set(shapes(training).values())


def times_of(training: Training) -> Mapping[str, Shape]:
    """`shapes`, where it is a training that the kernels know."""
    return {} if hindrance(training) else shapes(training)


def step_seconds(training: Training) -> float:
    """By the kernels or the plain loop, with sparse layers or without, as measured; else guessed."""
    if measured(training):
        return min(_seconds(training))
    guesses = ((guessed(shape), training.densities.get(name, 1.0)) for name, shape in shapes(training).items())
    by_kernels, _ = network_seconds(guesses)
    return min(by_kernels, reference.step_seconds(training))


def _seconds(training: Training) -> tuple[float, float]:
    timed_layers = shapes(training).items()
    by_kernels, by_torch = network_seconds(
        (training.times[shape], training.densities.get(name, 1.0)) for name, shape in timed_layers
    )
    return by_kernels, by_torch - (sparse.saved(training) if training.choice == "auto" else 0)


def begin(training: Training, starts: Sequence[Start]) -> tuple[Trainings, str]:
    """One training in the kernels' hands, each layer in the format that is faster at its density."""
    from tombola.engine.native.sequential_layers import sequential_layers
    from tombola.engine.native.trainer import Native

    (start,) = starts
    layers = sequential_layers(start.model, start.dataset.facts.shape)
    assert layers, "as `accepts` has seen"
    formats = {
        name: training.times[shape].format(training.densities.get(name, 1.0))
        for name, shape in shapes(training).items()
    }
    return Alone(Native(training, start, layers, formats)), described(kernels.sets()[-1], formats)


def described(instructions: str, formats: Mapping[str, Format]) -> str:
    """The engine with its instruction set and the format of each layer, for the record."""
    layers = ", ".join(f"{name.removesuffix('.weight')} {each}" for name, each in formats.items())
    return f"native {instructions}: {layers}"


def sparse_layers(name: str) -> set[str]:
    """The layers that were held sparse, by the weight, of a training with this name of its engine in the record.

    Of one that several engines had, one after another, those of the first. Other engines hold all layers dense.

    >>> sorted(sparse_layers("native avx2: fc1 sparse, fc2 sparse, output dense"))
    ['fc1.weight', 'fc2.weight']
    >>> sparse_layers("reference")
    set()
    """
    _, _, layers = name.partition(", then ")[0].partition(": ")
    formats = (layer.rpartition(" ") for layer in layers.split(", ")) if layers else ()
    return {f"{layer}.weight" for layer, _, format in formats if format == "sparse"}


def inspected(training: Training, start: Start) -> Training:
    """The same training as its model, its mask and its data are found to be: sequential only if nothing makes it else.

    Of what a recipe names this changes nothing. A model from elsewhere may have hooks, parametrizations or frozen
    parameters, a data set other numbers than the kernels read.
    """
    from tombola.engine.native.sequential_layers import sequential_layers

    counts = start.mask.counts
    densities = {name: counts[name] / max(alive.numel(), 1) for name, alive in start.mask.items()}
    facts = start.dataset.facts
    images = not facts.text and not facts.real
    layers = sequential_layers(start.model, facts.shape) if images else None
    if not layers or not _masked(layers, start.mask) or not _readable(start.dataset, layers[-1].outputs):
        return replace(training, densities=densities, sequential=False)
    last = layers[-1].weight
    sized = {
        layer.weight: Layer("conv", layer.inputs, layer.outputs, layer.window, layer.height, layer.width)
        if layer.window
        else Layer("output" if layer.weight == last else "linear", layer.columns, layer.outputs)
        for layer in layers
    }
    return replace(training, densities=densities, layers=sized, sequential=True)


def _masked(layers: "Sequence[SequentialLayer]", mask: "Mask") -> bool:
    """Whether masks of these layers have their weights' shapes; if not, the plain loop says what is wrong."""
    shapes = {layer.weight: (layer.outputs, layer.columns) for layer in layers}
    return all(shapes.get(name) in (None, (alive.shape[0], prod(alive.shape[1:]))) for name, alive in mask.items())


def _readable(dataset: "Dataset", outputs: int) -> bool:
    """Whether the kernels can read images and labels where they lie in memory."""
    import torch

    facts = dataset.facts
    pictures = all(
        isinstance(images, torch.Tensor)  # and not photographs in files
        and images.device.type == "cpu"
        and images.dtype == torch.uint8
        and images.is_contiguous()
        and images.shape[1:] == facts.shape
        for images in (dataset.images, dataset.test_images)
    )
    return pictures and all(
        labels.dtype == torch.int64
        and labels.device.type == "cpu"
        and labels.is_contiguous()
        and (not len(labels) or (int(labels.min()) >= 0 and int(labels.max()) < outputs))
        for labels in (dataset.labels, dataset.test_labels)
    )


def _largest(layers: Mapping[str, Layer]) -> int:
    """The largest number that the kernels count to: weights of a layer, or positions of its bordered maps."""
    border = max((layer.window // 2 for layer in layers.values()), default=0)

    def largest(layer: Layer) -> int:
        positions = (layer.height + 2 * border) * (layer.width + 2 * border)
        return max(layer.weights, max(layer.inputs, layer.outputs) * positions)

    return max(map(largest, layers.values()), default=0)


def forecast(training: Training, refusal: str) -> tuple[str, str]:
    """With the instruction set; whether times are known, and whether dense networks are better off elsewhere."""
    name = f"native {kernels.sets()[-1]}"
    if not measured(training):
        return name, "not measured on this machine yet: a run does so first, if it can keep that in the user's cache"
    by_kernels, by_torch = _seconds(replace(training, densities={}))
    return name, "but the plain loop for dense networks, where it is faster here" if by_torch < by_kernels else ""


NATIVE = Engine("native", accepts, step_seconds, begin, forecast, times_of=times_of)
