"""One way through the loop: its steps are seen, and its pruned weights, their gradients and averages held at 0."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from types import FrameType
from typing import Any, SupportsFloat

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from tombola import weights
from tombola.errors import BadInput, GuardLost
from tombola.guard import Guard
from tombola.mask import Mask
from tombola.search import averages
from tombola.search.averages import Average
from tombola.search.engine import Computed, LevelLayers
from tombola.search.state import Loop, Moment
from tombola.step_hooks import ahead, opaque
from tombola.weights import Weights

ROUNDING = 1e-6  # of a mean of ones
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


@dataclass(frozen=True)
class Report:
    """What was reported of one moment: how sparse the network was, after how many steps, and the user's numbers."""

    level: int
    density: float
    alive: int
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Level:
    """One way through the loop, under one mask.

    Attributes:
        number: rounds of pruning so far; 0 is the dense network.
        mask: what is alive in it.
        begin: the steps that count as done when the loop starts: 0, or k where it does not replay them.
    """

    number: int
    mask: Mask
    begin: int
    _report: Callable[[Mapping[str, float]], None] = field(repr=False)
    _check: Callable[[], None] = field(repr=False)
    _held: Callable[[], bool] = field(repr=False)

    @property
    def held(self) -> bool:
        """Whether the model is this level's network now; False in a replay, before the rewind point.

        A loop that keeps its best weights looks at it: those of a replay are the dense network's.
        """
        return self._held()

    @property
    def density(self) -> float:
        """The fraction of prunable weights that are alive."""
        return self.mask.density

    def report(self, **metrics: float | Tensor) -> None:
        """Note numbers about the network as it is now; as often as you like.

        What is reported of a replay, before the rewind point, is the dense network's, and was noted at level 0.

        Args:
            metrics: any, by any names: `loss=`, `psnr=`, `returns=`. `Search.verify` judges one of them, `accuracy` by
                default, a fraction, at the minimum of `validation_loss` where that is reported too.

        Raises:
            GuardLost: a pruned weight was found alive.
            BadInput: a metric is no number, or an accuracy no fraction.
        """
        self._report({name: _number(name, value) for name, value in metrics.items()})

    def check(self) -> None:
        """Make sure that nothing has escaped; `report` does so too.

        Raises:
            GuardLost: a pruned weight was found alive.
        """
        self._check()


def _number(name: str, value: float | Tensor) -> float:
    try:
        number = _plain(value)
    except (TypeError, ValueError, RuntimeError):
        raise BadInput(
            where=f"level.report({name}=...)", expected="one number", found=repr(value), todo="Report its mean."
        ) from None
    if name == "accuracy" and not -ROUNDING <= number <= 1 + ROUNDING and not isnan(number):
        raise BadInput(
            where="level.report(accuracy=...)",
            expected="a fraction from 0 to 1",
            found=f"{number:.6g}",
            todo="Divide per cent by 100; what is no accuracy has another name.",
        )
    return number


def _plain(value: object) -> float:
    """The number as it came: torch and NumPy give what they hold, in their own precision."""
    if isinstance(value, Tensor):
        return float(value.detach().item())
    if isinstance(value, np.ndarray):
        return float(value.item())
    if not isinstance(value, SupportsFloat):  # a text that float() would read is none
        raise TypeError(f"expected a number, found {value!r}")
    return float(value)


def nothing() -> None:
    """What is done where nothing is to be done."""


@dataclass(frozen=True)
class StepCallbacks:
    """What is called while a loop runs.

    Attributes:
        begun: before the first step.
        done: right after step k, inside of `optimizer.step()`.
        followed: once after that, before the next step or at the loop's end.
        unnamed: with every optimiser that steps and that the loop was not given.
    """

    begun: Callable[[], None] = nothing
    done: Callable[[], None] = nothing
    followed: Callable[[], None] = nothing
    unnamed: Callable[[Optimizer], None] | None = None


