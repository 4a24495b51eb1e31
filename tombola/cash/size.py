"""How large a model is: its weights that are multiplied with, and the multiply-adds of one example."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode

from tombola import layers, weights
from tombola.cash.quantization import QuantisedConv2d, QuantisedConvTranspose, QuantisedLinear, QuantisedRecurrent
from tombola.cash.replaceable import no_mask


@dataclass(frozen=True)
class Size:
    """How large a layer is; or a module that multiplies what other layers gave it, as attention does.

    Attributes:
        inputs, outputs: units, or channels of maps.
        weights: how many there are, biases not counted; `living` are those that are not 0.
        positions: at which each is used for one example: those of a map, the tokens of a text, the steps in time; else
            1. The mean over the examples where they differ, as where a router sends tokens to experts.
        products: multiply-adds of an example that no weight takes part in: those of queries with keys, of attention
            with values.
    """

    inputs: int
    outputs: int
    weights: int
    living: int
    positions: float
    products: float = 0

    @property
    def multiply_adds(self) -> int:
        """For one example, if all weights are visited."""
        return round(self.weights * self.positions + self.products)

    @property
    def living_multiply_adds(self) -> int:
        """For one example, if only living weights are visited."""
        return round(self.living * self.positions + self.products)


def sizes(model: nn.Module, example: Tensor | tuple[Tensor, ...], examples: int | None = None) -> dict[str, Size]:
    """The size of all that multiplies in a call of `model`, in the order in which it is called first.

    A weight `layer.weight` is named by its layer, any other one by itself (`lstm.weight_ih_l0`, `attention.W`), and
    products without weights by the module that makes them. What is counted is what is called: matrix products and
    convolutions, in layers and out of them, as often as they are, also those of padding, masked tokens and causal
    attention; look-ups in embeddings, sums and norms are not.

    Args:
        example: a batch of inputs.
        examples: how many are in it; by default the length of the first of `example`, or of its second axis where a
            recurrent layer or attention that is handed it as it is takes time first.

    Raises:
        BadInput: a mask is handed in, or the first is no model.

    >>> sizes(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), torch.zeros(5, 1, 6, 6))
    {'0': Size(inputs=1, outputs=2, weights=18, living=18, positions=16, products=0)}
    """
    weights.check(model)
    no_mask("cash.sizes", example)
    given = example if isinstance(example, tuple) else (example,)
    watch = _watched(model, given)
    count = examples or (watch.sequences[1] if watch.sequences else len(watch.first)) or 1
    return {name: used.size(count) for name, used in watch.uses.items()}


def time_first(model: nn.Module, example: tuple[Any, ...]) -> str | None:
    """The layer that takes the first axis of `example` for time, and not for that of the batch; None where none does.

    >>> time_first(nn.LSTM(4, 6), (torch.zeros(10, 3, 4),))
    'LSTM'
    """
    sequences = _watched(model, example).sequences
    return sequences[0] if sequences else None


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


def _watched(model: nn.Module, given: tuple[Any, ...]) -> "_ProductCounter":
    watch = _ProductCounter(
        model, next((each for each in given if isinstance(each, Tensor) and each.dim()), torch.empty(0))
    )
    with torch.no_grad(), _one_by_one(), watch.looking():
        model(*given)
    return watch


@contextmanager
def _one_by_one() -> Iterator[None]:
    """Without torch's fast path of attention, which is one operation from its inputs to its outputs."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@dataclass
class _Used:
    """What all examples together make of a weight, or of a module's products."""

    units: tuple[int, int] = (0, 0)
    weights: int = 0
    living: int = 0
    multiply_adds: int = 0
    products: int = 0

    def size(self, examples: int) -> Size:
        positions = self.multiply_adds / (self.weights * examples) if self.weights else 0
        return Size(*self.units, self.weights, self.living, _whole(positions), _whole(self.products / examples))


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number


@dataclass(frozen=True)
class _Product:
    """An operation that multiplies: how often, and what may be a weight in it, the likelier first."""

    multiply_adds: int
    factors: tuple[Tensor, ...] = ()


