"""Scores of where a training took each weight: from theta_0, at its beginning, to theta_T, at its end.

Those of Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask (Zhou, Lan, Liu & Yosinski, 2019),
https://arxiv.org/abs/1905.01067, and their opposites. There they are taken in each layer by itself. They see the
beginning as `Scored.initial`: of a ticket's training, its rewind point.
"""

from typing import TYPE_CHECKING

from tombola.errors import BadInput
from tombola.score import Scored

if TYPE_CHECKING:  # `tombola plan` reads which scores there are, and touches no tensor
    from torch import Tensor

    Scores = dict[str, Tensor]


def large_final(scored: Scored) -> "Scores":
    """|theta_T|: magnitude, by this paper's name for it."""
    return {name: scored.weights[name].abs() for name in scored.mask}


def small_final(scored: Scored) -> "Scores":
    """-|theta_T|: the largest go first."""
    return _negative(large_final(scored))


def large_init(scored: Scored) -> "Scores":
    """|theta_0|: as if nothing had been trained."""
    return {name: initial.abs() for name, initial in _initial(scored).items()}


def small_init(scored: Scored) -> "Scores":
    """-|theta_0|: what began large goes first."""
    return _negative(large_init(scored))


def large_init_large_final(scored: Scored) -> "Scores":
    """min(alpha |theta_T|, |theta_0|): large at both ends.

    The paper's alpha is such that in each layer both thresholds cut off the same share of the living weights; the order
    is then that of the lower of two ranks in the layer, |theta_0|'s and |theta_T|'s, which are what is returned, from 0
    to 1.
    """
    return _lower_rank(large_init(scored), large_final(scored), scored)


def small_init_small_final(scored: Scored) -> "Scores":
    """-max(alpha |theta_T|, |theta_0|): small at both ends, again by the lower of two ranks in the layer."""
    return _lower_rank(small_init(scored), small_final(scored), scored)


def magnitude_increase(scored: Scored) -> "Scores":
    """|theta_T| - |theta_0|: how far a weight has come away from 0.

    >>> import torch
    >>> from tombola.mask import Mask
    >>> living = Mask({"w": torch.ones(3, dtype=torch.bool)})
    >>> before, after = {"w": torch.tensor([1.0, -2.0, 0.5])}, {"w": torch.tensor([1.5, -0.5, -1.5])}
    >>> magnitude_increase(Scored(torch.nn.Module(), after, living, initial=before))["w"].tolist()
    [0.5, -1.5, 1.0]
    """
    return {name: scored.weights[name].abs() - initial.abs() for name, initial in _initial(scored).items()}


def magnitude_decrease(scored: Scored) -> "Scores":
    """|theta_0| - |theta_T|: how far a weight has come towards 0."""
    return _negative(magnitude_increase(scored))


def movement(scored: Scored) -> "Scores":
    """|theta_T - theta_0|: how far a weight has come."""
    return {name: (scored.weights[name] - initial).abs() for name, initial in _initial(scored).items()}


def small_movement(scored: Scored) -> "Scores":
    """-|theta_T - theta_0|: what has come far goes first."""
    return _negative(movement(scored))


def large_final_same_sign(scored: Scored) -> "Scores":
    """max(0, theta_0 theta_T / |theta_0|): |theta_T| of a weight that has kept its sign, else 0."""
    return _where_sign(large_final(scored), scored, same=True)


def large_final_diff_sign(scored: Scored) -> "Scores":
    """max(0, -theta_0 theta_T / |theta_0|): |theta_T| of a weight that has changed its sign, else 0."""
    return _where_sign(large_final(scored), scored, same=False)


def magnitude_increase_same_sign(scored: Scored) -> "Scores":
    """|theta_T| - |theta_0| of a weight that has kept its sign, else 0, as in the authors' program."""
    return _where_sign(magnitude_increase(scored), scored, same=True)


def magnitude_increase_diff_sign(scored: Scored) -> "Scores":
    """|theta_T| - |theta_0| of a weight that has changed its sign, else 0, as in the authors' program."""
    return _where_sign(magnitude_increase(scored), scored, same=False)


def _initial(scored: Scored) -> "Scores":
    """theta_0 of what the mask names.

    Raises:
        BadInput: it is not known.
    """
    if scored.initial is None:
        raise _no_initial()
    return {name: scored.initial[name] for name in scored.mask}


def _negative(scores: "Scores") -> "Scores":
    return {name: -own for name, own in scores.items()}


def _where_sign(scores: "Scores", scored: Scored, same: bool) -> "Scores":
    initial = _initial(scored)
    kept = {name: initial[name].sign() == scored.weights[name].sign() for name in scores}
    return {name: own.masked_fill(kept[name] != same, 0) for name, own in scores.items()}


def _lower_rank(first: "Scores", second: "Scores", scored: Scored) -> "Scores":
    import torch

    pairs = ((name, _ranks(first[name], alive), _ranks(second[name], alive)) for name, alive in scored.mask.items())
    return {name: torch.minimum(one, other) for name, one, other in pairs}


def _ranks(scores: "Tensor", alive: "Tensor") -> "Tensor":
    """The share of the living weights of a layer that score lower."""
    import torch

    living = scores[alive].sort().values
    lower = torch.searchsorted(living, scores.contiguous())
    return lower.double() / max(len(living), 1)


def _no_initial() -> BadInput:
    return BadInput(
        where="score",
        expected="the weights at the beginning of the training, which it compares with those at its end",
        found="none",
        todo="Hand them over: Scored(..., initial=...).",
    )
