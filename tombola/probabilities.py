"""Whether outputs are probabilities already, where logits are asked for."""

from typing import TYPE_CHECKING

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
