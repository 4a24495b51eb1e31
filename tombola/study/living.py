"""The coordinates in which a pruned network can move: its living weights, and what is never pruned, as one vector."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

Loss = Callable[[Tensor], Tensor]  # of the living coordinates, all else held
LossOfOutputs = Callable[[Tensor, Tensor], Tensor]  # of outputs and labels, the mean over the examples


@dataclass(frozen=True, eq=False)
class Living:
    """A network as a function of its living coordinates; pruned weights, and what is held, stay as they are.

    Attributes:
        model: the network, in evaluation mode; it stays as it is.
        theta: the living coordinates where the network stands, (n,).
        places: by parameter, in the order of `theta`, which of its numbers are coordinates.
    """

    model: nn.Module
    theta: Tensor
    places: Mapping[str, Tensor]

    @staticmethod
    def of(model: nn.Module, mask: Mapping[str, Tensor], biases: bool = True) -> "Living":
        """The living coordinates of `model` under a mask.

        Args:
            mask: by parameter, True where a weight is alive.
            biases: whether parameters that no mask names, biases and gains, are coordinates too.

        >>> layer, mask = nn.Linear(2, 1), {"weight": torch.tensor([[True, False]])}
        >>> Living.of(layer, mask).theta.numel(), Living.of(layer, mask, biases=False).theta.numel()
        (2, 1)
        """
        parts, places = [torch.zeros(0)], {}
        for name, value in model.named_parameters():
            flat = value.detach().flatten()
            if name in mask:
                places[name] = mask[name].to(flat.device).flatten().nonzero().flatten()
            elif biases:
                places[name] = torch.arange(len(flat), device=flat.device)
            if name in places:
                parts.append(flat[places[name]])
        return Living(model, torch.cat([part.to(parts[-1]) for part in parts]), places)

    def outputs(self, theta: Tensor, inputs: Tensor) -> Tensor:
        """What the network puts out where its living coordinates are `theta`."""
        state: dict[str, Tensor] = {name: value.detach() for name, value in self.model.named_parameters()}
        parts = theta.split([len(place) for place in self.places.values()])
        for (name, place), part in zip(self.places.items(), parts, strict=True):
            whole = state[name]
            state[name] = whole.flatten().index_put((place,), part).view(whole.shape)
        with sdpa_kernel(SDPBackend.MATH):  # the fast kernels of attention have no second derivative
            outputs: Tensor = functional_call(self.model, state, (inputs,))
        return outputs

    def loss(self, inputs: Tensor, labels: Tensor, of: LossOfOutputs) -> Loss:
        """L as a function of the living coordinates, on these examples."""
        return lambda theta: of(self.outputs(theta, inputs), labels)

    def answers(self, inputs: Tensor, right: Callable[[Tensor], Tensor]) -> Callable[[Tensor], float]:
        """The mean of what `right` says of the outputs, as a function of the living coordinates."""

        def share(theta: Tensor) -> float:
            with torch.no_grad():
                return float(right(self.outputs(theta, inputs)).double().mean())

        return share


def gradient(loss: Loss, theta: Tensor, again: bool = False) -> tuple[Tensor, Tensor]:
    """L and dL/dtheta at theta; with `again` the point is theta with a gradient, as a second derivative wants it.

    >>> gradient(lambda theta: theta.square().sum(), torch.tensor([3.0, 0.0]))
    (tensor(9.), tensor([6., 0.]))
    """
    point = theta if again else theta.detach().requires_grad_()
    value = loss(point)
    if not value.requires_grad:
        return value.detach(), torch.zeros_like(theta)
    (slope,) = torch.autograd.grad(value, point, create_graph=again, allow_unused=True)
    return value.detach(), torch.zeros_like(theta) if slope is None else slope
