"""The plain loop of `train.py`: it does everything, and all other engines are measured by it."""

from collections.abc import Iterable, Sequence

from tombola.engine.training import Alone, Engine, Start, Training, Trainings
from tombola.models.layer import Layer

OVERHEAD = 0.5e-3  # seconds of the framework's own, a layer


def accepts(training: Training) -> str:
    """Everything."""
    return ""


def step_seconds(training: Training) -> float:
    """A guess from the model's size."""
    return layers_seconds(training.layers.values(), training.batch)


def layers_seconds(layers: Iterable[Layer], batch: int) -> float:
    """A guess at what these layers take of a step."""
    layers = list(layers)
    uses, weights = sum(layer.uses for layer in layers), sum(layer.weights for layer in layers)
    # Six operations a use and example at 50 GFLOP/s, Adam's pass over the weights, the framework's own time a layer.
    return 6 * uses * batch / 50e9 + 2e-9 * weights + OVERHEAD * len(layers)


def begin(training: Training, starts: Sequence[Start]) -> tuple[Trainings, str]:
    """One training by torch's own layers, gradients and optimisers."""
    from tombola.engine.reference.moving import Moving
    from tombola.engine.reference.trainer import Reference

    return Alone((Moving if training.dynamics else Reference)(training, starts[0])), "reference"


def forecast(training: Training, refusal: str) -> tuple[str, str]:
    """The reason is what the engine before it did not take."""
    return "reference", refusal or "as asked for"


REFERENCE = Engine("reference", accepts, step_seconds, begin, forecast, on_request=True)
