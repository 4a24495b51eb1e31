"""Training scores and no weights: edge-popup, supermasks, signed supermasks, Gem-Miner.

What they have in common is in `score_training`; each says how scores are drawn, which mask they make, and what the
gradient is taken through. Where the level leaves a count, exactly so many weights live, whatever the paper does.
"""

from collections.abc import Callable
from math import floor, prod, sqrt
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from tombola.dynamics.base import Course, Dynamics, Setting, Timeline
from tombola.dynamics.score_training import TARGET, Frozen, Rule, ScoreCourse
from tombola.errors import BadInput
from tombola.steps import Step
from tombola.value import Number, StepField

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from tombola.supermask import Groups

    Draw = Callable[[tuple[int, ...], Generator], Tensor]

Ranked = Literal["layer", "global"]


def _kept(scores: "Tensor", kept: "Tensor") -> "Tensor":
    return kept


def _turned(scores: "Tensor", kept: "Tensor") -> "Tensor":
    return kept * scores.sign()


def _same(scores: "Tensor") -> "Tensor":
    return scores


def _absolute(scores: "Tensor") -> "Tensor":
    return scores.abs()


def _uniform(low: float, high: float) -> "Draw":
    def drawn(shape: tuple[int, ...], generator: "Generator") -> "Tensor":
        import torch

        return low + (high - low) * torch.rand(shape, generator=generator)

    return drawn


def _by_fan_in(gain: float) -> "Draw":
    """Uniform in +-gain / sqrt(fan_in)."""

    def drawn(shape: tuple[int, ...], generator: "Generator") -> "Tensor":
        bound = gain / sqrt(prod(shape[1:]))
        return _uniform(-bound, bound)(shape, generator)

    return drawn


class EdgePopup(Dynamics):
    """Of each layer the weights of the largest |s| multiply; scores are trained, and weights are not.

    ds = dL/dw_eff w sign(s), for all weights, hidden ones too. Scores begin uniform in +-1 / sqrt(fan_in).

    Attributes:
        weights: what the frozen weights are: the `initial` ones of the start; `signed-constant`, sign(w) sqrt(2 /
            fan_in); `signed-deviation`, sign(w) std(w).
        scope: whether each layer keeps its count, or all layers together one.
        scaled: whether living weights are multiplied by sqrt(n / |m|), for the fan-in that is left.
    """

    about: ClassVar[str] = "Scores are trained, weights never: of each layer those of the largest scores multiply"
    paper: ClassVar[str] = "What's Hidden in a Randomly Weighted Neural Network? (Ramanujan et al.)"
    year: ClassVar[int] = 2020
    of_method: ClassVar[bool] = True
    by_weight: ClassVar[bool] = True

    name: Literal["edge-popup"] = "edge-popup"
    weights: Frozen = "signed-constant"
    scope: Ranked = "layer"
    scaled: bool = False

    def course(self, setting: Setting) -> Course:
        """The training of these scores."""
        from tombola import supermask

        factor = supermask.by_fan_in if self.scaled else supermask.whole
        rule = Rule(_by_fan_in(1.0), _absolute, _absolute, _kept, _kept, factor)
        return ScoreCourse(setting, rule, self.weights, self.scope)


class Supermask(Dynamics):
    """Each weight multiplies with the probability sigmoid(s), drawn anew at every step; the probabilities are trained.

    ds = dL/dw_eff w sigmoid'(s). How many weights that leaves is not to be chosen: it lands where it lands, in the
    paper between a fifth and four fifths. What is looked at, and what the training ends with, is one more draw, with
    exactly the level's count: the weights of the largest s + logistic noise. Where the level leaves as many as were
    learned, that is a draw like all others; elsewhere all log-odds are shifted by one number, and the further that is,
    the worse. The authors test drawn masks too, and report the mean of ten: the network of rounded probabilities is
    another one, and far worse. The density that was learned, the mean probability, is recorded.

    Attributes:
        weights, scope: as in `EdgePopup`.
        begin: the probability that all weights begin with, in (0, 1); `level` for the density that the level leaves.
        counted: whether each step's draw leaves exactly the level's count, too.
        rescaled: dynamic weight rescaling: living weights are multiplied by n / |m|, the gradient too. Where the count
            that is looked at is not the one that was learned, rescaled networks suffer most: `counted` goes with it.
    """

    about: ClassVar[str] = "Probabilities of weights are trained, weights never; a mask is drawn at every step"
    paper: ClassVar[str] = "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask (Zhou et al.)"
    year: ClassVar[int] = 2019
    of_method: ClassVar[bool] = True
    by_weight: ClassVar[bool] = True

    name: Literal["supermask"] = "supermask"
    weights: Frozen = "signed-deviation"
    scope: Ranked = "layer"
    begin: Annotated[Number, Field(gt=0, lt=1)] | Literal["level"] = 0.5
    counted: bool = False
    rescaled: bool = False

    def course(self, setting: Setting) -> Course:
        """The training of these scores."""
        import torch

        from tombola import supermask

        def each_by_itself(scores: "Tensor", kept: "Tensor") -> "Tensor":
            return scores > 0  # with logistic noise: with the probability sigmoid(s)

        begin = _density(setting) if self.begin == "level" else self.begin

        def constant(shape: tuple[int, ...], generator: "Generator") -> "Tensor":
            return torch.full(shape, begin).logit()

        factor = supermask.dynamically if self.rescaled else supermask.whole
        hard = _kept if self.counted else each_by_itself
        rule = Rule(
            constant, torch.sigmoid, _same, hard, _kept, factor, noisy=True, counted=self.counted, chance=torch.sigmoid
        )
        return ScoreCourse(setting, rule, self.weights, self.scope)


