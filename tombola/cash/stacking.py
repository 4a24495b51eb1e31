"""An ensemble as one model whose layers are those of all members side by side, each called once.

Members that were compacted differ in their widths: the narrower are filled up with units of zeros.
"""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from tombola.cash import equivalence, hardcoded_sizes
from tombola.cash.compaction import Inputs
from tombola.cash.ensemble import Ensemble, check_classes
from tombola.cash.replaceable import copied, first_line, hooked, is_layer, kind_of, takes
from tombola.cash.stacked_layers import MeanProbability, StackedLinear
from tombola.cash.trace import calls
from tombola.errors import BadInput
from tombola.seeding import seeded

Maker = Callable[[Sequence[Any], bool], nn.Module]


def stack(ensemble: Ensemble, example: Tensor) -> nn.Module:
    """A model that answers as `ensemble` does, up to rounding, and calls each layer once for all members.

    First layers, which read the same input, become one layer with the outputs of all; linear layers after them one
    batch of products, convolutions one in groups, normalisations one over the channels of all. It can be exported, made
    sparse by `sparsify`, and only infers. Whether it is faster depends on the sizes: time it, or let `prove` do so.

    Args:
        ensemble: of networks whose calls torch.fx can follow; its members may be compacted.
        example: what it is called with.

    Raises:
        BadInput: a member has a layer with weights other than linear ones, convolutions, batch and group normalisation;
            one layer is called twice, has hooks, or its weight is read; or what came of it gives something else.

    >>> member = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> member = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> for layer in stack(Ensemble([member, member]), torch.zeros(1, 4)).children():
    ...     print(layer)
    Linear(in_features=4, out_features=6, bias=True)
    ReLU()
    StackedLinear(2 networks, in_features=3, out_features=2)
    MeanProbability(2 networks)
    """
    _is_ensemble(ensemble)
    takes(copied(ensemble), (example,))
    with torch.no_grad():
        check_classes(copied(ensemble)(example.clone()))
    members = [  # of a layer by itself torch.fx would see what is in it
        nn.Sequential(member) if is_layer(member) else member for member in _with_all_inputs(ensemble, example).members
    ]
    try:
        found = _Stacking(members).made()
        with seeded(0):
            apart = equivalence.difference(ensemble, found, (example,))
    except BadInput:
        raise
    except Exception as error:  # it runs the members' own code, which may raise anything
        apart = f"{type(error).__name__} ({first_line(error)})"
    if apart:
        raise _not_stacked(
            members[0], "the same outputs from layers side by side", apart, "Its code may mix channels, or read sizes."
        )
    return found.requires_grad_(False).eval()


def _is_ensemble(ensemble: object) -> None:
    if not isinstance(ensemble, Ensemble):
        raise BadInput(
            where="cash.stack",
            expected="an ensemble",
            found=type(ensemble).__name__,
            todo="Make one of trained networks: cash.Ensemble([first, second]).",
        )


def _not_stacked(member: nn.Module, expected: str, found: str, todo: str = "") -> BadInput:
    return BadInput(
        where=type(member).__name__,
        expected=expected,
        found=found,
        todo=f"{todo} As an ensemble it can be used all the same, one member after another.".lstrip(),
    )


def _with_all_inputs(ensemble: Ensemble, example: Tensor) -> Ensemble:
    """A copy whose first layers read all features, those that compaction has left out with weights of 0."""
    whole = copied(ensemble)
    given: dict[str, int] = {}
    picks = [(name, module) for name, module in whole.named_modules() if isinstance(module, Inputs)]
    hooks = [
        module.register_forward_pre_hook(lambda _, values, name=name: given.update({name: values[0].shape[-1]}))
        for name, module in picks
    ]
    with torch.no_grad():
        whole(example.clone())
    for hook in hooks:
        hook.remove()
    for name, pick in picks:
        home = name.rpartition(".")[0]
        layer: Any = whole.get_submodule(f"{home}.linear")
        weight = layer.weight.new_zeros(len(layer.weight), given[name])
        weight[:, pick.index] = layer.weight.detach()
        whole.set_submodule(home, _with(layer, weight, layer.bias, in_features=given[name]))
    return whole  # type: ignore[return-value]


