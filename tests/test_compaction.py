"""A compacted ticket computes what the masked model computes, with fewer units."""

import copy
import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dying import masked
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn.utils.prune import random_unstructured

from tombola import models, prunable, weights
from tombola.cash import export
from tombola.cash.compaction import Inputs, compact, fitted
from tombola.cash.quantization import quantize
from tombola.cash.size import Size, sizes
from tombola.errors import BadInput
from tombola.mask import Mask


def drawn(model: nn.Module, density: float, seed: int = 0) -> tuple[nn.Module, Mask]:
    """The model in float64 with random numbers everywhere, statistics of norms too, and a random mask."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64))
            if name.endswith("running_var"):
                value.abs_().add_(0.5)
    alive = prunable.full(model)
    return model, Mask({name: torch.rand(each.shape, generator=generator) < density for name, each in alive.items()})


def examples(*shape: int) -> Tensor:
    return torch.randn(5, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def compacted(model: nn.Module, mask: Mask, inputs: Tensor) -> nn.Module:
    """The compacted model, after every law that holds for all models was checked on it."""
    before = weights.of(model)
    small = compact(model, mask, inputs[:1])
    assert weights.equal(weights.of(model), before)
    with torch.no_grad():
        expected, found = masked(model, mask)(inputs), small(inputs)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max())), "computes the same"
    again = compact(small, prunable.full(small), inputs)
    assert weights.equal(weights.of(again), weights.of(small)), "idempotent"
    assert not small.training
    assert type(small) is type(model) or isinstance(small, fx.GraphModule)
    return small


def outputs(model: nn.Module, inputs: Tensor) -> list[int]:
    return [size.outputs for size in sizes(model, inputs).values()]


# ---------------------------------------------------------------- linear chains, and an independent count

ACTIVATIONS = (nn.ReLU, nn.Sigmoid, nn.GELU, nn.Identity)


@st.composite
def chains(draw: st.DrawFn) -> tuple[nn.Module, Mask]:
    widths = draw(st.lists(st.integers(1, 9), min_size=2, max_size=6))
    layers: list[nn.Module] = []
    for inputs, units in pairwise(widths):
        layers += [nn.Linear(inputs, units, bias=draw(st.booleans())), draw(st.sampled_from(ACTIVATIONS))()]
    return drawn(
        nn.Sequential(*layers), draw(st.sampled_from([0, 0.05, 0.15, 0.3, 0.6, 1.0])), draw(st.integers(0, 99))
    )


def units_on_paths(alive: list[np.ndarray[Any, Any]]) -> list[int]:
    """Units of each hidden layer through which a path leads from an input to an output, counted path by path."""
    paths = [matrix.astype(object) for matrix in alive]  # whole numbers of any size
    into, out = [np.ones(paths[0].shape[1], dtype=object)], [np.ones(len(paths[-1]), dtype=object)]
    for matrix in paths:
        into.append(matrix.dot(into[-1]))
    for matrix in reversed(paths):
        out.insert(0, matrix.T.dot(out[0]))
    return [int(sum(through > 0)) for through in (left * right for left, right in zip(into, out, strict=True))][1:-1]


@given(chains())
def test_a_unit_of_a_chain_stays_if_a_path_leads_through_it(chain: tuple[nn.Module, Mask]) -> None:  # O9
    model, mask = chain
    inputs = examples(next(iter(mask.values())).shape[1])
    small = compacted(model, mask, inputs)
    *hidden, last = outputs(small, inputs)
    assert hidden == [max(1, count) for count in units_on_paths([alive.numpy() for alive in mask.values()])]
    assert last == len(list(mask.values())[-1])


def test_a_dead_unit_leaves_its_bias_behind() -> None:
    """By hand: unit 0 is 3 for every input, relu(3) = 3; the output 5 x0 + 7 x1 + 1 becomes 7 x1 + 16."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    values = {"0.weight": [[0.0, 0.0], [1.0, 2.0]], "0.bias": [3.0, 0.5], "2.weight": [[5.0, 7.0]], "2.bias": [1.0]}
    weights.put(model, {name: torch.tensor(value) for name, value in values.items()})
    small = compact(model, prunable.full(model), torch.zeros(1, 2))
    assert {name: value.tolist() for name, value in small.state_dict().items()} == {
        "0.weight": [[1.0, 2.0]],
        "0.bias": [0.5],
        "2.weight": [[7.0]],
        "2.bias": [16.0],
    }


def test_layers_without_bias_get_one_where_there_is_something_to_fold() -> None:  # P5
    inner = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Sigmoid())
    model, mask = drawn(nn.Sequential(nn.Sequential(inner), nn.Linear(4, 2, bias=False)), 1.0)
    dead = mask["0.0.0.weight"].clone()
    dead[1] = False
    small = compacted(model, Mask({**mask, "0.0.0.weight": dead}), examples(3))
    assert {name: tuple(value.shape) for name, value in small.state_dict().items()} == {
        "0.0.0.weight": (3, 3),
        "1.weight": (2, 3),
        "1.bias": (2,),  # sigmoid(0) = 1/2
    }


@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
def test_a_layer_may_be_the_last_or_the_only_one(density: float) -> None:  # P6
    for model in (nn.Sequential(nn.Linear(4, 3)), nn.Linear(4, 3), nn.Sequential(nn.Conv2d(4, 3, 1))):
        shape = (4, 2, 2) if "Conv" in str(model) else (4,)
        small = compacted(*drawn(model, density), examples(*shape))
        assert small(examples(*shape)).shape[1] == 3


