"""One way through the loop: its steps are seen, and its pruned weights, their gradients and averages held at 0."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from tombola import mask, weights
from tombola.errors import GuardLost
from tombola.guard import Guard
from tombola.mask import Mask
from tombola.search.state import Loop


def nothing() -> None:
    """What is done where nothing is to be done."""


class Steps:
    """Counts the optimiser's steps; says when step `at` is done, and when the one after it begins.

    A step that a gradient scaler skips is none. What a loop does between two steps - schedulers, averages, scalers -
    is over only when the next one begins, or when the loop ends.

    Args:
        begin: the steps that are done already.
        at: k, of which the following are told.
        done: called right after step k, inside of `optimizer.step()`.
        followed: called once after that, before the next step or by `close`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        begin: int,
        at: int,
        done: Callable[[], None] = nothing,
        followed: Callable[[], None] = nothing,
    ) -> None:
        self.begin = self.number = begin
        self._at, self._done, self._followed, self._awaits = at, done, followed, False
        self._hooks = [
            optimizer.register_step_pre_hook(lambda *_: self._before()),
            optimizer.register_step_post_hook(lambda optimizer, *_: self._after(optimizer)),
        ]

    def _before(self) -> None:
        if self._awaits:
            self._awaits = False
            self._followed()

    def _after(self, optimizer: Optimizer) -> None:
        if _skipped(optimizer):
            return
        self.number += 1
        if self.number == self._at:
            self._awaits = True
            self._done()

    def close(self) -> None:
        """The loop has ended."""
        self._before()

    def release(self) -> None:
        """Take the hooks off the optimiser."""
        for hook in self._hooks:
            hook.remove()


def _skipped(optimizer: Optimizer) -> bool:
    # A fused optimiser is asked to step even where gradients overflowed, and told so; others are not asked.
    overflowed = getattr(optimizer, "found_inf", None)
    return overflowed is not None and bool(overflowed)


class Hold:
    """Holds all that belongs to pruned weights at 0: themselves, their state, their gradients, their averages.

    Gradients are masked as they are made, so that clipping sees the norm of the ticket's own gradient, and parallel
    training sends that; the rest is `Guard`'s.

    Args:
        held: False for the replay of a rewound loop's first steps, which are the dense network's.
    """

    def __init__(self, loop: Loop, living: Mask, held: bool = True) -> None:
        self._loop, self._living = loop, living
        self._parameters = {name: loop.model.get_parameter(name) for name in living}
        self._guard = Guard(loop.model, loop.optimizer, living, held)
        self._hooks = [parameter.register_hook(self._masking(dead)) for parameter, dead in self._guard.dead]
        self._averages: list[nn.Module] = []  # those that are held; only from the step after k on, in a replay
        if held:
            self.mask_averages()

    def _masking(self, dead: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda gradient: gradient.masked_fill(dead, 0) if self._guard.held else gradient

    def hold(self) -> None:
        """From now on, pruned is pruned."""
        self._guard.hold()

    def mask_averages(self) -> None:
        """Zero in an average stays zero; this makes it so."""
        self._averages = self._loop.averages()
        for average in self._averages:
            weights.put(average, mask.apply(weights.of(average), self._living))

    def check(self) -> None:
        """Make sure that nothing has escaped.

        Raises:
            GuardLost: a parameter is another object than the one that is held, or a pruned weight is not 0.
        """
        for name, parameter in self._parameters.items():
            if _found(self._loop.model, name) is not parameter:
                raise GuardLost(
                    f"{name}: expected the parameter that the search began with, found another object in its place. "
                    "Load weights into it, or make the Search after the model is complete."
                )
        if not self._guard.held:
            return
        self._guard.check()
        for average in self._averages:
            state = weights.of(average)
            for name, alive in self._living.items():
                if state[name][~alive].any():
                    raise GuardLost(f"{name}: expected 0 where it is pruned in an average too, found other numbers.")

    def release(self) -> None:
        """Take all hooks off."""
        self._guard.release()
        for hook in self._hooks:
            hook.remove()


def _found(model: Any, name: str) -> object:
    try:
        return model.get_parameter(name)
    except AttributeError:
        return None
