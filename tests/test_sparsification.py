"""Sparse layers compute what dense ones do, for every shape, on every instruction set, wherever they come from."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from tombola import mask as masks
from tombola import models, prunable, weights
from tombola.cash import timing
from tombola.cash.quantization import quantize
from tombola.cash.recurrent_layers import SparseRecurrent
from tombola.cash.sparse_layers import MaxPool2d, SparseChain, SparseConv1d, SparseConv2d, prepared_bytes
from tombola.cash.sparsification import sparsify
from tombola.cash.transposed_layers import SparseConvTranspose
from tombola.cash.unchanged import dense_layers
from tombola.engine import kernels
from tombola.errors import BadInput
from tombola.mask import Mask

pytestmark = pytest.mark.skipif(not kernels.sets(), reason="no compiled kernels here")
each_set = pytest.mark.parametrize("set_name", kernels.sets())

AnyLayer = TypeVar("AnyLayer", nn.Linear, nn.Conv1d, nn.Conv2d)
SIZES = [1, 2, 15, 16, 17, 33, 100]
BATCHES = [(0,), (1,), (2,), (3,), (15,), (16,), (17,), (63,), (64,), (65,), (130,), (), (2, 3), (1, 1, 2), (5, 0)]
OUTLYING = 0.02  # the density at which one row is longer than all others
DENSITIES = [0.0, OUTLYING, 0.05, 0.3, 1.0]
WIDTHS = [7, 8, 14, 16, 28, 32, 33]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


@contextmanager
def only(set_name: str) -> Iterator[None]:
    """As on a processor that has nothing better."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "sets", lambda: kernels.SETS[: kernels.SETS.index(set_name) + 1])
        yield


def thinned(layer: AnyLayer, density: float, seed: int = 0) -> AnyLayer:
    """Random weights of which a part lives, and outputs of about 1."""
    random = generator(seed)
    with torch.no_grad():
        alive = torch.rand(layer.weight.shape, generator=random) < density
        if density == OUTLYING:
            alive[0] = True
        reads = max(1.0, float(alive[-1].sum()))
        layer.weight.copy_(alive * torch.randn(layer.weight.shape, generator=random) / reads**0.5)
        if layer.bias is not None:
            layer.bias.normal_(generator=random)
    return layer


def exact(layers: Sequence[nn.Module], relu: Sequence[bool], values: Tensor) -> Tensor:
    """What dense layers give, in float64: sums in float32 are off by another amount in every order."""
    values = values.double()
    for layer, positive in zip(layers, relu, strict=True):
        values = copy.deepcopy(layer).double()(values)
        values = F.relu(values) if positive else values
    return values.detach()


def same(found: Tensor, wanted: Tensor) -> None:
    assert found.dtype is torch.float32 and found.is_contiguous() and not found.requires_grad
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5, equal_nan=True)


def living(module: nn.Module) -> int:
    return sum(len(value) for name, value in module.named_buffers() if "values" in name)


# ---------------------------------------------------------------- chains


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[nn.Linear], list[bool]]:
    """One to four layers, thinned, and whether each has a ReLU."""
    sizes = draw(st.lists(st.sampled_from(SIZES), min_size=2, max_size=5))
    density, seed, bias = draw(st.sampled_from(DENSITIES)), draw(st.integers(0, 99)), draw(st.booleans())
    layers = [thinned(nn.Linear(*pair, bias=bias), density, seed) for pair in pairwise(sizes)]
    return layers, draw(st.lists(st.booleans(), min_size=len(layers), max_size=len(layers)))


@each_set
@given(chain=chains(), batch=st.sampled_from(BATCHES))
def test_a_chain_gives_what_its_layers_give(
    set_name: str, chain: tuple[list[nn.Linear], list[bool]], batch: tuple[int, ...]
) -> None:
    layers, relu = chain
    values = randn(*batch, layers[0].in_features)
    with only(set_name):
        module = SparseChain(layers, relu)
        same(module(values), exact(layers, relu, values))
        same(module(values), exact(layers, relu, values))  # in the room that is there now
    assert living(module) == sum(int(layer.weight.count_nonzero()) for layer in layers)


@each_set
@given(chain=chains(), batch=st.sampled_from([0, 1, 2, 17]))
def test_a_chain_may_flatten_its_inputs(set_name: str, chain: tuple[list[nn.Linear], list[bool]], batch: int) -> None:
    layers, relu = chain
    size = layers[0].in_features
    shape = (batch, 10, 2, 5) if size == 100 else (batch, size, 1)
    with only(set_name):
        same(SparseChain(layers, relu, flatten=True)(randn(*shape)), exact(layers, relu, randn(*shape).flatten(1)))


def test_one_chain_serves_batches_of_all_sizes_in_any_order() -> None:
    layers, relu = [thinned(nn.Linear(33, 20), 0.2), thinned(nn.Linear(20, 5), 0.5)], [True, False]
    module = SparseChain(layers, relu)
    for batch in (130, 1, 64, 2, 3, 0, 200, 1):
        same(module(randn(batch, 33, seed=batch)), exact(layers, relu, randn(batch, 33, seed=batch)))


@each_set
@pytest.mark.parametrize("batch", [1, 2, 3, 64, 65])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_stay_in_their_example_and_pass_a_relu_as_in_torch(
    set_name: str, batch: int, bad: float
) -> None:
    layers, relu = [thinned(nn.Linear(17, 16), 1.0), thinned(nn.Linear(16, 33), 1.0)], [True, True]
    thin = [thinned(nn.Linear(17, 16), 0.1), thinned(nn.Linear(16, 33), 0.1)]
    values = randn(batch, 17)
    values[batch // 2, 3] = bad
    others = [place for place in range(batch) if place != batch // 2]
    with only(set_name):
        same(SparseChain(layers, relu)(values), exact(layers, relu, values))
        same(SparseChain(thin, relu)(values)[others], exact(thin, relu, values)[others])


# ---------------------------------------------------------------- convolutions


def reach(window: int, dilation: int) -> int:
    return dilation * (window - 1) + 1


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Conv2d, tuple[int, int]]:
    """A convolution, thinned, and the size of a map that its window fits into."""
    groups = draw(st.sampled_from([1, 1, 2, 5]))
    inputs, outputs = groups * draw(st.sampled_from([1, 1, 3])), groups * draw(st.sampled_from([1, 2, 9]))
    window = draw(st.tuples(*[st.sampled_from([1, 2, 3, 5])] * 2))
    dilation = draw(st.tuples(*[st.sampled_from([1, 1, 2, 3])] * 2))
    stride = draw(st.sampled_from([1, 1, 2, 3]))
    padding: Any = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    even = all((size - 1) * step % 2 == 0 for size, step in zip(window, dilation, strict=True))
    named = draw(st.sampled_from(["valid", "same" if even and stride == 1 else "valid", None]))
    around = (0, 0) if named == "valid" else padding
    if named == "same":
        around = tuple(reach(*each) // 2 for each in zip(window, dilation, strict=True))
    least = [max(1, reach(*each) - 2 * pad) for *each, pad in zip(window, dilation, around, strict=True)]
    height = draw(st.one_of(st.just(1), st.integers(1, 20)))
    width = draw(st.one_of(st.just(1), st.sampled_from(WIDTHS), st.integers(1, 130)))
    bias, density, seed = draw(st.booleans()), draw(st.sampled_from(DENSITIES)), draw(st.integers(0, 99))
    layer = nn.Conv2d(inputs, outputs, window, stride, named or padding, dilation, groups, bias)
    return thinned(layer, density, seed), (max(height, least[0]), max(width, least[1]))


@each_set
@given(drawn=convolutions(), relu=st.booleans(), batch=st.sampled_from([0, 1, 2, 5, 9]))
def test_a_convolution_gives_what_its_layer_gives(
    set_name: str, drawn: tuple[nn.Conv2d, tuple[int, int]], relu: bool, batch: int
) -> None:
    layer, size = drawn
    maps = randn(batch, layer.in_channels, *size)
    with only(set_name):
        module = SparseConv2d(layer, relu)
        same(module(maps), exact([layer], [relu], maps))
        same(module(-maps), exact([layer], [relu], -maps))  # in the room that is there now
    assert living(module) == int(layer.weight.count_nonzero())


@each_set
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("width", [32, 120])
def test_maps_that_fit_into_no_cache_are_done_band_by_band(set_name: str, stride: int, width: int) -> None:
    layer = thinned(nn.Conv2d(12, 3, (5, 3), stride, padding=1, dilation=(2, 1)), 1.0)
    maps = randn(2, 12, 151, width)
    with only(set_name):
        same(SparseConv2d(layer)(maps), exact([layer], [False], maps))


@each_set
@pytest.mark.parametrize("width", WIDTHS)
def test_one_module_serves_maps_and_batches_of_all_sizes_in_any_order(set_name: str, width: int) -> None:
    layer = thinned(nn.Conv2d(3, 4, 3, padding=1), 0.3)
    with only(set_name):
        module = SparseConv2d(layer, relu=True)
        for batch, height, across in [(9, 5, width), (1, 5, width), (3, 4, 2 * width), (17, 5, width), (2, 1, 1)]:
            maps = randn(batch, 3, height, across, seed=batch)
            same(module(maps), exact([layer], [True], maps))


@each_set
@pytest.mark.parametrize("width", [7, 8, 14, 16, 33])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_stay_in_their_image_and_pass_a_relu_as_in_torch(
    set_name: str, width: int, bad: float
) -> None:  # images lie side by side in one line
    layer, thin = (thinned(nn.Conv2d(2, 3, 3, padding=1), density) for density in (1.0, 0.2))
    maps = randn(9, 2, 6, width)
    places = [(3, 0, 0, 0), (3, 1, 5, width - 1), (8, 0, 2, width // 2)]
    for place in places:
        maps[place] = bad
    whole = [image for image in range(9) if image not in (3, 8)]
    with only(set_name):
        module, thin_module = SparseConv2d(layer, relu=True), SparseConv2d(thin, relu=True)
        same(module(maps), exact([layer], [True], maps))
        same(thin_module(maps)[whole], exact([thin], [True], maps)[whole])
        good = randn(10, 2, 6, width, seed=1)  # and nothing is left of it in the room
        same(module(good), exact([layer], [True], good))


def test_a_map_smaller_than_the_window_is_refused() -> None:
    for layer in (nn.Conv2d(2, 1, 5), nn.Conv2d(2, 1, 3, dilation=2), nn.Conv2d(2, 1, (1, 9), stride=3, padding=1)):
        with pytest.raises(BadInput, match=r"SparseConv2d\(2, 1, .*expected maps as large as the window, found 4 x 4"):
            SparseConv2d(layer)(randn(1, 2, 4, 4))


# ---------------------------------------------------------------- both: inputs, copies, files, threads


def a_chain(density: float = 0.2, seed: int = 0) -> SparseChain:
    layers = [thinned(nn.Linear(6, 18), density, seed), thinned(nn.Linear(18, 4), density, seed)]
    return SparseChain(layers, [True, False])


def a_convolution(density: float = 0.2, seed: int = 0) -> SparseConv2d:
    return SparseConv2d(thinned(nn.Conv2d(4, 5, 3, padding=1), density, seed), relu=True)


both = pytest.mark.parametrize("make", [a_chain, a_convolution])
Make = Callable[..., SparseChain | SparseConv2d]


def maps(batch: int = 3, seed: int = 0) -> Tensor:
    return randn(batch, 4, 6, 6, seed=seed)


@both
def test_how_inputs_lie_in_memory_changes_nothing(make: Make) -> None:
    module, values = make(), maps()
    wanted = module(values)
    wider = randn(4, 5, 7, 8)
    wider[1:, 1:, :6, 1:7] = values
    for other in (
        values.contiguous(memory_format=torch.channels_last),
        values.transpose(1, 2).contiguous().transpose(1, 2),
        wider[1:, 1:, :6, 1:7],
        torch.cat([torch.ones(1), values.flatten()])[1:].view_as(values),  # at an address that no vector begins at
    ):
        assert torch.equal(other, values) and torch.equal(module(other), wanted)
    assert torch.equal(module(values[:1].expand(3, -1, -1, -1)), module(values[:1].repeat(3, 1, 1, 1)))


@both
def test_inputs_that_it_cannot_use_are_refused_with_what_to_do(make: Make) -> None:
    module = make()
    for kind in (torch.float64, torch.float16, torch.int64):
        with pytest.raises(BadInput, match=rf"expected float32 on the CPU .*, found {kind} on cpu\. .*only infer"):
            module(maps().to(kind))
    with pytest.raises(BadInput, match=r"found torch\.float32 on meta"):
        module(maps().to("meta"))
    wanting = maps().requires_grad_()
    with pytest.raises(BadInput, match=r"asks for no gradient, found .* that asks for one\. .*inference_mode"):
        module(wanting)
    with torch.no_grad():
        assert torch.equal(module(wanting), module(maps()))
    with torch.inference_mode():
        assert torch.equal(module(wanting), module(maps()))


@both
def test_what_is_no_tensor_is_refused(make: Make) -> None:
    with pytest.raises(BadInput, match=r"a sparse layer: expected float32.*, found ndarray\. .*torch\.from_numpy"):
        make()(maps().numpy())
    own: Tensor = maps().as_subclass(type("Own", (Tensor,), {}))
    assert torch.equal(make()(own).as_subclass(Tensor), make()(maps()))


@both
def test_a_compiler_calls_it_between_its_graphs(make: Make) -> None:
    model = nn.Sequential(nn.Sigmoid(), make(), nn.Sigmoid()).eval()
    compiled = torch.compile(model, backend="eager")
    for batch in (3, 1):
        for ready in (False, True):
            with torch.inference_mode(ready):
                assert torch.equal(compiled(maps(batch)), model(maps(batch)))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace.*deprecated:DeprecationWarning")
@both
def test_what_makes_one_graph_of_a_model_is_refused(make: Make) -> None:
    model = nn.Sequential(make(), nn.Sigmoid()).eval()
    ready = copy.deepcopy(model)
    ready(maps())
    for one in (model, ready):
        with pytest.raises(BadInput, match=r"cannot be exported, found sparse ones\. .*compact form"):
            torch.export.export(one, (maps(),), strict=False)
        with pytest.raises(BadInput, match=r"cannot be exported, found sparse ones\. .*compact form"):
            torch.jit.trace(one, maps())


def test_inputs_of_another_size_are_refused() -> None:
    with pytest.raises(BadInput, match=r"SparseChain\(6 -> 18 -> 4, density 0\.\d+\): expected 6 inputs, found 7"):
        a_chain()(randn(2, 7))
    with pytest.raises(BadInput, match="expected 6 inputs, found 1"):
        a_chain()(torch.tensor(1.0))
    with pytest.raises(BadInput, match="expected 12 inputs, found 20"):
        SparseChain([nn.Linear(12, 2)], [False], flatten=True)(randn(3, 4, 5))
    for shape in ((2, 3, 6, 6), (3, 6, 6), (2, 4, 6, 6, 1)):
        with pytest.raises(BadInput, match=f"expected N x 4 x H x W, found {' x '.join(map(str, shape))}"):
            a_convolution()(randn(*shape))


def test_one_example_without_a_batch_is_convolved_as_in_torch() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.MaxPool2d(2)).eval()
    found = sparsify(model, randn(2, 6, 6), everywhere=True)
    assert calls(found) == ["SparseConv2d", "MaxPool2d"]
    with torch.no_grad():
        for values in (randn(2, 6, 6), randn(2, 9, 4), randn(3, 2, 6, 6)):
            torch.testing.assert_close(found(values), model(values), rtol=1e-4, atol=1e-4)


@both
def test_a_copy_and_what_was_pickled_give_the_same(make: Make) -> None:  # S10
    for used in (False, True):
        module, values = make(), maps()
        wanted = make()(values)
        if used:
            module(values)
        for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert torch.equal(again(values), wanted)
            for buffer in again.buffers():
                buffer.zero_()
        assert torch.equal(module(values), wanted), "they share nothing"


@both
@pytest.mark.parametrize("densities", [(0.05, 0.6), (0.6, 0.05), (0.0, 0.3), (0.3, 0.0)])
def test_the_weights_of_another_ticket_are_loaded_without_executing_anything(  # S3
    make: Make, densities: tuple[float, float]
) -> None:
    one, other = make(densities[0], seed=1), make(densities[1], seed=2)
    assert not torch.equal(one(maps()), other(maps()))  # both are ready
    file = io.BytesIO()
    torch.save(nn.Sequential(one).state_dict(), file)
    file.seek(0)
    nn.Sequential(other).load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(one(maps()), other(maps())) and living(one) == living(other) and str(one) == str(other)


@both
def test_of_a_weight_that_is_0_nothing_is_stored(make: Make) -> None:
    for density in (0.0, 0.2):
        module = make(density)
        biases = sum(value.nbytes for name, value in module.named_buffers() if "bias" in name)
        places = 0 if density == 0 else 180 / 8  # bits, at most
        assert sum(value.nbytes for value in module.buffers()) <= 4 * living(module) + biases + places + 2


@both
def test_layers_of_other_number_types_are_computed_in_float32(make: Make) -> None:
    wanted = make()(maps())
    torch.testing.assert_close(make().double()(maps()), wanted)
    torch.testing.assert_close(make().half()(maps()), wanted, rtol=1e-2, atol=1e-2)
    layer = thinned(nn.Linear(6, 4), 0.5)
    same(SparseChain([copy.deepcopy(layer).double()], [False])(randn(3, 6)), exact([layer], [False], randn(3, 6)))
    module, values = make(), maps()
    torch.set_default_dtype(torch.float64)
    try:
        found = module(values)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, wanted)


@both
def test_threads_do_not_disturb_each_other(make: Make) -> None:
    batches = [1, 3, 70, 9, 2, 33, 64, 5]
    wanted = [make()(maps(batch, seed=batch)) for batch in batches]
    for _ in range(5):
        module = make()  # made ready by all at once

        def right(number: int, module: nn.Module = module) -> bool:
            given = maps(batches[number], seed=batches[number])
            return all(torch.equal(module(given), wanted[number]) for _ in range(20))

        with ThreadPoolExecutor(len(batches)) as pool:
            assert all(pool.map(right, range(len(batches))))


@both
def test_prepared_bytes_are_those_of_the_living_weights_as_the_kernels_want_them(make: Make) -> None:
    model = nn.Sequential(make(0.5))
    assert prepared_bytes(model) == 0  # nothing is made before it is asked for
    model(maps())
    assert prepared_bytes(model) >= 8 * living(model)  # each with its place
    assert prepared_bytes(copy.deepcopy(model)) == 0
    lighter = nn.Sequential(make(0.05))
    lighter(maps())
    assert 0 < prepared_bytes(lighter) < prepared_bytes(model)


@given(drawn=convolutions(), density=st.sampled_from(DENSITIES))
def test_quantised_layers_give_what_they_gave(drawn: tuple[nn.Conv2d, tuple[int, int]], density: float) -> None:
    layer, size = drawn
    small, values = quantize(layer), randn(2, layer.in_channels, *size)
    torch.testing.assert_close(SparseConv2d(small)(values), small(values), rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]
    chain = nn.Sequential(thinned(nn.Linear(17, 5), density), nn.ReLU(), thinned(nn.Linear(5, 33), density))
    small = quantize(chain)
    module = SparseChain([small[0], small[2]], [True, False])  # type: ignore[index]
    torch.testing.assert_close(module(randn(4, 17)), small(randn(4, 17)), rtol=1e-4, atol=1e-5)
    assert {value.dtype for name, value in module.named_buffers() if "values" in name} == {torch.int8}


# ---------------------------------------------------------------- models


def settled(model: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, its batch norms as after a training, all of them different."""
    random = generator(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(generator=random)
            module.running_var.uniform_(0.5, 2, generator=random)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2, generator=random)
                nn.init.normal_(module.bias, generator=random)
    return model.eval()


def ticket(name: str, shape: tuple[int, int, int], density: float = 0.05) -> nn.Module:
    model = settled(models.build(name, shape, 10, "kaiming-normal", init_seed=0))
    alive = {
        each: torch.rand(flags.shape, generator=generator(1)) < density for each, flags in prunable.full(model).items()
    }
    weights.put(model, masks.apply(weights.of(model), Mask(alive)))
    return model


def calls(model: nn.Module) -> list[str]:
    """What a model calls, one after the other."""
    if not isinstance(model, fx.GraphModule):
        return [type(model).__name__]
    nodes = [node for node in model.graph.nodes if node.op not in ("placeholder", "output")]
    modules = {node: type(model.get_submodule(node.target)) for node in nodes if node.op == "call_module"}
    return [
        modules[node].__name__ if node in modules else getattr(node.target, "__name__", node.target) for node in nodes
    ]


def agrees(model: nn.Module, values: Tensor, wanted: list[str] | None = None) -> None:
    """The sparse form gives what the model gives, in eval mode, calls what is `wanted`, and leaves the model alone."""
    state, training, text = weights.of(model), model.training, str(model)
    found = sparsify(model, values, everywhere=True)
    assert model.training == training and str(model) == text and weights.equal(weights.of(model), state)
    model.eval()
    with torch.no_grad():
        for given in (values, values[:1]):
            torch.testing.assert_close(found(given), model(given), rtol=1e-4, atol=1e-4)
    if wanted is not None:
        assert calls(found) == wanted


@pytest.mark.parametrize(("name", "side"), [
    ("lenet-30-20", 8),
    ("conv-2-w8", 12),
    ("conv-4-w8", 16),
    ("vgg-11-w8", 32),
    ("resnet-8-w4", 9),
    ("imagenet-resnet-18-w4", 40),
    ("imagenet-resnet-50-w4", 33),
])  # fmt: skip
def test_every_model_that_can_be_built_agrees_with_its_sparse_form(name: str, side: int) -> None:
    model, values = ticket(name, (3, side, side)), randn(3, 3, side, side)
    agrees(model, values)
    found = sparsify(model, values, everywhere=True)
    kinds = (nn.Linear, nn.Conv2d, nn.BatchNorm2d)
    assert not any(isinstance(module, kinds) for module in found.modules()), "all of them were replaced, or folded"
    small = quantize(model)
    with torch.no_grad():
        torch.testing.assert_close(
            sparsify(small, values, everywhere=True)(values), small(values), rtol=1e-4, atol=1e-4
        )


class Calls(nn.Module):
    """A model from parts and a function."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, values: Tensor) -> Tensor:
        return self.function(self, values)


def linear() -> nn.Linear:
    return thinned(nn.Linear(6, 6), 0.5)


@pytest.mark.parametrize(("function", "wanted"), [
    (lambda m, x: m.act(m.one(x)), ["SparseChain"]),
    (lambda m, x: F.relu(m.one(x)), ["SparseChain"]),
    (lambda m, x: F.relu(m.one(x), inplace=True), ["SparseChain"]),
    (lambda m, x: torch.relu(m.one(x)), ["SparseChain"]),
    (lambda m, x: m.one(x).relu(), ["SparseChain"]),
    (lambda m, x: m.one(x).relu_(), ["SparseChain"]),
    (lambda m, x: m.two(m.act(m.one(x))), ["SparseChain"]),
    (lambda m, x: m.two(m.one(x)).relu(), ["SparseChain"]),
    (lambda m, x: m.two(torch.tanh(m.one(x))).relu(), ["SparseChain", "tanh", "SparseChain"]),
    (lambda m, x: m.one(torch.tanh(m.one(x).relu())), ["SparseChain", "tanh", "SparseChain"]),  # with, and without
    (lambda m, x: m.one(m.one(x).relu()), ["SparseChain"]),
    (lambda m, x: x.add(m.one(x)), ["SparseChain", "add"]),
    (lambda m, x: (lambda y: y.relu().add(y))(m.one(x)), ["SparseChain", "relu", "add"]),  # read twice: no fusing
    (lambda m, x: (lambda y: m.two(y).add(y))(m.one(x).relu()), ["SparseChain", "SparseChain", "add"]),
    (lambda m, x: (lambda y: (y, F.relu(y, inplace=True))[0])(m.one(x)), ["SparseChain", "relu"]),
    (lambda m, x: (lambda y: (y, y.relu_())[0])(m.one(x)), ["SparseChain", "relu_"]),  # nothing reads what it gives
    (lambda m, x: m.two(m.one(x.view(-1, 2, 3).flatten(1))), ["view", "SparseChain"]),
    (lambda m, x: m.two(m.one(torch.flatten(x.view(-1, 2, 3), 1))), ["view", "SparseChain"]),
    (lambda m, x: m.one(m.flat(x.view(-1, 2, 3))), ["view", "SparseChain"]),
    (lambda m, x: m.one(x.view(-1, 2, 3).flatten(1, 2)), ["view", "flatten", "SparseChain"]),
    (lambda m, x: (lambda y: m.one(y).add(y))(m.flat(x.view(-1, 2, 3))), ["view", "Flatten", "SparseChain", "add"]),
])  # fmt: skip
def test_what_surrounds_linear_layers_becomes_part_of_them(
    function: Callable[[Any, Tensor], Tensor], wanted: list[str]
) -> None:
    parts = {"one": linear(), "two": thinned(nn.Linear(6, 6), 0.5, seed=5), "act": nn.ReLU(), "flat": nn.Flatten()}
    agrees(Calls(function, **parts), randn(4, 6), wanted)


def test_batch_norms_are_folded_where_a_layer_alone_feeds_them() -> None:
    convolution, units = nn.Conv2d(2, 4, 3, bias=False), nn.Linear(6, 6)
    for of_maps in (nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)):
        agrees(nn.Sequential(convolution, settled(of_maps), nn.ReLU()).train(), randn(2, 2, 6, 6), ["SparseConv2d"])
    for of_units in (nn.BatchNorm1d(6), nn.BatchNorm1d(6, affine=False)):
        agrees(nn.Sequential(units, settled(of_units), nn.ReLU(), linear()), randn(3, 6), ["SparseChain"])
    tied = Calls(lambda m, x: F.linear(m.norm(m.one(x)), m.one.weight.t()), one=units, norm=settled(nn.BatchNorm1d(6)))
    agrees(tied, randn(3, 6), ["SparseChain", "BatchNorm1d", "one.weight", "t", "linear"])  # unfolded
    read_twice = Calls(lambda m, x: (lambda y: m.norm(y).add(y))(m.one(x)), one=units, norm=settled(nn.BatchNorm1d(6)))
    agrees(read_twice, randn(3, 6), ["SparseChain", "BatchNorm1d", "add"])
    called_twice = Calls(lambda m, x: m.one(m.norm(m.one(x))), one=units, norm=settled(nn.BatchNorm1d(6)))
    agrees(called_twice, randn(3, 6), ["SparseChain", "BatchNorm1d", "SparseChain"])
    of_each_batch = nn.Sequential(units, nn.BatchNorm1d(6, track_running_stats=False)).eval()
    with torch.no_grad():
        found = sparsify(of_each_batch, randn(3, 6), everywhere=True)
        torch.testing.assert_close(found(randn(9, 6)), of_each_batch(randn(9, 6)), rtol=1e-4, atol=1e-4)
    for tokens in (6, 5):  # it norms these, not the units
        norm = settled(nn.BatchNorm1d(tokens))
        agrees(nn.Sequential(units, norm), randn(3, tokens, 6), ["SparseChain", "BatchNorm1d"])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_convolutions_that_the_kernels_do_not_know_stay() -> None:
    for layer in (
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(2, 3, 3, stride=(1, 2)),
        nn.Conv2d(2, 3, 2, padding="same"),  # one more zero at one end
    ):
        agrees(layer, randn(2, 2, 6, 6), ["Conv2d"])


def test_a_layer_by_itself_and_layers_in_layers_are_replaced() -> None:
    agrees(linear(), randn(4, 6), ["SparseChain"])
    agrees(nn.Conv2d(2, 3, 3), randn(4, 2, 6, 6), ["SparseConv2d"])
    agrees(nn.Sequential(nn.Sequential(linear(), nn.ReLU()), nn.Sequential(linear())), randn(4, 6), ["SparseChain"])
    quantised = quantize(linear())
    with torch.no_grad():
        torch.testing.assert_close(
            sparsify(quantised, randn(4, 6), everywhere=True)(randn(4, 6)), quantised(randn(4, 6))
        )


HOOKED = ["", "0", "0.0", "0.1", "0.2", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize("name", HOOKED)
@pytest.mark.parametrize("before", [True, False])
def test_hooks_stay_wherever_they_are(name: str, before: bool) -> None:
    block = nn.Sequential(thinned(nn.Conv2d(2, 3, 3), 0.5), settled(nn.BatchNorm2d(3)), nn.ReLU())
    units = thinned(nn.Linear(12, 6), 0.5), settled(nn.BatchNorm1d(6)), linear()
    model = nn.Sequential(block, nn.MaxPool2d(2), nn.Flatten(), *units)
    assert sorted(name for name, _ in model.named_modules()) == HOOKED
    module = model.get_submodule(name)
    if before:
        module.register_forward_pre_hook(lambda module, given: (given[0] * 2,))
    else:
        module.register_forward_hook(lambda module, given, output: output * 2)
    agrees(model, randn(3, 2, 6, 6))
    again = sparsify(model, randn(3, 2, 6, 6), everywhere=True)
    again.get_submodule(name)  # it is there, for its hooks to be removed


def tripled(m: Any, x: Tensor) -> Tensor:
    """Of which torch.fx by itself would make a product of its own where it is written in place."""
    x = x.neg()
    same = x
    x *= 3
    result: Tensor = m.one(x) + m.two(same)
    return result


def shaken(m: Any, x: Tensor) -> Tensor:
    """Whose random numbers torch.fx takes for constants."""
    result: Tensor = m.two(m.one(x * torch.rand(6)))
    return result


def counted(m: Any, x: Tensor) -> Tensor:
    """Whose input, state and random numbers are others at every call."""
    m.seen += len(x)
    x += m.seen
    result: Tensor = m.two(F.dropout(m.one(x), 0.5, training=True))
    return result


@pytest.mark.parametrize("values", [randn(4, 6), torch.zeros(4, 6)])  # of which nothing is seen
def test_where_a_graph_gives_something_else_layers_are_replaced_one_by_one(values: Tensor) -> None:
    model = Calls(shaken, one=linear(), two=linear())
    found = sparsify(model, values, everywhere=True)
    assert type(found) is Calls and type(found.one) is SparseChain
    with torch.no_grad(), torch.random.fork_rng():
        outputs = [each(randn(3, 6)) for each in (found, model) if torch.manual_seed(7)]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


def test_what_is_written_in_place_is_followed_in_a_graph() -> None:
    model = Calls(tripled, one=linear(), two=linear())
    found = sparsify(model, randn(4, 6), everywhere=True)
    assert isinstance(found, fx.GraphModule) and calls(found)[:2] == ["neg", "imul"]
    with torch.no_grad():
        torch.testing.assert_close(found(randn(3, 6)), model(randn(3, 6)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("other", [lambda x: x, lambda x: None, lambda x: x / 0, lambda x: x[0], lambda x: x.undefined])
def test_a_model_that_gives_something_else_in_either_way_is_refused(other: Callable[[Tensor], Tensor]) -> None:
    unlike = Calls(lambda m, x: other(x) if type(m.one) is SparseChain else m.one(x), one=linear())
    with pytest.raises(BadInput, match="Calls: expected a model that gives the same when its layers are other modules"):
        sparsify(undecided(unlike), randn(4, 6), everywhere=True)


def test_that_it_is_compared_leaves_the_model_its_inputs_and_random_numbers_as_they_were() -> None:
    model, values, before = Calls(counted, one=linear(), two=linear()).eval(), randn(4, 6), torch.get_rng_state()
    model.register_buffer("seen", torch.zeros(()))
    found = sparsify(model, values, everywhere=True)
    assert torch.equal(values, randn(4, 6)) and torch.equal(torch.get_rng_state(), before)
    assert model.seen == found.seen == 0


def test_a_layer_that_stays_dense_asks_for_no_gradient() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(108, 4))
    found = sparsify(model, randn(2, 2, 6, 6), everywhere=True)
    assert calls(found) == ["Conv2d", "SparseChain"]
    assert not found(randn(2, 2, 6, 6)).requires_grad  # and is no error
    assert all(value.requires_grad for value in model.parameters())


def test_under_autocast_it_says_so() -> None:
    found = sparsify(linear(), randn(4, 6), everywhere=True)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    with autocast, pytest.raises(BadInput, match=r"found torch\.bfloat16 on cpu, under torch\.autocast"):
        found(F.linear(randn(4, 6), randn(6, 6)))


def test_a_model_of_other_numbers_is_refused() -> None:
    with pytest.raises(BadInput, match=r"Linear: expected a model of float32 on the CPU, found torch\.float64 on cpu"):
        sparsify(linear().double(), randn(4, 6).double())
    mixed = nn.Sequential(linear(), Calls(lambda m, x: m.one(x.double()), one=linear().double()))
    with torch.no_grad():
        torch.testing.assert_close(sparsify(mixed, randn(4, 6), everywhere=True)(randn(4, 6)), mixed(randn(4, 6)))


def lasting(seconds: float) -> timing.Timing:
    """Each time as long."""
    return timing.Timing(seconds, (seconds, seconds), (seconds,))


@pytest.mark.parametrize(("seconds", "wanted"), [
    ({"sparse": 1.0, "dense": 2.0, "channels last": 3.0}, ["SparseConv2d", "MaxPool2d", "SparseChain"]),
    ({"sparse": 2.0, "dense": 1.0, "channels last": 3.0}, ["Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear"]),
    ({"sparse": 2.0, "dense": 3.0, "channels last": 1.0}, ["Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear"]),
])  # fmt: skip
def test_a_layer_stays_dense_where_that_is_faster_in_either_layout(
    seconds: dict[str, float], wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2)).eval()
    values = randn(5, 2, 6, 6)
    compared = []

    def measured(calls: dict[str, Callable[[], Tensor]]) -> dict[str, timing.Timing]:
        outputs = [call() for call in calls.values()]
        compared.append(list(calls))
        for output in outputs:  # what is timed is the same
            assert len(output) == 5
            torch.testing.assert_close(output.contiguous(), outputs[0])
        return {name: lasting(seconds[name]) for name in calls}

    monkeypatch.setattr(timing, "timed", measured)
    found = sparsify(model, values)
    assert calls(found) == wanted
    assert compared == 3 * [["sparse", "dense", "channels last"]]  # all are given maps
    with torch.no_grad():
        torch.testing.assert_close(found(values), model(values), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rounds", "kind"), [((0.5, 0.5, 0.5, 9.0), SparseChain), ((0.5, 0.5, 9.0, 9.0), nn.Linear)])
def test_a_layer_stays_dense_where_rounds_disagree(
    rounds: tuple[float, ...], kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {"sparse": timing.Timing(0.5, (0.5, 9.0), rounds), "dense": timing.Timing(1.0, (1.0, 1.0), (1.0,) * 4)}
    monkeypatch.setattr(timing, "timed", lambda calls: taken)
    found = sparsify(nn.Sequential(linear()), randn(9, 6))
    assert any(isinstance(module, kind) for module in found.modules())


def test_without_kernels_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "sets", lambda: ())
    with pytest.raises(BadInput, match=r"cash\.sparsify: expected compiled kernels, found none: .*C compiler"):
        sparsify(linear(), randn(1, 6))


# ---------------------------------------------------------------- models without a graph


def undecided(model: nn.Module) -> nn.Module:
    """The same model, which torch.fx cannot follow."""
    return Calls(lambda m, x: m.model(x) if x.isfinite().all() else x, model=model)


def found_in(model: nn.Module, values: Tensor | tuple[Tensor, ...]) -> dict[str, str]:
    """Its layers by name after those that can be are sparse; the outputs stay, and the model itself."""
    inputs = values if isinstance(values, tuple) else (values,)
    model.eval()
    text = str(model)
    found = sparsify(model, values, everywhere=True)
    assert str(model) == text and type(found) is type(model) and not found.training
    with torch.no_grad():
        torch.testing.assert_close(found(*inputs), model(*inputs), rtol=1e-4, atol=1e-4)
    kinds = (nn.Linear, nn.Conv2d, SparseChain, SparseConv2d)
    return {name: type(module).__name__ for name, module in found.named_modules() if isinstance(module, kinds)}


def test_a_model_that_cannot_be_followed_has_its_layers_replaced_one_by_one() -> None:
    model = ticket("conv-2-w8", (3, 12, 12))
    assert set(found_in(undecided(model), randn(3, 3, 12, 12)).values()) == {"SparseConv2d", "SparseChain"}
    assert set(found_in(undecided(quantize(model)), randn(3, 3, 12, 12)).values()) == {"SparseConv2d", "SparseChain"}
    lists = nn.ModuleList([nn.Sequential(linear()), nn.ModuleDict({"one": linear()})])
    branching = Calls(lambda m, x: m.layers[1]["one"](m.layers[0](x)) if x.sum() > -99 else x, layers=lists)
    assert set(found_in(branching, randn(4, 6)).values()) == {"SparseChain"}


def test_what_is_more_than_called_stays_dense_in_a_model_without_a_graph() -> None:
    parts = {name: linear() for name in ("read", "named", "tied", "other", "hooked", "idle", "called")}
    parts["other"].weight = parts["tied"].weight
    parts["hooked"].register_forward_hook(lambda module, given, output: 2 * output)

    def function(m: Any, x: Tensor) -> Any:
        x = m.called(m.hooked(m.other(m.tied(m.named(input=m.precise(x.double()).float())))))
        result: Tensor = m.read(x.to(m.read.weight.dtype)) if x.isfinite().all() else m.idle(x)
        return result

    model = Calls(function, **parts, precise=linear().double())
    replaced = [name for name, kind in found_in(model, randn(4, 6)).items() if "Sparse" in kind]
    assert replaced == ["called"]
    encoder = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)
    assert set(found_in(undecided(nn.Sequential(encoder)), randn(2, 3, 6)).values()).isdisjoint({"SparseChain"})


def test_without_a_graph_too_a_layer_stays_dense_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    wider = thinned(nn.Linear(6, 7), 0.5)  # 5 x 6 is called last; the largest that it gets is timed
    model = undecided(Calls(lambda m, x: m.two(m.one(x))[:1] + m.two(x[:5])[:1], one=linear(), two=wider)).eval()
    timed = []

    def measured(calls: dict[str, Callable[[], Tensor]]) -> dict[str, timing.Timing]:
        outputs = [call() for call in calls.values()]
        timed.append(outputs[0].shape)
        torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)
        return {"sparse": lasting(1.0), "dense": lasting(2.0 if outputs[0].shape[1] == 7 else 0.5)}

    monkeypatch.setattr(timing, "timed", measured)
    found = sparsify(model, randn(9, 6))
    assert isinstance(found.get_submodule("model.one"), nn.Linear)
    assert isinstance(found.get_submodule("model.two"), SparseChain)
    assert timed == [(9, 6), (9, 7)]


def test_a_bert_of_transformers_keeps_its_class_and_what_it_gives() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=8,
    )  # fmt: skip
    model = transformers.BertForMaskedLM(config).eval()  # its decoder is its embedding
    for name in prunable.prunable(model):
        weight = model.get_parameter(name)
        weight.data *= torch.rand(weight.shape, generator=generator()) < 0.2
    words = torch.randint(1, 20, (4, 8), generator=generator())
    seen = (torch.rand(4, 8, generator=generator()) < 0.8).long()
    found = sparsify(model, (words, seen), everywhere=True)
    assert type(found) is type(model) and isinstance(found.get_submodule("cls.predictions.decoder"), nn.Linear)
    layers = [
        module
        for module in found.get_submodule("bert.encoder").modules()
        if isinstance(module, nn.Linear | SparseChain)
    ]
    assert len(layers) == 12 and all(isinstance(layer, SparseChain) for layer in layers)
    with torch.no_grad():
        wanted, given = model(words, seen).logits, found(words, attention_mask=seen).logits
    torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4)


def test_random_numbers_are_left_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    sparsify(ticket("lenet-30-20", (1, 8, 8)), randn(2, 1, 8, 8), everywhere=True)(randn(2, 1, 8, 8))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]


@pytest.mark.parametrize("size", [2, 3, (2, 3), (1, 2)])
@given(data=st.data())
def test_a_pooling_gives_what_torchs_gives(size: int | tuple[int, int], data: st.DataObject) -> None:
    height, width = data.draw(st.integers(3, 9)), data.draw(st.integers(3, 9))
    maps = torch.randn(data.draw(st.integers(1, 3)), 2, height, width)
    maps[0, 0, 0, 0], maps[0, 1, 0, 0] = torch.nan, -torch.inf
    layer = nn.MaxPool2d(size)
    assert torch.equal(layer(maps).nan_to_num(9), MaxPool2d(layer)(maps).nan_to_num(9))


def test_a_map_smaller_than_the_window_of_a_pooling_is_refused() -> None:
    for height, width in ((1, 9), (9, 2)):
        with pytest.raises(
            BadInput, match=rf"MaxPool2d.*expected maps as large as the window, found {height} x {width}"
        ):
            MaxPool2d(nn.MaxPool2d((2, 3)))(randn(1, 1, height, width))


def test_poolings_whose_windows_overlap_or_are_padded_stay() -> None:
    poolings = [
        nn.MaxPool2d(3, 2),
        nn.MaxPool2d(1),  # which copies: what follows may write into it
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, ceil_mode=True),
    ]
    for pooling in poolings:
        found = sparsify(nn.Sequential(nn.Conv2d(1, 1, 3), pooling), torch.zeros(1, 1, 9, 9), everywhere=True)
        assert not any(isinstance(module, MaxPool2d) for module in found.modules()), pooling
    found = sparsify(nn.Sequential(nn.Conv2d(1, 1, 3), nn.MaxPool2d(2)), torch.zeros(1, 1, 9, 9), everywhere=True)
    assert any(isinstance(module, MaxPool2d) for module in found.modules())


