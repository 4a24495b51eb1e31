"""Layers of several networks side by side, called once for all of them: features of network k follow those of k - 1.

Where all of them read the same input, their layers are one ordinary layer with the outputs of all.
"""

import torch
from torch import Tensor, nn

from tombola.probabilities import log_mean_probability


class StackedLinear(nn.Module):
    """Linear layers side by side, y_k = W_k x_k + b_k.

    Args:
        weight: of each network, [networks, outputs, inputs].
        bias: of each network, [networks, outputs].

    >>> layer = StackedLinear(torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]]), torch.zeros(2, 1))
    >>> layer(torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
    tensor([[3., 3.]])
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.networks, outputs, inputs = weight.shape
        self.in_features, self.out_features = self.networks * inputs, self.networks * outputs
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(self, values: Tensor) -> Tensor:
        """[N, networks * inputs] -> [N, networks * outputs]."""
        apart = values.unflatten(1, (self.networks, -1)).transpose(0, 1)
        return torch.baddbmm(self.bias[:, None], apart, self.weight.transpose(1, 2)).transpose(0, 1).flatten(1)

    def matrix(self) -> Tensor:
        """Its weights as one matrix of a block for each network, [networks * outputs, networks * inputs]."""
        blocks: Tensor = torch.block_diag(*self.weight.detach())
        return blocks

    def extra_repr(self) -> str:
        """Its sizes."""
        networks, outputs, inputs = self.weight.shape
        return f"{networks} networks, in_features={inputs}, out_features={outputs}"


class MeanProbability(nn.Module):
    """What networks side by side answer together: the log of the mean of their probabilities.

    Args:
        networks: how many there are.
    """

    def __init__(self, networks: int) -> None:
        super().__init__()
        self.networks = networks

    def forward(self, logits: Tensor) -> Tensor:
        """[N, networks * classes] -> [N, classes]."""
        return log_mean_probability(logits.unflatten(1, (self.networks, -1)), self.networks)

    def extra_repr(self) -> str:
        """How many they are."""
        return f"{self.networks} networks"
