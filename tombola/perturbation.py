"""Inputs that are changed a little, on purpose, so that a network's loss on them is larger.

All of it is in pixels, before any normalisation: a model here is a function of pixels, normalisation inside of it
(`OfPixels`).
A perturbation stays in the ball of the largest change, |x' - x| <= epsilon in every pixel, and then in the box in which
pixels are. Gradients are those of the model in evaluation mode; its weights, their gradients and its running statistics
stay what they are.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tombola.errors import BadInput
from tombola.evaluating import evaluating

Model = Callable[[Tensor], Tensor]  # pixels N x ... -> logits N x classes, each example for itself
Losses = Callable[[Tensor, Tensor], Tensor]  # logits and labels -> what is to be large, N


@dataclass(frozen=True)
class Ball:
    """The inputs that are near enough to one in every pixel, and pixels all the same.

    Attributes:
        epsilon: the largest change of a pixel, >= 0.
        low, high: the box: the least and the largest value of a pixel.

    Raises:
        BadInput: a negative epsilon, or an empty box.

    >>> Ball(0.3).clip(torch.tensor([0.9, 0.0, -1.0]), around=torch.tensor([0.5, 0.1, 0.1]))
    tensor([0.8000, 0.0000, 0.0000])
    """

    epsilon: float
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < float("inf"):
            raise BadInput(
                where="epsilon",
                expected="the largest change of a pixel, a number from 0 on",
                found=str(self.epsilon),
                todo="Give it in units of the box: 8 / 255 of pixels in [0, 1].",
            )
        if self.epsilon > self.high - self.low > 0:
            raise BadInput(
                where="epsilon",
                expected=f"at most the width of the box, {self.high - self.low:g}, which is any change at all",
                found=f"{self.epsilon:g}",
                todo="Give it in units of the box, 8 / 255 of pixels in [0, 1], or the box: Ball(8, 0, 255).",
            )
        if not self.low < self.high:
            raise BadInput(
                where="box",
                expected="a least pixel below the largest",
                found=f"{self.low} and {self.high}",
                todo="Give the least first: low = 0, high = 1.",
            )

    def clip(self, points: Tensor, around: Tensor) -> Tensor:
        """The nearest points in the ball around some pixels, and of these the nearest in the box."""
        within = torch.minimum(torch.maximum(points, around - self.epsilon), around + self.epsilon)
        return within.clamp(self.low, self.high)

    def drawn(self, around: Tensor, draw: torch.Generator) -> Tensor:
        """Points drawn uniformly from the ball around some pixels, each pixel for itself, and put into the box."""
        noise = torch.rand(around.shape, generator=draw, device=draw.device, dtype=around.dtype).to(around.device)
        return self.clip(around + self.epsilon * (2 * noise - 1), around)


@dataclass(frozen=True)
class Climb:
    """How a loss is climbed.

    Attributes:
        step: the change of every pixel in one step, before it is clipped, >= 0.
        steps: how many, >= 0.

    Raises:
        BadInput: one of them is less.
    """

    step: float
    steps: int

    def __post_init__(self) -> None:
        if not (self.step >= 0 and self.steps >= 0):
            raise BadInput(
                where="climb",
                expected="a step, and a number of steps, from 0 on",
                found=f"step = {self.step:g}, steps = {self.steps}",
                todo="2.5 epsilon / steps is a usual step, 40 of them usual.",
            )


class OfPixels(nn.Module):
    """A model as a function of pixels.

    Args:
        model: of normalised inputs.
        inputs: pixels -> normalised inputs, through which gradients go.

    >>> double = OfPixels(nn.Identity(), lambda pixels: 2 * pixels)
    >>> double(torch.tensor([[0.5]]))
    tensor([[1.]])
    """

    def __init__(self, model: nn.Module, inputs: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs

    def forward(self, pixels: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.model(self.inputs(pixels))
        return logits


def calm(model: Model) -> AbstractContextManager[None]:
    """Evaluation mode for a while, of what is a module."""
    return evaluating(model) if isinstance(model, nn.Module) else nullcontext()


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p(label) of each example, N."""
    return functional.cross_entropy(logits, labels, reduction="none")


def losses_and_slopes(
    model: Model, points: Tensor, labels: Tensor, loss: Losses = cross_entropies
) -> tuple[Tensor, Tensor]:
    """Each example's loss, N, and its gradient with respect to the example's pixels, N x ...

    >>> line = lambda points: torch.cat([points, -points], dim=1)
    >>> losses_and_slopes(line, torch.tensor([[0.0], [0.0]]), torch.tensor([0, 1]))[1]
    tensor([[-1.],
            [ 1.]])
    """
    with torch.enable_grad(), calm(model):
        leaf = points.detach().requires_grad_()
        losses = loss(model(leaf), labels)
        (slopes,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), slopes


def fgsm(model: Model, pixels: Tensor, labels: Tensor, ball: Ball) -> Tensor:
    """x' = clip(x + epsilon sign(grad_x loss(x, y))): the fast gradient sign method.

    Explaining and Harnessing Adversarial Examples (Goodfellow et al., 2015).

    Args:
        pixels: in the box of `ball`, N x ...
        labels: the true classes, N.

    >>> line = lambda points: torch.cat([points, 1 - points], dim=1)
    >>> fgsm(line, torch.tensor([[0.75], [0.05]]), torch.tensor([0, 1]), Ball(0.25))
    tensor([[0.5000],
            [0.3000]])
    """
    return ball.clip(pixels + ball.epsilon * losses_and_slopes(model, pixels, labels)[1].sign(), pixels)


def pgd(
    model: Model, pixels: Tensor, labels: Tensor, ball: Ball, climb: Climb, draw: torch.Generator | None = None
) -> Tensor:
    """x_0 drawn from the ball, x_(t+1) = clip(x_t + step sign(grad loss(x_t, y))): projected gradient descent's last x.

    Towards Deep Learning Models Resistant to Adversarial Attacks (Madry et al., 2018).

    Args:
        pixels: in the box of `ball`, N x ...
        labels: the true classes, N.
        draw: that x_0 is drawn with; None to begin at the pixels themselves.

    >>> line = lambda points: torch.cat([points, 1 - points], dim=1)
    >>> pgd(line, torch.tensor([[0.75], [0.05]]), torch.tensor([0, 1]), Ball(0.25), Climb(0.1, steps=2))
    tensor([[0.5500],
            [0.2500]])
    """
    points = pixels if draw is None else ball.drawn(pixels, draw)
    for _ in range(climb.steps):
        points = ball.clip(points + climb.step * losses_and_slopes(model, points, labels)[1].sign(), pixels)
    return points.detach()
