"""Several trainings of one recipe in one program: their weights stacked, each step one pass for all of them.

A GPU is not filled by a small network. Here every parameter and buffer has a leading dimension, one place for each
replicate; forward and backward go through `torch.func.vmap`, torch's own optimisers step over the stack, and as they
take number by number, that is what they do to each. Replicates share nothing but the model, the optimiser's numbers,
the schedule and the batch size: weights, masks, splits and orders of examples are their own.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from tombola.data import Batches, Dataset, together
from tombola.engine.reference import Reference
from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.recipe import Optimizer, Precision
from tombola.train import computing, cross_entropy, descend, optimizer_of, restore_state


class Stacked:
    """Trainings of `models` side by side; `replicates` are the engines by which each is looked at.

    Args:
        models: of one architecture, without frozen parameters; they hold the weights to start from, and from now on
            those of the stack.
        masks: True = alive, one for each.
        optimizer, states: which optimiser, and its state for each where one is carried over; all after the same steps.
        dataset: what is trained on.
        device: where.
        precision: of the forward pass.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        masks: Sequence[Mask],
        optimizer: Optimizer,
        states: Sequence[Mapping[str, Tensor]],
        dataset: Dataset,
        device: str = "cpu",
        precision: Precision | None = None,
    ) -> None:
        for model in models:
            model.to(device)
        self._stack, self._device, self._precision = _stack_of(models), torch.device(device), precision
        for norm in (module for module in self._stack.modules() if precision and isinstance(module, _BatchNorm)):
            # Under vmap, inputs of 16 bits beside running statistics of 32 are refused on GPUs.
            norm.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
        self._mask = _masks_of(masks)
        self._optimizer = optimizer_of(optimizer, self._stack)
        restore_state(self._optimizer, self._stack, _states_of(states))
        self.replicates = [
            Replicate(model, self._optimizer, self._stack, number, dataset, precision)
            for number, model in enumerate(models)
        ]

    def train(
        self,
        batches: Sequence[Batches],
        learning_rate: Callable[[int], float],
        begin: int,
        until: int,
        looks: Sequence[int],
        watches: Sequence[Callable[[int], None]],
    ) -> list[TombolaError | None]:
        """Train all from step `begin` to step `until`; each of `watches` is called at each of `looks`.

        Returns:
            Why a replicate failed, None for those that did not: each fails alone, and the others go on.
        """
        wanted = set(looks)
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
            if step in wanted:
                each(lambda number: watches[number](step))

        def loss(step: int) -> Tensor:
            inputs, labels = together(batches, step)
            values = dict(self._stack.named_parameters()) | dict(self._stack.named_buffers())
            with computing(self._device, self._precision), self._attending():
                losses: Tensor = vmap(self._loss, randomness="different")(values, inputs, labels)
            return losses.sum()  # of which each depends on its own weights alone

        with suppress(_AllFailed):
            descend(
                self._stack,
                self._optimizer,
                self._mask,
                loss,
                learning_rate,
                begin,
                until,
                watch,
                check=lambda guard: each(guard.check),
            )
        return failed

    def _attending(self) -> AbstractContextManager[None]:
        # vmap knows no other way for attention on a CPU, and takes the stack apart with a warning.
        return sdpa_kernel(SDPBackend.MATH) if self._device.type == "cpu" else nullcontext()

    def _loss(self, values: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        # Running statistics are updated in place, which is in the stack: vmap knows how, as they are stacked like all.
        outputs = functional_call(self._stack, values, (inputs,))
        # As autocast does for a loss; vmap takes the loss apart before autocast sees it.
        return cross_entropy(outputs.float() if self._precision else outputs, labels)

    @torch.no_grad()
    def _rest(self, number: int) -> None:
        """Put a replicate that failed to 0: no NaN of its goes through kernels that compute all of them."""
        state = [value for each in self._optimizer.state.values() for value in each.values()]
        for value in (*self._stack.parameters(), *self._stack.buffers(), *state):
            if isinstance(value, Tensor) and value.dim():
                value[number] = 0


WARM, TIMED = 3, 10  # steps, where it is measured whether a stack pays


def pays(
    models: Sequence[nn.Module],
    masks: Sequence[Mask],
    optimizer: Optimizer,
    batches: Sequence[Batches],
    dataset: Dataset,
    device: str,
    precision: Precision | None = None,
) -> bool:
    """Whether a step of all in one stack takes less time on `device` than a step of each by itself.

    Measured, as it depends on the layers and on the GPU: under vmap several convolutions are one in groups, for which
    some have poor kernels.

    Args:
        models, masks, batches: of each training; the models stay as they are.
        optimizer, dataset, device, precision: as `Stacked` has them.
    """
    times: list[float] = []

    def look(training: Reference) -> Callable[[int], None]:
        def now(_: int) -> None:
            training.weights()  # which waits until everything before is done
            times.append(perf_counter())

        return now

    looks, until = [WARM, WARM + TIMED], WARM + TIMED
    copies = [copy.deepcopy(model) for model in (models[0], *models)]
    alone = Reference(copies[0], masks[0], optimizer, {}, dataset, device, precision)
    alone.train(batches[0], lambda step: 0.0, 0, until, looks, look(alone))
    stack = Stacked(copies[1:], masks, optimizer, [{}] * len(models), dataset, device, precision)
    watches = [look(stack.replicates[0]), *[lambda step: None] * (len(models) - 1)]
    stack.train(batches, lambda step: 0.0, 0, until, looks, watches)
    begun, ended, stack_begun, stack_ended = times
    return stack_ended - stack_begun < len(models) * (ended - begun)


class _AllFailed(Exception):
    """Nothing is left to train."""


class Replicate(Reference):
    """One training of a stack, to be looked at: its model's tensors are parts of the stack's."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        stack: nn.Module,
        number: int,
        dataset: Dataset,
        precision: Precision | None,
    ) -> None:
        self._model, self._optimizer, self._dataset, self._precision = model, optimizer, dataset, precision
        self._stack, self._number = stack, number

    def train(self, *_: Any) -> None:
        """The stack trains all of its replicates at once."""
        raise TypeError("a replicate of a stack is trained by Stacked.train")

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimiser's state by name, as `train.state_of` has it."""
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
