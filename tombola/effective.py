"""The weight that multiplies, where a layer makes it of its parameter on each call.

A layer of torch multiplies with its parameter, and what is pruned in that is 0 in the product. A subclass with a
forward of its own may standardise, binarise or shift it first: then its mask says nothing of what it computes.
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_PRODUCTS: frozenset[Callable[..., Any]] = frozenset(
    {
        functional.linear,
        functional.conv1d,
        functional.conv2d,
        functional.conv3d,
        functional.conv_transpose1d,
        functional.conv_transpose2d,
        functional.conv_transpose3d,
        functional.embedding,
        torch.matmul,
        torch.mm,
        torch.addmm,
        torch.einsum,
        Tensor.matmul,
        Tensor.__matmul__,
        Tensor.__rmatmul__,
        Tensor.mm,
        Tensor.addmm,
    }
)


class _Products(TorchFunctionMode):
    """Notes the tensors of all products while it is entered, the weights among them."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _PRODUCTS:
            self.tensors += [each.detach() for each in _tensors([*args, *kwargs.values()])]
        return func(*args, **kwargs)


def _tensors(given: Sequence[Any]) -> Iterator[Tensor]:
    for each in given:
        if isinstance(each, list | tuple):
            yield from _tensors(each)
        elif isinstance(each, Tensor):
            yield each


def remade(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Those of the weights `names` whose layers multiply with something else, which is not 0 where they are.

    Each layer whose class has a forward of its own is copied, half of its weight set to 0, and called once.

    >>> class Shifted(nn.Linear):
    ...     def forward(self, values):
    ...         return functional.linear(values, self.weight + 1)
    >>> remade(nn.Sequential(Shifted(3, 2), nn.Linear(2, 2)), ["0.weight", "1.weight"])
    ['0.weight']
    """
    modules = dict(model.named_modules())
    layers = {name: modules[path] for name in names if (path := name.rpartition(".")[0]) in modules}
    return [name for name, layer in layers.items() if _has_own(layer) and _remakes(layer, name.rpartition(".")[2])]


def warn(model: nn.Module, names: Iterable[str], stacklevel: int) -> None:
    """Warn of `remade`."""
    if found := remade(model, names):
        listed = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        warnings.warn(
            f"{listed}: the layer makes the weight that it multiplies with of this parameter, and it is not 0 where "
            "the parameter is: a density says nothing of it. Mask in the layer's forward what it makes, or keep it "
            "dense.",
            stacklevel=stacklevel + 1,
        )


def _has_own(layer: nn.Module) -> bool:
    """Whether its forward, or what convolutions call in theirs, is not torch's."""
    parts = [getattr(type(layer), name, None) for name in ("forward", "_conv_forward")]
    own = any(part is not None and not part.__module__.startswith("torch.") for part in parts)
    return own and isinstance(layer, tuple(_INPUTS))


def _remakes(layer: Any, name: str) -> bool:
    weight = getattr(layer, name)
    with torch.random.fork_rng(devices=[weight.device] if weight.is_cuda else []), torch.no_grad(), _Products() as seen:
        try:
            layer = copy.deepcopy(layer).eval()
            own = getattr(layer, name)
            dead = torch.arange(own.numel(), device=own.device).view(own.shape) % 2 == 0
            own.masked_fill_(dead, 0)
            parameters = {parameter.data_ptr() for parameter in layer.parameters()}
            layer(_input(layer, own))
        except Exception:  # it runs the layer's own code, which may want to be called otherwise
            return False
    made = [each for each in seen.tensors if each.data_ptr() not in parameters]
    transposed = [each.t() for each in made if each.dim() == 2]
    return any(each.shape == dead.shape and bool((each[dead] != 0).any()) for each in [*made, *transposed])


def _input(layer: Any, weight: Tensor) -> Tensor:
    """One example that the layer takes."""
    make = next(make for kind, make in _INPUTS.items() if isinstance(layer, kind))
    given = make(layer).to(weight.device)
    return given.to(weight.dtype) if given.is_floating_point() else given


def _map(layer: Any) -> Tensor:
    windows = zip(layer.kernel_size, layer.dilation, strict=True)
    return torch.zeros(1, layer.in_channels, *(dilation * (size - 1) + 1 for size, dilation in windows))


_INPUTS: Mapping[type[nn.Module], Callable[[Any], Tensor]] = {
    nn.Linear: lambda layer: torch.zeros(1, layer.in_features),
    nn.modules.conv._ConvNd: _map,
    nn.Embedding: lambda layer: torch.zeros(1, dtype=torch.long),
}
