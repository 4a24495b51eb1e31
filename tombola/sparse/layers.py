"""Linear and convolution layers that compute with their living weights only, in anyone's model: the same objects.

`put_on` changes the class of a module and nothing else about it: its parameters, buffers, hooks, names and optimiser
stay. What is copied or written of it is the plain layer, so a state_dict, a pickle, an average or a worker's copy knows
nothing of this room. `dense` puts the plain class back.
"""

import copyreg
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from tombola import weights
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.sparse import compute, functional
from tombola.sparse.pattern import Pattern

TYPES = (torch.float32, torch.float64)  # that the kernels compute in


@dataclass(eq=False)
class Living:
    """What a sparse layer computes with.

    Attributes:
        pattern: where its living weights are.
        weight: the parameter that it was put on with; under another one, as in a functional call, it computes densely.
        computed: whether a call has computed with them so far: none does within `torch.compile`.
    """

    pattern: Pattern
    weight: Tensor
    computed: bool = False

    def computes(self, weight: Tensor | None, inputs: Tensor) -> bool:
        """Whether the kernels may take this call: with the layer's own parameter, in which nothing pruned is alive."""
        return (
            weight is self.weight
            and not torch.compiler.is_compiling()
            and functional.compiled(inputs, self.weight, None)
            and inputs.numel() > 0
            and self.whole
        )

    @property
    def whole(self) -> bool:
        """Whether all that is not 0 is at living places: a loop may put noise, an average or another ticket there."""
        return compute.whole(self.weight, self.pattern)


class SparseLinear(nn.Linear):
    """A linear layer that computes y = x W^T + b with the living weights of W only."""

    __module__ = nn.Linear.__module__  # one of torch's own layers to torch.fx, which looks into none of these

    _living: Living | None = None

    def forward(self, input: Tensor) -> Tensor:
        """y of the last axis of `input`, exact up to rounding."""
        living = self._living
        if living is None or not living.computes(self._parameters.get("weight"), input):
            return super().forward(input)
        living.computed = True
        return functional.linear(input, self.weight, self.bias, living.pattern)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return _as_plain(self, super().__reduce_ex__(protocol))

    def __prepare_scriptable__(self) -> nn.Module:
        return _scriptable(self)


class SparseConv2d(nn.Conv2d):
    """A convolution that computes y = W * x + b with the living weights of W only."""

    __module__ = nn.Conv2d.__module__

    _living: Living | None = None

    def forward(self, input: Tensor) -> Tensor:
        """y of maps [examples, channels, height, width], exact up to rounding."""
        living = self._living
        if living is None or input.dim() != 4 or not living.computes(self._parameters.get("weight"), input):
            return super().forward(input)
        living.computed = True
        return functional.conv2d(input, self.weight, self.bias, living.pattern)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return _as_plain(self, super().__reduce_ex__(protocol))

    def __prepare_scriptable__(self) -> nn.Module:
        return _scriptable(self)


SparseLayer = SparseLinear | SparseConv2d


def put_on(module: nn.Module, alive: Tensor) -> Living:
    """From now on `module` computes with its living weights only.

    Args:
        module: a linear layer or a convolution, with 0 where a weight is pruned.
        alive: True where a weight lives, of the weight's shape.

    Returns:
        What it computes with.

    Raises:
        BadInput: it is a layer that cannot; `hindrance` says why.

    >>> layer = nn.Linear(3, 2)
    >>> alive = torch.tensor([[True, False, False], [False, False, True]])
    >>> _ = layer.weight.data.mul_(alive)
    >>> before = layer(torch.ones(4, 3))
    >>> living = put_on(layer, alive)
    >>> bool(torch.allclose(layer(torch.ones(4, 3)), before)), isinstance(layer, nn.Linear), list(layer.state_dict())
    (True, True, ['weight', 'bias'])
    """
    if reason := hindrance(module):
        raise BadInput(
            where=type(module).__name__,
            expected="a layer that can compute with its living weights only",
            found=reason,
            todo="Leave it dense.",
        )
    assert isinstance(module, nn.Linear | nn.Conv2d)
    alive = alive.detach().to("cpu", torch.bool)
    living = Living(_pattern(module, alive), module.weight)
    base: Any = SparseLinear if isinstance(module, nn.Linear) else SparseConv2d
    plain: Any = plain_class(module) if isinstance(module, SparseLayer) else type(module)
    made: Any = base if plain in (nn.Linear, nn.Conv2d) else _derived(base, plain)
    module.__dict__["_living"], module.__class__ = living, made
    return living


def dense(module: nn.Module) -> None:
    """`module` computes densely again, as before `put_on`; one that does already stays as it is."""
    if isinstance(module, SparseLayer):
        module.__dict__.pop("_living", None)
        if _made(type(module)):  # else something was put over it meanwhile, as a parametrization, which keeps the class
            module.__class__ = plain_class(module)  # type: ignore[assignment]


def sparse_layers(model: nn.Module) -> Iterator[tuple[str, SparseLayer]]:
    """The layers of `model` that compute with their living weights only, by name."""
    return ((name, each) for name, each in model.named_modules() if isinstance(each, SparseLayer) and each._living)


