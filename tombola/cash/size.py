"""How large a model is: the weights of its layers, and the multiply-adds of one example."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tombola.cash.quantise import QuantisedConv2d, QuantisedLinear

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, QuantisedLinear, QuantisedConv2d)


@dataclass(frozen=True)
class Size:
    """How large a linear layer or convolution is.

    Attributes:
        inputs, outputs: units, or channels of maps.
        weights: how many there are, biases not counted; `living` are those that are not 0.
        positions: at which it is computed for one example: those of a map, or the tokens of a text; else 1.
    """

    inputs: int
    outputs: int
    weights: int
    living: int
    positions: int

    @property
    def multiply_adds(self) -> int:
        """For one example, if all weights are visited."""
        return self.weights * self.positions

    @property
    def living_multiply_adds(self) -> int:
        """For one example, if only living weights are visited."""
        return self.living * self.positions


def sizes(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> dict[str, Size]:
    """The size of each linear layer and convolution that a call of `model` uses, in the order in which it does.

    >>> sizes(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), torch.zeros(5, 1, 6, 6))
    {'0': Size(inputs=1, outputs=2, weights=18, living=18, positions=16)}
    """
    found: dict[str, Size] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(module: nn.Module, _: object, output: Tensor) -> None:
            weight = module.weight
            assert isinstance(weight, Tensor)
            inputs = weight.shape[1] * int(getattr(module, "groups", 1))
            positions = output.numel() // (len(output) * len(weight))
            if name in found:  # called again
                positions += found[name].positions
            found[name] = Size(inputs, len(weight), weight.numel(), int(weight.count_nonzero()), positions)

        return module.register_forward_hook(note)

    handles = [watch(name, module) for name, module in model.named_modules() if isinstance(module, _LAYERS)]
    try:
        with torch.no_grad():
            model(*(example if isinstance(example, tuple) else (example,)))
    finally:
        for handle in handles:
            handle.remove()
    return found


def compare(model: nn.Module, small: nn.Module, example: Tensor | tuple[Tensor, ...]) -> dict[str, tuple[Size, Size]]:
    """The size of each layer of `model`, by its name there, and what it is in `small`, made of the same layers.

    >>> model, small = nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Sequential(nn.Linear(4, 1), nn.ReLU())
    >>> before, after = compare(model, small, torch.ones(1, 4))["0"]
    >>> before.outputs, after.outputs
    (3, 1)
    """
    before, after = sizes(model, example), sizes(small, example)
    # Behind `Inputs` a layer has another name; their order is the same.
    return dict(zip(before, zip(before.values(), after.values(), strict=True), strict=True))
