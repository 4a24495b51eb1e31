"""A network whose weights are made of other parameters, which bear the weights' names."""

from typing import Self

from torch import nn


class Reparametrised(nn.Module):
    """The network `plain` with weights that each forward pass makes of its parameters anew.

    It has the modules, the parameters and the buffers of `plain`, the same under the same names: so masks, hooks,
    optimisers and files see what they would see there. Only a pass of the whole network makes weights; whoever calls
    one of its layers alone gets what that layer does to the parameters themselves.

    Args:
        plain: is taken over; its parameters become those that weights are made of.
    """

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self._plain = (plain,)  # in a tuple, lest its parameters had second names
        # One tree of modules, seen from two roots: what is put into either is in both, and names stay what they were.
        self._modules, self._parameters, self._buffers = plain._modules, plain._parameters, plain._buffers
        self._non_persistent_buffers_set = plain._non_persistent_buffers_set

    @property
    def plain(self) -> nn.Module:
        """The network that the weights are put into; by itself it takes the parameters for weights."""
        return self._plain[0]

    def train(self, mode: bool = True) -> Self:
        """Train, or evaluate, the plain network too."""
        super().train(mode)
        self.plain.training = mode
        return self
