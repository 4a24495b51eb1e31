"""Does a network know what it was not trained on? How well its answers tell examples of its own data from others.

A score is higher for examples that the network takes for its own. Two of them:

    max-softmax   the largest probability p, as ln p / (1 - p): of the same order, and not rounded to 1
                  A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks
                  (Hendrycks & Gimpel, 2017), https://arxiv.org/abs/1610.02136
    energy        -E(x) = T ln sum_c exp(z_c / T)
                  Energy-based Out-of-distribution Detection (Liu et al., 2020), https://arxiv.org/abs/2010.03759
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tombola.errors import BadInput
from tombola.probabilities import are_probabilities
from tombola.study.calibration import Numbers


def max_softmax(logits: Tensor) -> Tensor:
    """ln p / (1 - p) of the largest probability p of each example.

    Args:
        logits: examples x classes, two classes at least.

    >>> max_softmax(torch.tensor([[2.0, 0.0], [0.0, 0.0]])).tolist()
    [2.0, 0.0]
    """
    best, place = logits.double().max(1, keepdim=True)
    others = logits.double().scatter(1, place, -torch.inf)
    return best.squeeze(1) - others.logsumexp(1)


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """E(x) = -T ln sum_c exp(z_c / T) of each example: the lower, the more it is like the data that were trained on.

    Args:
        logits: z, examples x classes.
        temperature: T, > 0.

    Raises:
        BadInput: the temperature is not above 0.

    >>> energy(torch.zeros(1, 1)).tolist(), energy(torch.tensor([[3.0, -torch.inf]]), temperature=2.0).tolist()
    ([-0.0], [-3.0])
    """
    if not temperature > 0:
        raise BadInput(
            where="energy(temperature=...)", expected="a number above 0", found=repr(temperature), todo="1 is usual."
        )
    return -temperature * (logits.double() / temperature).logsumexp(1)


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "max-softmax": max_softmax,
    "energy": lambda logits: -energy(logits),
}


def auroc(inside: Tensor, outside: Tensor) -> float:
    """P(s_in > s_out) + 1/2 P(s_in = s_out), the area under the receiver operating characteristic.

    Args:
        inside, outside: a score of examples of one's own data, and of others; finite or infinite, no NaN.

    Returns:
        1 where every one of one's own scores higher, 1/2 by chance.

    Raises:
        BadInput: there is no example, or a score is no number.

    >>> auroc(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 1.0]))
    0.625
    """
    if not len(inside) or not len(outside) or bool(inside.isnan().any() or outside.isnan().any()):
        raise BadInput(
            where="auroc",
            expected="scores of examples inside and outside, all of them numbers",
            found=f"{len(inside):,} and {len(outside):,}, {int(inside.isnan().sum() + outside.isnan().sum()):,} not",
            todo="A network whose outputs are no numbers cannot be judged.",
        )
    ordered = outside.double().sort().values
    below = torch.searchsorted(ordered, inside.double(), right=False)
    at_most = torch.searchsorted(ordered, inside.double(), right=True)
    return float((below + at_most).double().mean() / (2 * len(ordered)))


def detection(inside: Numbers, outside: Numbers) -> dict[str, float]:
    """The AUROC by each of `SCORES`.

    Args:
        inside, outside: logits of examples of one's own test set, and of others, examples x classes.

    Raises:
        BadInput: shapes do not fit, or these are probabilities.

    >>> detection(torch.tensor([[4.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    {'max-softmax': 1.0, 'energy': 1.0}
    """
    own, others = (torch.as_tensor(each).detach().cpu().double() for each in (inside, outside))
    alike = own.dim() == others.dim() == 2 and own.shape[1] == others.shape[1] > 1
    if not alike or are_probabilities(own) or are_probabilities(others):
        raise BadInput(
            where="detection",
            expected="logits before the softmax, examples x classes, of the same two classes or more",
            found=f"{tuple(own.shape)} and {tuple(others.shape)}" if not alike else "rows that are probabilities",
            todo="Ask one network about both, and leave out the softmax.",
        )
    return {name: auroc(score(own), score(others)) for name, score in SCORES.items()}
