"""Several trainings of one recipe in one program: for GPUs, which one small network does not fill."""

from collections.abc import Sequence

from tombola.engine import reference
from tombola.engine.training import Engine, Start, Training, Trainings

MOST = 16  # trainings in a stack
MOST_WEIGHTS = 20_000_000  # of all networks of a stack; a larger one fills a GPU by itself
MOST_VALUES = 2**29  # that layers give for one batch: 2 GB in float32, and some times that with all gradients


def room(training: Training) -> int:
    """How many such trainings a stack has room for, at least one: `MOST`, `MOST_WEIGHTS` and `MOST_VALUES` in all.

    >>> from tombola import data
    >>> from tombola.recipe import Recipe
    >>> facts = data.facts("cifar10")
    >>> common = {"data": "cifar10", "length": "1ep", "optimizer": {"name": "sgd", "lr": 0.1}}
    >>> large, small = Recipe(model="conv-2", batch=60, **common), Recipe(model="resnet-20", batch=128, **common)
    >>> room(Training.of(large, facts)), room(Training.of(small, facts))
    (4, 16)
    """
    layers = training.layers.values()
    weights = sum(layer.weights for layer in layers)
    values = training.batch * sum(layer.outputs * layer.height * layer.width for layer in layers)
    return max(1, min(MOST, MOST_WEIGHTS // max(weights, 1), MOST_VALUES // max(values, 1)))


def accepts(training: Training) -> str:
    """Small networks, several of them, on GPUs; on the CPU where stacks are asked for."""
    objective = training.objective
    if training.device == "cpu" and training.choice != "stacked":
        return "stacks are for GPUs, and on the CPU for who asks"
    if objective and not objective.stacks:
        return f"stacks know no {objective.name}"
    if training.optimizer.decay:
        return "stacks let all parameters decay, or none"
    if training.answers != "class":
        return "stacks know no answers but classes"
    if training.dynamics:
        return f"stacks know no {training.dynamics.name}"
    # Code that is not ours may ask a tensor for its values, which a stack has none of.
    if training.count == 1 or not training.ours or training.examples == "files" or room(training) == 1:
        return "one of these networks fills a stack"
    return ""


def begin(training: Training, starts: Sequence[Start]) -> tuple[Trainings, str]:
    """All of `starts` in one stack."""
    from tombola.engine.stacked.trainer import Stacked

    return Stacked(training, starts), f"stacked {len(starts)} x reference"


def forecast(training: Training, refusal: str) -> tuple[str, str]:
    """How many at once."""
    return "stacked", f"up to {room(training)} trainings at once where they differ only in seeds and masks"


STACKED = Engine("stacked", accepts, reference.step_seconds, begin, forecast, on_request=True)