def test_a_layer_that_nobody_reads_keeps_one_unit_of_zeros() -> None:
    model, mask = drawn(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)), 1.0)
    dead = torch.zeros(2, 5, dtype=torch.bool)
    small = compacted(model, Mask({**mask, "2.weight": dead}), examples(3))
    assert [size.living for size in sizes(small, examples(3)).values()] == [0, 0, 0]
    assert outputs(small, examples(3)) == [1, 1, 2]
    assert torch.equal(small.get_parameter("2.bias"), model.get_parameter("2.bias"))


def test_features_of_the_input_that_nobody_reads_are_left_out_by_a_gather() -> None:
    model, mask = drawn(models.build("lenet-6-4", (1, 3, 3), 2, "glorot-normal", init_seed=0), 1.0)
    dead = mask["fc1.weight"].clone()
    dead[:, [0, 7]] = False
    small = compacted(model, Mask({**mask, "fc1.weight": dead}), examples(1, 3, 3))
    first = small.get_submodule("fc1.inputs")
    assert isinstance(first, Inputs) and first.index.tolist() == [1, 2, 3, 4, 5, 6, 8]
    assert list(compacted(model, mask, examples(1, 3, 3)).state_dict()) == list(model.state_dict())


# ---------------------------------------------------------------- convolutions


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Mask]:
    layers: list[nn.Module] = []
    channels = 2
    for _ in range(draw(st.integers(1, 4))):
        units, window = draw(st.integers(1, 6)), draw(st.sampled_from([1, 3]))
        padding: Any = draw(st.sampled_from([0, 1, "same"] if window == 3 else [0]))
        mode: Any = draw(st.sampled_from(["zeros", "zeros", "reflect"]))
        layers.append(nn.Conv2d(channels, units, window, padding=padding, bias=draw(st.booleans()), padding_mode=mode))
        pools = [nn.MaxPool2d(2, 1, padding=1), nn.AvgPool2d(2, 1), nn.AvgPool2d(3, 1, padding=1), nn.Identity()]
        norm = nn.BatchNorm2d(units) if draw(st.booleans()) else nn.Identity()
        layers += [norm, draw(st.sampled_from(ACTIVATIONS))(), draw(st.sampled_from(pools))]
        channels = units
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 3)]
    return drawn(nn.Sequential(*layers), draw(st.sampled_from([0, 0.03, 0.1, 0.3, 0.7])), draw(st.integers(0, 99)))


@settings(max_examples=30)
@given(convolutions())
def test_chains_of_convolutions_compute_the_same(chain: tuple[nn.Module, Mask]) -> None:  # S11 O8 O9
    model, mask = chain
    inputs = examples(2, 10, 10)
    small = compacted(model, mask, inputs)
    before, after = sizes(model, inputs), sizes(small, inputs)
    assert sum(size.multiply_adds for size in after.values()) <= sum(size.multiply_adds for size in before.values())


def channel_dies(model: nn.Module, mask: Mask, name: str, *channels: int) -> Mask:
    alive = mask[name].clone()
    alive[list(channels)] = False
    return Mask({**mask, name: alive})


def test_what_a_norm_makes_of_a_dead_channel_is_folded() -> None:  # S11
    parts = [nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False)]
    model, mask = drawn(nn.Sequential(*parts), 1.0)
    with torch.no_grad():
        model.get_parameter("1.bias").fill_(9.0)  # far above zero after the ReLU
    small = compacted(model, channel_dies(model, mask, "0.weight", 0, 2), examples(2, 8, 8))
    assert small.get_parameter("0.weight").shape == (2, 2, 3, 3)
    assert small.get_buffer("1.running_mean").shape == (2,)
    assert small.get_parameter("3.bias").abs().min() > 0.1


def test_constants_that_meet_a_padding_are_carried_by_one_channel() -> None:
    parts = [nn.Conv2d(2, 6, 3, padding=1), nn.Sigmoid(), nn.Conv2d(6, 3, 3, padding=1), nn.Conv2d(3, 2, 1)]
    model, mask = drawn(nn.Sequential(*parts), 1.0)
    small = compacted(model, channel_dies(model, mask, "0.weight", 0, 2, 5), examples(2, 6, 6))
    assert outputs(small, examples(2, 6, 6)) == [4, 3, 2]  # three that vary, and the carrier
    zero = copy.deepcopy(model)
    zero[1] = nn.ReLU()  # type: ignore[operator]
    with torch.no_grad():
        zero.get_parameter("0.bias").fill_(-9.0)  # relu(-9) = 0, which a padding does not change
    small = compacted(zero, channel_dies(zero, mask, "0.weight", 0, 2, 5), examples(2, 6, 6))
    assert outputs(small, examples(2, 6, 6)) == [3, 3, 2]


def test_what_a_constant_becomes_behind_a_padding_is_not_constant() -> None:
    """Unit 0 of the second convolution reads constants only, and is another number at the border than inside."""
    model, mask = drawn(nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(3, 2, 1)), 1.0)
    mask = channel_dies(model, mask, "0.weight", 0, 1)
    alive = mask["1.weight"].clone()
    alive[0, 2:] = False
    small = compacted(model, Mask({**mask, "1.weight": alive}), examples(2, 5, 5))
    assert outputs(small, examples(2, 5, 5)) == [3, 3, 2]


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, maps: Tensor) -> Tensor:
        scores: Tensor = self.last(F.pad(self.first(maps).sigmoid(), (0, 2, 1, 0)))
        return scores


def test_a_constant_that_is_padded_by_a_function_stays() -> None:
    model, mask = drawn(Padded(), 1.0)
    small = compacted(model, channel_dies(model, mask, "first.weight", 0, 2), examples(2, 6, 6))
    assert outputs(small, examples(2, 6, 6)) == [4, 2]


def test_a_channel_whose_norm_has_gamma_0_is_constant() -> None:
    parts = [nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)]
    model, mask = drawn(nn.Sequential(*parts), 1.0)
    with torch.no_grad():
        model.get_parameter("1.weight")[1] = 0
    assert outputs(compacted(model, mask, examples(2, 4, 4)), examples(2, 4, 4)) == [2, 2]