@given(data=st.data())
def test_several_threads_give_what_one_gives(data: st.DataObject) -> None:
    before, examples = torch.get_num_threads(), data.draw(st.integers(1, 700))
    chain, convolution = SparseChain([nn.Linear(200, 100)], [True]), SparseConv2d(nn.Conv2d(8, 64, 3, padding=1))
    values, maps = randn(examples, 200), randn(data.draw(st.integers(1, 40)), 8, 16, 16)
    with torch.inference_mode():
        try:
            torch.set_num_threads(1)
            alone = chain(values), convolution(maps)
            torch.set_num_threads(data.draw(st.integers(2, 4)))
            shared = chain(values), convolution(maps)
        finally:
            torch.set_num_threads(before)
    assert torch.equal(shared[0], alone[0]) and torch.equal(shared[1], alone[1])


@pytest.mark.parametrize("fork", [False, True], ids=["one graph", "one by one"])
def test_a_subclass_that_adds_nothing_is_sparse_and_one_with_a_forward_of_its_own_is_not(
    fork: bool, named: type[nn.Linear], scaled: type[nn.Linear]
) -> None:
    class Model(nn.Sequential):
        def forward(self, values: Tensor) -> Tensor:
            for layer in self:
                values = layer(values)
            return -values if fork and values.sum() > 1e9 else values

    model = Model(named(6, 5), nn.ReLU(), scaled(5, 4), nn.ReLU(), named(4, 3))
    found = sparsify(model, randn(3, 6), everywhere=True)
    kinds = [type(module).__name__ for module in found.modules()]
    assert kinds.count("SparseChain") == 2 and "Named" not in kinds
    torch.testing.assert_close(found(randn(7, 6)), model(randn(7, 6)).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kwargs", [
    {}, {"stride": 2}, {"padding": 2}, {"padding": "same"}, {"dilation": 3, "padding": 3}, {"groups": 2},
    {"bias": False},
])  # fmt: skip
@pytest.mark.parametrize("length", [5, 40, 300])
def test_a_convolution_over_lines_gives_what_its_layer_gives(kwargs: dict[str, Any], length: int) -> None:
    layer = thinned(nn.Conv1d(4, 6, 3, **({"padding": 1} | kwargs)), 0.3)
    lines = randn(2, 4, max(length, 7))
    for one in (layer, quantize(nn.Sequential(layer)).get_submodule("0")):
        found = SparseConv1d(one)  # type: ignore[arg-type]
        torch.testing.assert_close(found(lines), one(lines).detach(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found(lines[0]), one(lines[0]).detach(), rtol=1e-4, atol=1e-4)


def test_models_of_convolutions_over_lines_agree_with_their_sparse_form() -> None:
    layer, last = thinned(nn.Conv1d(4, 6, 3), 0.3), nn.Linear(6 * 18, 3)
    model = settled(nn.Sequential(layer, nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), last))
    found = sparsify(model, randn(3, 4, 20), everywhere=True)
    assert calls(found) == ["SparseConv1d", "SparseChain"]
    torch.testing.assert_close(found(randn(5, 4, 20)), model(randn(5, 4, 20)).detach(), rtol=1e-4, atol=1e-4)
    with pytest.raises(BadInput, match="expected N x 4 x L, found 2 x 5 x 20"):
        SparseConv1d(nn.Conv1d(4, 6, 3))(randn(2, 5, 20))


