"""Sparse from the first step to the last, but not always in the same places: now and then weights go, and as many come.

SET lets weights come at random (Mocanu et al., 2018), RigL where the gradient is largest (Evci et al., 2020), and what
escapes begins with a large move (Liu et al., 2022). In each layer as many live as before.
"""

import hashlib
from collections.abc import Mapping
from math import cos, pi
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tombola.dynamics.base import Course, Dynamics, Setting, Timeline
from tombola.value import Count, Number, StepField

if TYPE_CHECKING:
    from tombola.mask import Mask

Decay = Literal["cosine", "constant"]


def fraction_at(fraction: float, progress: float, decay: Decay) -> float:
    """The fraction of a layer's living weights that moves: alpha / 2 (1 + cos(pi t / T_end)), or alpha throughout.

    Args:
        fraction: alpha, in [0, 1].
        progress: t / T_end, in [0, 1].

    >>> [round(fraction_at(0.3, progress, "cosine"), 3) for progress in (0, 0.5, 1)]
    [0.3, 0.15, 0.0]
    """
    return fraction if decay == "constant" else fraction / 2 * (1 + cos(pi * progress))


class SET(Dynamics):
    """Sparse Evolutionary Training: every so many steps the smallest weights of a layer go, and as many come at random.

    Of each layer's n living weights floor(f n + 1/2) of lowest magnitude go. As many come among all that did not stay,
    so that what has just gone may come again, and then it goes on as it was. What comes anew starts from 0.

    Attributes:
        fraction: alpha, of the living weights.
        decay: of alpha, to 0 along half a cosine until `end`, or `constant`.
        every: dT, steps between two moves; None for 100, or a tenth of T_end if fewer.
        end: T_end, after which the mask stays; None for three quarters of the training.
    """

    about = "Now and then the smallest weights go, and as many come at random"
    paper = "Scalable training of artificial neural networks with adaptive sparse connectivity (Mocanu et al.)"
    year = 2018
    by_weight = True

    name: Literal["set"] = "set"
    fraction: Number = Field(default=0.3, ge=0, lt=1)
    decay: Decay = "constant"
    every: Count | None = Field(default=None, gt=0)
    end: StepField | None = None

    def course(self, setting: Setting) -> Course:
        """A mask that is moved after the optimiser's step."""
        from tombola.dynamics.moving_mask import MovingMask, drawn, magnitudes, rewired

        def following(step: int, mask: "Mask") -> "Mask":
            counts = self.moving(step + 1, setting.timeline, mask.counts)
            if not counts or step + 1 == setting.timeline.until:
                return mask
            return rewired(mask, magnitudes(setting, mask), drawn(mask, _seed(setting.seed, step)), counts)

        return MovingMask(setting, following)

    def ends(self, timeline: Timeline) -> int:
        """T_end, in steps."""
        return timeline.iterations(self.end) if self.end else 3 * timeline.length // 4

    def moves(self, timeline: Timeline) -> range:
        """The steps at which the mask moves: those in [begin, T_end) that dT divides."""
        end = self.ends(timeline)
        every = timeline.interval(self.every, end)
        return range(-(-timeline.begin // every) * every, min(end, timeline.length), every)

    def moving(self, step: int, timeline: Timeline, living: Mapping[str, int]) -> dict[str, int]:
        """How many weights of each layer go, and come, at a step; none at all where nothing moves.

        Args:
            living: how many live in each layer.
        """
        if step not in self.moves(timeline):
            return {}
        return _counts(fraction_at(self.fraction, step / self.ends(timeline), self.decay), living)


class RigL(SET):
    """The Rigged Lottery: every so many steps the smallest weights go, and those of the largest gradient come.

    |dL/dtheta| is that of the step's batch, of pruned weights too; the move takes the place of the optimiser's step, as
    in the authors' algorithm. All else is as in `SET`.
    """

    about = "Now and then the smallest weights go, and as many come where the gradient is largest"
    paper = "Rigging the Lottery: Making All Tickets Winners (Evci et al.)"
    year = 2020

    name: Literal["rigl"] = "rigl"  # type: ignore[assignment]
    decay: Decay = "cosine"

    def course(self, setting: Setting) -> Course:
        """A mask that is moved in the place of the optimiser's step."""
        from tombola.dynamics.moving_mask import MovingMask, gradients, magnitudes, rewired

        def instead(step: int, mask: "Mask") -> "Mask":
            counts = self.moving(step, setting.timeline, mask.counts)
            return rewired(mask, magnitudes(setting, mask), gradients(setting, mask), counts) if counts else mask

        return MovingMask(setting, instead=instead)


class Escape(RigL):
    """What leaves a sparse network for another one: most weights move at the first step, and as in `RigL` thereafter.

    A training from where another one has ended ends elsewhere so, and both answer together: EDST of FreeTickets, where
    q = 0.8 and alpha = 0.5 throughout.

    Attributes:
        escape: q, of each layer's living weights, which move at the first step.
    """

    about = "At the first step most weights move, and thereafter some now and then where the gradient is largest"
    paper = "Deep Ensembling with No Overhead for either Training or Testing (Liu et al.)"
    year = 2022

    name: Literal["escape"] = "escape"  # type: ignore[assignment]
    decay: Decay = "constant"
    escape: Number = Field(default=0.8, ge=0, lt=1)

    def moving(self, step: int, timeline: Timeline, living: Mapping[str, int]) -> dict[str, int]:
        if step != timeline.begin:
            return super().moving(step, timeline, living)
        return _counts(self.escape, living)


def _counts(fraction: float, living: Mapping[str, int]) -> dict[str, int]:
    counts = {name: int(fraction * alive + 0.5) for name, alive in living.items()}
    return counts if any(counts.values()) else {}


def _seed(seed: int, step: int) -> int:
    """Of what is drawn at one step: a function of both, so that an interrupted training draws the same."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:8], "big") >> 1
