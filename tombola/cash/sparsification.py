"""Which layers of a model are worth being sparse: measured, layer by layer, on what each is given.

At 20 % density and more a dense product is often faster, and then stays. That each layer is faster by itself does not
promise that the whole model is.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils import fusion

from tombola import weights
from tombola.cash import equivalence, timing
from tombola.cash.quantization import (
    RECURRENT,
    QuantisedConv1d,
    QuantisedConv2d,
    QuantisedConvTranspose,
    QuantisedLinear,
    QuantisedRecurrent,
)
from tombola.cash.recurrent_layers import SparseRecurrent, plain
from tombola.cash.replaceable import cloned, copied, first_line, hooked, is_layer, kind_of, no_mask, only_called, takes
from tombola.cash.sparse_layers import (
    Connected,
    Convolved,
    MaxPool2d,
    SparseChain,
    convolvable,
    sparse_convolution,
    tiles,
)
from tombola.cash.stacked_layers import StackedLinear
from tombola.cash.trace import Calls, GraphInterpreter
from tombola.cash.transposed_layers import SparseConvTranspose, Transposed, transposable
from tombola.engine import kernels
from tombola.errors import BadInput
from tombola.seeding import seeded

CONNECTED = (nn.Linear, QuantisedLinear, StackedLinear)
_OWN_LAYERS = (  # which torch.fx is to see one call in
    *(QuantisedLinear, QuantisedConv2d, QuantisedConvTranspose, QuantisedRecurrent, StackedLinear),
)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
_Layer = Connected | Convolved | Transposed | nn.RNNBase
KINDS = (*CONNECTED, nn.Conv1d, nn.Conv2d, QuantisedConv1d, QuantisedConv2d, *TRANSPOSED, *RECURRENT)


def sparsify(model: nn.Module, example: Tensor | tuple[Tensor, ...], *, everywhere: bool = False) -> nn.Module:
    """A copy of `model`, in eval mode, whose layers are sparse where that is faster on inputs like `example`.

    What is 0 in a weight is left out: hand in a trained ticket, whole or compacted, its weights m ⊙ theta. Batch
    normalisations are folded into the layers before them, ReLUs become part of these, and fully connected layers with
    nothing but ReLUs between them one call. Outputs are those of `model` up to rounding: sums have another order.

    Where torch.fx cannot follow the model, as its calls depend on its input's values, or the model has hooks, layers
    are replaced one by one: those that `example` reaches, whose weights no other layer shares, which have no hooks, and
    of which nothing is read but what they give. What was made is compared with `model` before it is handed out. It only
    infers: no parameter that is left in it asks for a gradient.

    This takes seconds, as layers are timed: one for each or for each run of fully connected ones, of large ones more.

    Args:
        model: linear layers, 1-D and 2-D convolutions, or their quantised forms, transposed ones and recurrent layers;
            all other modules stay as they are.
        example: what the model is called with, N x ...; layers are timed on what it becomes on its way. Its N is the
            batch to be fast at.
        everywhere: whether to replace layers also where that is slower.

    Raises:
        BadInput: the kernels were not compiled, no number of the model is a float32 on the CPU, it cannot be copied,
            it gives something else when its layers are sparse, or a mask is handed in.

    >>> network = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 2))
    >>> sparsify(network, torch.zeros(1, 40), everywhere=True)
    SparseChain(40 -> 30 -> 2, density 1)
    """
    no_mask("cash.sparsify", example)
    _compiled()
    weights.check(model)
    _fits(model)
    inputs = example if isinstance(example, tuple) else (example,)
    makes = (_in_one_graph, _one_by_one)
    with seeded(0):  # a model may draw in eval mode too
        whole = copied(model)
        takes(copied(model), inputs)
        for make in makes[1:] if any(hooked(module) for module in model.modules()) else makes:
            try:
                found = make(copied(model), inputs, everywhere)
                apart = equivalence.difference(whole, found, inputs)
            except Exception as error:  # it runs the model's own code, which may raise anything
                apart = f"{type(error).__name__} ({first_line(error)})"
            if not apart:
                return found.requires_grad_(False)
    raise _not_sparse(model, apart)


def _compiled() -> None:
    if not kernels.sets():
        raise BadInput(
            where="cash.sparsify",
            expected="compiled kernels",
            found="none: when Tombola was installed there was no C compiler that could do it",
            todo="Install one and Tombola again; `cash.compact` needs none.",
        )


def _not_sparse(model: nn.Module, apart: str) -> BadInput:
    return BadInput(
        where=type(model).__name__,
        expected="a model that gives the same when its layers are other modules, which compute the same",
        found=apart,
        todo="Code that asks for the class of a layer, or reads what is in it, cannot have it sparse.",
    )


def _fits(model: nn.Module) -> None:
    kinds = [f"{value.dtype} on {value.device}" for value in model.state_dict().values() if value.is_floating_point()]
    if kinds and f"{torch.float32} on cpu" not in kinds:
        raise BadInput(
            where=type(model).__name__,
            expected="a model of float32 on the CPU",
            found=kinds[0],
            todo="Convert it first: model.cpu().float().",
        )


# ---- layers of a graph


def _in_one_graph(model: nn.Module, inputs: tuple[Tensor, ...], everywhere: bool) -> nn.Module:
    """Raises: anything, where there is no one graph for every input, or what was found cannot be run."""
    graph = _fused(_traced(model), inputs)
    runs = list(_runs(graph))
    given = _given(graph, [run.first for run in runs], inputs)
    for run in runs:
        new = run.sparse()
        if everywhere or _faster(new, run.dense, given[run.first]):
            run.replace(graph, new)
    graph.graph.lint()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return _alone(graph)


@dataclass(frozen=True)
class _LayerChain:
    """Layers that one module can stand for: fully connected ones one after the other, or one of any other kind."""

    modules: tuple[str, ...]
    layers: tuple[Connected | Convolved | Transposed | nn.RNNBase | nn.MaxPool2d, ...]
    relu: tuple[bool, ...]
    first: fx.Node
    last: fx.Node
    flatten: bool = False

    def sparse(self) -> nn.Module:
        if not isinstance(self.layers[0], Connected | nn.MaxPool2d):
            return _alone_sparse(self.layers[0], self.relu[0])
        if isinstance(self.layers[0], nn.MaxPool2d):
            return MaxPool2d(self.layers[0])
        return SparseChain(self.layers, self.relu, self.flatten)  # type: ignore[arg-type]

    def dense(self, values: Tensor) -> Tensor:
        values = values.flatten(1) if self.flatten else values
        for layer, positive in zip(self.layers, self.relu, strict=True):  # of recurrent ones there is one
            values = functional.relu(layer(values)) if positive else layer(values)
        return values

    def replace(self, graph: fx.GraphModule, new: nn.Module) -> None:
        name = "sparse_" + self.modules[0].replace(".", "_")
        while hasattr(graph, name):  # the layer is called again, perhaps without a ReLU
            name += "_"
        graph.add_submodule(name, new)
        with graph.graph.inserting_before(self.first):
            given = self.first.args if isinstance(self.layers[0], nn.RNNBase) else self.first.args[:1]
            node = graph.graph.call_module(name, given)
        self.last.replace_all_uses_with(node)
        # Not `eliminate_dead_code`: nothing may read what a ReLU in place gives, and it matters all the same.
        old = self.last
        while old is not self.first:
            before = old.all_input_nodes[0]
            graph.graph.erase_node(old)
            old = before
        graph.graph.erase_node(old)


def _traced(model: nn.Module) -> fx.GraphModule:
    if isinstance(model, Connected | Convolved):  # a layer by itself would be looked into
        model = nn.Sequential(model)
    calls = Calls(lambda module: isinstance(module, _OWN_LAYERS) or is_layer(module))
    return fx.GraphModule(model, calls.trace(model))


def _fused(graph: fx.GraphModule, inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    """Batch normalisations become part of the layers whose only readers they are."""
    modules = dict(graph.named_modules())
    called = [node for node in graph.graph.nodes if node.op == "call_module" and node.args]
    of_units = [node for node in called if isinstance(modules[str(node.target)], nn.BatchNorm1d)]
    given = _given(graph, of_units, inputs) if of_units else {}
    for node in called:
        norm = modules[str(node.target)]
        if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) or not norm.track_running_stats:
            continue
        before = _alone_before(graph, node)
        if before is None:
            continue
        new = _folded(modules[str(before.target)], norm, given.get(node))
        if new is not None:
            graph.set_submodule(str(before.target), new)
            modules[str(before.target)] = new
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _alone_before(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The call of a module that `node` alone reads, if the module is called once and nothing reads its weights."""
    before = node.args[0]
    if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
        return None
    if sum(other.op == "call_module" and other.target == before.target for other in graph.graph.nodes) > 1:
        return None
    read = [attrgetter(str(other.target))(graph) for other in graph.graph.nodes if other.op == "get_attr"]
    places = {weights.place(value) for value in read if isinstance(value, Tensor)}
    layer = graph.get_submodule(str(before.target))
    return before if places.isdisjoint(map(weights.place, layer.parameters())) else None


