"""Several trainings of one recipe in one program: their weights stacked, each step one pass for all of them.

A GPU is not filled by a small network. Here every parameter and buffer has a leading dimension, one place for each
training; forward and backward go through `torch.func.vmap`, torch's own optimisers step over the stack, and as they
take number by number, that is what they do to each. Trainings share nothing but the model, the optimiser's numbers,
the schedule and the batch size: weights, masks, splits and orders of examples are their own.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from tombola.data import Batches, stacked_batches
from tombola.engine.reference.trainer import Reference
from tombola.engine.training import Start, Training
from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.objective import CrossEntropy, Objective, descended
from tombola.optimizers import optimizer_of, restore_state
from tombola.train import Span, StepLoss, computing, descend, guarded


class Stacked:
    """Trainings side by side; `states` is where each of them stands.

    Args:
        training: what all of them have in common.
        starts: models of one architecture, without frozen parameters; they hold the weights to start from, and from
            now on those of the stack. Optimisers whose state is carried over have done the same steps.
    """

    def __init__(self, training: Training, starts: Sequence[Start]) -> None:
        models = [start.model.to(training.device) for start in starts]
        self._training, self._device = training, torch.device(training.device)
        self._stack = _stack_of(models)
        if training.precision:
            for norm in (module for module in self._stack.modules() if isinstance(module, _BatchNorm)):
                # Under vmap, inputs of 16 bits beside running statistics of 32 are refused on GPUs.
                norm.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
            # As autocast does for a loss; vmap takes the loss apart before autocast sees it.
            self._stack.register_forward_hook(lambda *seen: seen[-1].float())
        self._loss = _LossOf(self._stack, training.objective or CrossEntropy())
        self._mask = _masks_of([start.mask for start in starts])
        self._optimizer = optimizer_of(training.optimizer, self._stack)
        restore_state(self._optimizer, self._stack, _states_of([start.state for start in starts]))
        self.states = [
            StackedState(training, start, (self._stack, self._optimizer, number)) for number, start in enumerate(starts)
        ]

    def train(
        self, batches: Sequence[Batches], span: Span, watches: Sequence[Callable[[int], None]]
    ) -> list[TombolaError | None]:
        """Train all over `span`; each of `watches` is called at each of its looks.

        Returns:
            Why a training failed, None for those that did not: each fails alone, and the others go on.
        """
        failed: list[TombolaError | None] = [None] * len(batches)

        def each(act: Callable[[int], None]) -> None:
            for number in range(len(batches)):
                if failed[number] is None:
                    try:
                        act(number)
                    except TombolaError as error:
                        failed[number] = error
                        self._rest(number)
            if None not in failed:
                raise _AllFailed

        def watch(step: int) -> None:
            each(lambda number: watches[number](step))

        with suppress(_AllFailed):
            with guarded(self._stack, self._optimizer, self._mask) as guard:
                descend(self._stack, self._optimizer, self._losses(batches), span, watch)
                each(guard.check)
            if span.until in span.looks:
                watch(span.until)
        return failed

    def _losses(self, batches: Sequence[Batches]) -> StepLoss:
        """step -> the sum of the losses of all, of which each depends on its own weights alone."""

        def loss(step: int) -> Tensor:
            inputs, labels = stacked_batches(batches, step)
            values = dict(self._loss.named_parameters()) | dict(self._loss.named_buffers())
            with computing(self._device, self._training.precision), self._attending():
                losses: Tensor = vmap(self._loss_of, randomness="different")(values, inputs, labels)
            return descended(self._loss.objective, losses.sum())

        return loss

    def _attending(self) -> AbstractContextManager[None]:
        # vmap knows no other way for attention on a CPU, and takes the stack apart with a warning.
        return sdpa_kernel(SDPBackend.MATH) if self._device.type == "cpu" else nullcontext()

    def _loss_of(self, values: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        # Running statistics are updated in place, which is in the stack: vmap knows how, as they are stacked like all.
        loss: Tensor = functional_call(self._loss, values, (inputs, labels))
        return loss

    @torch.no_grad()
    def _rest(self, number: int) -> None:
        """Put a replicate that failed to 0: no NaN of its goes through kernels that compute all of them."""
        state = [value for each in self._optimizer.state.values() for value in each.values()]
        for value in (*self._stack.parameters(), *self._stack.buffers(), *state):
            if isinstance(value, Tensor) and value.dim():
                value[number] = 0


class _LossOf(nn.Module):
    """The loss of a batch as a module, so that `functional_call` can put other weights into its network."""

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        loss = self.objective.loss(self.network, (inputs, labels), {})
        return descended(self.objective, loss, gradient=False)


WARM, TIMED = 3, 10  # steps, where it is measured whether a stack pays


def pays(training: Training, starts: Sequence[Start], batches: Sequence[Batches]) -> bool:
    """Whether a step of all in one stack takes less time than a step of each by itself.

    Measured, as it depends on the layers and on the GPU: under vmap several convolutions are one in groups, for which
    some have poor kernels.

    Args:
        training: as `Stacked` has it.
        starts, batches: of each training; the models stay as they are, and states are left out.
    """
    times: list[float] = []

    def look(training: Reference) -> Callable[[int], None]:
        def now(_: int) -> None:
            training.weights()  # which waits until everything before is done
            times.append(perf_counter())

        return now

    span = Span(0, WARM + TIMED, lambda step: 0.0, [WARM, WARM + TIMED])
    first, *copies = [Start(copy.deepcopy(start.model), start.mask, start.dataset) for start in (starts[0], *starts)]
    alone = Reference(training, first)
    alone.train(batches[0], span, look(alone))
    stack = Stacked(training, copies)
    stack.train(batches, span, [look(stack.states[0]), *[lambda step: None] * (len(starts) - 1)])
    begun, ended, stack_begun, stack_ended = times
    return stack_ended - stack_begun < len(starts) * (ended - begun)


class _AllFailed(Exception):
    """Nothing is left to train."""


class StackedState(Reference):
    """Where one training of a stack stands: its model's tensors are parts of the stack's.

    Args:
        within: the stack, its optimiser, and the training's place in it.
    """

    def __init__(self, training: Training, start: Start, within: tuple[nn.Module, torch.optim.Optimizer, int]) -> None:
        self._training, self._start, self._model = training, start, start.model
        self._stack, self._optimizer, self._number = within

    def train(self, batches: Batches, span: Span, watch: Callable[[int], None]) -> None:
        """The stack trains all of them at once."""
        raise TypeError("a training of a stack is trained by Stacked.train")

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimiser's state by name, as `optimizers.state_of` has it."""
        return {
            f"{entry}/{name}": (value[self._number] if value.dim() else value).detach().cpu().clone()
            for name, parameter in self._stack.named_parameters()
            for entry, value in self._optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }


