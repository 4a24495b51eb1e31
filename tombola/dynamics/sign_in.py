"""Sign-In: a weight as the product of two factors, balanced anew from time to time, so that signs can flip."""

from typing import Literal

from pydantic import Field

from tombola.dynamics.base import Course, Dynamics, Setting
from tombola.steps import Step
from tombola.value import Number, StepField


class SignIn(Dynamics):
    """theta = m ⊙ w: both are trained, from m^2 - w^2 = beta on, and brought back to that again and again.

    A small step along the gradients of both moves theta by dL/dtheta (m^2 + w^2), and m^2 + w^2 = sqrt(beta^2 +
    4 theta^2) where they are balanced: never less than by beta, so that a weight can cross 0. All weights that may be
    pruned are such products, and the factors are merged at the end. The optimiser's weight decay is that of factors;
    of its state that is carried over, theirs is left behind.

    Sign-In to the Lottery (Gadhikar, Jacobs, Zhou & Burkholz, 2025).

    Attributes:
        beta: m^2 - w^2 at the beginning, and after each time that factors are balanced.
        every: how often they are.
    """

    about = "Each weight is a product m w, balanced again and again to m^2 - w^2 = beta, so that signs can flip"
    paper = "Sign-In to the Lottery: Reparameterizing Sparse Training From Scratch (Gadhikar et al.)"
    year = 2025

    name: Literal["sign-in"] = "sign-in"
    beta: Number = Field(default=1.0, gt=0)
    every: StepField = Step("1ep")

    def course(self, setting: Setting) -> Course:
        """What goes on in one training."""
        from tombola.dynamics.factors import Factors

        return Factors(setting, self.beta, max(1, setting.timeline.iterations(self.every)))
