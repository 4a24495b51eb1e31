"""How many multiply-adds an example takes, by what is called: torch counts operations in its own way, two for each."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.flop_counter import FlopCounterMode

from tombola import models, prunable
from tombola.cash.quantization import quantize
from tombola.cash.size import Size, sizes
from tombola.errors import BadInput

Example = tuple[Tensor, ...]


class TimeFirst(nn.Module):
    """Takes examples first, and computes with time first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.layer(values.transpose(0, 1)).transpose(0, 1)
        return out


class Folded(nn.Module):
    """Folds the tokens into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.layer(values.flatten(0, 1)).view(len(values), -1, 2)
        return out


class Routed(nn.Module):
    """Sends each row to the expert that its first number names."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(2, 3) for _ in range(3))

    def forward(self, values: Tensor) -> Tensor:
        out = torch.zeros(len(values), 3)
        for number, expert in enumerate(self.experts):
            rows = values[:, 0] == number
            out[rows] = expert(values[rows])
        return out


class Graph(nn.Module):
    """A graph layer, A X W, with a sparse adjacency of five edges."""

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.ones(4, 6))
        self.register_buffer("edges", torch.tensor([[0, 0, 1, 2, 3], [1, 2, 0, 0, 3]]))

    def forward(self, nodes: Tensor) -> Tensor:
        edges: Any = self.edges
        adjacency = torch.sparse_coo_tensor(edges, torch.ones(5), (4, 4), check_invariants=True)
        out: Tensor = torch.sparse.mm(adjacency, nodes @ self.W)
        return out


class OwnAttention(nn.Module):
    """Attention of one's own, in functions."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 24)

    def forward(self, values: Tensor) -> Tensor:
        query, key, value = self.project(values).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(query, key, value)


class Inner(nn.Module):
    """Computes in inference mode, a cell step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(4, 3), nn.Linear(3, 2)

    def forward(self, values: Tensor) -> Tensor:
        with torch.inference_mode():
            state = torch.zeros(len(values), 3)
            for step in range(values.shape[1]):
                state = self.cell(values[:, step], state)
            out: Tensor = self.head(state)
            return out


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), num_layers=2)


shared = nn.Linear(4, 4)
MODELS: dict[str, tuple[Callable[[], nn.Module], Example]] = {
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, groups=2), nn.ReLU(), nn.Conv2d(4, 6, 2, dilation=2)),
        (torch.rand(3, 2, 12, 12),),
    ),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), (torch.rand(3, 4, 9),)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2), (torch.rand(2, 1, 4, 4, 4),)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 3, 3, stride=2), (torch.rand(3, 4, 5, 6),)),
    "attention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), (torch.rand(3, 5, 8),) * 3),
    "cross attention": (
        lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True),
        (torch.rand(3, 5, 8), torch.rand(3, 7, 6), torch.rand(3, 7, 4)),
    ),
    "encoder": (encoder, (torch.rand(3, 5, 8),)),
    "own attention": (OwnAttention, (torch.rand(3, 5, 8),)),
    "lstm": (lambda: nn.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True), (torch.rand(3, 10, 4),)),
    "projected lstm": (lambda: nn.LSTM(4, 6, proj_size=2, batch_first=True), (torch.rand(3, 10, 4),)),
    "gru": (lambda: nn.GRU(4, 6, batch_first=True), (torch.rand(3, 10, 4),)),
    "cells": (Inner, (torch.rand(3, 10, 4),)),
    "time first": (TimeFirst, (torch.rand(3, 10, 4),)),
    "folded": (Folded, (torch.rand(3, 10, 4),)),
    "called twice": (lambda: nn.Sequential(shared, nn.ReLU(), shared), (torch.rand(3, 4),)),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)), (torch.rand(3, 4),)),
    "int8": (lambda: quantize(nn.Sequential(nn.Linear(4, 2))), (torch.rand(3, 4),)),
    "gpt": (
        lambda: models.build("gpt-2-64", (16, 65), 65, "normal-0.02", init_seed=0),
        (torch.zeros(2, 16, dtype=torch.long),),
    ),
}


