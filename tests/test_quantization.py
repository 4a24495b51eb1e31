"""Weights of eight bits: near the ones they stand for, zeros exact."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tombola import models, prunable
from tombola.cash.compaction import compact, fitted
from tombola.cash.quantization import QuantisedConv2d, QuantisedLinear, quantize, restored
from tombola.cash.size import sizes
from tombola.mask import Mask


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def layers(draw: st.DrawFn) -> nn.Linear | nn.Conv2d:
    """A layer with weights of any size, some of them 0, some outputs altogether."""
    inputs, outputs = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    layer = nn.Linear(inputs, outputs) if draw(st.booleans()) else nn.Conv2d(inputs, outputs, 3, padding=1)
    seeded = generator(draw(st.integers(0, 99)))
    density = draw(st.sampled_from([0.1, 0.5, 1.0]))
    with torch.no_grad():
        layer.weight.normal_(generator=seeded).mul_(10.0 ** draw(st.integers(-6, 6)))
        layer.weight.mul_(torch.rand(layer.weight.shape, generator=seeded) < density)
    return layer


def quantised(layer: nn.Module) -> QuantisedLinear | QuantisedConv2d:
    small = quantize(layer)
    assert isinstance(small, (QuantisedLinear, QuantisedConv2d))
    return small


@given(layers())
def test_a_weight_moves_by_half_a_step_at_most_and_a_zero_not_at_all(layer: nn.Linear | nn.Conv2d) -> None:
    small, weight = quantised(layer), layer.weight.detach()
    step = small.scale.view(-1, *[1] * (weight.dim() - 1))
    assert ((restored(small) - weight).abs() <= step / 2 * (1 + 1e-5)).all()
    assert (restored(small)[weight == 0] == 0).all()
    largest = weight.flatten(1).abs().amax(dim=1)
    assert torch.allclose(small.scale * 127, largest)
    assert (small.weight.flatten(1).abs().amax(dim=1) == torch.where(largest > 0, 127, 0)).all()


@given(layers(), st.randoms(use_true_random=False))
def test_outputs_that_change_places_take_their_scales_along(layer: nn.Linear | nn.Conv2d, random: object) -> None:
    order = torch.randperm(len(layer.weight), generator=generator())
    moved = copy.deepcopy(layer)
    with torch.no_grad():
        moved.weight.copy_(layer.weight[order])
    one, other = quantised(layer), quantised(moved)
    assert torch.equal(one.weight[order], other.weight) and torch.equal(one.scale[order], other.scale)


@given(layers(), st.booleans())
def test_a_layer_computes_with_the_weights_it_stands_for(layer: nn.Linear | nn.Conv2d, bias: bool) -> None:
    if not bias:
        layer.bias = None
    small = quantised(layer)
    shape = (3, layer.weight.shape[1], *([5, 5] if layer.weight.dim() == 4 else []))
    inputs = torch.randn(shape, generator=generator())
    with torch.no_grad():
        layer.weight.copy_(restored(small))
        assert torch.allclose(small(inputs), layer(inputs), rtol=1e-4, atol=1e-5 * float(layer(inputs).abs().max()))


def test_a_convolution_keeps_its_groups_stride_and_dilation() -> None:  # P4
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=(1, 0), dilation=2, groups=2)
    small = quantised(layer)
    inputs = torch.randn(2, 4, 11, 11, generator=generator())
    with torch.no_grad():
        layer.weight.copy_(restored(small))
    assert torch.allclose(small(inputs), layer(inputs), atol=1e-5)
    reflecting = nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")
    assert type(quantize(reflecting)) is nn.Conv2d


class Calls(nn.Module):
    """A model from two layers and a function."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.one, self.two = function, nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, values: Tensor) -> Tensor:
        return self.function(self, values)


def doubled(layer: nn.Linear) -> nn.Linear:
    layer.register_forward_hook(lambda module, given, output: 2 * output)
    return layer


def patched(layer: nn.Linear) -> nn.Linear:
    layer.forward = torch.sigmoid  # type: ignore[method-assign]
    return layer


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("model", [
    doubled(nn.Linear(6, 6)),
    nn.Sequential(patched(nn.Linear(6, 6))),
    nn.Sequential(doubled(nn.Linear(6, 6)), nn.ReLU()),
    nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))),
    nn.TransformerEncoderLayer(6, 2, 12, batch_first=True),
    nn.Sequential(type("Own", (nn.TransformerEncoderLayer,), {})(6, 2, 12, batch_first=True)),
    Calls(lambda m, x: m.one(m.two(x).to(m.one.weight.dtype)) @ m.two.weight),
    Calls(lambda m, x: F.linear(F.relu(m.one(x)), m.one.weight.t(), m.two.bias)),
])  # fmt: skip
def test_layers_of_which_more_is_used_than_what_they_give_stay_as_they_are(model: nn.Module) -> None:
    inputs = torch.randn(3, 5, 6, generator=generator())
    with torch.no_grad():
        assert torch.equal(quantize(model)(inputs), model.eval()(inputs))


def test_what_is_left_in_floats_asks_for_no_gradient() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6))
    assert not quantize(model)(torch.ones(2, 6)).requires_grad
    assert all(value.requires_grad for value in model.parameters())


