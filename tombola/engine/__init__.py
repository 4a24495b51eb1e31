"""The same training, faster. An engine is one training in progress; which one it gets is chosen here.

`reference` is the plain loop; `native` the compiled kernels, for chains of convolutions and fully connected layers.
Whatever the kernels cannot do exactly goes to the plain loop. All engines compute the same, but for the order of sums.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from ctypes.util import find_library
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tombola.engine import forms, kernels, measure
from tombola.errors import BadInput

if TYPE_CHECKING:  # `tombola plan` asks for names and times and touches no tensor
    from torch import Tensor, nn

    from tombola.data import Batches, Dataset
    from tombola.engine.chain import Layer
    from tombola.engine.parallel import Crew
    from tombola.evaluate import Evaluation
    from tombola.mask import Mask
    from tombola.models.layer import Layer as Sized
    from tombola.recipe import Optimizer, Precision

Choice = Literal["auto", "reference", "stacked"]
Device = Literal["auto", "cpu", "cuda"]
MOST_NUMBERS = 2**31 - 1  # of a layer: the kernels count weights and positions with 32 bits

# (inputs, outputs) of a fully connected layer; (inputs, outputs, window, height, width) of a convolution.
Sizes = tuple[int, ...]


class Held(Protocol):
    """One training where it stands, to be looked at and put back."""

    def evaluate(self, images: "Tensor", labels: "Tensor", places: "Tensor | None" = None) -> "Evaluation":
        """Loss and accuracy of the weights as they stand."""

    def repeatedly(
        self, images: "Tensor", labels: "Tensor", places: "Tensor | None" = None
    ) -> "Callable[[], Evaluation]":
        """The same, to be asked for again and again."""

    def snapshot(self) -> Any:
        """The weights as they stand, for `restore`."""

    def restore(self, snapshot: Any) -> None:
        """Put a snapshot back."""

    def load(self, start: "Mapping[str, Tensor]") -> None:
        """Put in weights as `weights()` gave them; the optimiser's state stays."""

    def weights(self) -> "dict[str, Tensor]":
        """The state_dict as it stands."""

    def optimizer_state(self) -> "dict[str, Tensor]":
        """The optimiser's state by name."""


class Engine(Held, Protocol):
    """One training: where it stands, and how to go on."""

    def train(
        self,
        batches: "Batches",
        learning_rate: Callable[[int], float],
        begin: int,
        until: int,
        looks: Sequence[int],
        watch: Callable[[int], None],
    ) -> None:
        """Train from step `begin` to step `until`; call `watch` at each of `looks`, before the step that follows."""


def begin(
    choice: Choice,
    model: "nn.Module",
    mask: "Mask",
    optimizer: "Optimizer",
    state: "Mapping[str, Tensor]",
    dataset: "Dataset",
    batch: int,
    device: str = "cpu",
    precision: "Precision | None" = None,
    augmented: bool = False,
    crew: "Crew | None" = None,
    times: Callable[[Iterable[forms.Shape]], Mapping[forms.Shape, forms.Times]] = measure.times,
) -> tuple[Engine, str]:
    """The engine that trains `model`, and its name for the record.

    Args:
        choice: `auto`, the fastest that can do it; `reference`, and of a single training `stacked`, is the plain loop.
        model: holds the weights to start from; the engine may or may not write into it.
        mask: True = alive.
        optimizer, state: which optimiser, and its state where one is carried over.
        dataset: what is trained on.
        batch: examples per step.
        device: where; the kernels are for `cpu`.
        precision: of the forward pass; the kernels know None only.
        augmented: whether batches are changed on their way, which the kernels, who read images by their places, miss.
        crew: the processes that train together; None where this one trains alone.
        times: asked, where the kernels may train, for how long layers of some shapes take.
    """
    from tombola import weights
    from tombola.engine.chain import chain
    from tombola.engine.native import Native
    from tombola.engine.reference import Reference

    if crew:
        from tombola.engine.parallel import Parallel

        arguments = model, mask, optimizer, state, dataset, device, precision
        return Parallel(crew, *arguments), f"data-parallel {crew.world} x reference"
    able = choice == "auto" and device == "cpu" and precision is None and not augmented and kernels.sets()
    layers = chain(model, dataset.facts.shape) if able else None

    def plain() -> tuple[Engine, str]:
        return Reference(model, mask, optimizer, state, dataset, device, precision), "reference"

    if not layers or not _suits(layers, mask, dataset):
        return plain()
    shapes = shapes_of({layer.weight: _sizes(layer) for layer in layers}, batch)
    measured = times(shapes.values())
    counts = mask.counts
    densities = {name: counts.get(name, 1) / (mask[name].numel() if name in mask else 1) for name in shapes}
    by_kernels, by_torch = forms.network_seconds((measured[shape], densities[name]) for name, shape in shapes.items())
    if by_torch < by_kernels:
        return plain()
    chosen = {name: measured[shape].form(densities[name]) for name, shape in shapes.items()}
    native = Native(layers, weights.of(model), mask, chosen, optimizer, state, dataset, batch)
    described = ", ".join(f"{name.removesuffix('.weight')} {form}" for name, form in chosen.items())
    return native, f"native {kernels.sets()[-1]}: {described}"