# ---------------------------------------------------------------- transposed convolutions, recurrent layers


@pytest.mark.parametrize("kind", [nn.ConvTranspose1d, nn.ConvTranspose2d])
@pytest.mark.parametrize("kwargs", [
    {}, {"stride": 2}, {"stride": 2, "padding": 1, "output_padding": 1}, {"stride": 3, "padding": 2, "dilation": 2},
    {"dilation": 3, "padding": 2}, {"groups": 2, "stride": 2}, {"bias": False, "stride": 2, "kernel_size": 2},
    {"kernel_size": 1, "stride": 3},
])  # fmt: skip
def test_a_transposed_convolution_gives_what_its_layer_gives(kind: Any, kwargs: dict[str, Any]) -> None:
    layer = thinned(kind(4, 6, **({"kernel_size": 4} | kwargs)), 0.4)
    inputs = randn(3, 4, 7) if kind is nn.ConvTranspose1d else randn(3, 4, 7, 5)
    found = SparseConvTranspose(layer)
    torch.testing.assert_close(found(inputs), layer(inputs).detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found(inputs[0]), layer(inputs[0]).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("kwargs", [
    {}, {"batch_first": True}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "bidirectional": True},
])  # fmt: skip
def test_a_recurrent_layer_gives_what_its_layer_gives(kind: Any, kwargs: dict[str, Any]) -> None:
    layer = kind(5, 7, **kwargs)
    with torch.no_grad():
        for weight in layer.parameters():
            weight[torch.rand(weight.shape) > 0.4] = 0
    inputs, found = randn(4, 6, 5), SparseRecurrent(layer)
    first = randn(len(found.states), 4 if layer.batch_first else 6, 7)
    before = (first, first + 1) if kind is nn.LSTM else first
    with torch.no_grad():
        given: tuple[Any, ...]
        for given in ((inputs,), (inputs, before), (inputs[0],)):
            torch.testing.assert_close(found(*given), layer(*given), rtol=1e-4, atol=1e-4)


class Tagged(nn.Module):
    """Layers of all kinds, by torch.fx or without it."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.table, self.up, self.last = nn.Embedding(20, 6), nn.ConvTranspose1d(6, 5, 2, 2), nn.Linear(7, 3)
        self.norm, self.lstm, self.by_hand = nn.ReLU(), nn.LSTM(5, 7, batch_first=True), by_hand

    def forward(self, tokens: Tensor) -> Tensor:
        if self.by_hand:
            len(tokens)
        longer = self.norm(self.up(self.table(tokens).transpose(1, 2))).transpose(1, 2)
        scores: Tensor = self.last(self.lstm(longer)[0])
        return scores


@pytest.mark.parametrize("by_hand", [False, True])
def test_models_of_all_kinds_of_layers_agree_with_their_sparse_form(by_hand: bool) -> None:
    model, tokens = Tagged(by_hand).eval(), torch.randint(20, (4, 6))
    found = sparsify(model, tokens, everywhere=True)
    kinds = {type(module) for module in found.modules()}
    assert {SparseConvTranspose, SparseRecurrent, SparseChain} <= kinds
    torch.testing.assert_close(found(tokens), model(tokens).detach(), rtol=1e-4, atol=1e-4)
    assert dense_layers(model, found) == {}
