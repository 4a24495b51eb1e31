"""Embeddings without the rows of tokens that are 0: these tokens share one row of zeros, which a table leads to.

Where an output layer has the embedding's matrix as its own weight (tied weights), it scores the rows that are left, and
the same table says which score is which token's: those without a row have the score 0, and their bias.
No gradient changes the row of zeros, but that of a bag, which counts it.
"""

import copy
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tombola import weights
from tombola.cash.removal import ITSELF, Removals
from tombola.cash.replaceable import hooked, kind_of
from tombola.cash.resizing import tell_sizes

TABLE = "table"
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_NOISE = 1  # rows of zeros that are not spoken of: that of the padding


class FewerRows(nn.Module):
    """An embedding that has a row for some tokens, and one for all others.

    Args:
        table: token -> row, [tokens], int32.
        embedding: of the rows.
    """

    table: Tensor

    def __init__(self, table: Tensor, embedding: nn.Module) -> None:
        super().__init__()
        self.register_buffer(TABLE, table)
        self.embedding = embedding

    def forward(self, tokens: Tensor, *args: Any, **named: Any) -> Tensor:
        """As the embedding, of tokens."""
        rows = functional.embedding(tokens, self.table[:, None]).squeeze(-1)  # refuses tokens that there are not
        found: Tensor = self.embedding(rows, *args, **named)
        return found

    def extra_repr(self) -> str:
        """How many tokens it knows."""
        return f"{len(self.table)} tokens"


class FewerScores(nn.Module):
    """An output layer that shares the weight of an embedding with fewer rows, and scores all tokens.

    Args:
        table: token -> row, [tokens], int32.
        linear: of the rows, without a bias.
        bias: of the tokens, [tokens].
    """

    table: Tensor

    def __init__(self, table: Tensor, linear: nn.Module, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.register_buffer(TABLE, table)
        self.linear, self.bias = linear, bias

    def forward(self, values: Tensor) -> Tensor:
        """[..., features] -> [..., tokens]."""
        living = self.linear(values)[..., 1:]
        # Exactly 0 for the others, and no gradient that would change the row they share.
        scores = functional.pad(living, (1, 0)).index_select(-1, self.table)
        return scores if self.bias is None else scores + self.bias

    def extra_repr(self) -> str:
        """How many tokens it scores."""
        return f"{len(self.table)} tokens"


def removals(model: nn.Module) -> Removals:
    """The embeddings of `model` that are smaller without their rows of zeros, with the layers that they are tied to."""
    changes, left = {}, {}
    for members in _matrices(model):
        name, first = next((each, module) for each, module in members.items() if isinstance(module, _EMBEDDINGS))
        weight = first.weight.detach()
        dead = (weight == 0).all(dim=1).cpu()
        apart = {module.padding_idx for module in members.values() if type(module) is nn.EmbeddingBag}
        dead[[place for place in apart if place is not None]] = False  # a bag does not count its padding
        if int(dead.sum()) <= _NOISE:
            continue
        rows = f"{int(dead.sum()):,} of its {len(dead):,} rows are dead, but"
        if why := _why_not(members):
            left[name] = f"{rows} {why}"
        elif (int(dead.sum()) - 1) * weight[:1].nbytes <= 4 * len(dead):
            left[name] = f"{rows} a table of where the others are takes as much"
        else:
            changes[name] = partial(_leave_out, names=tuple(members), dead=dead)
    return Removals(changes, left)


def _matrices(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Of each embedding's matrix all modules that hold it, by name."""
    held: dict[Hashable, dict[str, Any]] = {}
    for name, module in model.named_modules():
        for value in module.parameters(recurse=False):
            held.setdefault(weights.place(value), {})[name] = module
    yield from (each for each in held.values() if any(isinstance(module, _EMBEDDINGS) for module in each.values()))


def _why_not(members: Mapping[str, nn.Module]) -> str:
    if "" in members:
        return ITSELF
    for module in members.values():
        if hooked(module):
            return "it has hooks"
        if type(module) not in _EMBEDDINGS and kind_of(module) is not nn.Linear:
            own = isinstance(module, _EMBEDDINGS)
            kind = type(module).__name__
            return f"{kind} computes something of its own" if own else f"its weight is that of a {kind} too"
    return ""


def _leave_out(model: nn.Module, names: Sequence[str], dead: Tensor) -> None:
    """Leave out rows of the matrix that these modules share."""
    whole: Any = model.get_submodule(names[0])
    weight = whole.weight.detach()
    table = torch.where(dead, 0, (~dead).cumsum(0)).to(torch.int32).to(weight.device)
    rows = torch.cat([weight.new_zeros(1, weight.shape[1]), weight[~dead.to(weight.device)]])
    _put(model, names, table, nn.Parameter(rows, whole.weight.requires_grad))


def _put(model: nn.Module, names: Sequence[str], table: Tensor, rows: nn.Parameter) -> None:
    for name in names:
        whole: Any = model.get_submodule(name)
        small = copy.deepcopy(whole)
        small.weight = rows
        if isinstance(whole, nn.Linear):
            small.bias = None
            tell_sizes(small)
            model.set_submodule(name, FewerScores(table, small, whole.bias).train(model.training))
            continue
        small.num_embeddings = len(rows)
        if isinstance(whole, nn.Embedding):
            small.padding_idx = 0  # to which the embedding gives no gradient
        elif whole.padding_idx is not None:
            small.padding_idx = int(table[whole.padding_idx])
        model.set_submodule(name, FewerRows(table, small).train(model.training))


def fit(model: nn.Module, values: weights.Weights) -> None:
    """Give embeddings of `model`, and the layers that they are tied to, as many rows as they have in `values`."""
    for members in [*_matrices(model)]:
        stored = (name for name in members if f"{name}.{TABLE}" in values)
        for name in stored:
            part = "linear" if isinstance(members[name], nn.Linear) else "embedding"
            rows, table = values.get(f"{name}.{part}.weight"), values[f"{name}.{TABLE}"]
            if rows is not None and not _why_not(members):
                _put(model, tuple(members), table, nn.Parameter(torch.zeros_like(rows)))
                break