def state_kind(state: Mapping[str, Tensor]) -> tuple[tuple[str, float | None], ...]:
    """What two optimiser states must have in common to be stacked: their names, and the steps that were counted."""
    return tuple(sorted((path, None if value.dim() else float(value)) for path, value in state.items()))


def _stack_of(models: Sequence[nn.Module]) -> nn.Module:
    """A model like each of `models`, every tensor stacked; theirs become views of it, and what was tied still is."""
    stack = copy.deepcopy(models[0])
    made: dict[nn.Parameter, tuple[nn.Parameter, list[nn.Parameter]]] = {}
    for into, *several in zip(stack.modules(), *(model.modules() for model in models), strict=True):
        for name, first in list(into._parameters.items()):
            if first is not None:
                if first not in made:
                    whole = torch.stack([module._parameters[name].detach() for module in several])
                    made[first] = nn.Parameter(whole), [nn.Parameter(part) for part in whole]
                into._parameters[name], parts = made[first]
                for module, part in zip(several, parts, strict=True):
                    module._parameters[name] = part
        for name, buffer in list(into._buffers.items()):
            if buffer is not None:
                whole = torch.stack([module._buffers[name] for module in several])
                into._buffers[name] = whole
                for number, module in enumerate(several):
                    module._buffers[name] = whole[number]
    return stack


def _masks_of(masks: Sequence[Mask]) -> Mask:
    names = {name: alive for mask in masks for name, alive in mask.items()}
    return Mask(
        {
            name: torch.stack([mask[name] if name in mask else torch.ones_like(alive) for mask in masks])
            for name, alive in names.items()
        }
    )


def _states_of(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    # A counter of steps is one for all, everything else has the parameter's shape.
    return {
        path: torch.stack([state[path] for state in states]) if value.dim() else value
        for path, value in states[0].items()
    }