def counted(model: nn.Module, inputs: Example) -> int:
    """Multiply-adds of all examples together, by torch's own counter."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # It knows no operation of a CPU that does all of attention, or of a recurrent layer, at once.
        apart = sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False)
        with torch.no_grad(), apart[0], apart[1], FlopCounterMode(display=False) as counter:
            model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    flops: int = counter.get_total_flops()
    return flops // 2


@pytest.mark.filterwarnings("ignore:TF32 acceleration", "ignore:LSTM with projections")
@pytest.mark.parametrize("name", MODELS)
def test_multiply_adds_are_those_that_torch_counts(name: str) -> None:
    build, inputs = MODELS[name]
    model = build().eval()
    found = sizes(model, inputs if len(inputs) > 1 else inputs[0])
    assert sum(size.multiply_adds for size in found.values()) * len(inputs[0]) == counted(model, inputs) > 0
    assert torch.backends.mha.get_fastpath_enabled()


def test_attention_is_its_projections_and_its_products() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    nn.init.zeros_(layer.get_parameter("self_attn.in_proj_weight")).data[:8] = 1
    assert sizes(layer, torch.rand(3, 5, 8)) == {
        "self_attn.in_proj_weight": Size(8, 24, 192, 64, 5),
        "self_attn": Size(0, 0, 0, 0, 0, products=2 * 5 * 5 * 8),
        "self_attn.out_proj": Size(8, 8, 64, 64, 5),
        "linear1": Size(8, 16, 128, 128, 5),
        "linear2": Size(16, 8, 128, 128, 5),
    }


@pytest.mark.parametrize("model", [TimeFirst(), Folded()])
def test_three_texts_of_ten_tokens_have_ten_positions_each(model: nn.Module) -> None:
    assert sizes(model, torch.rand(3, 10, 4))["layer"].positions == 10


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (nn.LSTM(4, 6), torch.rand(10, 3, 4)),
        (nn.TransformerEncoderLayer(4, 2, 6), torch.rand(10, 3, 4)),
        (nn.Sequential(nn.Embedding(7, 4), nn.GRU(4, 6)), torch.randint(7, (10, 3))),
    ],
)
def test_three_texts_whose_time_is_first_are_three(model: nn.Module, inputs: Tensor) -> None:
    """They were taken for ten, with three positions each, as long as nobody said how many there are."""
    found = sizes(model, inputs)
    assert found == sizes(model, inputs, examples=3)
    assert all(size.positions in (10, 0) for size in found.values()) and len(found) > 1


@pytest.mark.parametrize(
    "layer",
    [nn.LSTM(4, 6, num_layers=2, batch_first=True), nn.GRU(4, 6, bidirectional=True, batch_first=True), nn.RNN(4, 6)],
)
def test_a_recurrent_layer_of_int8_multiplies_as_often(layer: nn.RNNBase) -> None:
    lines = torch.rand(*((3, 10) if layer.batch_first else (10, 3)), 4)
    layer.get_parameter("weight_hh_l0").data[2:] = 0

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.output = layer, nn.Linear(layer.hidden_size * (2 if layer.bidirectional else 1), 2)

        def forward(self, lines: Tensor) -> Tensor:
            return self.output(self.recurrent(lines)[0])  # type: ignore[no-any-return]

    model = Reads()
    before, after = sizes(model, lines), sizes(quantize(model), lines)
    assert after.keys() == before.keys()
    assert all(after[name].multiply_adds == each.multiply_adds > 0 for name, each in before.items())
    assert all(each.living >= 0.9 * before[name].living for name, each in after.items())  # what rounds to 0
    assert len(after) == 1 + sum(value.dim() > 1 for value in layer.parameters())


@pytest.mark.parametrize("layer", [nn.LSTM(4, 6), nn.LSTM(4, 6, batch_first=True)])
def test_one_text_without_a_batch_is_one(layer: nn.LSTM) -> None:
    assert sizes(layer, torch.rand(10, 4))["weight_ih_l0"].positions == 10


def test_an_lstm_behind_a_transposition_is_given_its_own_order() -> None:
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 6)

        def forward(self, values: Tensor) -> Tensor:
            out: Tensor = self.lstm(values.transpose(0, 1))[0]
            return out.transpose(0, 1)

    assert sizes(Transposed(), torch.rand(3, 10, 4))["lstm.weight_ih_l0"].positions == 10


def test_of_packed_texts_the_steps_that_there_are_count() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 6, batch_first=True)

        def forward(self, values: Tensor) -> Any:
            return self.lstm(pack_padded_sequence(values, [5, 3, 1], batch_first=True))[1][0]

    assert sizes(Packed(), torch.rand(3, 5, 4))["lstm.weight_ih_l0"].positions == 3


def test_an_expert_without_a_token_multiplies_nothing() -> None:
    found = sizes(Routed(), torch.tensor([[0.0, 1], [0, 2], [2, 0]]))
    assert [size.positions for size in found.values()] == [2 / 3, 0, 1 / 3]
    assert [size.multiply_adds for size in found.values()] == [4, 0, 2]


def test_a_parameter_of_a_module_of_ones_own_is_counted() -> None:
    model = Graph()
    model.W.data[0] = 0
    assert sizes(model, torch.rand(4, 4), examples=1) == {
        "W": Size(4, 6, 24, 18, 4),
        "": Size(0, 0, 0, 0, 0, products=5 * 6),  # five edges, six numbers along each
    }


def test_units_are_told_by_the_layer() -> None:
    transposed = nn.ConvTranspose2d(4, 6, 3, groups=2)
    assert sizes(transposed, torch.rand(3, 4, 5, 5)) == {"": Size(4, 6, 108, 108, 25)}


def test_the_layer_of_gpt_2() -> None:
    library = pytest.importorskip("transformers.pytorch_utils")
    assert sizes(library.Conv1D(6, 4), torch.rand(3, 5, 4)) == {"": Size(4, 6, 24, 24, 5)}


def test_of_tied_weights_each_use_is_under_the_layer_that_uses_it() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.output = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.output.weight = self.embedding.weight

        def forward(self, tokens: Tensor) -> Tensor:
            out: Tensor = self.output(self.embedding(tokens))
            return out

    assert sizes(Tied(), torch.zeros(2, 5, dtype=torch.long)) == {"output": Size(4, 7, 28, 28, 5)}


def test_products_after_a_layer_that_failed_belong_to_who_makes_them() -> None:
    class Lenient(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, values: Tensor) -> Tensor:
            with suppress(RuntimeError):
                values = self.layer(values)
            return values @ values.T

    assert sizes(Lenient(), torch.rand(2, 4)) == {"": Size(0, 0, 0, 0, 0, products=8)}


def test_nothing_is_left_on_a_model_that_fails() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(3, 3))
    with pytest.raises(RuntimeError, match="shapes"):
        sizes(model, torch.rand(1, 2))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_mask_in_the_place_of_the_example_is_refused() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(BadInput, match=r"cash\.sizes: expected a model and an example, found a model and its mask"):
        sizes(model, prunable.full(model), torch.ones(1, 3))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"model: expected a model, an nn\.Module, found a Mask"):
        sizes(prunable.full(model), torch.ones(1, 3))  # type: ignore[arg-type]
