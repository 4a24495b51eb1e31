"""Are a network's probabilities to be believed? Likelihood, Brier score, calibration errors, and how sure it is.

Whoever has probabilities and no logits - of an ensemble, say, whose members' probabilities are averaged - hands
`calibration` their logarithms, of which the softmax is the probabilities again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola.errors import BadInput
from tombola.probabilities import are_probabilities, refuse_probabilities

BINS = 15
Numbers = Tensor | NDArray[Any] | Sequence[Any]  # of torch, of numpy, or lists


@dataclass(frozen=True)
class Calibration:
    """How right a network is, and how well it knows it.

    Attributes:
        accuracy: the share of examples whose most probable class is theirs; of two as probable the first counts.
        nll: the mean of -ln p_y, in nats.
        brier: the mean squared distance from p to the label, in [0, 2].
        ece: expected calibration error, in [0, 1].
        bins: that the errors are over, equally wide in the largest probability.
        mace: mean absolute calibration error, in [0, 1].
        entropy: the mean of that of the probabilities, in nats: how unsure it is.
    """

    accuracy: float
    nll: float
    brier: float
    ece: float
    bins: int = BINS
    mace: float = nan
    entropy: float = nan


def calibration(logits: Numbers, labels: Numbers, bins: int = BINS) -> Calibration:
    """All numbers of a network's outputs.

    Args:
        logits: N x classes, before the softmax; or the logarithms of probabilities.
        labels: classes, N, from 0.
        bins: of the calibration errors.

    Raises:
        BadInput: shapes do not fit, or these are probabilities, or no numbers.

    >>> calibration(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0])).accuracy
    0.5
    """
    outputs = torch.as_tensor(logits).detach().cpu().double()
    if outputs.isnan().any() or outputs.isposinf().any():
        raise BadInput(
            where="calibration(logits=...)",
            expected="numbers",
            found=f"{int((~outputs.isfinite()).any(-1).sum())} rows with nan or inf",
            todo="See where the network's numbers overflow; a loss that was nan in training is one place.",
        )
    todo = "Hand what the last layer gives, or the logarithms of these."
    refuse_probabilities(outputs, "calibration(logits=...)", "logits, before the softmax", todo)
    log_p, answers = _checked("calibration(logits=...)", outputs.log_softmax(-1), labels)
    p = log_p.exp()
    right = float((p.argmax(1) == answers).double().mean())
    errors = ece(p, answers, bins), bins, mace(p, answers, bins)
    return Calibration(right, _nll(log_p, answers), brier(p, answers), *errors, entropy(p))


def nll(probabilities: Numbers, labels: Numbers) -> float:
    """Negative log-likelihood: the mean of -ln p_y, in nats; infinite where a label had the probability 0.

    Args:
        probabilities: p, N x classes, each row with the sum 1.
        labels: y, classes, N, from 0.

    Raises:
        BadInput: shapes do not fit, or these are no probabilities.

    >>> round(nll([[0.5, 0.5], [0.25, 0.75]], [0, 1]), 4)
    0.4904
    """
    p, answers = _probabilities("nll", probabilities, labels)
    return _nll(p.log(), answers)


def brier(probabilities: Numbers, labels: Numbers) -> float:
    """The mean of sum_c (p_c - [c = y])^2, over all classes: from 0 to 2, and of two classes twice what one gives.

    Args:
        probabilities: p, N x classes, each row with the sum 1.
        labels: y, classes, N, from 0.

    Raises:
        BadInput: shapes do not fit, or these are no probabilities.

    Verification of Forecasts Expressed in Terms of Probability (Brier, 1950).

    >>> brier([[0.5, 0.5], [0.0, 1.0]], [0, 1])
    0.25
    """
    p, answers = _probabilities("brier", probabilities, labels)
    truth = torch.nn.functional.one_hot(answers, p.shape[1])
    return float((p - truth).square().sum(1).mean())


def ece(probabilities: Numbers, labels: Numbers, bins: int = BINS) -> float:
    """Expected calibration error: sum_m |B_m| / N |acc(B_m) - conf(B_m)|.

    B_m are the examples whose largest probability is in ((m - 1) / M, m / M], conf its mean there, acc the share of
    them that is right.

    Args:
        probabilities: N x classes, each row with the sum 1.
        labels: classes, N, from 0.
        bins: M, of equal width; fewer and more bins give other numbers.

    Returns:
        In [0, 1].

    Raises:
        BadInput: shapes do not fit, these are no probabilities, or there is no bin.

    On Calibration of Modern Neural Networks (Guo et al., 2017), https://arxiv.org/abs/1706.04599

    >>> ece([[0.75, 0.25], [0.75, 0.25]], [0, 1])
    0.25
    """
    surplus, counts = _surplus("ece", probabilities, labels, bins)
    return float(surplus.abs().sum() / counts.sum())


def mace(probabilities: Numbers, labels: Numbers, bins: int = BINS) -> float:
    """Mean absolute calibration error: the mean over the bins that are not empty of |acc(B_m) - conf(B_m)|.

    A bin of few examples counts as much as one of many, where `ece` weighs them by their examples. The paper does not
    say how many bins it has, nor what it does with empty ones.

    Args:
        probabilities: N x classes, each row with the sum 1.
        labels: classes, N, from 0.
        bins: of equal width in the largest probability, as `ece` has them.

    Returns:
        In [0, 1].

    Raises:
        BadInput: shapes do not fit, these are no probabilities, or there is no bin.

    Bayesian Lottery Ticket Hypothesis (Kuhn et al., 2026), https://arxiv.org/abs/2602.18825

    >>> round(mace([[0.75, 0.25], [0.75, 0.25], [1.0, 0.0]], [0, 1, 0]), 3)
    0.125
    """
    surplus, counts = _surplus("mace", probabilities, labels, bins)
    there = counts > 0
    return float((surplus[there].abs() / counts[there]).mean())


def entropy(probabilities: Numbers) -> float:
    """The mean of -sum_c p_c ln p_c, in nats: from 0, where a network is sure, to ln C, where it knows nothing.

    Args:
        probabilities: p, N x C, each row with the sum 1.

    >>> round(entropy([[0.5, 0.5], [1.0, 0.0]]), 4)
    0.3466
    """
    p = torch.as_tensor(probabilities).detach().cpu().double()
    return float(torch.special.entr(p).sum(1).mean())


def _surplus(where: str, probabilities: Numbers, labels: Numbers, bins: int) -> tuple[Tensor, Tensor]:
    """Of each bin, right answers less confidence, both added up over its examples; and how many these are."""
    if type(bins) is not int or bins < 1:
        raise BadInput(where=f"{where}(bins=...)", expected="one bin or more", found=repr(bins), todo="15 is usual.")
    p, answers = _probabilities(where, probabilities, labels)
    confidence, chosen = p.max(1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)  # one more than bins
    places = (torch.bucketize(confidence, edges) - 1).clamp(0, bins - 1)
    surplus = torch.zeros(bins, dtype=torch.float64)
    surplus.index_add_(0, places, (chosen == answers).double() - confidence)
    return surplus, torch.bincount(places, minlength=bins)


def _nll(log_p: Tensor, answers: Tensor) -> float:
    return float(-log_p.gather(1, answers[:, None]).mean())


def _probabilities(where: str, given: Numbers, labels: Numbers) -> tuple[Tensor, Tensor]:
    p, answers = _checked(where, torch.as_tensor(given).detach().cpu().double(), labels)
    if not are_probabilities(p):
        raise BadInput(
            where=f"{where}(probabilities=...)",
            expected="probabilities: none below 0, each row with the sum 1",
            found=f"rows with sums from {float(p.sum(1).min()):.4g} to {float(p.sum(1).max()):.4g}",
            todo="calibration(logits, labels) takes logits.",
        )
    return p, answers


def _checked(where: str, outputs: Tensor, labels: Numbers) -> tuple[Tensor, Tensor]:
    answers = torch.as_tensor(labels).detach().cpu()
    rows = outputs.dim() == 2 and len(outputs) > 0 and outputs.shape[1] > 1 and answers.shape == outputs.shape[:1]
    whole = not answers.is_floating_point() and not answers.is_complex()
    if rows and whole and int(answers.min()) >= 0 and int(answers.max()) < outputs.shape[1]:
        return outputs, answers.long()
    inside = f" from {int(answers.min())} to {int(answers.max())}" if whole and answers.numel() else ""
    raise BadInput(
        where=where,
        expected="a row for each example, a column for each of two classes or more, and a label for each row: a column",
        found=f"{tuple(outputs.shape)} and labels {tuple(answers.shape)} of {answers.dtype}{inside}",
        todo="Of a text flatten the positions first, and leave out those of which nothing is asked.",
    )