def test_groups_dilation_and_stride_are_kept() -> None:  # P4
    parts = [nn.Conv2d(2, 4, 3, stride=2, dilation=2), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4)]
    parts += [nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1)]
    for density in (0.15, 0.4, 1.0):
        model, mask = drawn(nn.Sequential(*parts), density)
        small = compacted(model, mask, examples(2, 16, 16))
        height, width = small.get_parameter("3.weight").shape[:2]
        assert height % 2 == 0 or width == 1, "each group is as wide as the other"
    assert (height, width) == (4, 2), "of what lives nothing goes"
    parts = [nn.Conv2d(2, 5, 3), nn.Conv2d(5, 5, 3, padding=1, groups=5), nn.ReLU(), nn.Conv2d(5, 2, 1)]
    model, mask = drawn(nn.Sequential(*parts), 1.0)
    small = compacted(model, channel_dies(model, mask, "1.weight", 0, 3), examples(2, 9, 9))
    assert outputs(small, examples(2, 9, 9)) == [3, 3, 2]
    assert small.get_submodule("1").groups == 3


# ---------------------------------------------------------------- whole networks

NETWORKS = {
    "lenet-20-10": (1, 6, 6),
    "conv-2-w8": (3, 8, 8),
    "conv-6-w4": (3, 8, 8),
    "vgg-11-w8": (3, 16, 16),
    "resnet-8-w4": (3, 8, 8),
    "resnet-20-w4": (3, 8, 8),
    "imagenet-resnet-50-w4": (3, 32, 32),
}


@pytest.mark.parametrize("density", [0.0, 0.01, 0.08, 1.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_compute_the_same_with_fewer_units(name: str, density: float) -> None:  # S11 O8
    model, mask = drawn(models.build(name, NETWORKS[name], 10, "kaiming-normal", init_seed=0), density)
    inputs = examples(*NETWORKS[name])
    small = compacted(model, mask, inputs)
    before, after = sizes(model, inputs), sizes(small, inputs)
    if density == 1:
        assert weights.equal(weights.of(small), weights.of(model))
        assert small(inputs).std(dim=0).min() > 0
    else:
        work = [sum(size.multiply_adds for size in each.values()) for each in (before, after)]
        assert work[1] < work[0] * (0.95 if density < 0.05 else 1)
        assert list(after.values())[-1].outputs == 10
    if density == 0:
        assert {size.outputs for size in list(after.values())[:-1]} == {1}


def test_in_float32_the_difference_is_rounding() -> None:
    model, mask = drawn(models.build("resnet-8-w4", (3, 8, 8), 10, "kaiming-normal", init_seed=0), 0.1)
    inputs = examples(3, 8, 8)
    expected = masked(model, mask)(inputs).detach()
    small = compact(model.float(), mask, inputs[:1].float())
    assert {value.dtype for value in small.parameters()} == {torch.float32}
    assert float((small(inputs.float()).detach().double() - expected).abs().max() / expected.abs().max()) < 1e-5


def test_a_compacted_model_is_plain() -> None:  # S10
    model, mask = drawn(models.build("resnet-8-w4", (3, 8, 8), 10, "kaiming-normal", init_seed=0), 0.05)
    small = compact(model, mask, examples(3, 8, 8))
    expected = small(examples(3, 8, 8))
    for same in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(same(examples(3, 8, 8)), expected)
    for module in small.modules():
        for sizes_of in ("in_channels", "out_channels", "num_features", "in_features", "out_features"):
            assert getattr(module, sizes_of, 1) >= 1
        if type(module) is nn.Conv2d:
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels)
        if type(module) is nn.BatchNorm2d:
            assert len(module.weight) == module.num_features
    assert not small.training and all(value.requires_grad for value in small.parameters())
    frozen = compact(model.requires_grad_(False), mask, examples(3, 8, 8))
    assert not any(value.requires_grad for value in frozen.parameters())


def test_sizes_count_weights_and_multiply_adds() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.Flatten(2), nn.Linear(9, 5, bias=False))
    nn.init.ones_(model.get_parameter("0.weight"))
    nn.init.ones_(model.get_parameter("2.weight")).data[0] = 0
    assert sizes(model, torch.zeros(7, 2, 3, 3)) == {"0": Size(2, 4, 36, 36, 9), "2": Size(9, 5, 45, 36, 4)}
    assert sizes(model, torch.zeros(7, 2, 3, 3))["2"].living_multiply_adds == 144


# ---------------------------------------------------------------- other shapes of models


