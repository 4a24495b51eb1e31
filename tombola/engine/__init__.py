"""The same training, faster. An engine is one training in progress; which one it gets is chosen here.

`reference` is the plain loop; `native` the compiled kernels, for chains of fully connected layers. Whatever the kernels
cannot do exactly goes to the plain loop. All engines compute the same, but for the order of sums.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tombola.engine import forms, kernels, measure

if TYPE_CHECKING:  # `tombola plan` asks for names and times and touches no tensor
    from torch import Tensor, nn

    from tombola.data import Batches, Dataset
    from tombola.evaluate import Evaluation
    from tombola.mask import Mask
    from tombola.recipe import Optimizer

Choice = Literal["auto", "reference"]


class Engine(Protocol):
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

    def weights(self) -> "dict[str, Tensor]":
        """The state_dict as it stands."""

    def optimizer_state(self) -> "dict[str, Tensor]":
        """The optimiser's state by name."""


def begin(
    choice: Choice,
    model: "nn.Module",
    mask: "Mask",
    optimizer: "Optimizer",
    state: "Mapping[str, Tensor]",
    dataset: "Dataset",
    batch: int,
) -> tuple[Engine, str]:
    """The engine that trains `model`, and its name for the record.

    Args:
        choice: `auto`, the fastest that can do it, or `reference`.
        model: holds the weights to start from; the engine may or may not write into it.
        mask: True = alive.
        optimizer, state: which optimiser, and its state where one is carried over.
        dataset: what is trained on.
        batch: examples per step.
    """
    from tombola import weights
    from tombola.engine.chain import chain
    from tombola.engine.native import Native
    from tombola.engine.reference import Reference

    layers = chain(model) if choice == "auto" and kernels.sets() else None
    channels, height, width = dataset.facts.shape
    if layers is None or layers[0].inputs != channels * height * width:
        return Reference(model, mask, optimizer, state, dataset), "reference"
    shapes = shapes_of({layer.weight: (layer.inputs, layer.outputs) for layer in layers}, batch)
    measured = measure.times(shapes.values())
    counts = mask.counts
    densities = {name: counts.get(name, 1) / (mask[name].numel() if name in mask else 1) for name in shapes}
    chosen = {name: measured[shape].form(densities[name]) for name, shape in shapes.items()}
    native = Native(layers, weights.of(model), mask, chosen, optimizer, state, dataset, batch)
    described = ", ".join(f"{name.removesuffix('.weight')} {form}" for name, form in chosen.items())
    return native, f"native {kernels.sets()[-1]}: {described}"


def shapes_of(layers: Mapping[str, tuple[int, int]], batch: int) -> dict[str, forms.Shape]:
    """What has to be measured for a chain of layers, given as name -> (inputs, outputs)."""
    return {
        name: forms.Shape(inputs, outputs, batch, first=number == 0)
        for number, (name, (inputs, outputs)) in enumerate(layers.items())
    }
