"""The training loop: any `nn.Module`, any mask, from one step to another. It knows no experiment."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tombola.guard import Guard
from tombola.mask import Mask
from tombola.objective import CrossEntropy, Objective, descended
from tombola.recipe import Precision

StepLoss = Callable[[int], Tensor]  # of the optimiser step that follows after a step
AtStep = Callable[[int], None]  # what is done after so many steps


@dataclass(frozen=True)
class Span:
    """A part of a training: its steps, their learning rates, and those at which it is looked at.

    Attributes:
        begin, until: steps done before and after; `begin <= until`.
        learning_rate: step -> learning rate of the optimiser step that follows.
        looks: steps from `begin` to `until`, ascending, each before the step that follows.
    """

    begin: int
    until: int
    learning_rate: Callable[[int], float]
    looks: Sequence[int] = ()


def train(model: nn.Module, optimizer: Optimizer, mask: Mask, loss: StepLoss, span: Span, watch: AtStep) -> None:
    """Train `model` in place over `span`, pruned weights held at 0: theta <- m * step(theta, m * grad loss).

    Args:
        model: starts with whatever weights it has; those that `mask` does not keep become 0.
        optimizer: fresh, or carrying the state it had at the first step.
        mask: True = alive.
        loss: of the optimiser step that follows after a step, as `losses` makes it.
        span: from which step to which, and how.
        watch: called with each of the span's looks.

    Raises:
        GuardLost: a pruned weight moved, though nothing but the optimiser should have touched it.
    """
    with guarded(model, optimizer, mask) as guard:
        descend(model, optimizer, loss, span, watch)
        guard.check()
    if span.until in span.looks:
        watch(span.until)


def descend(
    model: nn.Module, optimizer: Optimizer, loss: StepLoss, span: Span, watch: AtStep, advance: AtStep | None = None
) -> None:
    """Step after step along the gradient of `loss`; what holds pruned weights at 0 is the guard around it.

    `advance` takes each of the steps, whose gradients are there, in the place of the optimiser's own.
    """
    looks = frozenset(span.looks)
    model.train()
    for step in range(span.begin, span.until):
        if step in looks:
            watch(step)
        for group in optimizer.param_groups:
            group["lr"] = span.learning_rate(step)
        following = loss(step)
        optimizer.zero_grad()
        following.backward()
        if advance:
            advance(step)
        else:
            optimizer.step()


@contextmanager
def guarded(model: nn.Module, optimizer: Optimizer, mask: Mask) -> Iterator[Guard]:
    """Meanwhile every step of `optimizer` holds the pruned weights of `model` at 0."""
    guard = Guard(model, optimizer, mask)
    try:
        yield guard
    finally:
        guard.release()


def losses(
    model: nn.Module,
    batches: Callable[[int], tuple[Tensor, Tensor]],
    objective: Objective | None = None,
    precision: Precision | None = None,
    inputs: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> StepLoss:
    """step -> the objective's loss on the batch of the optimiser step that follows.

    Args:
        batches: step -> inputs and labels.
        objective: None for cross-entropy.
        precision: of the forward pass, and so of its gradients; None for that of the weights.
        inputs: what else the objective asks for, by name.
    """
    device = next(model.parameters()).device
    objective = objective or CrossEntropy()
    following = objective.following(model, batches, inputs or {})

    def loss(step: int) -> Tensor:
        examples, labels = batches(step)
        batch = examples.to(device), labels.to(device)
        with computing(device, precision):
            return descended(objective, objective.loss(model, batch, following(step, batch[0])))

    return loss


def computing(device: torch.device, precision: Precision | None) -> torch.autocast:
    """The context of a forward pass in `precision`. bfloat16 has the range of float32: no loss has to be scaled."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
