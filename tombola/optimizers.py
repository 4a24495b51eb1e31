"""The optimisers that recipes name, as torch has them, and what they remember as named tensors."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tombola.bayes import is_noise
from tombola.recipe import SGD, Adam, AdamW
from tombola.recipe import Optimizer as OptimizerValue


def optimizer_of(value: OptimizerValue, model: nn.Module) -> Optimizer:
    """A fresh optimiser over all parameters of `model`; fused kernels, which nearly halve a small network's step."""
    options = value.model_dump(exclude={"name", "decay"}) | {"fused": True}
    parameters = _grouped(model, kernels=value.decay == "kernels")
    match value:
        case SGD():
            return torch.optim.SGD(parameters, **options)
        case AdamW():
            return torch.optim.AdamW(parameters, **options)
        case Adam():
            return torch.optim.Adam(parameters, **options)


def _grouped(model: nn.Module, kernels: bool) -> list[dict[str, Any]] | Iterator[nn.Parameter]:
    """The parameters, those that do not decay in a group of their own: deviations of Gaussian weights in any case.

    Args:
        kernels: whether only parameters of two axes or more decay.
    """
    still = [is_noise(name) or (kernels and each.ndim < 2) for name, each in model.named_parameters()]
    if not kernels and not any(still):
        return model.parameters()
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = [], []
    for stays, parameter in zip(still, model.parameters(), strict=True):
        groups[stays].append(parameter)
    return [{"params": groups[0]}, {"params": groups[1], "weight_decay": 0.0}]


def state_of(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as named tensors: `exp_avg/fc1.weight` and the like, copied to the CPU."""
    return {
        f"{entry}/{name}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_state(optimizer: Optimizer, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back what `state_of` took, by copy; what nothing was taken of begins anew."""
    parameters = dict(model.named_parameters())
    entries: dict[Tensor, dict[str, Any]] = {}
    for path, value in state.items():
        entry, name = path.split("/", 1)
        parameter = parameters[name]
        # Adam's step counter is a scalar that fused kernels expect beside the parameter; what has the parameter's shape
        # they expect laid out in memory as it is.
        like = parameter.detach() if value.shape == parameter.shape else value.to(parameter.device)
        entries.setdefault(parameter, {})[entry] = torch.empty_like(like, dtype=value.dtype).copy_(value)
    if any("momentum_buffer" in own for own in entries.values()):
        # The fused step wants momentum of all parameters or of none; 0 is how one without begins.
        for parameter in (each for each in parameters.values() if each.requires_grad):
            entries.setdefault(parameter, {}).setdefault("momentum_buffer", torch.zeros_like(parameter.detach()))
    optimizer.state.update(entries)
