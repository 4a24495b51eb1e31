"""Which layers a form leaves as they were, and why."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tombola import weights
from tombola.cash import quantization, sparsification
from tombola.cash.recurrent_layers import plain
from tombola.cash.replaceable import hooked, kind_of, only_called, uses
from tombola.cash.sparse_layers import Convolved, convolvable, has_kernels
from tombola.cash.transposed_layers import transposable

SLOWER = "a dense product is faster here, or it is not called"
READ = "its weight is read by code"


def dense_layers(model: nn.Module, made: nn.Module) -> dict[str, str]:
    """The layers of `model` that are dense in `made`, its sparse form, and why."""
    state = made.state_dict() if has_kernels(made) else model.state_dict()
    reasons = _reasons(model, sparsification.KINDS)
    left = {}
    for name, layer, weight in _layers(model):
        if weight in state:
            why = reasons.get(name, SLOWER)
            if isinstance(layer, Convolved) and not convolvable(layer):
                why = "it pads with other numbers than 0, more on one side, or strides differently down and across"
            elif kind_of(layer) in sparsification.TRANSPOSED and not transposable(layer):
                why = "it strides differently down and across, or gives more at the end than it pads"
            elif isinstance(layer, nn.RNNBase) and not plain(layer):
                why = "it projects its states"
            left[name] = why
    return left


def sparse_layers(model: nn.Module, made: nn.Module) -> frozenset[str]:
    """The layers of `model` that are sparse in `made`, its sparse form."""
    state = made.state_dict() if has_kernels(made) else model.state_dict()
    return frozenset(name for name, _, weight in _layers(model) if weight not in state)


def float_layers(model: nn.Module, made: nn.Module) -> dict[str, str]:
    """The layers of `model` whose weights are floats in `made`, its quantised form, and why."""
    state, reasons = made.state_dict(), _reasons(model, quantization.QUANTISED)
    left = {}
    for name, layer, weight in _layers(model):
        if weight not in state or state[weight].dtype is not torch.int8:
            pads = isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.padding_mode != "zeros"
            left[name] = reasons.get(name, "it pads with other numbers than 0" if pads else READ)
    return left


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """What multiplies with a matrix of its own, by name, and the name of that; embeddings look rows up."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            continue
        own = [*module.named_parameters(recurse=False), *_eight_bits(module)]
        first = next((each for each, value in own if value.dim() > 1), None)
        if first is not None:
            yield name, module, f"{name}.{first}".lstrip(".")


def _eight_bits(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    if isinstance(module, quantization.QuantisedLayer):
        yield from (each for each in module.named_buffers(recurse=False) if each[1].dtype is torch.int8)


def _reasons(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> dict[str, str]:
    """Why layers are of no kind that can become another form; those that can are not among them."""
    whole = nn.Sequential(model)  # so that `model` may be a layer itself
    fit = {layer for _, layer in only_called(whole, kinds)}
    times = uses(model)
    reasons = {}
    for name, layer, _ in _layers(model):
        if layer in fit:
            continue
        weight = getattr(layer, "weight", None)
        if kind_of(layer) not in kinds:
            torchs = type(layer).__module__.startswith("torch.nn.")
            own = isinstance(layer, kinds) and not torchs
            kind = f"of class {type(layer).__name__}"
            reasons[name] = f"{kind}, which computes something of its own" if own else f"{kind}: no form of it is made"
        elif hooked(layer):
            reasons[name] = "it has hooks"
        elif weight is not None and times[weights.place(weight)] > 1:
            reasons[name] = "its weight is another layer's too"
        else:
            reasons[name] = "code of torch reads its weight"
    return reasons