class _Stacking:
    """Goes from call to call of the first member, and puts the others' layers beside its own."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        self.members = members
        self.called, self.graph = calls(members[0])
        for number, other in enumerate(members[1:], start=1):
            if _course(calls(other)[1]) != _course(self.graph):
                raise _not_stacked(other, "the calls that member 0 makes", f"others in member {number}")
        self.root = fx.GraphModule(self.called, self.graph)
        self.stacked: set[fx.Node] = set()  # what has the channels of all members
        self.often = Counter(str(node.target) for node in self.graph.nodes if node.op == "call_module")

    def made(self) -> fx.GraphModule:
        """The one model."""
        graph = self.root.graph
        for node in list(graph.nodes):
            self._visit(node)
        (end,) = (node for node in graph.nodes if node.op == "output")
        name = _free("mean", self.root)
        self.root.add_submodule(name, MeanProbability(len(self.members)))
        with graph.inserting_before(end):
            end.args = (graph.call_module(name, (end.args[0],)),)
        graph.lint()
        self.root.delete_all_unused_submodules()
        self.root.recompile()
        return self.root

    def _visit(self, node: fx.Node) -> None:
        if node.op == "get_attr":
            raise _not_stacked(self.members[0], "code that calls layers", f"one that reads {node.target}")
        if node.op in ("placeholder", "output"):
            return
        if node.op == "call_module" and self.root.get_submodule(str(node.target)).state_dict():
            self._layer(node)
            return
        mixed = [source for source in node.all_input_nodes if source not in self.stacked]
        if len(mixed) < len(node.all_input_nodes):
            for source in mixed:
                self._repeat(node, source)
            self.stacked.add(node)
            if node.target in hardcoded_sizes.VIEWS and isinstance(hardcoded_sizes.written(node), int):
                self._flatten(node)

    def _layer(self, node: fx.Node) -> None:
        name = str(node.target)
        layers = [member.get_submodule(name) for member in self.members]
        make = _MAKERS.get(kind_of(layers[0]))
        if make is None or self.often[name] > 1 or any(map(hooked, layers)):
            why = "called twice" if self.often[name] > 1 else "one that is not known, or has hooks"
            raise _not_stacked(
                self.members[0],
                "layers with weights that are linear, convolutions, batch or group normalisation, called once",
                f"{name}, {type(layers[0]).__name__}: {why}",
            )
        (source,) = node.all_input_nodes
        shares = source not in self.stacked
        if shares and not (kind_of(layers[0]) is nn.Linear or getattr(layers[0], "groups", 2) == 1):
            self._repeat(node, source)
            shares = False
        self.root.set_submodule(name, make(layers, shares))
        self.stacked.add(node)

    def _repeat(self, node: fx.Node, source: fx.Node) -> None:
        """Let `node` read `source` as often as there are members."""
        with self.root.graph.inserting_before(node):
            again = self.root.graph.call_function(torch.cat, ([source] * len(self.members),), {"dim": 1})
        node.replace_input_with(source, again)

    def _flatten(self, node: fx.Node) -> None:
        """In place of a view to a width that is written into the code, which is that of one member."""
        with self.root.graph.inserting_before(node):
            flat = self.root.graph.call_function(torch.flatten, (node.all_input_nodes[0], 1))
        node.replace_all_uses_with(flat)
        self.root.graph.erase_node(node)
        self.stacked.add(flat)


def _course(graph: fx.Graph) -> list[tuple[str, str]]:
    return [(node.op, str(node.target)) for node in graph.nodes]


def _free(name: str, root: nn.Module) -> str:
    """A name that nothing in `root` has."""
    while hasattr(root, name):
        name += "_"
    return name


# ---- layers side by side


def _linear(layers: Sequence[Any], shares: bool) -> nn.Module:
    weight, bias = _tensors(layers, "weight"), _tensors(layers, "bias")
    if shares:
        rows, flat = weight.flatten(0, 1), None if bias is None else bias.flatten()
        return _with(layers[0], rows, flat, in_features=rows.shape[1], out_features=len(rows))
    return StackedLinear(weight, weight.new_zeros(weight.shape[:2]) if bias is None else bias)


def _convolution(layers: Sequence[Any], shares: bool) -> nn.Module:
    """In as many groups as there are members, or as many times as many."""
    weight, bias = _tensors(layers, "weight").flatten(0, 1), _tensors(layers, "bias")
    own = layers[0].groups
    if own > 1 and own == layers[0].in_channels:  # a window for each channel, of which others may have more
        own = max(layer.groups for layer in layers)
    groups = 1 if shares else own * len(layers)
    sizes = {"groups": groups, "in_channels": weight.shape[1] * groups, "out_channels": len(weight)}
    return _with(layers[0], weight, None if bias is None else bias.flatten(), **sizes)


def _norm(layers: Sequence[Any], shares: bool) -> nn.Module:
    made: nn.Module = copy.deepcopy(layers[0])
    for name in ("weight", "bias", "running_mean", "running_var"):
        values = _tensors(layers, name)
        if values is not None:
            _put(made, name, values.flatten())
            made.num_features = values.numel()
    return made


def _group_norm(layers: Sequence[Any], shares: bool) -> nn.Module:
    weight, bias = _tensors(layers, "weight"), _tensors(layers, "bias")
    sizes = {"num_groups": layers[0].num_groups * len(layers), "num_channels": weight.numel()}
    return _with(layers[0], weight.flatten(), None if bias is None else bias.flatten(), **sizes)


_MAKERS: dict[type[nn.Module], Maker] = {
    nn.Linear: _linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _norm),
    nn.GroupNorm: _group_norm,
}


def _tensors(layers: Sequence[Any], name: str) -> Any:
    """Those of all layers, [layers, ...], filled up with zeros; of a layer that has none 0, None where none has."""
    values = [getattr(layer, name, None) for layer in layers]
    known = [value.detach() for value in values if value is not None]
    if not known:
        return None
    size = [max(sides) for sides in zip(*(value.shape for value in known), strict=True)]
    if name == "bias":
        size = [max(len(layer.weight) for layer in layers)]
    whole = known[0].new_zeros(len(layers), *size)
    for row, value in zip(whole, values, strict=True):
        if value is not None:
            row[tuple(map(slice, value.shape))] = value.detach()
    return whole


def _with(layer: Any, weight: Tensor, bias: Tensor | None, **sizes: int) -> nn.Module:
    """The layer with other tensors, and other sizes by their names."""
    made: nn.Module = copy.deepcopy(layer)
    for name, size in sizes.items():
        setattr(made, name, size)
    _put(made, "weight", weight)
    _put(made, "bias", bias)
    return made


def _put(module: nn.Module, name: str, values: Tensor | None) -> None:
    parameter = name not in module._buffers
    setattr(module, name, nn.Parameter(values, requires_grad=False) if parameter and values is not None else values)
