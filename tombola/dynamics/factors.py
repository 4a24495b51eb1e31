"""Weights as products of two factors, m and w, which the optimiser trains in their place."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tombola import weights
from tombola.dynamics.base import Course, Setting

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from tombola.mask import Mask


def balanced(theta: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """(m, w) with m w = theta, m^2 - w^2 = beta and m > 0: m^2 = (beta + sqrt(beta^2 + 4 theta^2)) / 2, w = theta / m.

    Args:
        theta: weights, of any shape.
        beta: > 0.

    Returns:
        The factors in the type of theta, reckoned in float64; their product is theta but for the last bit.

    >>> m, w = balanced(torch.tensor([0.0, 2.0, -2.0]), beta=3.0)
    >>> m, w
    (tensor([1.7321, 2.0000, 2.0000]), tensor([ 0.,  1., -1.]))
    """
    double = theta.double()
    m = ((beta + (beta**2 + 4 * double.square()).sqrt()) / 2).sqrt().to(theta.dtype)
    return m, (double / m.double()).to(theta.dtype)


class Product(nn.Module):
    """m ⊙ w where the mask keeps it: what is pruned has no gradient, and both of its factors are 0.

    Args:
        alive: the mask of these weights, on their device.
    """

    alive: Tensor

    def __init__(self, alive: Tensor, beta: float) -> None:
        super().__init__()
        self.register_buffer("alive", alive, persistent=False)
        self.beta = beta

    def forward(self, m: Tensor, w: Tensor) -> Tensor:
        """The weight that the network computes with."""
        return m * w * self.alive

    def right_inverse(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Balanced factors of a weight."""
        m, w = balanced(theta.detach(), self.beta)
        return m * self.alive, w * self.alive


class Factors(Course):
    """One training of factors.

    Args:
        setting: what it begins with.
        beta: m^2 - w^2 once they are balanced.
        every: after how many optimiser steps they are, each time.
    """

    def __init__(self, setting: Setting, beta: float, every: int) -> None:
        super().__init__(setting)
        self._every = every
        self._layers: dict[str, tuple[Any, str]] = {}
        for name, alive in setting.mask.items():
            path, _, own = name.rpartition(".")
            layer = setting.model.get_submodule(path)
            parameter = getattr(layer, own)
            parametrize.register_parametrization(layer, own, Product(alive.to(parameter.device), beta))
            self._layers[name] = layer, own

    @property
    def mask(self) -> "Mask":
        """That which the training was given."""
        return self.setting.mask

    def advance(self, optimizer: "Optimizer", step: int) -> None:
        """Take the step; where it is time, balance the factors anew, which changes no weight but for rounding."""
        optimizer.step()
        if (step + 1) % self._every == 0:
            self.balance()

    def balance(self) -> None:
        """Bring m^2 - w^2 back to beta; the optimiser's state stays."""
        with torch.no_grad():
            for layer, own in self._layers.values():
                made = layer.parametrizations[own]
                m, w = made[0].right_inverse(made())
                made.original0.copy_(m)
                made.original1.copy_(w)

    def weights(self) -> dict[str, Tensor]:
        """The products, under the names of a plain network."""
        held = weights.of(self.setting.model)
        plain = {name: value for name, value in held.items() if ".parametrizations." not in f".{name}"}
        with torch.no_grad():
            merged = {name: getattr(layer, own).detach().cpu().clone() for name, (layer, own) in self._layers.items()}
        return plain | merged

    def load(self, state: Mapping[str, Tensor]) -> None:
        """All that it stands on is in the model's state_dict."""
