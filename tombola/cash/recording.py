"""The calls that a model makes, written down while it makes them, on one example.

torch.fx has the model's code work on placeholders, which have no sizes: it follows no `assert x.shape[1] == 3`, no
`len(x)`, no library that asks what a tensor is. Here the code works on numbers, and every call of torch is seen on its
way. What it decides by sizes is decided as on the example; where it decides by values, there is no one graph of calls.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from tombola.weights import Region, region

_TOLD = {  # what tells the model's code a value of a tensor
    *("__bool__", "__int__", "__float__", "__complex__", "__index__", "__contains__", "__array__"),
    *("item", "tolist", "numpy", "equal", "allclose", "is_nonzero"),
}
_AS_MANY = {  # whose results have as many entries as there are values of a kind
    *("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount", "repeat_interleave"),
}
_OPERATORS = {"div": "truediv", "div_": "itruediv", "pow": "pow", "pow_": "ipow"}  # methods that they come as
_SILENT = {"dim", "__len__", "ndimension", "__repr__", "__format__", "__hash__", "register_hook", "is_contiguous"}


class Decision(Exception):
    """What the model calls depends on its input's values."""


class Memory:
    """Of each value of a graph its shape, the memory that it lies in, and when that was written to.

    Attributes:
        shapes: of each value that is a tensor.
    """

    def __init__(self) -> None:
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self._regions: dict[fx.Node, Region] = {}
        self._writes: list[tuple[fx.Node, Region]] = []

    def watch(self, node: fx.Node, given: list[Any], call: Callable[[], Any]) -> Any:
        """Make the call of `node`, which is given these values, and see to what it writes."""
        given = [each for each in given if _has_memory(each)]
        versions = [each._version for each in given]
        value = call()
        self._writes += [
            (node, region(each)) for each, version in zip(given, versions, strict=True) if each._version != version
        ]
        self.keep(node, value)
        return value

    def keep(self, node: fx.Node, value: Any) -> None:
        """`value` is that of `node`."""
        if isinstance(value, Tensor):
            self.shapes[node] = tuple(map(int, value.shape))
        if _has_memory(value):
            self._regions[node] = region(value)

    def overwritten(self, graph: fx.Graph) -> set[fx.Node]:
        """Values that are read after a later call wrote into their memory: aliases of what it was given are too."""
        order = {node: place for place, node in enumerate(graph.nodes)}
        return {
            node
            for writer, written in self._writes
            for node, own in self._regions.items()
            if own.meets(written) and order[node] < order[writer] < max((order[user] for user in node.users), default=0)
        }


class Dimension(int):
    """One of the sizes of a tensor, which knows the call that asked for it while that is written down."""

    _of: "tuple[Recorder, fx.Node] | None" = None

    @classmethod
    def of(cls, size: int, recorder: "Recorder", node: fx.Node) -> "Dimension":
        """The size that `node` is."""
        made = cls(size)
        made._of = (recorder, node)
        return made

    @property
    def node(self) -> fx.Node | None:
        """None when the writing down is over: libraries may keep sizes for later calls."""
        recorder, node = self._of or (None, None)
        return node if recorder is not None and recorder.on else None

    def _noted(self, function: Callable[..., Any], *others: Any) -> None:
        """Its number was made use of."""
        if self._of and self.node is not None:
            recorder = self._of[0]
            recorder.graph.call_function(function, tuple(recorder.argument(each) for each in (self, *others)))

    def _made(self, function: Callable[[int, int], int], left: Any, right: Any) -> Any:
        """The size that is made of others."""
        value = function(int(left), int(right)) if isinstance(left, int) and isinstance(right, int) else NotImplemented
        if value is NotImplemented or not isinstance(value, int) or not self._of or self.node is None:
            return value
        recorder = self._of[0]
        both = tuple(recorder.argument(each) for each in (left, right))
        return Dimension.of(value, recorder, recorder.graph.call_function(function, both))

    # A size is an int to all that asks; the methods below are those of one, and say that they were asked.

    def __add__(self, other: int) -> Any:
        return self._made(operator.add, self, other)

    def __radd__(self, other: int) -> Any:
        return self._made(operator.add, other, self)

    def __sub__(self, other: int) -> Any:
        return self._made(operator.sub, self, other)

    def __rsub__(self, other: int) -> Any:
        return self._made(operator.sub, other, self)

    def __mul__(self, other: int) -> Any:
        return self._made(operator.mul, self, other)

    def __rmul__(self, other: int) -> Any:
        return self._made(operator.mul, other, self)

    def __floordiv__(self, other: int) -> Any:
        return self._made(operator.floordiv, self, other)

    def __rfloordiv__(self, other: int) -> Any:
        return self._made(operator.floordiv, other, self)

    def __mod__(self, other: int) -> Any:
        return self._made(operator.mod, self, other)

    def __rmod__(self, other: int) -> Any:
        return self._made(operator.mod, other, self)

    def __eq__(self, other: object) -> bool:
        self._noted(operator.eq, other)
        return int(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: int) -> bool:
        self._noted(operator.lt, other)
        return int(self) < other

    def __le__(self, other: int) -> bool:
        self._noted(operator.le, other)
        return int(self) <= other

    def __gt__(self, other: int) -> bool:
        self._noted(operator.gt, other)
        return int(self) > other

    def __ge__(self, other: int) -> bool:
        self._noted(operator.ge, other)
        return int(self) >= other

    def __hash__(self) -> int:
        self._noted(hash)
        return int.__hash__(self)

    def __float__(self) -> float:
        self._noted(float)
        return int.__float__(self)

    def __truediv__(self, other: float) -> float:
        return float(self) / other

    def __rtruediv__(self, other: float) -> float:
        return other / float(self)

    def __pow__(self, other: Any, modulus: Any = None) -> Any:
        self._noted(operator.pow)
        return pow(int.__int__(self), other, modulus)

    def __bool__(self) -> bool:
        self._noted(operator.truth)
        return int.__bool__(self)


