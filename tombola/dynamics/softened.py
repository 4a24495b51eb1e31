"""Normalisations whose parameters are, step by step, somewhere between those they begin with and those they learn."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from tombola.dynamics.base import Setting
from tombola.dynamics.moving_mask import MovingMask
from tombola.errors import BadInput

if TYPE_CHECKING:
    from torch.optim import Optimizer

Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.LayerNorm


def alpha_of(seed: int, step: int) -> float:
    """alpha ~ U(0, 1) of the step that follows after `step` steps: a function of both, whatever was drawn before.

    >>> 0 <= alpha_of(3, 100) < 1
    True
    """
    digest = hashlib.sha256(f"{seed}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class Softened(MovingMask):
    """One training in which normalisations are softened; its mask stays.

    y' = (alpha + (1 - alpha) gamma) x + (1 - alpha) beta = alpha x + (1 - alpha) y, x being the normalised input and y
    what the normalisation makes of it.

    Args:
        setting: what it begins with.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, lambda _, mask: mask)
        self._step = setting.timeline.begin
        self._norms = [module for module in setting.model.modules() if isinstance(module, Norm) and _learns(module)]
        if not self._norms:
            raise BadInput(
                where="dynamics aws",
                expected="a network with batch or layer normalisations that learn",
                found=f"a {type(setting.model).__name__} without",
                todo="Leave the dynamics out: without normalisations there is nothing that they change.",
            )

    @contextmanager
    def along(self, optimizer: "Optimizer") -> Iterator[None]:
        """Meanwhile the guard holds what is dead at 0, and normalisations in training mode are softened."""
        with super().along(optimizer), ExitStack() as hooks:
            for norm in self._norms:
                hooks.callback(norm.register_forward_hook(self._soften).remove)
            yield

    def advance(self, optimizer: "Optimizer", step: int) -> None:
        """The optimiser's step; the next one has an alpha of its own."""
        super().advance(optimizer, step)
        self._step = step + 1

    def state(self) -> dict[str, Tensor]:
        """The step: the mask is the one that it was given."""
        return {"step": torch.tensor(self._step)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Stand where `state` was taken."""
        self._step = int(state["step"])

    def _soften(self, norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not norm.training:
            return output
        alpha = alpha_of(self.setting.seed, self._step)
        return alpha * _normalised(norm, inputs[0]) + (1 - alpha) * output


def _learns(norm: Norm) -> bool:
    return isinstance(norm.weight, Tensor) and norm.weight.requires_grad


def _normalised(norm: nn.Module, values: Tensor) -> Tensor:
    """What the normalisation makes of `values` with gamma = 1 and beta = 0, by the batch's own statistics."""
    if isinstance(norm, nn.LayerNorm):
        return functional.layer_norm(values, norm.normalized_shape, eps=norm.eps)
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
    return functional.batch_norm(values, None, None, training=True, eps=norm.eps)