def _folded(layer: nn.Module, norm: nn.BatchNorm1d | nn.BatchNorm2d, values: Tensor | None) -> nn.Module | None:
    """`layer` with `norm` behind it as one layer; None where they do not go together, or `norm` has another axis."""
    pair = kind_of(layer), kind_of(norm)
    linear = pair == (nn.Linear, nn.BatchNorm1d) and values is not None and values.dim() == 2
    if not linear and pair not in ((nn.Conv2d, nn.BatchNorm2d), (nn.Conv1d, nn.BatchNorm1d)):
        return None
    _make_affine(norm)
    return (fusion.fuse_linear_bn_eval if linear else fusion.fuse_conv_bn_eval)(layer, norm)  # type: ignore[type-var]


def _make_affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """With a scale and a shift that change nothing, where it has none: torch folds no other into linear layers."""
    assert norm.running_mean is not None
    if norm.weight is None:
        norm.weight = nn.Parameter(torch.ones_like(norm.running_mean))
    if norm.bias is None:
        norm.bias = nn.Parameter(torch.zeros_like(norm.running_mean))


def _runs(graph: fx.GraphModule) -> Iterator[_LayerChain]:
    """The layers of a graph that sparse ones can stand for, in the order of their calls."""
    modules = dict(graph.named_modules())
    done: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op != "call_module" or node.kwargs or node in done:
            continue
        name, layer = str(node.target), modules[str(node.target)]
        if kind_of(layer) in RECURRENT and plain(layer) and len(node.args) < 3:
            yield _LayerChain((name,), (cast(nn.RNNBase, layer),), (False,), node, node)
        elif len(node.args) != 1:
            continue
        elif tiles(layer):
            yield _LayerChain((name,), (cast(nn.MaxPool2d, layer),), (False,), node, node)
        elif kind_of(layer) not in KINDS:
            continue
        elif kind_of(layer) in CONNECTED:
            chain = _chain(node, modules)
            done.update(chain)
            yield _connected(chain, modules)
        elif _replaceable(layer):
            last, positive = _through_relu(node, modules)
            yield _LayerChain((name,), (cast(nn.Conv2d, layer),), (positive,), node, last)


