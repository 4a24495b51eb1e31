"""What optimisers keep of each weight beside it, and whether their step leaves a pruned one at 0."""

import inspect
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer


@dataclass(frozen=True)
class Keeping:
    """What is known of an optimiser's state.

    Attributes:
        per_weight: the names of what it keeps of each weight by itself, which is 0 where the weight is pruned.
        leaving: those of them that its step takes away from 0 where weight and gradient are 0.
        stays: whether its step leaves a weight at 0 whose gradient and state are 0.
    """

    per_weight: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()
    stays: bool = False


def _stays(*per_weight: str, leaving: str = "") -> Keeping:
    return Keeping(frozenset(per_weight), frozenset(leaving.split()), stays=True)


def _moves(*per_weight: str) -> Keeping:
    return Keeping(frozenset(per_weight), frozenset(per_weight))


_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
UNKNOWN = Keeping()
# By package and class. A shape says nothing: factors of a square layer and rotated moments have that of the weight too.
KNOWN = {
    "torch.SGD": _stays("momentum_buffer"),
    "torch.Adam": _stays(*_MOMENTS),
    "torch.AdamW": _stays(*_MOMENTS),
    "torch.NAdam": _stays("exp_avg", "exp_avg_sq"),
    "torch.RAdam": _stays("exp_avg", "exp_avg_sq"),
    "torch.Adamax": _stays("exp_avg", "exp_inf", leaving="exp_inf"),
    "torch.Adagrad": _stays("sum"),
    "torch.Adadelta": _stays("square_avg", "acc_delta"),
    "torch.Adafactor": _stays("variance"),
    "torch.ASGD": _stays("ax"),
    "torch.RMSprop": _stays("square_avg", "momentum_buffer", "grad_avg"),
    "torch.Rprop": _stays("prev", "step_size", leaving="step_size"),
    "torch.Muon": _moves("momentum_buffer"),
    "pytorch_optimizer.AdaBelief": _moves("exp_avg", "exp_avg_var", "max_exp_avg_var"),
    "pytorch_optimizer.AdEMAMix": _moves("exp_avg", "exp_avg_sq", "exp_avg_slow"),
    "pytorch_optimizer.Lamb": _moves("exp_avg", "exp_avg_sq"),
    "pytorch_optimizer.Lion": _moves("exp_avg"),
    "pytorch_optimizer.Muon": _moves("momentum_buffer"),
    "pytorch_optimizer.Prodigy": _moves("s", "p0", "exp_avg", "exp_avg_sq"),
    "pytorch_optimizer.ScheduleFreeAdamW": _moves("z", "exp_avg_sq"),
    "pytorch_optimizer.ScheduleFreeRAdam": _moves("z", "exp_avg_sq"),
    "pytorch_optimizer.ScheduleFreeSGD": _moves("z"),
    "pytorch_optimizer.StableAdamW": _moves("exp_avg", "exp_avg_sq"),
}


def keeping(optimizer: Optimizer) -> Keeping:
    """What is known of the state of `optimizer`, by its class or that of which it is a subclass.

    >>> import torch
    >>> sorted(keeping(torch.optim.SGD([torch.zeros(1)], momentum=0.9)).per_weight)
    ['momentum_buffer']
    """
    kinds: tuple[Any, ...] = type(optimizer).__mro__
    for kind in kinds:
        if found := KNOWN.get(f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}"):
            # Torch wraps the step of a class when its first object is made.
            same = inspect.unwrap(type(optimizer).step) is inspect.unwrap(kind.step)
            return found if same else Keeping(found.per_weight, found.per_weight)
    return UNKNOWN
