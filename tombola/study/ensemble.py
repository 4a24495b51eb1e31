"""Several networks asked as one: how good they are together, and how far they differ.

An ensemble answers with the mean of its members' probabilities,

    p(c | x) = 1/k sum_i p_i(c | x)

and is judged like a network. What two members differ in is said in three numbers, each a mean over pairs of members and
over examples: the share of examples that they answer with another class; the Kullback-Leibler divergence
sum_c p_i ln(p_i / p_j), over ordered pairs; and the Jensen-Shannon divergence, the mean divergence of both from
(p_i + p_j) / 2, in [0, ln 2].

Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles (Lakshminarayanan et al., 2017),
https://arxiv.org/abs/1612.01474
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from math import log

import torch
from torch import Tensor

from tombola.errors import BadInput
from tombola.probabilities import log_mean_probability
from tombola.study.calibration import BINS, Calibration, Numbers, calibration


@dataclass(frozen=True)
class Ensemble:
    """How good several networks are, each and together.

    Attributes:
        members: of each, in the order given.
        whole: of the mean of their probabilities.
        disagreement: the share of examples that two of them answer with another class, mean over pairs; 0 of one alone.
        kl: the Kullback-Leibler divergence of one from another, mean over ordered pairs, in nats.
        js: the Jensen-Shannon divergence, mean over pairs, in nats.
    """

    members: tuple[Calibration, ...]
    whole: Calibration
    disagreement: float
    kl: float
    js: float


def judge(logits: Sequence[Numbers], labels: Numbers, bins: int = BINS) -> Ensemble:
    """How good the members of an ensemble are, each and all together, and how far they differ.

    Args:
        logits: of each member, N x C, before the softmax, on the same examples in the same order.
        labels: classes, N, from 0.
        bins: of the expected calibration error, equally wide in the largest probability.

    Raises:
        BadInput: there is no member; shapes differ or do not fit the labels; or one gives probabilities.

    >>> sure, torn = torch.tensor([[4.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.0, 0.1], [0.0, 0.1]])
    >>> found = judge([sure, torn], torch.tensor([0, 1]))
    >>> [member.accuracy for member in found.members], found.whole.accuracy, found.disagreement
    ([1.0, 0.5], 1.0, 0.5)
    """
    outputs = [torch.as_tensor(each).detach().cpu().double() for each in logits]
    log_p = _log_probabilities(outputs)
    return Ensemble(
        tuple(calibration(each, labels, bins) for each in outputs),
        calibration(log_mean_probability(torch.stack(log_p), len(log_p), dim=0), labels, bins),
        _mean(combinations(log_p, 2), lambda left, right: (left.argmax(1) != right.argmax(1)).double()),
        _mean(permutations(log_p, 2), _divergence),
        _mean(combinations(log_p, 2), _jensen_shannon),
    )


def _log_probabilities(logits: Sequence[Tensor]) -> list[Tensor]:
    shapes = {tuple(each.shape) for each in logits}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise BadInput(
            where="judge(logits=...)",
            expected="the logits of one member or more, all of one shape, examples x classes",
            found=", ".join(map(str, sorted(shapes))) or "none",
            todo="Ask every member about the same examples, in the same order.",
        )
    return [each.log_softmax(1) for each in logits]


def _mean(pairs: Iterable[tuple[Tensor, ...]], apart: Callable[[Tensor, Tensor], Tensor]) -> float:
    """The mean over pairs of the mean over examples; 0 where there is no pair."""
    each = [float(apart(left, right).mean()) for left, right in pairs]
    return sum(each) / len(each) if each else 0.0


def _divergence(left: Tensor, right: Tensor) -> Tensor:
    """KL(p || q) of each example, from the logarithms of both."""
    return (left.exp() * (left - right)).sum(1)


def _jensen_shannon(left: Tensor, right: Tensor) -> Tensor:
    middle = torch.logaddexp(left, right) - log(2)
    return (_divergence(left, middle) + _divergence(right, middle)) / 2