def test_of_a_model_that_reads_some_layers_the_others_are_quantised() -> None:
    small = quantize(Calls(lambda m, x: (lambda y: m.two(y) if y.sum() > 0 else m.one(y))(x.to(m.one.weight.dtype))))
    assert [type(layer) for layer in small.children()] == [nn.Linear, QuantisedLinear]
    assert next(quantize(nn.Linear(2, 2)).parameters()).dtype is torch.float32  # how code asks where a model is


def test_sums_fit_into_a_float16_where_those_of_the_layer_do() -> None:
    for layer, inputs in ((nn.Linear(400, 2), torch.ones(1, 400)), (nn.Conv2d(400, 2, 1), torch.ones(1, 400, 1, 1))):
        nn.init.constant_(layer.weight, 0.5)
        half = layer.half()
        with torch.no_grad():
            torch.testing.assert_close(quantize(half)(4 * inputs.half()), half(4 * inputs.half()), rtol=1e-2, atol=0)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.hidden, self.output = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        self.output.weight, self.alias = self.tokens.weight, self.hidden

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.output(F.relu(self.alias(self.tokens(tokens))))
        return scores


def test_tied_weights_stay_tied_and_a_layer_with_two_names_is_one_layer() -> None:
    small = quantize(Tied())
    assert small.get_parameter("output.weight") is small.get_parameter("tokens.weight")
    assert small.get_submodule("alias") is small.get_submodule("hidden")
    small(torch.zeros(2, 3, dtype=torch.long))


@pytest.mark.parametrize("name", ["lenet-20-10", "resnet-8-w4"])
def test_compacted_models_are_quantised(name: str) -> None:
    model = models.build(name, (3, 8, 8), 10, "kaiming-normal", init_seed=0)
    mask = Mask(
        {name: torch.rand(alive.shape, generator=generator()) < 0.2 for name, alive in prunable.full(model).items()}
    )
    inputs = torch.randn(4, 3, 8, 8, generator=generator())
    small = compact(model, mask, inputs)
    before = copy.deepcopy(small.state_dict())
    rounded = quantize(small)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    assert not any(isinstance(module, (nn.Linear, nn.Conv2d)) for module in rounded.modules())
    with torch.no_grad():
        expected = small(inputs)
        assert 0 < float((rounded(inputs) - expected).abs().max()) < 0.05 * float(expected.abs().max())
        assert torch.equal(pickle.loads(pickle.dumps(rounded))(inputs), rounded(inputs))
    assert {name: size.living for name, size in sizes(rounded, inputs).items()} == pytest.approx(
        {name: size.living for name, size in sizes(small, inputs).items()}, rel=0.05
    )
    assert {
        value.dtype for name, value in rounded.state_dict().items() if f"{name[:-6]}scale" in rounded.state_dict()
    } == {torch.int8}


def test_a_subclass_that_adds_nothing_is_quantised_as_its_base_and_one_with_a_forward_of_its_own_is_not(
    named: type[nn.Linear], scaled: type[nn.Linear]
) -> None:
    model = nn.Sequential(named(6, 5), nn.ReLU(), scaled(5, 4), type("Conv", (nn.Conv2d,), {})(1, 1, 1))
    assert [type(layer) for layer in quantize(model).children()] == [QuantisedLinear, nn.ReLU, scaled, QuantisedConv2d]


@pytest.mark.parametrize("layer", [nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), nn.Conv1d(4, 6, 5)])
def test_a_convolution_over_lines_is_quantised(layer: nn.Conv1d) -> None:
    small, lines = quantize(nn.Sequential(layer)).get_submodule("0"), torch.randn(2, 4, 11, generator=generator())
    exact = copy.deepcopy(layer)
    with torch.no_grad():
        exact.weight.copy_(restored(small))  # type: ignore[arg-type]
    assert small.weight.dtype is torch.int8 and torch.allclose(small(lines), exact(lines), atol=1e-5)
    assert type(fitted(copy.deepcopy(layer), small.state_dict())) is type(small)


RECURRENT = [nn.LSTM(4, 6, batch_first=True), nn.GRU(4, 6, 2, bidirectional=True), nn.RNN(4, 6, nonlinearity="relu")]
TRANSPOSED = [nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1)]


@pytest.mark.parametrize("layer", [*RECURRENT, *TRANSPOSED], ids=lambda layer: type(layer).__name__)
def test_recurrent_and_transposed_layers_are_quantised(layer: nn.Module) -> None:
    axes = {"ConvTranspose1d": 1, "ConvTranspose2d": 2}.get(type(layer).__name__, 1)
    inputs = torch.randn(5, 4, *[4] * axes, generator=generator())
    small = quantize(nn.Sequential(copy.deepcopy(layer)))
    with torch.no_grad():
        expected, found = (each[0] if isinstance(each, tuple) else each for each in (layer(inputs), small(inputs)))
        if isinstance(found, tuple):
            found = found[0]
        assert 0 < float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())
    names = [name for name, value in layer.named_parameters() if value.dim() > 1]
    assert all(small.state_dict()[f"0.{name}"].dtype is torch.int8 for name in names)
    again = fitted(nn.Sequential(copy.deepcopy(layer)), small.state_dict())
    again.load_state_dict(small.state_dict())
    again = pickle.loads(pickle.dumps(again))
    with torch.no_grad():
        both = [each[0] if isinstance(each, tuple) else each for each in (again(inputs), small(inputs))]
    assert torch.equal(*both)
