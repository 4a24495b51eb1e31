"""Scores of Gaussian weights N(mu_i, sigma_i^2): what is small, and what is uncertain, goes first.

Bayesian Lottery Ticket Hypothesis (Kuhn et al., 2026), https://arxiv.org/abs/2602.18825; the first is that of Weight
Uncertainty in Neural Networks (Blundell et al., 2015).
"""

from typing import TYPE_CHECKING

from tombola.errors import BadInput
from tombola.score import Scored

if TYPE_CHECKING:
    from torch import Tensor


def snr(scored: Scored) -> "dict[str, Tensor]":
    """|mu_i| / sigma_i, the signal-to-noise ratio.

    Raises:
        BadInput: the weights have no sigma.

    >>> import torch
    >>> from tombola.mask import Mask
    >>> weights = {"w": torch.tensor([-2.0, 3.0]), "w_log_sigma": torch.tensor([2.0, 4.0]).log()}
    >>> snr(Scored(torch.nn.Identity(), weights, Mask({"w": torch.tensor([True, True])})))["w"].round(decimals=4)
    tensor([1.0000, 0.7500], dtype=torch.float64)
    """
    # In float64, whose exponents no sigma of float32 leaves.
    return {name: scored.weights[name].double().abs() * (-_log_sigma(scored, name)).exp() for name in scored.mask}


def mean(scored: Scored) -> "dict[str, Tensor]":
    """|mu_i|, the size of the mean: of a network whose weights are numbers it is magnitude."""
    return {name: scored.weights[name].abs() for name in scored.mask}


def second_moment(scored: Scored) -> "dict[str, Tensor]":
    """sqrt(mu_i^2 + sigma_i^2): what is uncertain stays.

    Raises:
        BadInput: the weights have no sigma.
    """
    sigma = {name: _log_sigma(scored, name).exp() for name in scored.mask}
    return {name: (scored.weights[name].double().square() + sigma[name].square()).sqrt() for name in scored.mask}


def _log_sigma(scored: Scored, name: str) -> "Tensor":
    from tombola.bayes import noise_of

    if (log_sigma := scored.weights.get(noise_of(name))) is None:
        raise BadInput(
            where=f"score of {name}",
            expected="a Gaussian weight, with a sigma",
            found="a weight that is a number",
            todo="Take a network with Gaussian weights, tombola.bayes.Gaussian, or a model with +gaussian behind it.",
        )
    return log_sigma.double()
