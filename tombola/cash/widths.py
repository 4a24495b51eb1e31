"""Widths that are written into a model's code, `x.view(-1, 400)`, and are others once the model is smaller."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

VIEWS: set[object] = {"view", "reshape", torch.reshape}


def written(node: fx.Node) -> Any:
    """The last size that a view is asked for, -1 where it follows from the others."""
    if node.target not in VIEWS:
        return -1
    sizes = [*node.args[1:], *node.kwargs.values()]
    last = sizes[-1]
    return last[-1] if isinstance(last, (list, tuple)) else last


def outdated(model: nn.Module, graph: fx.Graph, values: Mapping[str, Tensor]) -> list[fx.Node]:
    """The views to the width that a linear layer of `model` reads, which with `values` reads another one."""

    def wrong(node: fx.Node) -> bool:
        widths = {name: model.get_submodule(name).in_features for name in _readers(model, node)}
        read = {name: values[f"{name}.weight"].shape[1] for name in widths if f"{name}.weight" in values}
        return any(widths[name] == written(node) != width for name, width in read.items())

    return [node for node in graph.nodes if node.target in VIEWS and wrong(node)]


def without(model: nn.Module, called: nn.Module, graph: fx.Graph, views: Iterable[fx.Node]) -> nn.Module:
    """`model` as a graph of the calls that were followed in `called`, with flattenings in place of `views`."""
    for node in views:
        with graph.inserting_before(node):
            flat = graph.call_function(torch.flatten, (node.all_input_nodes[0], 1))
        node.replace_all_uses_with(flat)
        graph.erase_node(node)
    for name, constant in vars(called).items():  # what the calls made of nothing is kept there
        if isinstance(constant, Tensor) and name not in vars(model):
            setattr(model, name, constant)
    return fx.GraphModule(model, graph, type(model).__name__)


def _readers(model: nn.Module, node: fx.Node) -> Iterator[str]:
    """The linear layers, by name, that the value of `node` comes to first."""
    for user in node.users:
        if user.op == "call_module" and type(model.get_submodule(str(user.target))) is nn.Linear:
            yield str(user.target)
        else:
            yield from _readers(model, user)
