"""The calls that a model makes, with what they are given and give, and who overwrites it.

All that follows a model does it here: `Calls` writes the graph of its calls down as torch.fx sees them,
`GraphInterpreter` performs them. What torch.fx cannot follow is written down while it is called (`cash.recording`).
"""

import copy
import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from tombola.cash.attention_heads import FewerHeads
from tombola.cash.embedding_rows import FewerRows, FewerScores
from tombola.cash.recording import Decision, Memory, Recorder
from tombola.cash.replaceable import cloned, first_line, is_layer, kind_of, line_of, not_taken, takes
from tombola.errors import BadInput
from tombola.seeding import seeded


@dataclass(frozen=True, eq=False)
class Trace:
    """The calls of one model.

    Attributes:
        graph: of the calls.
        shapes: of each value that is a tensor.
        overwritten: values into whose memory a later call writes, before they are read for the last time.
        called: the copy of the model that was called; tensors that the calls made of nothing are its attributes.
        general: whether the graph holds for inputs of other sizes; else it is that of the example's alone.
    """

    graph: fx.Graph
    shapes: dict[fx.Node, tuple[int, ...]]
    overwritten: set[fx.Node]
    called: nn.Module
    general: bool = True


def trace(model: nn.Module, example: tuple[Any, ...]) -> Trace:
    """Follow one call of `model`; neither it nor `example` changes, whatever the call writes.

    Raises:
        BadInput: what the model calls depends on its input's values, so that there is no one graph of calls; or it
            cannot be called with `example`.
    """
    try:
        called, graph = calls(model, len(example))
    except BadInput:  # by no fault of the model's, perhaps
        return recorded(model, example)
    run = GraphInterpreter(called, graph)
    try:
        with seeded(0), torch.inference_mode(False), torch.no_grad():  # an inference does not count what is written
            run.run(*cloned(example))
    except Exception as error:  # the model's own code may raise anything
        raise not_taken(model, example, error) from error
    return Trace(graph, run.shapes, run.overwritten(), called)


def recorded(model: nn.Module, example: tuple[Any, ...]) -> Trace:
    """Follow one call of `model` by making it: what it decides by sizes is decided as on `example`.

    Raises:
        BadInput: as `trace`; or where there are as many calls as an input has values of a kind, as where tokens go to
            experts, `example` does not reach all layers.
    """
    with torch.inference_mode(False), torch.no_grad():
        called = copy.deepcopy(model)
        recorder = Recorder(called, _is_call)
        try:
            with seeded(0):
                recorder.record(cloned(example))
        except Exception as error:  # the model's own code may raise anything
            takes(copy.deepcopy(model), example)
            raise _not_followed(model, error) from error
    missed = recorder.unreached() if recorder.as_many else []
    if missed:
        raise BadInput(
            where="the example",
            expected=f"examples that reach every layer of {type(model).__name__}, which picks them by values",
            found=f"{', '.join(missed[:3])}{' and others' if len(missed) > 3 else ''} not called",
            todo="Hand in more of them: a real batch.",
        )
    memory = recorder.memory
    return Trace(recorder.graph, memory.shapes, memory.overwritten(recorder.graph), called, general=False)


def _is_call(module: nn.Module, path: str) -> bool:
    return Calls(_is_one).is_leaf_module(module, path)


def _is_one(module: nn.Module) -> bool:
    return is_attention(module) or is_layer(module) or isinstance(module, FewerHeads | FewerRows | FewerScores)


def calls(model: nn.Module, given: int = 0) -> tuple[nn.Module, fx.Graph]:
    """A copy of `model`, and the graph of its calls; arguments after those `given` are what they are by default.

    Raises:
        BadInput: what the model calls depends on its input's values.
    """
    try:
        with seeded(0), torch.inference_mode(False):
            called = copy.deepcopy(model)
            return called, Calls(_is_one, given).trace(called)
    except Exception as error:  # it runs the model's own code, which may raise anything
        raise _not_followed(model, error) from error


def _not_followed(model: nn.Module, error: Exception) -> BadInput:
    """What stopped torch.fx, and in which line of the model's code."""
    place, code = line_of(error)
    found = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, Decision):
        found = first_line(error)
    elif isinstance(error, fx.proxy.TraceError) and "control flow" in found:
        found = "a decision by a value or a size that differs from input to input"
    return BadInput(
        where=type(model).__name__,
        expected="a model whose calls can be followed, the same ones for every input",
        found=f"{found}{place and f' ({place}: `{code}`)'}",
        todo="As it is, it cannot be compacted; to be quantised or exported it need not be followed.",
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
        self.memory = Memory()
        self.inputs: dict[fx.Node, Tensor] = {}
        self._inputs_of = set(inputs_of)

    @property
    def shapes(self) -> dict[fx.Node, tuple[int, ...]]:
        """Of each value that is a tensor."""
        return self.memory.shapes

    def run_node(self, n: fx.Node) -> Any:
        """Perform one call."""
        if n in self._inputs_of:
            self.inputs[n] = self.fetch_args_kwargs_from_env(n)[0][0]
        given = [self.env[node] for node in n.all_input_nodes]
        return self.memory.watch(n, given, lambda: super(GraphInterpreter, self).run_node(n))

    def overwritten(self) -> set[fx.Node]:
        """Values that are read after a later call wrote into their memory."""
        return self.memory.overwritten(self.graph)
