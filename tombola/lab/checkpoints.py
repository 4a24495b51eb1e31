"""When a long run keeps how far it is, so that it goes on from there after whatever stops it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tombola.lab.runs import Outcome, Run
from tombola.lab.store import Store

CHECKPOINT_S = 180.0

Clock = Callable[[], float]  # seconds


class Interval:
    """When to keep a checkpoint: asked at stop after stop, it says so once every `CHECKPOINT_S`.

    Trainings that are done at once have one in common, so that what they keep is of one step.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock, self._last, self._stop, self._over = clock, clock(), -1, False

    def over(self, stop: int) -> bool:
        """Whether to keep one at this stop; the same answer as often as it is asked."""
        if stop != self._stop:
            self._stop, now = stop, self._clock()
            self._over = now - self._last >= CHECKPOINT_S
            self._last = now if self._over else self._last
        return self._over


@dataclass
class Checkpoints:
    """The checkpoints of one run: the one that it goes on from, and those that it keeps.

    Attributes:
        halted: the one that it goes on from; None where it begins.
    """

    run: Run
    store: Store
    clock: Clock
    interval: Interval
    halted: Outcome | None
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock() - (self.halted.values["seconds"] if self.halted else 0.0)

    def due(self, stop: int) -> bool:
        """Whether to keep one at this stop."""
        return self.interval.over(stop)

    def keep(self, state: Outcome) -> None:
        """Keep this state, with the seconds that the run has taken so far; it replaces the one before."""
        seconds = self.clock() - self._began
        self.store.keep(self.run, Outcome({"seconds": seconds, **state.values}, state.tensors))
