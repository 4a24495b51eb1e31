"""How far inputs are from where a network would answer otherwise."""

from collections.abc import Callable

import torch
from torch import Tensor


def margins(outputs: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
    """(f_y(x) - f_j(x)) / ||grad_x (f_y - f_j)(x)||_2 with j the best class beside y, for each example.

    To first order the distance of an input to where j becomes the answer, in units of inputs; negative where it is the
    answer. Whatever factor the outputs are multiplied by, the margin stays. 0 where no input matters.

    Args:
        outputs: of inputs, N x classes, each example for itself.
        inputs: real numbers, N x ...
        labels: classes, N.

    Large Margin Deep Networks for Classification (Elsayed et al., 2018), with the norm of L2.

    >>> line = lambda inputs: torch.cat([inputs @ torch.tensor([[3.0], [4.0]]), torch.zeros(len(inputs), 1)], 1)
    >>> margins(line, torch.tensor([[1.0, 1.0], [-1.0, 0.0]]), torch.tensor([0, 0]))
    tensor([ 1.4000, -0.6000])
    """
    points = inputs.detach().requires_grad_()
    scores = outputs(points)
    own = scores.gather(1, labels[:, None]).squeeze(1)
    others = scores.scatter(1, labels[:, None], -torch.inf).amax(1)
    (slopes,) = torch.autograd.grad((own - others).sum(), points)
    lengths = slopes.flatten(1).norm(dim=1)
    return torch.where(lengths > 0, (own - others).detach() / lengths, 0.0)