class Branches(nn.Module):
    """Sums, concatenations, means and flattenings, most of them as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.gate, self.last = nn.Linear(12, 12), nn.Linear(12 * 4, 5)
        self.norm = nn.LayerNorm(5)
        self.hidden, self.output = nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, maps: Tensor) -> Tensor:
        first = F.relu(self.first(F.pad(maps, (1, 1, 1, 1))))
        left = torch.tanh(self.second(first)) / 2 + first
        right = F.max_pool2d(F.leaky_relu(self.third(first), 0.2), 3, stride=1, padding=1)
        both = F.avg_pool2d(torch.cat([left, 1 - right, -left], dim=1), 2)
        gate = self.gate(both.mean((2, 3))).sigmoid()
        gated = both * gate[:, :, None, None]
        batch, _, _, _ = gated.shape
        flat = F.adaptive_avg_pool2d(gated, 2).view(batch, -1)
        inner = F.dropout(self.norm(self.last(flat)), 0.5, self.training)
        scores: Tensor = self.output(F.gelu(self.hidden(inner)))
        return scores


@pytest.mark.parametrize("density", [0.02, 0.1, 0.2, 0.4, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_branches_that_meet_again_compute_the_same(seed: int, density: float) -> None:
    model, mask = drawn(Branches(), density, seed)
    compacted(model, mask, examples(2, 6, 6))


class Two(nn.Module):
    """Two convolutions that meet."""

    def __init__(self, meet: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.left, self.right, self.meet = nn.Conv2d(2, 5, 3), nn.Conv2d(2, 5, 3), meet
        self.last = nn.Conv2d(5, 2, 1)

    def forward(self, maps: Tensor) -> Tensor:
        scores: Tensor = self.last(torch.sigmoid(self.meet(self.left(maps), self.right(maps).relu())))
        return scores


def test_a_channel_of_a_sum_goes_if_all_that_is_added_is_constant() -> None:
    for meet in (torch.add, lambda left, right: left - right):
        model, mask = drawn(Two(meet), 1.0)
        mask = channel_dies(model, mask, "left.weight", 0, 1, 2)
        mask = channel_dies(model, mask, "right.weight", 1, 2, 3)
        small = compacted(model, mask, examples(2, 5, 5))
        assert outputs(small, examples(2, 5, 5)) == [3, 3, 2]  # 1 and 2 are constant on both sides


def test_a_channel_of_a_product_goes_if_one_side_is_0() -> None:
    model, mask = drawn(Two(torch.mul), 1.0)
    with torch.no_grad():
        model.get_parameter("right.bias").copy_(torch.tensor([-1.0, 1.0, -1.0, 1.0, -1.0]))  # before a ReLU
    small = compacted(model, channel_dies(model, mask, "right.weight", 0, 1, 2), examples(2, 5, 5))
    assert outputs(small, examples(2, 5, 5)) == [3, 3, 2]


BETWEEN: dict[str, tuple[Any, int, Any]] = {
    "contiguous": (lambda maps: maps.contiguous(memory_format=torch.channels_last), 2, nn.Conv2d(4, 2, 1)),
    "clone": (lambda maps: maps.clone(memory_format=torch.channels_last), 2, nn.Conv2d(4, 2, 1)),
    "Dropout1d": (nn.Dropout1d(), 2, nn.Conv1d(4, 2, 1)),
    "dropout1d": (lambda maps: F.dropout1d(maps, training=False), 2, nn.Conv1d(4, 2, 1)),
    "channels are pooled": (nn.MaxPool2d(2), 4, nn.Conv1d(2, 2, 1)),
    "they too": (nn.AdaptiveAvgPool2d((3, 2)), 4, nn.Conv1d(3, 2, 1)),
    "and they": (lambda maps: F.max_pool2d(maps, 2), 4, nn.Conv1d(2, 2, 1)),
}


class Between(nn.Module):
    def __init__(self, call: Callable[[Tensor], Tensor], last: nn.Module) -> None:
        super().__init__()
        self.first, self.call, self.last = type(last)(2, 4, 3), call, last

    def forward(self, maps: Tensor) -> Tensor:
        scores: Tensor = self.last(self.call(self.first(maps)))
        return scores


@pytest.mark.parametrize(("call", "stay", "last"), BETWEEN.values(), ids=BETWEEN)
def test_what_keeps_channels_apart_keeps_their_constants(call: Any, stay: int, last: nn.Module) -> None:
    model, mask = drawn(Between(call, last), 1.0)
    inputs = examples(2, *[6] * (last.weight.dim() - 2))  # type: ignore[operator]
    small = compacted(model, channel_dies(model, mask, "first.weight", 0, 1), inputs)
    assert small.get_parameter("first.weight").shape[0] == stay


class Tapped(nn.Module):
    """A sum, one side of which is read behind a padding too."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 4, 3), nn.Conv2d(4, 2, 1)
        self.tap, self.norm = nn.Conv2d(4, 2, 3, padding=1), norm or nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        left = self.norm(self.left(maps))
        scores: Tensor = self.last(left + self.right(maps)) + self.tap(left)
        return scores


def test_a_channel_that_stays_anyway_carries_the_constants() -> None:
    model, mask = drawn(Tapped(), 1.0)
    with torch.no_grad():
        model.get_parameter("left.bias").copy_(torch.tensor([9.0, 1.0, 0.0, 0.0]))
    mask = channel_dies(model, channel_dies(model, mask, "left.weight", 0, 1), "right.weight", 0)
    small = compacted(model, mask, examples(2, 6, 6))
    assert outputs(small, examples(2, 6, 6)) == [3, 3, 2, 2]  # channel 0 is gone, 1 is what `right` varies


@pytest.mark.parametrize("tiny", [1e-2, 1e-6])
def test_a_tiny_constant_carries_no_large_one(tiny: float) -> None:
    """Through a norm, 0.7 - (0.7 - tiny), where float32 rounds what is left of 0.7."""
    model = Tapped(nn.BatchNorm2d(4))
    with torch.no_grad():
        model.left.bias.copy_(torch.tensor([0.7, 3.0, 3.0, 3.0]))  # type: ignore[union-attr]
        model.norm.running_mean.copy_(torch.tensor([0.7 - tiny, 0, 0, 0]))  # type: ignore[operator]
    mask = channel_dies(model, channel_dies(model, prunable.full(model), "left.weight", 0, 1, 2), "right.weight", 1, 2)
    inputs = examples(2, 6, 6).float()
    small = compact(model, mask, inputs[:1])
    with torch.no_grad():
        expected, found = masked(model, mask).eval()(inputs), small(inputs)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4
    assert outputs(small, inputs)[0] == (2 if tiny > 1e-3 else 3)