class StepCounter:
    """Counts the optimiser's steps; says when step `at` is done, and when the one after it begins.

    A step that a gradient scaler skips is none. What a loop does between two steps - schedulers, averages, scalers -
    is over only when the next one begins, or when the loop ends. `along` says whether any step found a gradient.

    Args:
        begin: the steps that are done already.
        at: k.
        calls: what is called on the way.
        others: optimisers that step in the same loop. One that steps before this one does so before the next step too,
            and belongs to it. One that steps after it belongs to the step before: after step k `calls.done` is called
            once more when each has stepped.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        begin: int,
        at: int,
        calls: StepCallbacks,
        others: Sequence[Optimizer] = (),
    ) -> None:
        self.begin = self.number = begin
        self._at, self._done, self._followed, self._awaits = at, calls.done, calls.followed, False
        self._begun: Callable[[], None] | None = calls.begun
        self._earlier: set[Optimizer] = set()
        self._later: set[Optimizer] = set()  # that have stepped since step k
        self.stepped: set[str] = set()  # the classes of others that have
        self.along = False
        self._outermost: FrameType | None = None
        self._depth = 0  # of steps in steps: an optimiser's own may call `super().step()`
        self._hooks = [
            optimizer.register_step_pre_hook(opaque(lambda optimizer, *_: self._before(optimizer))),
            ahead(optimizer, lambda optimizer, *_: self._after(optimizer)),
            *(other.register_step_pre_hook(opaque(lambda other, *_: self._before_another(other))) for other in others),
            *(ahead(other, lambda other, *_: self._after_another(other)) for other in others),
        ]
        if calls.unnamed:
            groups = [each.param_groups for each in (optimizer, *others)]
            self._hooks.append(register_optimizer_step_post_hook(opaque(_strangers(groups, calls.unnamed))))

    def _before_another(self, other: Optimizer) -> None:
        if self._begun:  # no step of the search's own was seen yet
            self._earlier.add(other)
        elif other in self._earlier or other in self._later:
            self._go_on()

    def _after_another(self, other: Optimizer) -> None:
        self.stepped.add(type(other).__name__)
        if self._awaits:
            self._later.add(other)
            self._done()

    def _before(self, optimizer: Optimizer) -> None:
        self.along = self.along or _has_gradients(optimizer)
        if self._begun:
            self._begun()
            self._begun = None
        frame = inspect.currentframe()
        if self._depth and not _within(frame, self._outermost):  # that step ended in an exception
            self._depth = 0
        if not self._depth:
            self._outermost = _step_of(frame)
            self._go_on()
        self._depth += 1

    def _go_on(self) -> None:
        if self._awaits:
            self._awaits = False
            self._followed()

    def _after(self, optimizer: Optimizer) -> None:
        self._depth -= 1
        if self._depth:
            return
        self._outermost = None
        self.along = self.along or _has_gradients(optimizer)  # made by a closure, in the step
        if _skipped(optimizer):
            return
        self.number += 1
        if self.number == self._at:
            self._awaits = True
            self._done()

    def close(self) -> None:
        """The loop has ended."""
        self._go_on()

    def release(self) -> None:
        """Take the hooks off the optimiser."""
        for hook in self._hooks:
            hook.remove()


def _step_of(frame: FrameType | None) -> FrameType | None:
    """That of torch's which calls the hooks of a step."""
    while frame is not None and frame.f_globals.get("__name__") != Optimizer.__module__:
        frame = frame.f_back
    return frame


def _within(frame: FrameType | None, outer: FrameType | None) -> bool:
    while frame is not None and frame is not outer:
        frame = frame.f_back
    return frame is not None


def _has_gradients(optimizer: Optimizer) -> bool:
    gradients = (parameter.grad for group in optimizer.param_groups for parameter in group["params"])
    present = (gradient for gradient in gradients if gradient is not None)
    return any(gradient.is_sparse or bool(gradient.any()) for gradient in present)


def _strangers(
    groups: Sequence[object], unnamed: Callable[[Optimizer], None]
) -> Callable[[Optimizer, object, object], None]:
    def stepped(optimizer: Optimizer, *_: object) -> None:
        if not any(optimizer.param_groups is own for own in groups):  # wrappers share them with what they wrap
            unnamed(optimizer)

    return stepped


