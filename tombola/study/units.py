"""What excites a unit: the examples to which it answers most strongly."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tombola.layers import layer_weights
from tombola.weights import place

BATCH = 64


@dataclass(frozen=True)
class Excitement:
    """The examples that excite each unit of a layer most, strongest first.

    Attributes:
        examples: units x top, their places among the inputs.
        values: units x top, what the layer gives there, before whatever follows it: a normalisation, a ReLU.
    """

    examples: Tensor
    values: Tensor


def excitement(model: nn.Module, names: Sequence[str], inputs: Tensor, top: int = 9) -> dict[str, Excitement]:
    """The examples that excite most, for each layer whose weight is named and whose outputs are its units.

    Of a convolution it is the largest value over the places of its map, of a text that over its positions. A table of
    embeddings and the projections inside of an attention layer are left out.

    Args:
        model: in evaluation mode.
        names: of weights.
        inputs: examples, as the model takes them.
        top: how many.

    >>> model = nn.Sequential(nn.Linear(2, 1, bias=False))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.0]]))
    >>> excitement(model, ["0.weight"], torch.tensor([[1.0, 5.0], [3.0, 0.0]]), top=1)["0.weight"].examples
    tensor([[1]])
    """
    found: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_hook(_noting(found.setdefault(name, []), axis))
        for name, module, axis in _layers(model, names)
    ]
    try:
        with torch.no_grad():
            for start in range(0, len(inputs), BATCH):
                model(inputs[start : start + BATCH])
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _strongest(torch.cat(parts), top) for name, parts in found.items() if parts}


def _layers(model: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, nn.Module, int]]:
    """(name of the weight, the module that has it, the axis of its units) of those of which it is known."""
    places: Mapping[Any, str] = {
        place(value): name for name, value in model.named_parameters(remove_duplicate=False) if name in names
    }
    for module in model.modules():
        row, weight = layer_weights(module), getattr(module, "weight", None)
        if row and row.kind in ("linear", "conv") and isinstance(weight, Tensor) and place(weight) in places:
            yield places[place(weight)], module, 1 if row.kind == "conv" else -1


def _noting(parts: list[Tensor], axis: int) -> Any:
    def note(module: nn.Module, given: Any, made: Tensor) -> None:
        units = made.movedim(axis, -1)  # N, ..., units
        parts.append(units.reshape(len(units), -1, units.shape[-1]).amax(dim=1).float().cpu())

    return note


def _strongest(values: Tensor, top: int) -> Excitement:
    found = values.T.sort(dim=1, descending=True, stable=True)  # equal ones in the order of the examples
    return Excitement(found.indices[:, :top], found.values[:, :top])
