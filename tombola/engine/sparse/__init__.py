"""The plain loop with sparse layers: pruned convolutions and fully connected layers of any network, on a CPU."""

from collections.abc import Mapping, Sequence

from tombola.engine import reference
from tombola.engine.training import Alone, Engine, Start, Training, Trainings
from tombola.models.layer import Layer
from tombola.sparse import choice, kernels
from tombola.sparse.choice import Call


def accepts(training: Training) -> str:
    """Pruned networks of which some layer is faster with its living weights only, as far as that is measured."""
    if reason := hindrance(training):
        return reason
    known = training.times.keys() >= set(calls(training).values())
    return "" if not known or saved(training) > 0 else "all layers are faster dense, at these densities"


def hindrance(training: Training) -> str:
    """What of a training sparse layers cannot do, whatever the times are; "" for nothing."""
    hindrances = {
        "sparse layers are for CPUs": training.device != "cpu",
        "sparse layers compute in the type of the weights": training.precision is not None,
        "sparse layers know no dynamics, which move the mask": training.dynamics is not None,
        "sparse layers know no weights that are made of others": not training.direct,
        "no layer is large enough to gain by its living weights alone": not _calls(training),
        "the kernels of sparse layers were not compiled": not kernels.sets(),
    }
    return next((words for words, there in hindrances.items() if there), "")


def calls(training: Training) -> Mapping[str, Call]:
    """By weight, what the times of its layers depend on, of those that may gain."""
    return {} if hindrance(training) else _calls(training)


def _calls(training: Training) -> dict[str, Call]:
    numbered = enumerate(training.layers.items())
    found = {name: _call(layer, training.batch, first=number == 0) for number, (name, layer) in numbered}
    return {name: call for name, call in found.items() if call and call.work >= choice.LEAST}


def _call(layer: Layer, batch: int, first: bool) -> Call | None:
    """A convolution as if its stride were 1, on maps of the size that it gives: its work is the same."""
    if layer.kind == "conv":
        side, maps = layer.window, (layer.height, layer.width)
        return Call(
            layer.inputs, layer.outputs, batch, window=(side, side), stride=(1, 1), padding=(side // 2, side // 2),
            dilation=(1, 1), maps=maps, channels_last=True, first=first,
        )  # fmt: skip
    if layer.kind not in ("linear", "output"):
        return None
    return Call(layer.inputs, layer.outputs, batch * layer.height * layer.width, first=first)


def chosen(training: Training) -> list[str]:
    """The weights of the layers that are faster with their living weights only, at their densities."""
    return [
        name
        for name, call in calls(training).items()
        if call in training.times and choice.gains(call, training.densities.get(name, 1.0), training.times[call])
    ]


def saved(training: Training) -> float:
    """Seconds of a step that they save."""
    known, densities = calls(training), training.densities
    times = {name: training.times[known[name]] for name in chosen(training)}
    return sum(each.dense - each.sparse_at(densities.get(name, 1.0)) for name, each in times.items())


def step_seconds(training: Training) -> float:
    """As measured, of the layers that may gain; of all others a guess from their size."""
    timed = {name: training.times[call] for name, call in calls(training).items() if call in training.times}
    others = {name: layer for name, layer in training.layers.items() if name not in timed}
    measured = sum(times.seconds(training.densities.get(name, 1.0)) for name, times in timed.items())
    return measured + reference.layers_seconds(others.values(), training.batch) + reference.OVERHEAD * len(timed)


def begin(training: Training, starts: Sequence[Start]) -> tuple[Trainings, str]:
    """One training by the plain loop, with the layers sparse that gain by it."""
    from tombola.engine.sparse.trainer import SparseLayers
    from tombola.sparse.layers import candidates

    (start,) = starts
    able, _ = candidates(start.model, start.mask)
    sparse = {each.weight: each for each in able.values() if each.weight in chosen(training)}
    formats = {name: "sparse" if name in sparse else "dense" for name in training.layers}
    named = ", ".join(f"{name.removesuffix('.weight')} {format}" for name, format in formats.items())
    return Alone(SparseLayers(training, start, list(sparse.values()))), f"sparse: {named}" if sparse else "reference"


def forecast(training: Training, refusal: str) -> tuple[str, str]:
    """The plain loop until layers gain by their living weights alone; whether it is known from when on."""
    if training.times.keys() >= set(calls(training).values()):
        return "sparse", "the plain loop, of whose layers those compute with their living weights only that gain by it"
    return "sparse", "not measured on this machine yet: a run does so first, if it can keep that in the user's cache"


SPARSE = Engine("sparse", accepts, step_seconds, begin, forecast, on_request=True, times_of=calls)