class Sizes(tuple[int, ...]):
    """The shape of a tensor, as torch.Size, of which there are no subclasses."""

    def numel(self) -> int:
        """The product."""
        product = 1
        for each in self:
            product *= each
        return product


class Recorder(TorchFunctionMode):
    """Writes down the calls of torch that a model makes, those of its layers as one each.

    Args:
        model: that is called; tensors that its calls make of nothing become attributes of it.
        is_leaf: whether a module is one call.

    Attributes:
        graph: of the calls.
        memory: of their values.
        on: whether it is at work.
        as_many: whether there was a call for as many entries as there are values of a kind: what the model does with
            these may be other calls for other values.
    """

    def __init__(self, model: nn.Module, is_leaf: Callable[[nn.Module, str], bool]) -> None:
        super().__init__()
        self.graph, self.memory, self.on = fx.Graph(), Memory(), False
        self._model, self._is_leaf = model, is_leaf
        # By the objects' identity, as the modules and tensors of a model are compared by it.
        self._paths = {id(module): path for path, module in reversed(list(model.named_modules()))}
        self._held = {id(each): name for name, each in (*model.named_parameters(), *model.named_buffers())}
        self._nodes: dict[int, fx.Node] = {}
        self._alive: list[Tensor] = []  # so that no other tensor is given the same identity
        self._varying: set[fx.Node] = set()
        self._inside = self.as_many = False
        self._called: set[str] = set()

    def record(self, inputs: tuple[Any, ...]) -> None:
        """Call the model, and write down what it calls.

        Raises:
            Decision: what it calls depends on values.
        """
        for number, value in enumerate(inputs):
            node = self.graph.placeholder(f"input_{number}")
            self._varying.add(node)
            self._is(node, value)
        self.on = True
        try:
            with self, self._layers_are_calls():
                output = self._model(*inputs)
            self.graph.output(self.argument(_plain(output)))
        finally:
            self.on = False

    def unreached(self) -> list[str]:
        """Modules with weights of their own that were not called."""
        own = (path for path, each in self._model.named_modules() if any(True for _ in each.parameters(recurse=False)))
        return [path for path in own if path not in self._called]

    def argument(self, value: Any) -> Any:
        """What stands for a value in the graph."""
        if isinstance(value, Tensor):
            return self._node(value)
        if isinstance(value, Dimension):
            return int.__int__(value) if value.node is None else value.node
        if isinstance(value, slice):
            return slice(*map(self.argument, (value.start, value.stop, value.step)))
        if isinstance(value, tuple | list):
            return type(value)(map(self.argument, value)) if type(value) in (tuple, list) else self.argument([*value])
        if isinstance(value, dict):
            return {name: self.argument(each) for name, each in value.items()}
        return value

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.__self__.__name__ if getattr(func, "__name__", "") == "__get__" else getattr(func, "__name__", "")
        if self._inside or name in _SILENT:
            return func(*args, **kwargs)
        if name in _TOLD:
            return self._told(name, func, args, kwargs)
        if name == "shape" or (name == "size" and args):
            return self._sizes(*args, *kwargs.values())
        if getattr(func, "__name__", "") == "__get__":
            return self._call("call_function", getattr, (args[0], name), {}, lambda of, _: func(of))
        if name == "__iter__":
            return iter(torch.unbind(args[0]))
        self.as_many |= name in _AS_MANY or (name == "where" and len(args) + len(kwargs) == 1) or _by_flags(name, args)
        return self._call(*_as_written("" if name in _OPERATORS and kwargs else name, func), args, kwargs, func)

    def _told(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if any(self._node(each) in self._varying for each in args if isinstance(each, Tensor)):
            asked = "" if name == "__bool__" else f", which `{name}` told the code"
            raise Decision(f"a decision by a value of the input{asked}")
        return func(*args, **kwargs)

    def _sizes(self, of: Tensor, axis: int | None = None) -> Any:
        asked = self.graph.call_function(getattr, (self._node(of), "shape"))
        sizes = Sizes(
            Dimension.of(size, self, self.graph.call_function(operator.getitem, (asked, place)))
            for place, size in enumerate(tuple(of.size()))
        )
        return sizes if axis is None else sizes[axis]

    def _call(
        self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], call: Callable[..., Any]
    ) -> Any:
        self._inside = True
        try:
            written = self.argument(args[::-1] if _from_the_right(getattr(call, "__name__", "")) else args)
            node = self.graph.create_node(op, target, tuple(written), self.argument(kwargs))
            given = list(_leaves((args, kwargs)))
            if any(self._node(each) in self._varying for each in given if isinstance(each, Tensor)):
                self._varying.add(node)
            args, kwargs = _numbers(args), _numbers(kwargs)
            value = self.memory.watch(node, given, lambda: call(*args, **kwargs))
            self._is(node, value)
        finally:
            self._inside = False
        return value

    def _is(self, node: fx.Node, value: Any) -> None:
        """`value` is that of `node`, and parts of it are those of nodes of their own."""
        if isinstance(value, Tensor):
            self._nodes[id(value)] = node
            self._alive.append(value)
            self.memory.keep(node, value)
        elif isinstance(value, tuple | list):
            for place, each in enumerate(value):
                if isinstance(each, Tensor | tuple | list):
                    part = self.graph.call_function(operator.getitem, (node, place))
                    self._varying |= {part} if node in self._varying else set()
                    self._is(part, each)

    def _node(self, tensor: Tensor) -> fx.Node:
        """Of a tensor that no call has made the attribute of the model that it is, or becomes."""
        if id(tensor) not in self._nodes:
            name = self._held.get(id(tensor))
            if name is None:
                name = f"_tensor_constant{len(self._held)}"
                self._held[id(tensor)] = name
                self._model.__dict__[name] = tensor
            self._is(self.graph.create_node("get_attr", name), tensor)
        return self._nodes[id(tensor)]

    @contextmanager
    def _layers_are_calls(self) -> Iterator[None]:
        """As torch.fx does it: by way of the one method through which all modules are called."""
        called = nn.Module.__call__

        def instead(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            path = self._paths.get(id(module))
            if self._inside or path is None:
                return called(module, *args, **kwargs)
            leaf = self._is_leaf(module, path)
            self._called.update([each for each, _ in module.named_modules(prefix=path)] if leaf else [path])
            if not leaf:
                return called(module, *args, **kwargs)
            return self._call("call_module", path, args, kwargs, lambda *a, **k: called(module, *a, **k))

        nn.Module.__call__ = instead  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = called  # type: ignore[method-assign]


def _as_written(name: str, func: Any) -> tuple[str, Any]:
    """How torch.fx would write a call of `func` down: an operator, a method, a function."""
    plain = name[3:-2] if _from_the_right(name) else name[2:-2] if name.startswith("__") else _OPERATORS.get(name, name)
    if (name.startswith("__") or name in _OPERATORS) and hasattr(operator, plain):
        return "call_function", getattr(operator, plain)
    if getattr(Tensor, name, None) == func:
        return "call_method", name
    return "call_function", func


def _from_the_right(name: str) -> bool:
    """Whether it is the method of an operator's second operand, as `__rsub__` of 1 - x is."""
    return name.startswith("__r") and hasattr(operator, name[3:-2])


def _by_flags(name: str, args: tuple[Any, ...]) -> bool:
    flags = (each for each in _leaves(args[1:2]) if isinstance(each, Tensor))
    return name == "__getitem__" and any(each.dtype in (torch.bool, torch.uint8) for each in flags)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, Mapping):
        yield from _leaves([*value.values()])
    else:
        yield value


def _numbers(value: Any) -> Any:
    """Sizes as the plain numbers that they are."""
    if isinstance(value, Dimension):
        return int.__int__(value)
    if isinstance(value, slice):
        return slice(*map(_numbers, (value.start, value.stop, value.step)))
    if type(value) in (tuple, list, dict) or isinstance(value, Sizes):
        if isinstance(value, dict):
            return {name: _numbers(each) for name, each in value.items()}
        return (list if isinstance(value, list) else tuple)(map(_numbers, value))
    return value


def _plain(output: Any) -> Any:
    """The tensors of what a model gives, in whatever they are."""
    if isinstance(output, Tensor | int | float | str | bool | None):
        return output
    if isinstance(output, Mapping):
        return {str(name): _plain(each) for name, each in output.items()}
    if isinstance(output, tuple | list):
        return [_plain(each) for each in output]
    return {name: _plain(each) for name, each in getattr(output, "__dict__", {}).items()}


def _has_memory(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided
