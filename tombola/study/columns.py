"""Which columns of an input a network still listens to: of noise columns less than chance would have it?

Why do tree-based models still outperform deep learning on tabular data? (Grinsztajn, Oyallon & Varoquaux, 2022): trees
are said to win as networks mind useless columns, and as they lose nothing when the data's axes are turned. With W the
first layer's weights, m its mask, and J the columns that are useless of all F,

    kept   |{(i, j) : m_ij = 1, j in J}| / |m|                       chance: |J| / F
    mass   sum_i sum_(j in J) (m W Q)_ij^2 / sum_ij (m W Q)_ij^2     likewise

Inputs that are turned, x' = Q x, have no column of noise: each is a mixture of all. There only `mass` is asked, of the
weights turned back: W x' = (W Q) x.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tombola.study.paired import Difference
from tombola.study.written import points

if TYPE_CHECKING:
    from torch import Tensor

QUARTER = 4  # where no column is known to be noise, the one in four that by itself says least of the answer


@dataclass(frozen=True)
class Heard:
    """How much of a first layer is on useless columns.

    Attributes:
        kept: of its surviving weights; None where the inputs are turned.
        mass: of the sum of their squares, in the frame in which there are such columns.
        chance: the share of columns that are useless.
    """

    kept: float | None
    mass: float
    chance: float


def heard(weight: "Tensor", alive: "Tensor", useless: "Tensor", turn: "Tensor | None" = None) -> Heard:
    """How much of the first layer is on useless columns.

    Args:
        weight, alive: W and m, [units, F].
        useless: which columns are, [F].
        turn: Q, [F, F], where the layer reads Q x.

    >>> import torch
    >>> weight, useless = torch.tensor([[3.0, 0.0, 4.0]]), torch.tensor([False, True, True])
    >>> heard(weight, weight != 0, useless)
    Heard(kept=0.5, mass=0.64, chance=0.666...)
    """
    living = (weight * alive).double()
    squares = (living if turn is None else living @ turn.to(living)).square()
    whole, kept = float(squares.sum()), int(alive.sum())
    on_useless = int(alive[:, useless].sum()) / kept if kept else 0.0
    mass = float(squares[:, useless].sum()) / whole if whole else 0.0
    return Heard(None if turn is not None else on_useless, mass, float(useless.double().mean()))


def told_alone(inputs: "Tensor", labels: "Tensor") -> "Tensor":
    """How much of the answer each column says by itself: of classes eta^2, of numbers and yes or no r^2, [F].

    eta^2 is the variance of the classes' means over the variance of all; of several answers the largest counts, and a
    column in which nothing varies says nothing.

    >>> import torch
    >>> told_alone(torch.tensor([[0.0, 1.0], [0.0, 2.0], [1.0, 1.0], [1.0, 2.0]]), torch.tensor([0, 0, 1, 1])).tolist()
    [1.0, 0.0]
    """
    import torch

    x = inputs.flatten(1).double()
    x = x - x.mean(dim=0)
    total = x.square().sum(dim=0)
    if labels.is_floating_point() or labels.dim() > 1:
        y = labels.double().view(len(labels), -1)
        y = y - y.mean(dim=0)
        explained = (y.T @ x).square() / y.square().sum(dim=0).clamp(min=1e-300)[:, None]
        explained = explained.amax(dim=0)
    else:
        flags = torch.nn.functional.one_hot(labels).double()
        explained = ((flags.T @ x).square() / flags.sum(dim=0).clamp(min=1)[:, None]).sum(dim=0)
    return torch.where(total > 0, explained / total.clamp(min=1e-300), 0.0)


def least(told: "Tensor") -> "Tensor":
    """The quarter of the columns that say least, the first of equals, [F]; at least one."""
    import torch

    useless = torch.zeros(len(told), dtype=torch.bool)
    useless[told.argsort(stable=True)[: max(1, len(told) // QUARTER)]] = True
    return useless


@dataclass(frozen=True)
class Mind:
    """How much of an arm's first layers is on useless columns, less chance, and how good the networks are.

    Attributes:
        kept, mass: shares less chance; `kept` None where the inputs are turned.
        chance: the share of columns that are useless.
        measure: test accuracy or R2 at the end of training.
        beside: the same of the network less that of a gradient-boosted tree, paired by replicate.
    """

    kept: Difference | None
    mass: Difference
    chance: float
    measure: float
    beside: Difference


def sentence(density: float, arm: str, mind: Mind, which: str, measure: str) -> str:
    """What an arm's first layers, and a tree beside them, say.

    Args:
        density: P_m, in (0, 1].
        which: the columns that are useless, in words.
        measure: `accuracy` or `R2`.

    >>> from tombola.study.paired import paired
    >>> mind = Mind(paired([-0.2, -0.22], 0.95), paired([-0.24, -0.25], 0.95), 0.25, 0.9, paired([0.01, 0.02], 0.95))
    >>> sentence(0.1, "ticket", mind, "noise columns", "accuracy")
    'At 10.0%, first layers of ticket have 4.0% of their surviving weights on noise columns, which are 25.0% of the
    columns (-21.0 [-33.7, -8.3] points: less than chance), and 0.5% of their sum of squares (-24.5 [-30.9, -18.1]
    points: less than chance); n = 2. Test accuracy at the end is 90.00%, +1.50 [-4.85, +7.85] points beside a
    gradient-boosted tree: no difference is shown.'
    """

    def against(share: Difference) -> str:
        return _shown(share, "less than chance", "more than chance", "no difference from chance is shown")

    mass = f"{mind.chance + mind.mass.mean:.1%} of their sum of squares"
    said = (
        f" have {mind.chance + mind.kept.mean:.1%} of their surviving weights on {which}, which are {mind.chance:.1%} "
        f"of the columns ({points(mind.kept, 1)} points: {against(mind.kept)}), and {mass} "
        if mind.kept
        else f", turned back, have {mass} on {which}, which are {mind.chance:.1%} of the columns "
    )
    tree = _shown(mind.beside, "the tree is better", "the network is better", "no difference is shown")
    one = "; one replicate decides nothing" if mind.mass.n < 2 else ""
    return (
        f"At {density:.1%}, first layers of {arm}{said}({points(mind.mass, 1)} points: {against(mind.mass)}); "
        f"n = {mind.mass.n}{one}. Test {measure} at the end is {mind.measure:.2%}, "
        f"{points(mind.beside)} points beside a gradient-boosted tree: {tree}."
    )


def _shown(difference: Difference, below: str, above: str, neither: str) -> str:
    return below if difference.high < 0 else above if difference.low > 0 else neither