def _skipped(optimizer: Optimizer) -> bool:
    # A fused optimiser is asked to step where gradients overflowed, too, and skips that itself; others are not asked.
    overflowed = getattr(optimizer, "found_inf", None)
    return overflowed is not None and bool(overflowed)


class Hold:
    """Holds all that belongs to pruned weights at 0: themselves, their state, their gradients, their averages.

    Gradients are masked as they are made, so that clipping sees the norm of the ticket's own gradient, and parallel
    training sends that; the rest is `Guard`'s.

    Args:
        averages: what follows the weights in no optimiser's hands.
        begun: for the first steps of a loop that is to be rewound after them, the mask of level 0, whose they are.
    """

    def __init__(self, loop: Loop, living: Mask, averages: Sequence[Average] = (), begun: Mask | None = None) -> None:
        held = begun is None
        self._loop, self._living, self._averages = loop, living, averages
        self._before: Hold | None = None
        self._parameters = {name: loop.model.get_parameter(name) for name in living}
        self.held = held
        self._guards: list[Guard] = []
        self._hooks: list[RemovableHandle] = []
        self._replayed, self._averages_held = not held, False
        self._layers = LevelLayers(loop, living)
        try:
            if begun and begun.alive < begun.total:
                self._before = Hold(replace(loop, engine="dense"), begun, averages)
            for optimizer in loop.optimizers:
                own = _trained_by(optimizer, self._parameters, living)
                self._guards.append(Guard(loop.model, optimizer, own, held))
            for parameter, dead in self._dead:
                if parameter.requires_grad:  # a layer that the loop has frozen before step k
                    self._hooks.append(parameter.register_hook(self._masking(dead)))
            if held:
                self.mask_averages()
                self._layers.begin()
        except BaseException:
            self.release()
            raise

    def _masking(self, dead: Tensor) -> Callable[[Tensor], Tensor]:
        # All bits where it is alive: eight times as fast as to fill, and 0 even where the gradient is infinite.
        bits: dict[int, Tensor] = {}  # by the bytes of a number

        def masked(gradient: Tensor) -> Tensor:
            if not self.held:
                return gradient
            if gradient.layout is not torch.strided:
                raise _sparse_gradient(gradient)
            size = gradient.element_size()
            lazy = gradient.is_conj() or gradient.is_neg()  # of complex weights: their bits are yet to be flipped
            if gradient.requires_grad or lazy or size not in _INTEGERS:  # second derivatives are not of bits
                return gradient.masked_fill(dead, 0)
            if size not in bits:
                bits[size] = dead.logical_not().to(_INTEGERS[size]).neg()
            return gradient.view(_INTEGERS[size]).bitwise_and(bits[size]).view(gradient.dtype)

        return masked

    def hold(self) -> None:
        """From now on, pruned is pruned."""
        if self._before:
            self._before.release()
        self.held = True
        for guard in self._guards:
            guard.hold()
        self._layers.begin()

    @property
    def computed(self) -> Computed:
        """How the layers have computed so far."""
        return self._layers.computed

    @property
    def _dead(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Each parameter that is not wholly alive, once, however many optimisers train it."""
        pairs = (pair for guard in self._guards for pair in guard.dead)
        return list({id(parameter): (parameter, dead) for parameter, dead in pairs}.values())

    def mask_averages(self) -> None:
        """Zero in an average stays zero; this makes it so."""
        averages.change(self._averages, self._loop, self._masked)
        self._averages_held = True

    def _masked(self, name: str, value: Tensor) -> Tensor | None:
        return value.masked_fill(~self._living[name].to(value.device), 0) if name in self._living else None

    def check(self) -> None:
        """Make sure that nothing has escaped.

        Raises:
            GuardLost: a parameter is another object than the one that is held, or a pruned weight is not 0.
        """
        for name, parameter in self._parameters.items():
            if _parameter(self._loop.model, name) is not parameter:
                raise GuardLost(
                    f"{name}: expected the parameter that the search began with, found another object in its place. "
                    "Load weights into it, or make the Search after the model is complete."
                )
        if not self.held:
            if self._before:
                self._before.check()
            return
        if self._replayed:
            self._check_for_dense_weights()
        for guard in self._guards:
            guard.check()
        for name, value in averages.tensors(self._averages, self._loop) if self._averages_held else ():
            if name in self._living and value[~self._living[name].to(value.device)].any():
                raise GuardLost(f"{name}: expected 0 where it is pruned in an average too, found other numbers.")

    def _check_for_dense_weights(self) -> None:
        pruned = sum(int(dead.sum()) for _, dead in self._dead)
        alive = sum(int(parameter.detach()[dead].count_nonzero()) for parameter, dead in self._dead)
        if 2 * alive > pruned:
            first = next(name for name, alive in self._living.items() if not alive.all())
            raise GuardLost(
                f"{first}: expected every pruned weight to be 0, found a dense network's: {alive:,} of {pruned:,} are "
                "not. The loop has loaded weights from before the rewind point, where it replays level 0, as those of "
                "a best checkpoint or an average, or an optimizer that the search was not given has trained them. Keep "
                "the best only where `level.held`, or search with replay=False; name all optimizers that step."
            )

    def release(self) -> None:
        """Take all hooks off; all layers compute densely again."""
        self._layers.release()
        if self._before:
            self._before.release()
        for guard in self._guards:
            guard.release()
        for hook in self._hooks:
            hook.remove()


def _sparse_gradient(gradient: Tensor) -> BadInput:
    return BadInput(
        where=f"gradient of a pruned weight of shape {tuple(gradient.shape)}",
        expected="a dense one",
        found="a sparse one",
        todo="Call functional.embedding with sparse=False, or keep the weight dense.",
    )


def _trained_by(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], living: Mask) -> Mask:
    own = {parameter.data_ptr() for group in optimizer.param_groups for parameter in group["params"]}
    return Mask({name: alive for name, alive in living.items() if parameters[name].data_ptr() in own})


def _parameter(model: nn.Module, name: str) -> object:
    try:
        return model.get_parameter(name)
    except AttributeError:
        return None


class Course:
    """One way through the loop: what watches over it, and what was reported.

    Args:
        counted_from: the step from which on reports are this network's own, and not those of a dense one's replay.
    """

    def __init__(self, number: int, living: Mask, steps: StepCounter, hold: Hold, counted_from: int = 0) -> None:
        self.level = Level(number, living, steps.begin, self._report, hold.check, lambda: hold.held)
        self.reports: list[Report] = []
        self._steps, self._hold, self._counted_from, self._over = steps, hold, counted_from, False

    def _report(self, metrics: Mapping[str, float]) -> None:
        if self._over:
            raise BadInput(
                where="level.report",
                expected="the level to be under way",
                found=f"level {self.level.number}, which is over",
                todo="Report in the body of the loop.",
            )
        self._hold.check()
        step = self._steps.number
        if step >= self._counted_from:
            level, living = self.level.number, self.level.mask
            self.reports.append(Report(level, living.density, living.alive, step, metrics))

    @property
    def computed(self) -> Computed:
        """How its layers have computed so far."""
        return self._hold.computed

    @property
    def steps(self) -> int:
        """How many steps are done, those that count as done when the loop starts included."""
        return self._steps.number

    def end(self, k: int) -> None:
        """The loop has ended: make sure that it came past step k, and that nothing escaped.

        Raises:
            GuardLost: a pruned weight was found alive, or the loop stepped another optimiser.
            BadInput: it ended before step k.
        """
        self._steps.close()
        number, taken = self.level.number, self._steps.number - self._steps.begin
        if taken == 0:
            others = sorted(self._steps.stepped)
            raise GuardLost(
                f"level {number}: expected steps of the optimizer that the search was given, found none. "
                + (
                    f"{' and '.join(others)} in `also` stepped: search that one, as sam.base_optimizer where another "
                    "one, sam, wraps it and steps in two parts, Search(model, sam.base_optimizer, also=[sam])."
                    if others
                    else "A loop that makes an optimizer of its own escapes: make it once, before the Search."
                )
            )
        if not self._steps.along:
            raise GuardLost(
                f"level {number}: expected gradients of the model's own parameters, found none in {taken} steps. A "
                "loop that trains a copy of the model escapes: train the one that the Search was given."
            )
        if self._steps.number < k:
            raise BadInput(
                where=f"level {number}",
                expected=f"at least {k} optimiser steps, the rewind point",
                found=f"{taken}",
                todo="Train longer or rewind to an earlier step.",
            )
        self._hold.check()

    def release(self) -> None:
        """Take all hooks off."""
        self._over = True
        self._steps.release()
        self._hold.release()


def first(
    loop: Loop,
    living: Mask,
    averages: Sequence[Average],
    k: int,
    reached: Callable[[Moment], None],
    calls: StepCallbacks,
) -> Course:
    """The way of level 0, from how everything is; `reached` is given the moment after step k, if k > 0.

    Args:
        calls: what else is called on the way.
    """
    left: dict[str, Any] = {}

    def done() -> None:
        nonlocal left
        if not left:
            calls.done()
        left = loop.left() | ({"steps": left.get("steps", 1) + 1} if left else {})

    def followed() -> None:
        reached(Moment(left, loop.followed()))

    hold = Hold(loop, living, averages)  # before the hooks of steps, as it may fail
    steps = StepCounter(loop.optimizer, 0, k, replace(calls, done=done, followed=followed), loop.others)
    return Course(0, living, steps, hold)


@dataclass(frozen=True)
class Rewinding:
    """Where a ticket returns to, and how a loop gets there.

    Attributes:
        start: the moment before the first step.
        moment: that after step k.
        k: steps.
        replay: whether the loop starts from its own beginning; else it starts at step k by itself.
        begun: the mask of level 0, under which a replay is.
        averages: what follows the weights in no optimiser's hands.
    """

    start: Moment
    moment: Moment
    k: int
    replay: bool
    begun: Mask
    averages: Sequence[Average] = ()

    def with_weights(self, changed: Weights) -> "Rewinding":
        """The same way to step k, at which these weights take the place of the model's own."""
        return replace(self, moment=replace(self.moment, left={**self.moment.left, "weights": changed}))

    def course(
        self,
        loop: Loop,
        number: int,
        living: Mask,
        seed: int | None = None,
        fresh: Weights | None = None,
        calls: StepCallbacks = StepCallbacks(),
    ) -> Course:
        """Put everything in place for a way through the loop from step k on, under the mask `living`.

        Args:
            seed: of a data order, and whatever else is random, of its own; None for those of level 0.
            fresh: initial weights to take instead, which the first k steps then train under the mask of level 0: no
                replay, but all that is known of them.
            calls: what is called on the way, right after step k at the end of a replay.
        """
        self._put(loop, seed, fresh)
        if self.k == 0 or not self.replay:
            hold = Hold(loop, living, self.averages)
            steps = StepCounter(
                loop.optimizer, self.k, self.k, StepCallbacks(hold.check, unnamed=calls.unnamed), loop.others
            )
            return Course(number, living, steps, hold, self.k)

        several = left = self.moment.left.get("steps", 1)  # of the optimisers of step k that are to come

        # What the first k steps compute is thrown away; they bring the loop's own variables to where they were.
        def done() -> None:
            nonlocal left
            first, left = left == several, left - 1
            if fresh is None and left == 0:
                loop.put_left(self.moment.left if seed is None else {**self.moment.left, "random": loop.random()})
            hold.hold()
            hold.mask_averages()  # which may be measured before the loop goes on
            if first:
                calls.done()

        def followed() -> None:
            nonlocal left
            if left > 0:  # some have not stepped this time
                left = 1
                done()
            if fresh is None:
                loop.put_followed(self.moment.followed)
            hold.mask_averages()

        hold = Hold(loop, living, self.averages, self.begun)
        steps = StepCounter(loop.optimizer, 0, self.k, replace(calls, done=done, followed=followed), loop.others)
        return Course(number, living, steps, hold, self.k)

    def _put(self, loop: Loop, seed: int | None, fresh: Weights | None) -> None:
        """Everything to where the loop starts."""
        loop.put(self.start if self.replay else self.moment)
        if fresh is not None:
            weights.put(loop.model, fresh)
            begun = [average for average in self.averages if average.begins]
            averages.change(begun, loop, lambda name, value: fresh[name].to(value, copy=True))
        if seed is not None:
            loop.seed(seed)