TOGETHER = 16
WEIGHTS_TOGETHER = 20_000_000  # of all networks of a stack; a larger one fills a GPU by itself
VALUES_TOGETHER = 2**29  # that layers give for one batch: 2 GB in float32, and some times that with all gradients


def at_once(choice: Choice, device: str, layers: "Mapping[str, Sized]", batch: int) -> int:
    """How many trainings of one recipe a worker does at once, in a stack; 1 for one after another.

    Stacks are for GPUs, and for the CPU where they are asked for. They hold at most `TOGETHER`
    networks, with `WEIGHTS_TOGETHER` weights and `VALUES_TOGETHER` values between layers in all.

    Args:
        choice, device: as `begin` has them.
        layers: of the network.
        batch: examples per step.

    >>> from tombola import models
    >>> large, small = (models.layers(name, (3, 32, 32), 10) for name in ("conv-2", "resnet-20"))
    >>> at_once("auto", "cuda:0", large, 60), at_once("auto", "cuda:0", small, 128), at_once("auto", "cpu", small, 128)
    (4, 16, 1)
    """
    if choice == "reference" or (choice == "auto" and device == "cpu"):
        return 1
    weights = sum(layer.weights for layer in layers.values())
    values = batch * sum(layer.outputs * layer.height * layer.width for layer in layers.values())
    return max(1, min(TOGETHER, WEIGHTS_TOGETHER // weights, VALUES_TOGETHER // values))


def processes() -> int:
    """How many processes train together: those that `torchrun` has started, or this one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    return world if {"RANK", "MASTER_ADDR"} <= os.environ.keys() else 1


def devices(choice: Device) -> tuple[str, ...]:
    """The devices that workers share: `cpu`, or every GPU that torch can use, where there is one and it is wanted.

    Raises:
        BadInput: `cuda` is asked for, and torch can use no GPU.
    """
    # torch takes two seconds to import: where there is no driver it need not be asked.
    driver = choice == "cuda" or find_library("cuda") or Path("/proc/driver/nvidia").exists() or os.name == "nt"
    if choice == "cpu" or not driver:
        return ("cpu",)
    import torch

    if torch.cuda.is_available():
        return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    if choice == "cuda":
        raise BadInput(
            where="device",
            expected="a GPU that torch can use",
            found=f"none (torch {torch.__version__})",
            todo="--set device=cpu, or install torch for CUDA.",
        )
    return ("cpu",)


def device_facts(device: str) -> dict[str, str]:
    """What the record of a run says of where it ran: `device`, and of a GPU its name and the version of CUDA.

    >>> device_facts("cpu")
    {'device': 'cpu'}
    """
    if not device.startswith("cuda"):
        return {"device": device}
    import torch

    return {"device": device, "gpu": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}


@dataclass(frozen=True)
class Foreseen:
    """Which engine trainings will get.

    Attributes:
        name: `native avx512`, `reference`, ...
        why: the reason where it is the plain loop; whether the kernels have been measured yet.
        times: of each layer, where they are known.
    """

    name: str
    why: str
    times: Mapping[str, forms.Times]

    @property
    def unmeasured(self) -> bool:
        """Whether the kernels will be used and their times are not known yet."""
        return self.name.startswith("native") and not self.times

    def step_seconds(self, densities: Mapping[str, float]) -> float:
        """Of a step with layers of these densities; only where the times are known."""
        return min(forms.network_seconds((times, densities[name]) for name, times in self.times.items()))


def foresee(
    choice: Choice,
    layers: Mapping[str, Sizes],
    batch: int,
    measuring: bool = False,
    device: str = "cpu",
    together: int = 1,
) -> Foreseen:
    """The engine that a model will get, before anything is trained.

    Args:
        choice: `auto` or `reference`.
        layers: their sizes by weight, from the input on; empty for a model that the kernels do not know.
        batch: examples per step.
        measuring: whether to measure what has not been measured on this machine yet, which takes seconds.
        device: where.
        together: how many at once, as `at_once` has it.
    """
    if together > 1:
        return Foreseen("stacked", f"up to {together} trainings at once where they differ only in seeds and masks", {})
    if choice == "reference":
        return Foreseen("reference", "as asked for", {})
    if choice == "stacked":
        return Foreseen("reference", "one of these networks fills a stack", {})
    if device != "cpu":
        return Foreseen("reference", "on GPUs, and for networks that are too large for a stack", {})
    if not layers:
        return Foreseen("reference", "the kernels know chains of convolutions and fully connected layers only", {})
    if not kernels.sets():
        why = "the kernels were not compiled: when Tombola was installed there was no C compiler that could do it"
        return Foreseen("reference", why, {})
    shapes = shapes_of(layers, batch)
    kept = (measure.times if measuring else measure.known)(shapes.values())
    name = f"native {kernels.sets()[-1]}"
    if len(kept) < len(set(shapes.values())):
        return Foreseen(
            name, "not measured on this machine yet: a run does so first, if it can keep that in the user's cache", {}
        )
    seconds, plain = forms.network_seconds((kept[shape], 1.0) for shape in shapes.values())
    why = "but the plain loop for dense networks, where it is faster here" if plain < seconds else ""
    return Foreseen(name, why, {weight: kept[shape] for weight, shape in shapes.items()})


def shapes_of(layers: Mapping[str, Sizes], batch: int) -> dict[str, forms.Shape]:
    """What has to be measured for a chain of layers."""
    return {
        name: forms.Shape(inputs, outputs, batch, number == 0, *maps)
        for number, (name, (inputs, outputs, *maps)) in enumerate(layers.items())
    }


def _sizes(layer: "Layer") -> Sizes:
    if layer.window:
        return layer.inputs, layer.outputs, layer.window, layer.height, layer.width
    return layer.columns, layer.outputs


def _suits(layers: "Sequence[Layer]", mask: "Mask", dataset: "Dataset") -> bool:
    """Whether the kernels may read mask and data as they are; else the plain loop does, or says what is wrong."""
    import torch

    shapes = {layer.weight: (layer.outputs, layer.inputs, layer.area) for layer in layers}
    masked = all(name in shapes and _flat(shapes[name]) == _flat(alive.shape) for name, alive in mask.items())
    facts, outputs = dataset.facts, layers[-1].outputs
    pictures = all(
        isinstance(images, torch.Tensor)  # and not photographs in files
        and images.device.type == "cpu"
        and images.dtype == torch.uint8
        and images.is_contiguous()
        and images.shape[1:] == facts.shape
        for images in (dataset.images, dataset.test_images)
    )
    answers = all(
        labels.dtype == torch.int64
        and labels.device.type == "cpu"
        and labels.is_contiguous()
        and (not len(labels) or (int(labels.min()) >= 0 and int(labels.max()) < outputs))
        for labels in (dataset.labels, dataset.test_labels)
    )
    border = max(layer.window // 2 for layer in layers)
    return masked and pictures and answers and max(_largest(layer, border) for layer in layers) <= MOST_NUMBERS


def _flat(shape: Sequence[int]) -> tuple[int, int]:
    """Outputs, and weights into one of them."""
    return shape[0], prod(shape[1:])


def _largest(layer: "Layer", border: int) -> int:
    """The largest number that the kernels count to."""
    positions = (layer.height + 2 * border) * (layer.width + 2 * border)
    return max(layer.outputs * layer.columns, max(layer.inputs, layer.outputs) * positions)
