"""Probabilities of classes, beside the logits that networks give."""

from math import log
from typing import TYPE_CHECKING

from tombola.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor


def are_probabilities(outputs: "Tensor") -> bool:
    """Whether the rows of `outputs` look like a softmax's: none below 0, each with the sum 1.

    >>> import torch
    >>> are_probabilities(torch.tensor([[0.25, 0.75]])), are_probabilities(torch.tensor([[0.25, 0.5]]))
    (True, False)
    """
    rows = outputs.detach().double()
    return bool(rows.numel() and (rows >= 0).all() and ((rows.sum(-1) - 1).abs() < 1e-4).all())


def refuse_probabilities(outputs: "Tensor", where: str, expected: str, todo: str) -> None:
    """Raise `BadInput` where outputs are probabilities already.

    Args:
        where, expected, todo: of the message.
    """
    if are_probabilities(outputs):
        raise BadInput(
            where=where,
            expected=expected,
            found="rows that are probabilities: none below 0, each with the sum 1",
            todo=todo,
        )


def log_mean_probability(logits: "Tensor", networks: int, dim: int = 1) -> "Tensor":
    """log p, p = 1/K sum_k softmax(z_k): the mean of probabilities as logits, whose softmax it is.

    Args:
        logits: z, [N, K, ..., classes], or with K at another place.
        networks: K; torch.fx does not know the length of an axis.
        dim: the place of K, not the last.

    >>> import torch
    >>> log_mean_probability(torch.tensor([[[0.0, 0.0], [0.0, 0.0]]]), 2).exp()
    tensor([[0.5000, 0.5000]])
    """
    return logits.log_softmax(dim=-1).logsumexp(dim=dim) - log(networks)
