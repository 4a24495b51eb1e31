"""Widths that are written into a model's code, `x.view(-1, 400)`, and are others once the model is smaller."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from tombola.cash.replaceable import kind_of

VIEWS: set[object] = {"view", "reshape", torch.reshape}


def written(node: fx.Node) -> Any:
    """The last size that a view is asked for, -1 where it follows from the others."""
    if node.target not in VIEWS:
        return -1
    sizes = [*node.args[1:], *node.kwargs.values()]
    last = sizes[-1]
    return last[-1] if isinstance(last, (list, tuple)) else last


def outdated(model: nn.Module, graph: fx.Graph, values: Mapping[str, Tensor]) -> dict[fx.Node, int]:
    """The views to the width that a linear layer of `model` reads, and the other one that it reads with `values`."""
    found = {}
    for node in graph.nodes:
        for name in _readers(model, node) if node.target in VIEWS else ():
            weight = values.get(f"{name}.weight")
            width: int = model.get_submodule(name).in_features  # type: ignore[assignment]
            if weight is not None and written(node) == width != weight.shape[1]:
                found[node] = weight.shape[1]
    return found


def rewritten(model: nn.Module, called: nn.Module, graph: fx.Graph, widths: Mapping[fx.Node, int]) -> nn.Module:
    """`model` as a graph of the calls that were followed in `called`, with other widths written into its views."""
    for node, width in widths.items():
        key = list(node.kwargs)[-1] if node.kwargs else None
        sizes: Any = node.kwargs[key] if key else node.args[-1]
        sizes = (*sizes[:-1], width) if isinstance(sizes, (list, tuple)) else width
        if key:
            node.update_kwarg(key, sizes)
        else:
            node.update_arg(len(node.args) - 1, sizes)
    for name, constant in vars(called).items():  # what the calls made of nothing is kept there
        if isinstance(constant, Tensor) and name not in vars(model):
            setattr(model, name, constant)
    return fx.GraphModule(model, graph, type(model).__name__)


def _readers(model: nn.Module, node: fx.Node) -> set[str]:
    """The linear layers, by name, that the value of `node` comes to first."""
    found, seen, ahead = set(), {node}, [node]
    while ahead:
        for user in set(ahead.pop().users) - seen:
            seen.add(user)
            if user.op == "call_module" and kind_of(model.get_submodule(str(user.target))) is nn.Linear:
                found.add(str(user.target))
            else:
                ahead.append(user)
    return found
