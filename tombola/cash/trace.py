"""The calls that a model makes, as torch.fx sees them, with what they are given and give, and who overwrites it.

All that follows a model does it here: `Calls` writes the graph of its calls down, `GraphInterpreter` performs them.
"""

import copy
import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from tombola.cash.replaceable import cloned, first_line, is_layer, kind_of, line_of, not_taken
from tombola.errors import BadInput
from tombola.seeding import seeded
from tombola.weights import Region, region


@dataclass(frozen=True, eq=False)
class Trace:
    """The calls of one model.

    Attributes:
        graph: of the calls.
        shapes: of each value that is a tensor.
        overwritten: values into whose memory a later call writes, before they are read for the last time.
        called: the copy of the model that was called; tensors that the calls made of nothing are its attributes.
    """

    graph: fx.Graph
    shapes: dict[fx.Node, tuple[int, ...]]
    overwritten: set[fx.Node]
    called: nn.Module


def trace(model: nn.Module, example: tuple[Any, ...]) -> Trace:
    """Follow one call of `model`; neither it nor `example` changes, whatever the call writes.

    Raises:
        BadInput: what the model calls depends on its input's values, so that there is no one graph of calls; or it
            cannot be called with `example`.
    """
    called, graph = calls(model, len(example))
    run = GraphInterpreter(called, graph)
    try:
        with seeded(0), torch.inference_mode(False), torch.no_grad():  # an inference does not count what is written
            run.run(*cloned(example))
    except Exception as error:  # the model's own code may raise anything
        raise not_taken(model, example, error) from error
    return Trace(graph, run.shapes, run.overwritten(), called)


def calls(model: nn.Module, given: int = 0) -> tuple[nn.Module, fx.Graph]:
    """A copy of `model`, and the graph of its calls; arguments after those `given` are what they are by default.

    Raises:
        BadInput: what the model calls depends on its input's values.
    """
    try:
        with seeded(0), torch.inference_mode(False):
            called = copy.deepcopy(model)
            return called, Calls(lambda module: is_attention(module) or is_layer(module), given).trace(called)
    except Exception as error:  # it runs the model's own code, which may raise anything
        raise _not_followed(model, error) from error


def _not_followed(model: nn.Module, error: Exception) -> BadInput:
    """What stopped torch.fx, and in which line of the model's code."""
    place, code = line_of(error)
    found, todo = f"{type(error).__name__}: {first_line(error)}", ""
    if "'len' is not supported" in found:
        found, todo = "len(x), which has to be a number", "Write x.shape[0] for len(x). "
    elif isinstance(error, fx.proxy.TraceError) and "control flow" in found:
        found = "a decision by a value or a size that differs from input to input"
        if code.startswith("assert "):
            found, todo = f"{found}, in an assertion", "Leave it out, or call torch._assert(condition, message). "
    return BadInput(
        where=type(model).__name__,
        expected="a model whose calls torch.fx can follow, the same ones for every input",
        found=f"{found}{place and f' ({place}: `{code}`)'}",
        todo=todo + "As it is, it cannot be compacted; to be quantised or exported it need not be followed.",
    )


def is_attention(module: nn.Module) -> bool:
    """Whether it is self-attention whose heads can be told apart, like `tombola.models.transformer.SelfAttention`."""
    parts: list[Any] = [getattr(module, name, None) for name in ("query", "key", "value", "projection")]
    heads, width = (getattr(module, name, None) for name in ("heads", "head_width"))
    linear = all(isinstance(part, nn.Linear) and kind_of(part) is nn.Linear for part in parts)
    if not isinstance(heads, int) or not isinstance(width, int) or not linear:
        return False
    *readers, projection = parts
    return {part.out_features for part in readers} == {projection.in_features} == {heads * width}


def _recorded(function: Callable[[Any, Any], Any]) -> Callable[["_RecordingProxy", Any], Any]:
    return lambda value, other: value.tracer.create_proxy("call_function", function, (value, other), {})


class _RecordingProxy(fx.Proxy):
    """Records `h += 1` as it is; torch.fx takes it for `h = h + 1`, which would leave what else is called h alone."""

    __iadd__, __isub__, __imul__ = _recorded(operator.iadd), _recorded(operator.isub), _recorded(operator.imul)
    __itruediv__, __ipow__ = _recorded(operator.itruediv), _recorded(operator.ipow)
    __ifloordiv__, __imod__ = _recorded(operator.ifloordiv), _recorded(operator.imod)
    __iand__, __ior__, __ixor__ = _recorded(operator.iand), _recorded(operator.ior), _recorded(operator.ixor)


class Calls(fx.Tracer):
    """Writes down the calls of a model.

    Args:
        is_leaf: whether a module is one call, besides torch's own; by default subclasses that add nothing to these are.
        given: arguments after as many are taken for what they are by default; None: all are arguments.
    """

    # torch.fx makes one without arguments when it unpickles.
    def __init__(self, is_leaf: Callable[[nn.Module], bool] = is_layer, given: int | None = None) -> None:
        super().__init__()
        self.is_leaf, self.given = is_leaf, given

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether torch.fx is to see one call in it."""
        return self.is_leaf(m) or super().is_leaf_module(m, module_qualified_name)

    def create_proxy(self, kind: str, target: Any, args: tuple[Any, ...], *rest: Any, **named: Any) -> Any:
        """An argument beyond those given is its default."""
        if kind == "placeholder" and args and self.given is not None:  # args: its default
            before = sum(node.op == "placeholder" for node in self.graph.nodes)
            if before >= self.given and not isinstance(args[0], (list, tuple, dict)):
                return args[0]
        return super().create_proxy(kind, target, args, *rest, **named)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for the value of `node` while the model's code runs."""
        return _RecordingProxy(node, self)


class GraphInterpreter(fx.Interpreter):
    """Performs the calls of a graph, and keeps of each tensor the shape, the memory and when that was written to.

    Args:
        model: whose calls they are; they may change it.
        inputs_of: nodes of which the first argument is kept as well.

    Attributes:
        shapes: of each value that is a tensor.
        inputs: what each node of `inputs_of` was called with.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, inputs_of: Collection[fx.Node] = ()) -> None:
        super().__init__(model, graph=graph)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.inputs: dict[fx.Node, Tensor] = {}
        self._inputs_of = set(inputs_of)
        self._regions: dict[fx.Node, Region] = {}
        self._writes: list[tuple[fx.Node, Region]] = []

    def run_node(self, n: fx.Node) -> Any:
        """Perform one call."""
        if n in self._inputs_of:
            self.inputs[n] = self.fetch_args_kwargs_from_env(n)[0][0]
        given = [self.env[node] for node in n.all_input_nodes if _has_memory(self.env[node])]
        versions = [each._version for each in given]
        value = super().run_node(n)
        self._writes += [
            (n, region(each)) for each, version in zip(given, versions, strict=True) if each._version != version
        ]
        if isinstance(value, Tensor):
            self.shapes[n] = tuple(value.shape)
        if _has_memory(value):
            self._regions[n] = region(value)
        return value

    def overwritten(self) -> set[fx.Node]:
        """Values that are read after a later call wrote into their memory: aliases of what it was given are too."""
        order = {node: place for place, node in enumerate(self.graph.nodes)}
        return {
            node
            for writer, written in self._writes
            for node, own in self._regions.items()
            if own.meets(written) and order[node] < order[writer] < max((order[user] for user in node.users), default=0)
        }


def _has_memory(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided
