"""Pruned weights that stay what they are at the beginning, instead of 0."""

from typing import Literal

from tombola.dynamics.base import Course, Dynamics, Setting


class Frozen(Dynamics):
    """theta ⊙ m + theta_k ⊙ (1 - m): what the mask keeps is trained, the rest stays at the weights of the beginning.

    Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask (Zhou, Lan, Liu & Yosinski, 2019) calls this a
    mask-0 action. As many weights are trained as the mask keeps; the others are not 0 and take part in every product.
    """

    about = "Pruned weights stay what they are at the beginning, instead of 0"
    paper = "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask (Zhou et al.)"
    year = 2019

    name: Literal["frozen"] = "frozen"

    def course(self, setting: Setting) -> Course:
        """What goes on in one training."""
        from tombola.dynamics.held import Held

        return Held(setting)
