"""Recurrent layers, sparse.

A step of an LSTM is i, f, g, o = W x + U h + b, c' = sigmoid(f) c + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(c'); of a
GRU r, z, n = W x + b, U h + d, h' = (1 - z) tanh(n_x + r n_h) + z h. What the inputs add is had for all steps at once.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tombola.cash.quantization import RECURRENT
from tombola.cash.sparse_layers import SparseChain


def plain(layer: nn.RNNBase) -> bool:
    """Whether its states are as wide as its outputs: no LSTM with projections."""
    return type(layer) in RECURRENT and not layer.proj_size


class SparseRecurrent(nn.Module):
    """An LSTM, GRU or RNN at the cost of the weights that are not 0, on tensors.

    Args:
        layer: without projections; in eval mode nothing is dropped between its layers.
    """

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.kind, self.hidden_size, self.batch_first = type(layer).__name__, layer.hidden_size, layer.batch_first
        self.tanh = getattr(layer, "nonlinearity", "tanh") == "tanh"
        self.directions = 2 if layer.bidirectional else 1
        self.given, self.states = nn.ModuleList(), nn.ModuleList()
        for number in range(layer.num_layers):
            for end in ("", "_reverse")[: self.directions]:
                self.given.append(_chain(layer, f"ih_l{number}{end}"))
                self.states.append(_chain(layer, f"hh_l{number}{end}"))

    def forward(self, values: Tensor, before: Any = None) -> tuple[Tensor, Any]:
        """As torch's: [N, T, inputs] with `batch_first`, [T, N, inputs] without, [T, inputs] of one sequence."""
        one = values.dim() == 2
        values = values.unsqueeze(1) if one else values.transpose(0, 1) if self.batch_first else values
        first = self._first(before, values, one)
        last = []
        for number in range(0, len(self.given), self.directions):
            ways = [self._passed(number + way, values, [each[number + way] for each in first]) for way in self._ways()]
            values = torch.cat([outputs for outputs, _ in ways], dim=-1)
            last += [states for _, states in ways]
        ends = [torch.stack(each) for each in zip(*last, strict=True)]
        if one:
            values, ends = values.squeeze(1), [each.squeeze(1) for each in ends]
        elif self.batch_first:
            values = values.transpose(0, 1)
        return values, tuple(ends) if self.kind == "LSTM" else ends[0]

    def _ways(self) -> range:
        return range(self.directions)

    def _first(self, before: Any, values: Tensor, one: bool) -> list[Tensor]:
        if before is None:
            zeros = values.new_zeros(len(self.given), values.shape[1], self.hidden_size)
            return [zeros] * (2 if self.kind == "LSTM" else 1)
        states = list(before) if self.kind == "LSTM" else [before]
        return [each.unsqueeze(1) for each in states] if one else states

    def _passed(self, number: int, values: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One layer, one way: all its outputs, [T, N, hidden], and its last states."""
        added = self.given[number](values.contiguous())
        backwards, chain = self.directions == 2 and number % 2 == 1, self.states[number]
        outputs: list[Tensor] = []
        for step in reversed(range(len(added))) if backwards else range(len(added)):
            states = self._step(added[step], chain(states[0]), states)
            outputs.append(states[0])
        return torch.stack(outputs[::-1] if backwards else outputs), states

    def _step(self, added: Tensor, fed: Tensor, states: list[Tensor]) -> list[Tensor]:
        if self.kind == "LSTM":
            enters, stays, new, leaves = (added + fed).chunk(4, dim=-1)
            cell = stays.sigmoid() * states[1] + enters.sigmoid() * new.tanh()
            return [leaves.sigmoid() * cell.tanh(), cell]
        if self.kind == "GRU":
            (reset, keep, new), (reset_fed, keep_fed, new_fed) = added.chunk(3, dim=-1), fed.chunk(3, dim=-1)
            keep = (keep + keep_fed).sigmoid()
            found = (new + (reset + reset_fed).sigmoid() * new_fed).tanh()
            return [found + keep * (states[0] - found)]
        total = added + fed
        return [total.tanh() if self.tanh else total.relu()]

    def extra_repr(self) -> str:
        """Its kind and size."""
        return f"{self.kind}, hidden_size={self.hidden_size}"


def _chain(layer: nn.RNNBase, name: str) -> SparseChain:
    weight, bias = getattr(layer, f"weight_{name}").detach(), getattr(layer, f"bias_{name}", None)
    linear = nn.Linear(weight.shape[1], len(weight), bias=bias is not None)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return SparseChain([linear], [False])
