"""Gradual pruning: one training whose mask thins out by magnitude along a curve, and which then trains on."""

from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tombola.dynamics.base import Course, Dynamics, Setting, Timeline
from tombola.errors import BadInput
from tombola.steps import Step
from tombola.value import Count, StepField

if TYPE_CHECKING:
    from tombola.mask import Mask

Curve = Literal["cubic", "linear"]
_POWERS: dict[Curve, int] = {"cubic": 3, "linear": 1}


def living(first: int, last: int, share: Fraction, curve: Curve = "cubic") -> int:
    """How many weights live when a `share` of the prunings is done: s_t = s_f + (s_i - s_f)(1 - share)^3.

    Args:
        first, last: how many live before and at the end.
        share: (t - t0) / (n dt), in [0, 1].
        curve: `cubic`, or `linear` for the first power.

    Returns:
        The whole number nearest to it, of two the larger, computed exactly.

    >>> [living(1000, 100, Fraction(k, 4)) for k in range(5)]
    [1000, 480, 213, 114, 100]
    """
    left = last + (first - last) * (1 - share) ** _POWERS[curve]
    return (left + Fraction(1, 2)).__floor__()


class Gradual(Dynamics):
    """From step `begin` to step `end`, every so many steps, the weights of lowest magnitude go, along a curve.

    To prune, or not to prune: exploring the efficacy of pruning for model compression (Zhu & Gupta, 2017). As many are
    left as the mask `target` has, which the training is given: in each layer, or of all layers together.

    Attributes:
        begin, end: t0, and when the last weights go at the latest; None for three quarters of the training.
        every: dt; None for 100 steps, or ten prunings in all where there is no room for more.
        curve: `cubic`, or `linear`.
        scope: whether weights are compared in each `layer`, or `global`.
    """

    about = "Weights of lowest magnitude go bit by bit along a curve, and the rest trains on"
    paper = "To prune, or not to prune: exploring the efficacy of pruning for model compression (Zhu & Gupta)"
    year = 2017
    of_method = True
    by_weight = True

    name: Literal["gradual"] = "gradual"
    begin: StepField = Step("0it")
    end: StepField | None = None
    every: Count | None = Field(default=None, gt=0)
    curve: Curve = "cubic"
    scope: Literal["layer", "global"] = "layer"

    def prunings(self, timeline: Timeline) -> range:
        """Steps after which weights go, t0 + dt to t0 + n dt; a training that begins later makes up for the first ones.

        Raises:
            BadInput: there is none, or the last is before the training begins, or after it ends.
        """
        begin = timeline.iterations(self.begin)
        end = timeline.iterations(self.end) if self.end else 3 * timeline.length // 4
        every = timeline.interval(self.every, end - begin)
        prunings = range(begin + every, end + 1, every)
        if not prunings or not timeline.begin < prunings[-1] <= timeline.length:
            raise BadInput(
                where="gradual",
                expected=f"a last pruning between the steps {timeline.begin} and {timeline.length} of the training",
                found=f"prunings every {every} steps from step {begin} to step {end}",
                todo="Name another begin, end or every.",
            )
        return prunings

    def settles(self, timeline: Timeline) -> int:
        """The step of the last pruning."""
        return self.prunings(timeline)[-1]

    def course(self, setting: Setting) -> Course:
        """A mask that thins out to the counts of the input `target`."""
        from tombola.dynamics.moving_mask import MovingMask, by_layer_to, globally_to, magnitudes

        prunings, first, last = self.prunings(setting.timeline), setting.mask, _target(setting)

        def following(step: int, mask: "Mask") -> "Mask":
            done = step + 1
            if done not in prunings:
                return mask
            share = Fraction(prunings.index(done) + 1, len(prunings))
            scores = magnitudes(setting, mask)
            if self.scope == "global":
                return globally_to(scores, mask, min(mask.alive, living(first.alive, last.alive, share, self.curve)))
            counts = {
                name: min(now, living(first.counts[name], last.counts[name], share, self.curve))
                for name, now in mask.counts.items()
            }
            return by_layer_to(scores, mask, counts)

        return MovingMask(setting, following)


def _target(setting: Setting) -> "Mask":
    from tombola.mask import Mask

    given = setting.inputs.get("target")
    target = Mask({name: alive.bool() for name, alive in given.items()}) if given else None
    if target is None or target.keys() != setting.mask.keys():
        raise BadInput(
            where="gradual",
            expected="a mask of the network's layers as the training's further input `target`",
            found="none" if target is None else "one of other layers",
            todo='method = "gradual" gives its trainings one.',
        )
    return target
