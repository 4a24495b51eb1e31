"""When a long run keeps how far it is, so that it goes on from there after whatever stops it.

A worker whose time is running out says that it is leaving: its run then keeps a checkpoint at the next stop and ends
there, to be gone on with by another worker.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from tombola.lab.runs import Outcome, Run
from tombola.lab.store import Store

CHECKPOINT_S = 180.0

Clock = Callable[[], float]  # seconds


class Halted(Exception):
    """A run has kept its checkpoint and ended there, as its worker is leaving: it is neither done nor failed."""


def staying() -> bool:
    """Whether a worker is leaving that has all the time it wants."""
    return False


class Interval:
    """When to keep a checkpoint: asked at stop after stop, it says so once every `CHECKPOINT_S`.

    Trainings that are done at once have one in common, so that what they keep is of one step.

    Args:
        leaving: whether the worker is; then there is one more checkpoint, and the run ends.
        among: how many runs have it in common.
    """

    def __init__(self, clock: Clock, leaving: Callable[[], bool] = staying, among: int = 1) -> None:
        self._clock, self._leaving, self._among = clock, leaving, among
        self._last, self._stop, self._over = clock(), -1, False
        self._final, self._kept = False, 0

    def over(self, stop: int) -> bool:
        """Whether to keep one at this stop; the same answer as often as it is asked.

        Raises:
            Halted: at the stop before, all have kept their last one; some may have ended of themselves before that.
        """
        if stop != self._stop:
            if self._final:
                raise Halted
            self._stop, now, self._final = stop, self._clock(), self._leaving()
            self._over = self._final or now - self._last >= CHECKPOINT_S
            self._last = now if self._over else self._last
        return self._over

    def kept(self) -> None:
        """One of the runs has kept its checkpoint.

        Raises:
            Halted: it was the last checkpoint of the last one.
        """
        self._kept += self._final
        if self._kept == self._among:
            raise Halted


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
        """Whether to keep one at this stop; see `Interval.over`."""
        return self.interval.over(stop)

    def keep(self, state: Outcome) -> None:
        """Keep this state, with the seconds that the run has taken so far; it replaces the one before.

        Raises:
            Halted: the worker is leaving.
        """
        seconds = self.clock() - self._began
        self.store.keep(self.run, Outcome({"seconds": seconds, **state.values}, state.tensors))
        self.interval.kept()
