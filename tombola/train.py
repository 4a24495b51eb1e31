"""The training loop: any `nn.Module`, any mask, from one step to another. It knows no experiment."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from tombola.data.facts import IGNORED
from tombola.guard import Guard
from tombola.mask import Mask
from tombola.recipe import SGD, Adam, AdamW, Precision
from tombola.recipe import Optimizer as OptimizerValue

Reduction = Literal["mean", "sum", "none"]


def optimizer_of(value: OptimizerValue, model: nn.Module) -> Optimizer:
    """A fresh optimiser over all parameters of `model`; fused kernels, which nearly halve a small network's step."""
    options = value.model_dump(exclude={"name"}) | {"fused": True}
    match value:
        case SGD():
            return torch.optim.SGD(model.parameters(), **options)
        case AdamW():
            return torch.optim.AdamW(model.parameters(), **options)
        case Adam():
            return torch.optim.Adam(model.parameters(), **options)


def train(
    model: nn.Module,
    optimizer: Optimizer,
    mask: Mask,
    batches: Callable[[int], tuple[Tensor, Tensor]],
    learning_rate: Callable[[int], float],
    begin: int,
    until: int,
    watch: Callable[[int], None],
    precision: Precision | None = None,
) -> None:
    """Train `model` in place from step `begin` to step `until`, pruned weights held at 0.

    Args:
        model: starts with whatever weights it has; those that `mask` does not keep become 0.
        optimizer: fresh, or carrying the state it had at step `begin`.
        mask: True = alive.
        batches: step -> inputs and labels of the optimiser step that follows.
        learning_rate: step -> learning rate of the optimiser step that follows.
        begin, until: steps done before and after; `begin <= until`.
        watch: called with every step from `begin` to `until`, both included, before the step that follows.
        precision: of the forward pass, and so of its gradients; None for that of the weights.

    Raises:
        GuardLost: a pruned weight moved, though nothing but the optimiser should have touched it.
    """
    device = next(model.parameters()).device

    def loss(step: int) -> Tensor:
        inputs, labels = batches(step)
        with computing(device, precision):
            return cross_entropy(model(inputs.to(device)), labels.to(device))

    descend(model, optimizer, mask, loss, learning_rate, begin, until, watch)


def descend(
    model: nn.Module,
    optimizer: Optimizer,
    mask: Mask,
    loss: Callable[[int], Tensor],
    learning_rate: Callable[[int], float],
    begin: int,
    until: int,
    watch: Callable[[int], None],
    check: Callable[[Guard], None] = Guard.check,
) -> None:
    """As `train`, along the gradient of any `loss`: of the optimiser step that follows after a step.

    Args:
        check: asks the guard, after the last step, whether it held.
    """
    guard = Guard(model, optimizer, mask)
    model.train()
    try:
        for step in range(begin, until):
            watch(step)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step)
            following = loss(step)
            optimizer.zero_grad()
            following.backward()
            optimizer.step()
        check(guard)
    finally:
        guard.release()
    watch(until)


def cross_entropy(outputs: Tensor, labels: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Of scores [N, classes] and labels [N], or [N, T, classes] and [N, T]; `facts.IGNORED` is no label.

    >>> outputs, labels = torch.zeros(2, 3, 4), torch.tensor([[0, 1, -100], [2, 3, 0]])
    >>> round(float(cross_entropy(outputs, labels, "sum") / torch.tensor(4.0).log()), 5)
    5.0
    """
    return functional.cross_entropy(outputs.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction=reduction)


def computing(device: torch.device, precision: Precision | None) -> torch.autocast:
    """The context of a forward pass in `precision`. bfloat16 has the range of float32: no loss has to be scaled."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def state_of(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as named tensors: `exp_avg/fc1.weight` and the like, copied to the CPU."""
    return {
        f"{entry}/{name}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_state(optimizer: Optimizer, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back what `state_of` took, by copy."""
    parameters = dict(model.named_parameters())
    entries: dict[Tensor, dict[str, Any]] = {}
    for path, value in state.items():
        entry, name = path.split("/", 1)
        parameter = parameters[name]
        # Adam's step counter is a scalar that fused kernels expect beside the parameter; what has the parameter's shape
        # they expect laid out in memory as it is.
        like = parameter.detach() if value.shape == parameter.shape else value.to(parameter.device)
        entries.setdefault(parameter, {})[entry] = torch.empty_like(like, dtype=value.dtype).copy_(value)
    optimizer.state.update(entries)
