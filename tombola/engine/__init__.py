"""The same training, faster: engines, and which one a training gets.

`reference` is the plain loop; `native` the compiled kernels, for chains of convolutions and fully connected layers;
`sparse` the plain loop of which some layers compute with their living weights only;
`stacked` does several trainings at once, `data-parallel` one by several processes. Each says of a `Training` whether it
takes it, or why not; plan and run ask the same function. All engines compute the same, but for the order of sums.

To add one: write a folder like `reference/` whose `__init__` has an `Engine`, and name it in `ENGINES`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from tombola.engine import native
from tombola.engine.data_parallel import DATA_PARALLEL
from tombola.engine.native import NATIVE, calibrate
from tombola.engine.native.layer_formats import Timed
from tombola.engine.reference import REFERENCE
from tombola.engine.sparse import SPARSE
from tombola.engine.stacked import MOST, STACKED, room
from tombola.engine.training import Engine, Start, Training, Trainings
from tombola.errors import BadInput
from tombola.sparse.times import Times

ENGINES = (  # in order of preference
    DATA_PARALLEL,
    STACKED,
    NATIVE,
    SPARSE,
    REFERENCE,
)

if TYPE_CHECKING:
    Choice = str
else:  # so that a spec's readers are told the names
    Choice = Literal["auto", *sorted(engine.name for engine in ENGINES if engine.on_request)]


def candidates(training: Training) -> tuple[Engine, ...]:
    """The engines that may do a training, in order: those asked for; the last one takes all.

    >>> from tombola.recipe import SGD
    >>> [engine.name for engine in candidates(Training(optimizer=SGD(name="sgd", lr=0.1), batch=60, choice="stacked"))]
    ['stacked', 'reference']
    """
    if training.processes > 1:
        return (DATA_PARALLEL,)
    return tuple(
        engine
        for engine in ENGINES
        if engine is not DATA_PARALLEL and (engine is REFERENCE or training.choice in ("auto", engine.name))
    )


def choose(training: Training) -> tuple[Engine, str]:
    """The first engine that takes a training, and why the two before did not.

    Raises:
        BadInput: several processes train together, and what they are to train cannot be shared out.
    """
    refusals: list[str] = []
    for engine in candidates(training):
        if not (reason := engine.accepts(training)):
            return engine, "; ".join(refusals[-2:])
        refusals.append(reason)
    raise BadInput(
        where="torchrun",
        expected="a training that processes can share out",
        found="; ".join(refusals),
        todo="Start one process, without torchrun.",
    )


@dataclass(frozen=True)
class Begun:
    """Trainings that are about to begin, or to go on.

    Attributes:
        trainings: what trains them.
        name: of the engine, for the record.
        times: by which it was chosen, where they were asked for.
    """

    trainings: Trainings
    name: str
    times: Mapping[Timed, Times]


def begin(
    training: Training,
    starts: Sequence[Start],
    times: Callable[[Iterable[Timed]], Mapping[Timed, Times]] = calibrate.times,
) -> Begun:
    """Begin `starts`, trainings of one description: in a stack, or the one that there is by the engine that takes it.

    Args:
        training: what all of them have in common.
        starts: one, or as many as are to be stacked.
        times: asked, where the kernels may train, for how long layers of some shapes take.
    """
    training = replace(training, count=len(starts))
    if len(starts) == 1 and any(engine in candidates(training) for engine in (NATIVE, SPARSE)):
        training = timed(native.inspected(training, starts[0]), times)
    engine = choose(training)[0] if len(starts) == 1 else STACKED
    trainings, name = engine.begin(training, starts)
    return Begun(trainings, name, training.times)


@dataclass(frozen=True)
class EngineForecast:
    """Which engine trainings will get.

    Attributes:
        engine: which one.
        name: `native avx512`, `reference`, ...
        why: the reason where it is the plain loop; whether the kernels have been measured yet.
        training: what it was asked about, dense.
    """

    engine: Engine
    name: str
    why: str
    training: Training

    @property
    def times(self) -> dict[str, Times]:
        """Of each layer, by its weight, where they are known."""
        wanted, known = self.engine.times_of(self.training), self.training.times
        return {name: known[shape] for name, shape in wanted.items()} if self.measured else {}

    @property
    def measured(self) -> bool:
        """Whether it is by the times of layers that it is chosen, and they are known."""
        wanted = self.engine.times_of(self.training)
        return bool(wanted) and self.training.times.keys() >= set(wanted.values())

    @property
    def unmeasured(self) -> bool:
        """Whether it is by the times of layers that it is chosen, and they are not known yet."""
        return bool(self.engine.times_of(self.training)) and not self.measured

    def step_seconds(self, densities: Mapping[str, float]) -> float:
        """Of a step with layers of these densities."""
        return self.engine.step_seconds(replace(self.training, densities=densities))


def forecast(training: Training, measuring: bool = False) -> EngineForecast:
    """The engine that trainings will get, before anything is trained.

    Args:
        training: dense; there may be many of them.
        measuring: whether to measure what has not been measured on this machine yet, which takes seconds.
    """
    training = replace(training, count=MOST, times={})
    engine, refusal = choose(training)
    if engine in (NATIVE, SPARSE):
        training = timed(training, calibrate.times if measuring else calibrate.known)
    return EngineForecast(engine, *engine.forecast(training, refusal), training)


def shapes(training: Training) -> list[Timed]:
    """Of which layers the times are asked before such a training begins; none where no engine asks."""
    asking = [engine for engine in candidates(training) if engine.times_of(training)]
    if NATIVE in asking and all(layer.kind != "conv" for layer in training.layers.values()):
        asking = [NATIVE]  # sparse layers by themselves are never faster than its own, which convert nothing
    return [shape for engine in asking for shape in engine.times_of(training).values()]


def timed(training: Training, times: Callable[[Iterable[Timed]], Mapping[Timed, Times]]) -> Training:
    """The same training with the times of its layers, by which an engine is chosen."""
    wanted = shapes(training)
    return replace(training, times=times(wanted)) if wanted else training


def at_once(training: Training) -> int:
    """How many trainings like this one a worker is given at once, to be stacked; 1 for one after another."""
    training = replace(training, count=MOST)
    return room(training) if choose(training)[0] is STACKED else 1
