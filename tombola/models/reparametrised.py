"""A network whose weights are made of other parameters, which bear the weights' names."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


class Reparametrised(nn.Module, ABC):
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
        self._modules, self._parameters, self._buffers = plain._modules, plain._parameters, plain._buffers

    @abstractmethod
    def made(self) -> dict[str, Tensor]:
        """The weights that differ from the parameters of their names, by name."""

    def parameter(self, name: str) -> Tensor:
        """The parameter of this name, or the tensor that stands for it in a functional call."""
        path, _, own = name.rpartition(".")
        standing: Tensor = getattr(self.get_submodule(path), own)
        return standing

    @property
    def plain(self) -> nn.Module:
        """The network that the weights are put into; by itself it takes the parameters for weights."""
        return self._plain[0]

    def train(self, mode: bool = True) -> "Reparametrised":
        """Train, or evaluate, the plain network too."""
        super().train(mode)
        self.plain.training = mode
        return self

    def forward(self, *inputs: Any) -> Any:
        """What the plain network gives with the weights made."""
        return functional_call(self.plain, self.made(), inputs)
