"""AWS: a network that learns to need no normalisation parameters, so that its signs alone can be handed on."""

from typing import Literal

from tombola import models
from tombola.dynamics.base import Course, Dynamics, Setting


class Aws(Dynamics):
    """In each step alpha ~ U(0, 1), and all normalisations as if they had learned only 1 - alpha of what they have.

    gamma' = alpha + (1 - alpha) gamma and beta' = (1 - alpha) beta: at alpha = 1 they are 1 and 0, at which a network
    begins, and the way from there to what is learned is kept free of barriers. The network is looked at with alpha = 0.

    Find a Winning Sign (Oh, Baik & Lee, 2025).
    """

    about = "Normalisations between their first and their learned parameters, at random in each step"
    paper = "Find A Winning Sign: Sign Is All We Need To Win the Lottery (Oh, Baik & Lee)"
    year = 2025

    name: Literal["aws"] = "aws"

    def refuses(self, model: str) -> str:
        """A model that is nothing but layers, with activations and pooling between them."""
        return "it has no normalisations, without which aws changes nothing" if models.family(model).SEQUENTIAL else ""

    def course(self, setting: Setting) -> Course:
        """What goes on in one training.

        Raises:
            BadInput: the network has no normalisation that learns.
        """
        from tombola.dynamics.softened import Softened

        return Softened(setting)