class Written(nn.Module):
    """As tutorials have it, with the width of the flattening in the code."""

    def __init__(self, flatten: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.flatten = flatten
        self.conv, self.hidden, self.output = nn.Conv2d(1, 6, 3), nn.Linear(6 * 4, 8), nn.Linear(8, 3)

    def forward(self, maps: Tensor) -> Tensor:
        values = self.flatten(F.max_pool2d(F.relu(self.conv(maps)), 2))
        scores: Tensor = self.output(F.relu(self.hidden(values), inplace=True))
        return scores * torch.tensor(2.0)


def named(values: Tensor) -> Tensor:
    return torch.reshape(values, shape=(-1, 24))


def computed(values: Tensor) -> Tensor:
    return values.view(values.size(0), values.size(1) * 4)


@pytest.mark.parametrize("flatten", [lambda values: values.view(-1, 6 * 2 * 2), lambda x: x.reshape((-1, 24)), named])
def test_a_width_that_is_written_into_the_code_is_rewritten(
    flatten: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    model, mask = drawn(Written(flatten), 1.0)
    assert isinstance(compacted(model, mask, examples(1, 6, 6)), Written)
    small = compacted(model, channel_dies(model, mask, "conv.weight", 1, 4), examples(1, 6, 6))
    assert isinstance(small, fx.GraphModule)
    assert outputs(small, examples(1, 6, 6)) == [4, 8, 3]
    assert [name for name, _ in small.named_parameters()] == list(model.state_dict())
    for form in (small, quantize(small)):
        export.to_safetensors(form, tmp_path / "small")
        again = export.from_safetensors(Written(flatten).double(), tmp_path / "small")
        assert torch.equal(again(examples(1, 6, 6)), form(examples(1, 6, 6)))


class Places(nn.Module):
    """A view that is a flattening only where there is one place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, values: Tensor) -> Tensor:
        scores: Tensor = self.last(self.first(values).view(-1, 5))
        return scores


def test_an_example_of_one_place_stands_for_any_number_of_them() -> None:
    model, mask = drawn(Places(), 1.0)
    mask = channel_dies(model, mask, "first.weight", 1, 4)
    small = compact(model, mask, examples(1, 3))
    assert torch.allclose(small(examples(4, 3)), masked(model, mask)(examples(4, 3)))
    assert outputs(small, examples(4, 3)) == [3, 2]


class Turned(nn.Module):
    """The channels lie along the first axis where they are flattened."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.hidden, self.output, self.axes = nn.Linear(3, 5), nn.Linear(5, 2), axes

    def forward(self, values: Tensor) -> Tensor:
        places = torch.relu(self.hidden(values)).permute(self.axes).flatten(1)
        scores: Tensor = self.output(places.transpose(0, 1))
        return scores


@pytest.mark.parametrize(("shape", "axes"), [((3,), (1, 0)), ((4, 3), (2, 0, 1))])
def test_channels_along_the_first_axis_stay_behind_a_flattening(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    model, mask = drawn(Turned(axes), 1.0)
    small = compact(model, channel_dies(model, mask, "hidden.weight", 1, 3), examples(*shape))
    assert small.get_parameter("hidden.weight").shape == (5, 3)
    with torch.no_grad():
        found = small(examples(*shape))
        expected = masked(model, channel_dies(model, mask, "hidden.weight", 1, 3))(examples(*shape))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_with_a_hook_a_model_keeps_the_width_that_is_written_into_its_code() -> None:
    model, mask = drawn(Written(named), 1.0)
    model.register_forward_hook(lambda module, given, output: output.softmax(1))
    small = compacted(model, channel_dies(model, mask, "conv.weight", 1, 4), examples(1, 6, 6))
    assert isinstance(small, Written) and outputs(small, examples(1, 6, 6)) == [6, 8, 3]


def test_a_width_that_is_computed_from_the_channels_keeps_them() -> None:
    model, mask = drawn(Written(computed), 1.0)
    small = compacted(model, channel_dies(model, mask, "conv.weight", 1, 4), examples(1, 6, 6))
    assert outputs(small, examples(1, 6, 6)) == [6, 8, 3]


class Overwriting(nn.Module):
    """The value of `first` is overwritten in place before it is read again."""

    def __init__(self, overwrite: Callable[[Tensor], object] | None) -> None:
        super().__init__()
        self.first, self.last, self.overwrite = nn.Linear(3, 4), nn.Linear(4, 2), overwrite
        self.relu = nn.Sequential(nn.Flatten(), nn.AlphaDropout(), nn.ReLU(inplace=True))

    def forward(self, values: Tensor) -> Tensor:
        inner = self.first(values)
        (self.overwrite or self.relu)(inner)
        scores: Tensor = self.last(inner)
        return scores


def halve(values: Tensor) -> None:
    values /= 2


def raise_by_one(values: Tensor) -> None:
    values += 1


def twice(values: Tensor) -> None:
    values.sigmoid_()
    values.relu_()


OVERWRITES: list[Callable[[Tensor], object] | None] = [
    *(halve, raise_by_one, torch.sigmoid_, lambda x: x.relu_(), lambda x: F.relu(x, inplace=True), None),
    *(lambda x: torch.clamp_(x, min=0), lambda x: x.contiguous().relu_(), lambda x: x.detach().sigmoid_()),
    *(lambda x: x[:, :].sigmoid_(), lambda x: x.chunk(2, dim=1)[0].sigmoid_()),
    *(lambda x: F.dropout(x, 0.5, training=False).sigmoid_(), twice),
]


@pytest.mark.parametrize("overwrite", OVERWRITES)
def test_a_value_that_is_overwritten_in_place_is_not_taken_for_a_constant(
    overwrite: Callable[[Tensor], object] | None,
) -> None:
    model, mask = drawn(Overwriting(overwrite), 1.0)
    compacted(model, channel_dies(model, mask, "first.weight", 0, 1, 2), examples(3))


class Counting(nn.Module):
    """Overwrites its input, a buffer, and what it keeps for the next call."""

    calls: Tensor
    kept: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, values: Tensor) -> Tensor:
        values.abs_()
        self.calls += 1
        self.kept = self.first(values)
        scores: Tensor = self.last(self.kept)
        return scores


def test_what_a_call_writes_is_not_written_by_compacting() -> None:
    model, mask = drawn(Counting(), 1.0)
    example = examples(3)
    small = compact(model, channel_dies(model, mask, "first.weight", 0), example)
    assert small.get_buffer("calls").equal(model.get_buffer("calls")) and not hasattr(small, "kept")
    assert example.equal(examples(3))


class Twice(nn.Module):
    """One layer called twice, one read by its weight only, one under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.read = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.alias = self.first
        self.inner, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, values: Tensor) -> Tensor:
        values = self.again(self.again(self.alias(values)))
        values = F.linear(values, self.read.weight)
        scores: Tensor = self.last(self.inner(values).relu())
        return scores


def test_layers_that_are_shared_stay_as_they_are() -> None:
    model, mask = drawn(Twice(), 0.3)
    small = compacted(model, channel_dies(model, mask, "inner.weight", 1, 2), examples(4))
    with torch.inference_mode():  # whose tensors do not count what is written
        assert weights.equal(weights.of(compact(small, prunable.full(small), examples(4))), weights.of(small))
    for name in ("first", "again", "read", "alias"):
        assert small.get_parameter(f"{name}.weight").shape == (4, 4)
    assert small.get_submodule("alias") is small.get_submodule("first")
    assert len(small.get_parameter("inner.weight")) <= 4


class Reused(nn.Module):
    """As torchvision and tutorials have it: one ReLU, one pooling, one dropout for all; a residual stream among it."""

    def __init__(self, relu: nn.Module) -> None:
        super().__init__()
        self.relu, self.pool, self.drop, self.flat = relu, nn.MaxPool2d(2), nn.Dropout(), nn.Flatten()
        self.first, self.second, self.third = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
        self.hidden, self.output = nn.Linear(6 * 4, 8), nn.Linear(8, 3)

    def forward(self, maps: Tensor) -> Tensor:
        stream = self.pool(self.relu(self.first(maps)))
        branch = self.second(stream)
        branch = self.third(self.relu(branch))
        branch += stream
        values = self.drop(self.flat(self.pool(self.relu(branch))))
        scores: Tensor = self.output(self.drop(self.flat(self.relu(self.hidden(values)))))
        return scores


@pytest.mark.parametrize("relu", [nn.ReLU(), nn.ReLU(inplace=True), nn.Sigmoid()])
def test_modules_without_weights_are_called_any_number_of_times(relu: nn.Module) -> None:
    model, mask = drawn(Reused(relu), 1.0)
    for name in ("first", "second", "third", "hidden"):
        mask = channel_dies(model, mask, f"{name}.weight", 1, 4)
    small = compacted(model, mask, examples(2, 10, 10))
    assert outputs(small, examples(2, 10, 10)) == [4, 4, 4, 6, 3]


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_reused_modules_compute_the_same(density: float, seed: int) -> None:
    compacted(*drawn(Reused(nn.ReLU(inplace=True)), density, seed), examples(2, 10, 10))


def test_a_layer_with_a_hook_stays_as_it_is() -> None:
    model, mask = drawn(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)), 0.0)
    model[0].register_forward_hook(lambda module, given, output: output + given[0].sum())  # type: ignore[index]
    assert compacted(model, mask, examples(3)).get_parameter("0.weight").shape == (5, 3)


# ---------------------------------------------------------------- transformers


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.projection = nn.Linear(width, width)

    def forward(self, values: Tensor, seen: Tensor | None = None) -> Tensor:
        sizes = (self.heads, self.head_width)
        q, k, v = (part(values).unflatten(-1, sizes).transpose(1, 2) for part in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=seen is None)
        projected: Tensor = self.projection(mixed.transpose(1, 2).flatten(2))
        return projected


class Text(nn.Module):
    """A block of a transformer between tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, 8), nn.Embedding(6, 8)
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(8), Attention(8, 4), nn.LayerNorm(8)
        self.expand, self.contract = nn.Linear(8, 32), nn.Linear(32, 8)
        self.output = nn.Linear(8, 11, bias=False)
        self.output.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.ones_like(tokens).cumsum(1) - 1  # torch.fx follows this in all versions
        values = self.tokens(tokens) + self.positions(places)
        values = values + self.attention(self.norm1(values))
        values = values + self.contract(F.gelu(self.expand(self.norm2(values))))
        scores: Tensor = self.output(values)
        return scores


TOKENS = torch.randint(11, (3, 5), generator=torch.Generator().manual_seed(0))


def heads_die(mask: Mask, **heads: list[int]) -> Mask:
    """The rows of the value, or the columns of the projection, of whole heads of width 2."""
    alive = {name: each.clone() for name, each in mask.items()}
    for part, numbers in heads.items():
        flags = alive[f"attention.{part}.weight"]
        for head in numbers:
            (flags if part == "value" else flags.T)[2 * head : 2 * head + 2] = False
    return Mask(alive)


@pytest.mark.parametrize(
    ("dead", "stay"),
    [
        ({}, 4),
        ({"value": [1]}, 3),
        ({"projection": [0, 3]}, 2),
        ({"value": [0, 1], "projection": [2, 1]}, 1),
        ({"value": [0, 1], "projection": [2, 3]}, 1),
        ({"value": [0, 1, 2, 3]}, 1),
    ],
)
def test_heads_that_say_nothing_go_and_their_constants_stay(dead: dict[str, list[int]], stay: int) -> None:
    model, mask = drawn(Text(), 1.0)
    mask = channel_dies(model, heads_die(mask, **dead), "expand.weight", *range(30))
    mask = heads_die(mask, **dead)
    small = compacted(model, mask, TOKENS)
    attention = small.get_submodule("attention")
    assert isinstance(attention, Attention) and attention.heads == stay
    assert attention.query.weight.shape == (2 * stay, 8) and attention.projection.in_features == 2 * stay
    assert small.get_parameter("expand.weight").shape == (2, 8)
    assert small.get_parameter("output.weight") is small.get_parameter("tokens.weight")


class Grouped(nn.Module):
    """Attention that has fewer keys and values than queries, or squashes its scores by something else than softmax."""

    def __init__(self, shared: int) -> None:
        super().__init__()
        self.heads, self.head_width = 4, 2
        self.query, self.projection = nn.Linear(8, 8), nn.Linear(8, 8)
        self.key, self.value = nn.Linear(8, 8 // shared), nn.Linear(8, 8 // shared)

    def forward(self, values: Tensor) -> Tensor:
        parts = (part(values).unflatten(-1, (-1, 2)).transpose(1, 2) for part in (self.query, self.key, self.value))
        q, k, v = (part.repeat_interleave(4 // part.shape[1], 1) for part in parts)
        projected: Tensor = self.projection(((q @ k.mT).sigmoid() @ v).transpose(1, 2).flatten(2))
        return projected


@pytest.mark.parametrize("shared", [1, 2])
def test_attention_of_another_kind_keeps_its_heads(shared: int) -> None:
    model, mask = drawn(nn.Sequential(Grouped(shared), nn.Linear(8, 6), nn.Linear(6, 2)), 1.0)
    mask = channel_dies(model, channel_dies(model, mask, "0.value.weight", 0, 1), "1.weight", 2)
    small = compacted(model, mask, examples(5, 8))
    assert small.get_parameter("0.value.weight").shape == (8 // shared, 8)
    assert small.get_parameter("1.weight").shape == (5, 8)


@pytest.mark.parametrize("density", [0.0, 0.1, 0.3])
def test_a_transformer_computes_the_same(density: float) -> None:
    compacted(*drawn(Text(), density), TOKENS)


# ---------------------------------------------------------------- what cannot be compacted


class Undecided(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values if values.sum() > 0 else -values


def test_a_model_whose_calls_depend_on_values_is_refused() -> None:
    with pytest.raises(
        BadInput,
        match=r"Undecided: expected .*a decision by a value of the input \(.*to be quantised or exported",
    ):
        compact(Undecided(), Mask({}), torch.zeros(1, 2))


class Sized(nn.Module):
    """Its code looks at its layers."""

    def __init__(self, between: Callable[["Sized", Tensor], Any]) -> None:
        super().__init__()
        self.between, self.first, self.last = between, nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, values: Tensor) -> Any:
        return self.last(self.between(self, self.first(values)))


SIZED: dict[str, Callable[[Sized, Tensor], Any]] = {
    "a size is read": lambda model, inner: inner / model.first.out_features,
    "a class is asked for": lambda model, inner: inner.tanh() if isinstance(model.first, nn.Linear) else inner,
    "axes of size 1 are dropped": lambda _, inner: inner.squeeze(),
}


@pytest.mark.parametrize("between", SIZED.values(), ids=SIZED)
def test_a_model_whose_code_looks_at_its_layers_is_refused(between: Callable[[Sized, Tensor], Any]) -> None:
    model, mask = drawn(Sized(between), 1.0)
    mask = channel_dies(model, mask, "first.weight", 0, 1, 2, 3)
    unread = mask["first.weight"].clone()
    unread[:, 0] = False
    with pytest.raises(BadInput, match="Sized: expected the same outputs from smaller layers"):
        compact(model, Mask({**mask, "first.weight": unread}), examples(3))


class Optional(Sized):
    """What may be left out decides what is called."""

    def forward(self, values: Tensor, scale: Tensor | None = None, *, both: bool = False, sizes: Any = (1, 2)) -> Any:
        inner = self.between(self, self.first(values)).relu()
        scores = self.last(inner if scale is None else inner * scale) * sizes[1]
        return (scores, inner) if both else scores


def test_arguments_that_are_left_out_are_what_they_are_by_default() -> None:
    model, mask = drawn(Optional(lambda _, inner: inner), 1.0)
    mask = channel_dies(model, mask, "first.weight", 1, 2)
    assert outputs(compacted(model, mask, examples(3)), examples(3)) == [3, 2]
    small = compact(model, mask, (examples(3), examples(1)))
    with torch.no_grad():
        expected, found = (each(examples(3), examples(1)) for each in (masked(model, mask), small))
    assert torch.allclose(expected, found)


class Telling(Sized):
    def forward(self, values: Tensor) -> Any:
        inner = self.first(values)
        return self.last(inner), self.between(self, inner)


@pytest.mark.parametrize("size", [lambda _, inner: inner.shape, lambda _, inner: inner.size(1)])
def test_a_size_that_is_an_output_stays(size: Callable[[Sized, Tensor], Any]) -> None:
    model, mask = drawn(Telling(size), 1.0)
    small = compact(model, channel_dies(model, mask, "first.weight", 0), examples(3))
    assert small(examples(3))[1] == model(examples(3))[1]


def test_models_that_draw_random_numbers_are_compared_under_the_same_seed() -> None:
    model, mask = drawn(Sized(lambda _, inner: F.dropout(inner.relu() + torch.rand_like(inner[:, :1]))), 0.2)
    before = torch.get_rng_state()
    compact(model, mask, examples(3))
    assert before.equal(torch.get_rng_state())


def test_a_mask_of_another_model_is_refused() -> None:
    for name, shape in (("0.weight", (3, 2)), ("1.weight", (2, 2))):
        with pytest.raises(BadInput, match="belongs to another model"):
            compact(
                nn.Sequential(nn.Linear(2, 2)), Mask({name: torch.ones(shape, dtype=torch.bool)}), torch.zeros(1, 2)
            )


@pytest.mark.parametrize(
    ("example", "found"),
    [
        (torch.zeros(1, 3), r"\(1, 3\)"),
        (torch.zeros(1, 1, 1, 2), r"\(1, 1, 1, 2\) \(expected 2D or 3D"),
        ([torch.zeros(1, 2)], "list"),
        (None, "NoneType"),
        ((), "nothing"),
    ],
)
def test_an_example_that_the_model_does_not_take_is_refused(example: Any, found: str) -> None:
    with pytest.raises(BadInput, match=f"the example: expected what Sequential can be called with, found {found}"):
        compact(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), Mask({}), example)


def test_a_model_that_torch_has_pruned_is_refused_with_what_to_do() -> None:  # S10
    model = nn.Sequential(nn.Linear(2, 2))
    random_unstructured(model[0], "weight", amount=1)
    model(torch.zeros(1, 2))
    with pytest.raises(BadInput, match=r"Call torch\.nn\.utils\.prune\.remove\(layer, 'weight'\) first"):
        compact(model, Mask({}), torch.zeros(1, 2))


class Asserting(nn.Module):
    """As tutorials write them."""

    def __init__(self, check: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.linear, self.check = nn.Linear(3, 2), check

    def forward(self, values: Tensor) -> Tensor:
        self.check(values)
        scores: Tensor = self.linear(values)
        return scores


def numpy_notation(values: Tensor) -> None:
    np.asarray(values)


def read(values: Tensor) -> None:
    float(values.sum())


@pytest.mark.parametrize(("check", "found"), [
    (read, r"a decision by a value of the input, which `__float__` told the code \(HERE: `float\(values"),
    (numpy_notation, r"a decision by a value of the input, which `__array__` told the code \(HERE: `np\.asarray"),
])  # fmt: skip
def test_what_stops_the_trace_is_said_with_its_line(check: Callable[[Tensor], object], found: str) -> None:
    found = found.replace("HERE", r"test_compaction\.py, line \d+")
    with pytest.raises(BadInput, match=f"Asserting: expected a model whose calls can be followed, .*{found}"):
        compact(Asserting(check), prunable.full(Asserting(check)), torch.ones(2, 3))


class NamedLinear(nn.Linear):
    """Subclasses that add nothing to what is computed."""


class NamedConv(nn.Conv2d):
    pass


class NamedNorm(nn.BatchNorm2d):
    pass


def test_subclasses_that_add_nothing_are_compacted_as_their_base() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(NamedConv(1, 4, 3), NamedNorm(4), nn.ReLU(), nn.Flatten(), NamedLinear(16, 3)).eval()
    alive = {name: flags.clone() for name, flags in prunable.full(model).items()}
    alive["0.weight"][1] = False
    small, images = compact(model, Mask(alive), torch.ones(2, 1, 4, 4)), torch.randn(5, 1, 4, 4)
    assert [type(layer) for layer in small.children()] == [type(layer) for layer in model]
    assert {name: size.outputs for name, size in sizes(small, images).items()} == {"0": 3, "4": 3}
    assert sum(value.numel() for value in small.parameters()) < sum(value.numel() for value in model.parameters())
    torch.testing.assert_close(small(images), masked(model, Mask(alive))(images), rtol=1e-4, atol=1e-5)
    again = fitted(copy.deepcopy(model), small.state_dict())
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in small.state_dict().items()
    }


def test_an_adjacency_matrix_that_is_sparse_stays_as_it_is() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
            found: Tensor = torch.sparse.mm(adjacency, self.two(torch.relu(self.one(nodes))))
            return found

    torch.manual_seed(0)
    model, nodes = Graph(), torch.rand(5, 3)
    adjacency = (torch.rand(5, 5) < 0.5).float().to_sparse()
    alive = {name: flags.clone() for name, flags in prunable.full(model).items()}
    alive["two.weight"][:, ::2] = False
    small = compact(model, Mask(alive), (nodes, adjacency))
    assert small.get_submodule("one").out_features == 4
    wanted = masked(model, Mask(alive))(nodes, adjacency)
    torch.testing.assert_close(small(nodes, adjacency), wanted, rtol=1e-4, atol=1e-5)
    indexing = Asserting(lambda values: values[torch.arange(2)])  # torch names every backend that could, in one line
    with pytest.raises(BadInput, match=r"expected what Asserting can be called with, found .*aten::index") as error:
        compact(indexing, prunable.full(indexing), adjacency)
    assert len(str(error.value)) < 1000


@pytest.mark.filterwarnings("ignore:.*(weight|spectral)_norm:FutureWarning")
@pytest.mark.parametrize(("change", "todo"), [
    (nn.utils.weight_norm, r"Sequential, 0: .* Call torch\.nn\.utils\.remove_weight_norm\(layer\) first"),
    (lambda layer: setattr(layer, "kept", layer.weight * 2), r"Sequential, 0: .* Keep `kept` as `kept\.detach\(\)`"),
])  # fmt: skip
def test_what_cannot_be_copied_is_named_with_what_ends_it(change: Callable[[nn.Module], object], todo: str) -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    change(model[0])
    with pytest.raises(BadInput, match=todo):
        compact(model, Mask({}), torch.ones(2, 3))


def test_a_layer_whose_weight_and_bias_disagree_is_of_no_model() -> None:
    """As a damaged file may have it, whose shapes nothing seals."""
    values = {"0.weight": torch.ones(100, 3), "0.bias": torch.zeros(50)}
    with pytest.raises(
        BadInput, match=r"0: expected a bias with a number for each output .* \(100, 3\) and .* \(50,\)"
    ):
        fitted(nn.Sequential(nn.Linear(3, 50)), values)