def _chain(node: fx.Node, modules: dict[str, nn.Module]) -> list[fx.Node]:
    """The linear layers from `node` on that are called one after the other, with nothing but ReLUs between them."""
    chain = [node]
    while True:
        after = _only_user(_through_relu(chain[-1], modules)[0])
        if after is None or after.op != "call_module" or len(after.args) != 1:
            return chain
        if kind_of(modules[str(after.target)]) not in CONNECTED:
            return chain
        chain.append(after)


def _connected(chain: Sequence[fx.Node], modules: dict[str, nn.Module]) -> _LayerChain:
    """A chain of linear layers, from the flattening before it on."""
    names = tuple(str(node.target) for node in chain)
    ends = [_through_relu(node, modules) for node in chain]
    before = chain[0].args[0]
    flat = isinstance(before, fx.Node) and len(before.users) == 1 and _is_flatten(before, modules)
    first = before if flat and isinstance(before, fx.Node) else chain[0]
    layers = cast(tuple[Connected, ...], tuple(modules[name] for name in names))
    return _LayerChain(names, layers, tuple(positive for _, positive in ends), first, ends[-1][0], flat)


def _through_relu(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[fx.Node, bool]:
    """The last of a layer's calls: itself, or the ReLU that alone reads it."""
    after = _only_user(node)
    return (after, True) if after is not None and _is_relu(after, modules) else (node, False)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(modules[str(node.target)]) is nn.ReLU
    if node.op == "call_method":
        return node.target in ("relu", "relu_")
    return node.op == "call_function" and node.target in (functional.relu, torch.relu, torch.relu_)


def _is_flatten(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether it flattens all axes but the first."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        return type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)
    flattens = (node.op, node.target) in (("call_function", torch.flatten), ("call_method", "flatten"))
    return flattens and (node.args[1:] in ((1,), (1, -1))) and not node.kwargs


def _alone(graph: fx.GraphModule) -> nn.Module:
    """The one module that a graph consists of, where it does: each call of a graph takes microseconds."""
    given, *calls, result = graph.graph.nodes
    if len(calls) == 1 and calls[0].op == "call_module" and calls[0].args == (given,) and result.args == (calls[0],):
        return graph.get_submodule(str(calls[0].target))
    return graph


def _given(graph: fx.GraphModule, nodes: Sequence[fx.Node], inputs: tuple[Tensor, ...]) -> dict[fx.Node, Tensor]:
    """What each of the nodes is called with."""
    with torch.inference_mode(False), torch.no_grad():  # an inference does not count what is written
        run = GraphInterpreter(copy.deepcopy(graph), graph.graph, nodes)  # whose state changes with every call, perhaps
        run.run(*cloned(inputs))
    return run.inputs


def _faster(new: nn.Module, dense: Callable[[Tensor], Tensor], values: Tensor) -> bool:
    """Whether the sparse form is faster than the dense one in either layout of memory, and most rounds say so."""
    with torch.inference_mode():
        calls: dict[str, Callable[[], object]] = {"sparse": lambda: new(values), "dense": lambda: dense(values)}
        if values.dim() == 4:
            last = values.contiguous(memory_format=torch.channels_last)
            calls["channels last"] = lambda: dense(last)
        taken = timing.timed(calls)
    own = taken.pop("sparse")
    fastest = min(taken.values(), key=lambda each: each.median_s)
    bearing = [one <= other for one, other in zip(own.rounds_s, fastest.rounds_s, strict=True)]
    return own.median_s <= fastest.median_s and sum(bearing) >= timing.AGREE * len(bearing)


# ---- layers of a model without a graph


class _Watched(nn.Module):
    """Stands in for a layer while the model is called, and notes what it is given and whether it is only called."""

    def __init__(self, layer: _Layer) -> None:
        super().__init__()
        self.__dict__["layer"] = layer  # no child: whoever looks for its weight asks `__getattr__`
        self.given: list[Tensor] = []
        self.only_called = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        several = 2 if isinstance(self.__dict__["layer"], nn.RNNBase) else 1
        tensor = len(args) in (1, several) and isinstance(args[0], Tensor) and args[0].dtype is torch.float32
        if tensor and not kwargs:
            self.given.append(args[0])
        else:
            self.only_called = False
        return self.layer(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        self.only_called = False
        return getattr(self.__dict__["layer"], name)


def _one_by_one(model: nn.Module, inputs: tuple[Tensor, ...], everywhere: bool) -> nn.Module:
    """`model`, its layers replaced where they stand; nothing is folded or fused."""
    whole, tried = nn.Sequential(model), nn.Sequential(copied(model))  # so that `model` may be a layer itself
    layers = only_called(tried, KINDS)
    watched = {name: _Watched(layer) for name, layer in layers if _replaceable(layer)}
    for name, watch in watched.items():
        tried.set_submodule(name, watch)
    with torch.no_grad():  # not inference mode: a model may keep what it computes
        tried[0](*cloned(inputs))
    for name, watch in watched.items():
        layer: _Layer = watch.layer
        if watch.given and watch.only_called:
            new = SparseChain([layer], [False]) if isinstance(layer, Connected) else _alone_sparse(layer)
            if everywhere or _faster(new, layer, max(watch.given, key=Tensor.numel)):
                whole.set_submodule(name, new)
    return whole[0]


def _replaceable(layer: nn.Module) -> bool:
    """Whether it is of float32, and one that the kernels know."""
    if isinstance(layer, QuantisedLinear | QuantisedConv2d):
        numbers = layer.scale
    else:
        numbers = next(layer.parameters(), torch.empty(0, dtype=torch.float64))
    if numbers.dtype is not torch.float32:
        return False
    if isinstance(layer, nn.RNNBase):
        return plain(layer)
    if isinstance(layer, TRANSPOSED):
        return transposable(layer)
    return not isinstance(layer, Convolved) or convolvable(layer)


def _alone_sparse(layer: Convolved | Transposed | nn.RNNBase, relu: bool = False) -> nn.Module:
    """The sparse form of a layer that is no part of a chain."""
    if isinstance(layer, nn.RNNBase):
        return SparseRecurrent(layer)
    return SparseConvTranspose(layer, relu) if isinstance(layer, TRANSPOSED) else sparse_convolution(layer, relu)
