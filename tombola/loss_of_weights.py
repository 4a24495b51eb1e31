"""The loss of a network as a function of its weights, to take gradients of it; the network itself stays as it is."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from tombola.errors import BadInput
from tombola.score import Batch, Scored

Weights = Mapping[str, Tensor]


class _Loss(nn.Module):
    """The loss of a batch, as a module around the network: whatever the loss asks of it, other weights answer."""

    def __init__(self, scored: Scored) -> None:
        super().__init__()
        self.model, self.loss = scored.model, scored.loss

    def forward(self, batch: Batch) -> Tensor:
        return self.loss(self.model, batch)


@dataclass(frozen=True)
class LossOfWeights:
    """L(theta; batch) of a network, for any theta of its shapes.

    The model's own weights, gradients and buffers stay as they are: a batch normalisation in training mode moves the
    means of a copy.

    Attributes:
        theta: m ⊙ theta, the parameters of the model by name, of which those that are scored have gradients.
    """

    theta: Weights
    _loss: _Loss

    @staticmethod
    def of(scored: Scored) -> "LossOfWeights":
        """The loss around the model's weights under the mask; gradients are those of what the mask names."""
        theta = {name: value.detach() for name, value in scored.model.named_parameters()}
        masked = {name: theta[name] * alive.to(theta[name].device) for name, alive in scored.mask.items()}
        return LossOfWeights(theta | {name: value.requires_grad_() for name, value in masked.items()}, _Loss(scored))

    def __call__(self, theta: Weights, batch: Batch) -> Tensor:
        """L(theta; batch).

        Raises:
            BadInput: it is no single number.
        """
        # A batch normalisation writes to its buffers, and a second derivative wants them as they were: copies each time
        buffers = {name: buffer.clone() for name, buffer in self._loss.model.named_buffers()}
        state = {f"model.{name}": value for name, value in (buffers | dict(theta)).items()}
        loss = functional_call(self._loss, state, (batch,))
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise _no_number(loss)
        return loss.squeeze()

    def gradient(self, theta: Weights, batch: Batch, by: Iterable[str], again: bool = False) -> dict[str, Tensor]:
        """dL/dtheta at `theta` by the weights of these names; 0 for those that the loss does not ask for.

        Args:
            again: whether it will be differentiated itself.

        Raises:
            BadInput: the loss asks for none of them.
        """
        names = list(by)
        # The fast kernels of attention have no second derivative; its definition has.
        with sdpa_kernel(SDPBackend.MATH) if again else nullcontext():
            loss = self(theta, batch)
        return dict(zip(names, derivative(loss, [theta[name] for name in names], again), strict=True))


def derivative(value: Tensor, by: list[Tensor], again: bool = False) -> list[Tensor]:
    """The derivatives of a number, 0 by what it does not ask for.

    Args:
        again: whether they will be differentiated themselves.

    Raises:
        BadInput: it asks for none of them; or a layer on the way has no second derivative.
    """
    if not value.requires_grad:
        raise _no_gradient()
    try:
        found = torch.autograd.grad(value, by, create_graph=again, allow_unused=True)
    except RuntimeError as error:
        if "is not implemented" not in str(error):  # as torch says it of second derivatives
            raise
        raise _no_second(error) from error
    if all(each is None for each in found):
        raise _no_gradient()
    return [torch.zeros_like(own) if each is None else each for each, own in zip(found, by, strict=True)]


@contextmanager
def cooled(model: nn.Module, temperature: float) -> Iterator[None]:
    """Let `model` give its outputs divided by a temperature.

    Raises:
        BadInput: it gives anything else than one tensor.
    """

    def divided(model: nn.Module, inputs: Any, outputs: Any) -> Tensor:
        if not isinstance(outputs, Tensor):
            raise _no_logits(outputs)
        return outputs / temperature

    hook = model.register_forward_hook(divided) if temperature != 1 else None
    try:
        yield
    finally:
        if hook:
            hook.remove()


def _no_number(loss: object) -> BadInput:
    found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    return BadInput(
        where="loss",
        expected="a function of the model and a batch that gives one number",
        found=found,
        todo="Average over the batch.",
    )


def _no_gradient() -> BadInput:
    return BadInput(
        where="score",
        expected="a number that depends on the weights, so that there is a gradient",
        found="one that does not",
        todo="Let the loss ask the model that it is given, loss(model, batch), and detach nothing on the way.",
    )


def _no_second(error: RuntimeError) -> BadInput:
    return BadInput(
        where="score",
        expected="layers that can be differentiated twice",
        found=f"one that cannot: {error}",
        todo="Take a score of first derivatives: snip, for one.",
    )


def _no_logits(outputs: object) -> BadInput:
    return BadInput(
        where="score",
        expected="a model that gives one tensor, to be divided by the temperature",
        found=f"one that gives {type(outputs).__name__}",
        todo="score=lambda scored: grasp(scored, temperature=1), of tombola.saliency, divides nothing.",
    )
