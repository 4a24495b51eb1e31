"""Extrusion: a penalty that rises step by step draws a dense network out of the weights that a mask does not keep.

Dual Lottery Ticket Hypothesis (Bai, Wang, Tao, Li & Fu, 2022): a mask is drawn first, at random, and the weights are
then transformed towards it, until the cut changes next to nothing.
"""

from collections.abc import Callable, Mapping
from math import ceil
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tombola.objective import Objective, loss_of_answers
from tombola.value import Count, Number, Value

if TYPE_CHECKING:  # `tombola plan` reads objectives, and touches no tensor
    from torch import Tensor, nn

KEPT = "kept"  # the mask, among what a training is given: what it does not keep is sacrificed
PENALTY = "penalty"  # lambda, at a step

_POWERS = {"linear": 1, "square": 2, "cube": 3}


class Penalty(Value):
    """How lambda rises: a counter r grows by `penalty_step` every so many steps, and lambda = min(r^p, ceiling).

    Attributes:
        penalty_step: what r grows by, at step 0 for the first time.
        every: optimiser steps between two such moments.
        rise: linear, square or cube: p = 1, 2, 3. The counter itself is linear in all three.
        ceiling: the largest lambda.
        hold: optimiser steps that lambda stays there.
    """

    penalty_step: Number = Field(default=1e-4, gt=0)
    every: Count = Field(default=5, gt=0)
    rise: Literal["linear", "square", "cube"] = "linear"
    ceiling: Number = Field(default=1.0, gt=0)
    hold: Count = Field(default=40_000, ge=0)

    @property
    def steps(self) -> int:
        """How many optimiser steps an extrusion takes: those in which lambda rises, and those that hold it.

        >>> Penalty().steps, Penalty(penalty_step=1e-3, every=1, rise="cube", ceiling=8, hold=500).steps
        (90000, 2500)
        """
        largest: float = self.ceiling ** (1 / _POWERS[self.rise])
        return self.every * ceil(largest / self.penalty_step * (1 - 1e-12)) + self.hold

    def at(self, step: int) -> float:
        """Lambda at the optimiser step that follows after `step` steps.

        >>> [Penalty(penalty_step=0.25, every=2, rise="square").at(step) for step in (0, 1, 2, 7, 8)]
        [0.0625, 0.0625, 0.25, 1.0, 1.0]
        """
        counter = self.penalty_step * (step // self.every + 1)
        return float(min(counter ** _POWERS[self.rise], self.ceiling))


class Extrusion(Objective, Penalty):
    """Cross-entropy + lambda / 2 * the sum of w^2 over sacrificed weights, with a lambda that rises: see `Penalty`.

    No recipe names it: `inputs["kept"]` is the mask that a method has drawn.
    """

    about = "Cross-entropy and half of lambda times the squared weights that a mask does not keep, with a rising lambda"
    paper = "Dual Lottery Ticket Hypothesis (Bai et al.)"
    year = 2022
    sees_weights = True

    name: Literal["extrusion"] = "extrusion"

    def loss(
        self, model: "nn.Module", batch: "tuple[Tensor, Tensor]", inputs: "Mapping[str, Mapping[str, Tensor]]"
    ) -> "Tensor":
        """-log p(label), averaged over the batch, + lambda / 2 * sum w^2: a gradient of lambda w on a sacrificed w."""
        examples, labels = batch
        parameters = dict(model.named_parameters())
        squares = [(parameters[name] * ~kept).square().sum() for name, kept in inputs[KEPT].items()]
        penalty = inputs[PENALTY]["lambda"] / 2 * sum(squares[1:], squares[0])
        return loss_of_answers(model(examples), labels) + penalty

    def following(
        self,
        model: "nn.Module",
        batches: "Callable[[int], tuple[Tensor, Tensor]]",
        inputs: "Mapping[str, Mapping[str, Tensor]]",
    ) -> "Callable[[int, Tensor], Mapping[str, Mapping[str, Tensor]]]":
        """step, examples -> with what the training was given, the lambda of the step."""
        import torch

        return lambda step, examples: {**inputs, PENALTY: {"lambda": torch.tensor(self.at(step))}}