def hindrance(module: nn.Module) -> str:
    """Why a layer cannot compute with its living weights only; "" where it can.

    >>> hindrance(nn.Conv2d(4, 4, 3, groups=4)), hindrance(nn.LayerNorm(3))
    ('a depthwise convolution has too few weights for each map', 'no linear layer and no 2d convolution')
    """
    if not isinstance(module, nn.Linear | nn.Conv2d):
        return "no linear layer and no 2d convolution"
    weight = module._parameters.get("weight")
    if weight is None:
        return "its weight is computed from others"
    hindrances = {
        "its forward is not torch's own": not _plainly_forward(type(module)),
        "attention multiplies with its weights without it": isinstance(module, NonDynamicallyQuantizableLinear),
        "it has a way of its own to be copied": not _plainly_copied(type(module)),
        "its parameters have no numbers yet": weight.is_meta or type(weight) is not nn.Parameter,
        f"its weights are on {weight.device.type}": weight.device.type != "cpu",
        f"its weights are {weight.dtype}": weight.dtype not in TYPES,
        "its weights are no dense tensor": weight.layout is not torch.strided,
    }
    if isinstance(module, nn.Conv2d):
        hindrances |= {
            f"it pads with {module.padding_mode}": module.padding_mode != "zeros",
            "a depthwise convolution has too few weights for each map": (
                module.groups > 1 and module.groups == module.in_channels
            ),
        }
    return next((words for words, there in hindrances.items() if there), "")


@dataclass(frozen=True)
class Candidate:
    """A layer that can compute with its living weights only, and where its weights live.

    Attributes:
        module: the layer.
        weight: the name under which the mask has it.
        alive: where it lives.
    """

    module: nn.Linear | nn.Conv2d
    weight: str
    alive: Tensor

    @property
    def density(self) -> float:
        """The share of its weights that live."""
        return int(self.alive.sum()) / max(self.alive.numel(), 1)

    def put_on(self) -> Living:
        """From now on it does."""
        return put_on(self.module, self.alive)


def candidates(model: nn.Module, mask: Mask) -> tuple[dict[str, Candidate], dict[str, str]]:
    """The layers of `model` that can compute with their living weights only, by name; and why the others cannot.

    Args:
        mask: of the model; a layer none of whose weights is pruned is in neither.
    """
    model, first = weights.bare(model), weights.ties(model)
    able: dict[str, Candidate] = {}
    unable: dict[str, str] = {}
    for path, module in model.named_modules():
        name = f"{path}.weight" if path else "weight"
        name = first.get(name, name)
        alive = mask.get(name)
        if alive is None or bool(alive.all()):
            continue
        if reason := hindrance(module):
            unable[path] = reason
        else:
            assert isinstance(module, nn.Linear | nn.Conv2d)
            able[path] = Candidate(module, name, alive)
    return able, unable


def plain_class(layer: SparseLayer) -> type[nn.Module]:
    """The class of a sparse layer before it was one."""
    classes: Any = type(layer).__mro__
    plain: type[nn.Module] = next(each for each in classes if not issubclass(each, SparseLayer))
    return plain


def _plainly_forward(kind: type[nn.Module]) -> bool:
    """Whether layers of a class do what torch's own do."""
    if issubclass(kind, SparseLayer):
        return _made(kind)
    if issubclass(kind, nn.Linear):
        return kind.forward is nn.Linear.forward
    return issubclass(kind, nn.Conv2d) and all(
        getattr(kind, name) is getattr(nn.Conv2d, name) for name in ("forward", "_conv_forward")
    )


def _plainly_copied(kind: type[nn.Module]) -> bool:
    """Whether layers of a class are copied and written as any object is."""
    return issubclass(kind, SparseLayer) or all(
        getattr(kind, name) is getattr(object, name) for name in ("__reduce__", "__reduce_ex__")
    )


def _made(kind: type[nn.Module]) -> bool:
    """Whether `put_on` made it."""
    return kind in (SparseLinear, SparseConv2d) or "_tombola" in vars(kind)


@cache
def _derived(base: Any, plain: Any) -> type[nn.Module]:
    """A sparse layer that has all that a class of the user's own has."""
    return type(f"Sparse{plain.__name__}", (base, plain), {"__module__": plain.__module__, "_tombola": True})


def _as_plain(layer: SparseLayer, reduced: Any) -> Any:
    """What copies and files are made of, without what makes the layer sparse."""
    _, _, state, *more = reduced
    kept = {name: value for name, value in state.items() if name != "_living"}
    # Not by `__newobj__`, of which pickle asks that the class be the object's own.
    return copyreg._reconstructor, (plain_class(layer), object, None), kept, *more  # type: ignore[attr-defined]


def _scriptable(layer: SparseLayer) -> nn.Module:
    """What `torch.jit.script` reads in place of a layer, and leaves there: itself, plain from now on."""
    dense(layer)
    return layer


def _pattern(module: nn.Linear | nn.Conv2d, alive: Tensor) -> Pattern:
    if isinstance(module, nn.Linear):
        return Pattern.of(alive)
    return Pattern.of(
        alive, stride=module.stride, padding=module.padding, dilation=module.dilation, groups=module.groups
    )