class SignedSupermask(Dynamics):
    """The mask is -1, 0 or 1: weights of the largest |s| multiply, turned where s is negative; only scores are trained.

    Two thresholds, -tau and tau, make the mask, with the tau that leaves the level's count. (The authors fix tau, see
    what it leaves, or keep equally many on both sides; their networks have ELUs in the place of ReLUs.)
    ds = dL/dw_eff w. Scores begin uniform in +-sqrt(2 / fan_in).

    Attributes:
        weights, scope, scaled: as in `EdgePopup`.
    """

    about: ClassVar[str] = "Scores are trained, weights never: those of the largest |s| multiply, with the sign of s"
    paper: ClassVar[str] = "Signing the Supermask: Keep, Hide, Invert (Koster et al.)"
    year: ClassVar[int] = 2022
    of_method: ClassVar[bool] = True
    by_weight: ClassVar[bool] = True

    name: Literal["signed-supermask"] = "signed-supermask"
    weights: Frozen = "signed-constant"
    scope: Ranked = "layer"
    scaled: bool = False

    def course(self, setting: Setting) -> Course:
        """The training of these scores."""
        from tombola import supermask

        factor = supermask.by_fan_in if self.scaled else supermask.whole
        rule = Rule(_by_fan_in(sqrt(2)), _same, _absolute, _turned, _turned, factor)
        return ScoreCourse(setting, rule, self.weights, self.scope)


class GemMiner(Dynamics):
    """Weights multiply whose score p in [0, 1] is at least 1/2; now and then the lowest scores are frozen out for good.

    dp = dL/dw_eff w. Scores begin uniform in [0, 1]. After j of J freezings floor(n (k / n)^(j / J) + 1/2) of n scores
    are open, in the end k: as many weights as the level leaves. What is looked at are the k open weights of the largest
    p, whether that is 1/2 or not; what 1/2 would have left is recorded as the learned density. The penalty
    lambda |p|^2 that drives scores down is a weight decay of 2 lambda, of the recipe's optimizer.

    Attributes:
        weights, scope: as in `EdgePopup`.
        every: the time between two freezings; there is none at the end.
    """

    about: ClassVar[str] = "Scores in [0, 1] are trained, weights never: those of 1/2 and more multiply, ever fewer"
    paper: ClassVar[str] = "Rare Gems: Finding Lottery Tickets at Initialization (Sreenivasan et al.)"
    year: ClassVar[int] = 2022
    of_method: ClassVar[bool] = True
    by_weight: ClassVar[bool] = True

    name: Literal["gem-miner"] = "gem-miner"
    weights: Frozen = "signed-constant"
    scope: Ranked = "global"
    every: StepField = Step("5ep")

    def course(self, setting: Setting) -> Course:
        """The training of these scores."""
        from tombola import supermask

        def half(scores: "Tensor", *_: "Tensor") -> "Tensor":
            return (scores >= 0.5).to(scores.dtype)

        def freezings(sizes: "Groups", left: "Groups") -> "dict[int, Groups]":
            return frozen_out(sizes, left, self.steps(setting.timeline))

        draw, keep_size = _uniform(0, 1), supermask.whole
        rule = Rule(draw, _same, _same, half, _kept, keep_size, between=(0, 1), chance=half)
        return ScoreCourse(setting, rule, self.weights, self.scope, freezings)

    def steps(self, timeline: Timeline) -> list[int]:
        """The steps after which scores are frozen: multiples of `every` within the recipe's length.

        Raises:
            BadInput: there are none before the end.
        """
        every = timeline.iterations(self.every)
        steps = list(range((timeline.begin // every + 1) * every, timeline.length, every)) if every else []
        if not steps:
            raise _never(self.every, timeline)
        return steps


def frozen_out(sizes: "Groups", left: "Groups", steps: list[int]) -> "dict[int, Groups]":
    """How many scores stay open after each freezing: floor(n (k / n)^(j / J) + 1/2), k after the last.

    >>> frozen_out({("w",): 1000}, {("w",): 10}, [100, 200])
    {100: {('w',): 100}, 200: {('w',): 10}}
    """

    def after(names: tuple[str, ...], done: int) -> int:
        share = left[names] / sizes[names] if sizes[names] else 1.0
        return left[names] if done == len(steps) else floor(sizes[names] * share ** (done / len(steps)) + 0.5)

    return {step: {names: after(names, done) for names in left} for done, step in enumerate(steps, start=1)}


def _never(every: Step, timeline: Timeline) -> BadInput:
    return BadInput(
        where="gem-miner",
        expected=f"a freezing or more between step {timeline.begin} and step {timeline.length}",
        found=f"one every {every}",
        todo="Name a smaller `every`, or train longer.",
    )


def _density(setting: Setting) -> float:
    alive = sum(int(setting.inputs[TARGET][name].sum()) for name in setting.mask)
    # Of a whole layer, and of none, the logit is no number.
    return min(max(alive / setting.mask.total, 1e-3), 1 - 1e-3)
