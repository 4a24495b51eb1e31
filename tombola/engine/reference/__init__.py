"""The plain loop of `train.py`: it does everything, and all other engines are measured by it."""

from collections.abc import Sequence

from tombola.engine.training import Alone, Engine, Start, Training, Trainings


def accepts(training: Training) -> str:
    """Everything."""
    return ""


def step_seconds(training: Training) -> float:
    """A guess from the model's size."""
    layers = training.layers.values()
    uses, weights = sum(layer.uses for layer in layers), sum(layer.weights for layer in layers)
    # Six operations a use and example at 50 GFLOP/s, Adam's pass over the weights, the framework's own time a layer.
    return 6 * uses * training.batch / 50e9 + 2e-9 * weights + 0.5e-3 * len(layers)


def begin(training: Training, starts: Sequence[Start]) -> tuple[Trainings, str]:
    """One training by torch's own layers, gradients and optimisers."""
    from tombola.engine.reference.moving import Moving
    from tombola.engine.reference.trainer import Reference

    return Alone((Moving if training.dynamics else Reference)(training, starts[0])), "reference"


def forecast(training: Training, refusal: str) -> tuple[str, str]:
    """The reason is what the engine before it did not take."""
    return "reference", refusal or "as asked for"


REFERENCE = Engine("reference", accepts, step_seconds, begin, forecast, on_request=True)
