"""One training by all processes that `torchrun` has started: each takes its share of every batch."""

from collections.abc import Sequence

from tombola.engine import reference
from tombola.engine.training import Alone, Engine, Start, Training, Trainings


def accepts(training: Training) -> str:
    """Everything whose mask stays and whose loss is a mean over answers, as shares of a batch are weighed by theirs."""
    if training.objective:
        return f"the objective {training.objective.name}: only cross-entropy adds up over shares of a batch"
    if training.dynamics:
        return f"the dynamics {training.dynamics.name}: each process would move a mask, or make weights, of its own"
    if training.answers != "class":
        return "shares of a batch are weighed by their answers, which are no classes here"
    return "" if training.processes > 1 else "this is one process"


def begin(training: Training, starts: Sequence[Start]) -> tuple[Trainings, str]:
    """One training, by this process and all others."""
    from torch import distributed

    from tombola.engine.data_parallel.crew import Crew
    from tombola.engine.data_parallel.trainer import Parallel

    crew = Crew(distributed.get_rank(), distributed.get_world_size(), training.device)
    return Alone(Parallel(crew, training, starts[0])), f"data-parallel {crew.world} x reference"


def forecast(training: Training, refusal: str) -> tuple[str, str]:
    """How many processes."""
    return "data-parallel", f"{training.processes} processes train together, as torchrun has started them"


DATA_PARALLEL = Engine("data-parallel", accepts, reference.step_seconds, begin, forecast)