def _entries(matrix: Tensor) -> int:
    return matrix.numel() if matrix.layout is torch.strided else matrix._nnz()


def _matrices(left: Tensor, right: Tensor) -> _Product:
    """[..., n, k] by [..., k, m], or by [k]; of a sparse one what it holds counts."""
    if right.layout is not torch.strided:
        return _Product(left.shape[-2] * _entries(right), (right, left))
    columns = right.shape[-1] if right.dim() > 1 else 1
    return _Product(_entries(left) * columns, (right, left))


def _attention(query: Tensor, key: Tensor, value: Tensor) -> _Product:
    """[..., heads, L, E], [..., S, E], [..., S, V]."""
    return _Product(prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


def _convolution(args: Sequence[Any], out: Tensor) -> _Product:
    maps, weight, transposed = args[0], args[1], args[6]
    places = maps if transposed else out  # each weight is used at each of them
    return _Product(weight.numel() * len(places) * prod(places.shape[2:]), (weight,))


_PRODUCTS: dict[str, Callable[[Sequence[Any], Tensor], _Product]] = {
    **dict.fromkeys(("mm", "bmm", "mv", "_sparse_mm"), lambda args, _: _matrices(args[0], args[1])),
    **dict.fromkeys(("addmm", "baddbmm", "addmv", "_sparse_addmm"), lambda args, _: _matrices(args[1], args[2])),
    "dot": lambda args, _: _Product(args[0].numel(), (args[1], args[0])),
    "convolution": _convolution,
    "_trilinear": lambda args, _: _Product(args[1].numel() * len(args[0]), (args[1],)),  # of nn.Bilinear
}
_ATTENTION = "_scaled_dot_product_"


def _product(name: str, args: Sequence[Any], out: Any) -> _Product | None:
    if name.startswith(_ATTENTION):
        return _attention(*args[:3])
    return _PRODUCTS[name](args, out) if name in _PRODUCTS else None


@dataclass
class _ProductCounter:
    """Sees what a model multiplies while it is called, and in which of its modules.

    Attributes:
        first: of the inputs.
        sequences: which layer has time for the first axis of that, and how many sequences there are in it.
    """

    model: nn.Module
    first: Tensor
    sequences: tuple[str, int] | None = None
    uses: dict[str, _Used] = field(default_factory=dict)
    within: list[tuple[str, nn.Module]] = field(default_factory=list)

    @contextmanager
    def looking(self) -> Iterator[None]:
        with ExitStack() as stack:
            for path, module in self.model.named_modules():
                for hook in self._hooks(path, module):
                    stack.callback(hook.remove)
            stack.enter_context(_Operations(self))
            yield

    def _hooks(self, path: str, module: nn.Module) -> Iterator[torch.utils.hooks.RemovableHandle]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.within.append((path, module))
            values: Any = args[0] if args else next(iter(kwargs.values()), None)
            whole: Any = module.shape if isinstance(module, QuantisedRecurrent) else module
            if isinstance(whole, nn.RNNBase | nn.MultiheadAttention) and isinstance(values, Tensor):
                count = _sequences(values, self.first, whole.batch_first)
                self.sequences = self.sequences or ((path or type(module).__name__, count) if count else None)
            if isinstance(whole, nn.RNNBase):
                self._steps(path, module, values)

        yield module.register_forward_pre_hook(enter, with_kwargs=True)
        yield module.register_forward_hook(lambda *_: self.within.pop() and None, always_call=True)

    def _steps(self, path: str, module: nn.Module, values: Tensor | PackedSequence) -> None:
        """A recurrent layer, which torch may do as one operation, uses each weight at each step in time."""
        data = values if isinstance(values, Tensor) else values.data
        for name, weight in [*module.named_parameters(), *module.named_buffers()]:  # where they are int8
            if weight.dim() > 1:
                used = self._used(_named(path, name), weight, layers.Layout())
                used.multiply_adds += weight.numel() * (data.numel() // data.shape[-1])

    def see(self, made: _Product) -> None:
        """Count it for the weight that it multiplies with, or else for the module that does it."""
        path, module = self.within[-1] if self.within else ("", self.model)
        if isinstance(module, nn.RNNBase | QuantisedRecurrent):
            return
        for factor in made.factors:
            owned = self._owner(path, module, factor)
            if owned:
                owned.multiply_adds += made.multiply_adds
                return
        layout = _layout(module)
        weight = module.weight if layout else None
        if isinstance(weight, Tensor) and any(_numbers(each) == weight.numel() for each in made.factors):
            # Computed from others at each call.
            self._used(_named(path, "weight"), weight, layout).multiply_adds += made.multiply_adds
        else:
            self.uses.setdefault(path, _Used()).products += made.multiply_adds

    def _owner(self, path: str, module: nn.Module, factor: Tensor) -> _Used | None:
        """What is noted of the parameter that `factor` is, or a part or another view of; None where it is of none."""
        # Of tied weights the layer's own name goes before the first.
        inside = [(_named(path, name), each) for name, each in module.named_parameters(recurse=False)]
        for name, parameter in [*inside, *self.model.named_parameters()]:
            if _within(factor, parameter):
                own = any(each is parameter for _, each in inside)
                holder = module if own else self.model.get_submodule(name.rpartition(".")[0])
                return self._used(name, parameter, _layout(holder, name.rpartition(".")[2]), factor)
        return None

    def _used(self, name: str, weight: Tensor, layout: layers.Layout | None, factor: Tensor | None = None) -> _Used:
        short = "" if name == "weight" else name.removesuffix(".weight")
        if short not in self.uses or not self.uses[short].weights:
            used = self.uses.setdefault(short, _Used())
            used.weights, used.living = weight.numel(), int(weight.count_nonzero())
            shape = weight.shape if layout else (factor if factor is not None else weight).shape[-2:]
            layout = layout or layers.Layout(inputs=0, outputs=1)  # as x W has them
            used.units = layout.units(shape)
        return self.uses[short]


def _sequences(values: Tensor, example: Tensor, batch_first: bool) -> int | None:
    """How many sequences are in `values`, where these lie as `example` does and their first axis is time."""
    axes = values.dim() - 1
    if example.dim() not in (axes, axes + 1) or example.shape[:axes] != values.shape[:axes]:
        return None
    return 1 if axes == 1 else None if batch_first else values.shape[1]


def _named(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _layout(module: nn.Module, name: str = "weight") -> layers.Layout | None:
    """How a weight of `module` is laid out; None where the table does not say."""
    if isinstance(module, QuantisedLinear | QuantisedConv2d):
        return layers.Layout(groups=getattr(module, "groups", 1))
    if isinstance(module, QuantisedConvTranspose):
        return layers.Layout(inputs=0, outputs=1, groups=module.groups)
    row = layers.layer_weights(module)
    return row.layout if row and name in row.weights else None


def _numbers(factor: Tensor) -> int:
    """How many there are in it; those of a matrix that is expanded to a batch of them once."""
    if factor.layout is not torch.strided:
        return factor.numel()
    return prod(size for size, stride in zip(factor.shape, factor.stride(), strict=True) if stride or not size)


def _within(factor: Tensor, parameter: Tensor) -> bool:
    """Whether `factor` is a view of `parameter`, or of a part of it."""
    if factor.layout is not torch.strided or parameter.layout is not torch.strided:
        return factor is parameter
    try:
        memory, own = factor.untyped_storage().data_ptr(), parameter.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # some subclasses of tensors have no storage
        return factor is parameter
    if memory != own or not factor.numel():
        return False
    begin = parameter.storage_offset()
    return begin <= factor.storage_offset() < begin + parameter.numel()


class _Operations(TorchDispatchMode):
    """Every operation of torch, below the modules, when it is done."""

    def __init__(self, watch: _ProductCounter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watch = watch

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        known = name in _PRODUCTS or name.startswith(_ATTENTION)
        if not known:
            with self:  # in inference mode it comes whole
                out = func.decompose(*args, **(kwargs or {}))
            if out is not NotImplemented:
                return out
        out = func(*args, **(kwargs or {}))
        made = _product(name, args, out)
        if made:
            self._watch.see(made)
        return out
