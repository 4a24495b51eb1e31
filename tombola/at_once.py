"""Pruning a whole network at once: how much is left of it, and in how many steps of scoring."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, log, prod
from typing import TYPE_CHECKING

from tombola.amounts import count
from tombola.layerwise import Shape
from tombola.pruning import SCOPES, Left, Round, Ties

if TYPE_CHECKING:  # `tombola plan` reads amounts, and touches no tensor
    from torch import Tensor

    from tombola.mask import Mask


def course(densities: Sequence[float], rate: float) -> list[float]:
    """The density after each round: all `densities` are met, and no round removes more than `rate` of what is alive.

    Between two of them rounds are as few as that takes, and remove the same fraction each.

    >>> [round(density, 3) for density in course([0.5, 0.4], rate=0.3)]
    [0.707, 0.5, 0.4]
    """
    after: list[float] = []
    for before, density in pairwise([1.0, *densities]):
        rounds = max(1, ceil(log(density / before) / log(1 - rate) - 1e-9))
        after += [before * (density / before) ** (number / rounds) for number in range(1, rounds)] + [density]
    return after


@dataclass(frozen=True)
class Scoring:
    """How a method that prunes at once scores a network.

    Attributes:
        score: its name in `scores.SCORES`.
        scope: its name in `pruning.SCOPES`; None for the spec's.
        iterations: steps of scoring between the whole network and the amount that is left.
        returning: whether weights may come back between these.
        per_class: how many training examples the score sees, times the number of classes.
        batches: or how many batches of the recipe; where both are 0, an epoch.
        examples: or how many in all.
    """

    score: str
    scope: str | None = "global"
    iterations: int = 1
    returning: bool = False
    per_class: int = 0
    batches: int = 0
    examples: int | None = None

    def seen(self, classes: int, batch: int) -> int | None:
        """How many training examples the score sees; None for an epoch.

        >>> Scoring("snip", per_class=10).seen(classes=10, batch=60)
        100
        """
        return self.examples or self.per_class * classes + self.batches * batch or None


@dataclass(frozen=True)
class Amount:
    """How much is left of a whole network, where it is pruned at once.

    Attributes:
        density: in (0, 1]: all together keep that fraction of their weights, of which floor(n (1 - density) + 1/2) go.
        rounds: or as many as so many rounds of `by` would leave.
        by: a round; by which layers' own rates, too, a density is shared among them.

    >>> Amount(Round(), density=0.1).total({"w": 1000}, {"w": 0.2})
    100
    """

    by: Round
    density: float | None = None
    rounds: int = 0

    def total(self, sizes: Mapping[str, int], rates: Mapping[str, float]) -> int:
        """Return how many weights of layers of these sizes, which lose these rates in each round, are left."""
        whole = sum(sizes.values())
        if self.density is None:
            return self.by.total(sizes, rates, self.rounds)
        return whole - count(1 - self.density, whole)


def _fitted(left: Left, alive: Mapping[str, int]) -> Left:
    """As many in all, where no group keeps more than it has: rounding may ask a layer for one weight that has gone."""
    have = {names: sum(alive[name] for name in names) for names in left}
    fitted = {names: min(stay, have[names]) for names, stay in left.items()}
    missing = sum(left.values()) - sum(fitted.values())
    for names in sorted(fitted, key=lambda names: fitted[names] - have[names]):
        more = min(missing, have[names] - fitted[names])
        fitted[names] += more
        missing -= more
    return fitted


@dataclass(frozen=True)
class AtOnce:
    """Pruning a whole network to an amount, in one or several steps of scoring, where no training is between them.

    After step i of n there are left floor(N (T / N)^(i / n) + 1/2) of N weights, T of which are to stay: an exponential
    schedule (Pruning Neural Networks without Any Data by Iteratively Conserving Synaptic Flow, Tanaka et al., 2020).

    Attributes:
        round: in its scope, by its score.
        amount: what is left at the end.
        steps: of scoring, 1 or more.
        returning: whether weights may come back between steps, as each step chooses among all
            (Progressive Skeletonization: Trimming More Fat from a Network at Initialization, de Jorge et al., 2021).
    """

    round: Round
    amount: Amount
    steps: int = 1
    returning: bool = False

    def mask(
        self,
        everything: "Mask",
        scores: "Callable[[Mask, Mask], Mapping[str, Tensor]]",
        kinds: Mapping[str, str],
        ties: Ties | None = None,
        before: "Mask | None" = None,
    ) -> "Mask":
        """Return what is left of `everything`.

        Args:
            everything: what may be pruned.
            scores: of (what is alive, what is to be scored), a number for each weight of the second.
            kinds, ties: as in `Round.kept`.
            before: what is alive at the beginning, where that is not everything; pruned weights stay pruned.
        """
        from tombola import prune

        alive = before or everything
        rates = self.amount.by.rates_of(kinds, ties)
        for left in self.schedule({name: tuple(each.shape) for name, each in everything.items()}, rates):
            among = everything if self.returning else alive
            alive = prune.down_to(scores(alive, among), among, _fitted(left, among.counts))
        return alive

    def schedule(self, shapes: Mapping[str, Shape], rates: Mapping[str, float]) -> Iterator[Left]:
        """Yield how many weights are left after each step.

        Args:
            shapes: of what may be pruned.
            rates: the fraction that each layer loses in a round of `amount.by`.
        """
        sizes = {name: prod(shape) for name, shape in shapes.items()}
        whole, total = sum(sizes.values()), self.amount.total(sizes, rates)
        shares = SCOPES[self.round.scope].shares
        assert shares  # as a spec's checks have seen
        for step in range(1, self.steps + 1):
            last = step == self.steps
            same = last and self.amount.density is None and self.round.scope == self.amount.by.scope
            if same:  # to the last weight of each layer what the rounds leave
                yield SCOPES[self.round.scope].left(self.amount.by, sizes, rates, self.amount.rounds)
            else:
                left = total if last or not total else floor(whole * (total / whole) ** (step / self.steps) + 0.5)
                yield shares(shapes, rates, left)
