"""Sparse layers against torch's dense ones in float64: outputs and all gradients, for every kind of window."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from tombola.errors import BadInput
from tombola.sparse import kernels
from tombola.sparse.compute import whole
from tombola.sparse.functional import conv2d, linear
from tombola.sparse.pattern import KEPT, Pattern

# batch, inputs, outputs, map, window, and the rest as Conv2d has it
CONVOLUTIONS: dict[str, tuple[int, int, int, tuple[int, int], tuple[int, int], dict[str, Any]]] = {
    "the usual one": (32, 8, 12, (8, 8), (3, 3), {"padding": 1}),
    "an odd batch": (19, 5, 7, (9, 11), (3, 3), {"padding": 1}),
    "one example": (1, 3, 4, (6, 6), (3, 3), {"padding": 1}),
    "1x1": (33, 12, 6, (7, 5), (1, 1), {}),
    "1x1, stride 2": (16, 8, 16, (8, 8), (1, 1), {"stride": 2}),
    "stride 2": (18, 6, 10, (9, 8), (3, 3), {"stride": 2, "padding": 1}),
    "stride 3 down, 2 across": (17, 4, 5, (13, 12), (5, 4), {"stride": (3, 2), "padding": (2, 0)}),
    "a stride beyond the window": (16, 4, 4, (10, 10), (2, 2), {"stride": 3}),
    "dilation": (20, 4, 6, (12, 10), (3, 3), {"dilation": (2, 3), "padding": (2, 3)}),
    "dilation and stride": (16, 4, 6, (12, 11), (3, 2), {"dilation": (3, 2), "stride": 2, "padding": 2}),
    "groups": (16, 8, 12, (6, 6), (3, 3), {"groups": 4, "padding": 1}),
    "depthwise": (16, 6, 6, (6, 6), (3, 3), {"groups": 6, "padding": 1}),
    "no padding": (16, 4, 4, (7, 7), (3, 3), {}),
    "same": (16, 4, 4, (6, 7), (4, 2), {"padding": "same"}),
    "the window is the map": (16, 3, 9, (5, 4), (5, 4), {}),
    "a small map, many examples": (130, 16, 16, (2, 2), (3, 3), {"padding": 1}),
    "a wide map": (3, 2, 3, (2, 45), (3, 5), {"padding": (1, 2)}),
}
DENSITIES = (0.0, 0.05, 0.3, 1.0)


def mask_of(shape: tuple[int, ...], density: float, seed: int = 0) -> Tensor:
    """A random mask with an empty row and an empty column where it is not full."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density
    if density < 1:
        mask[0] = mask[:, 0] = False
    return mask


def random(*shape: int) -> Tensor:
    """Numbers of float64 that ask for a gradient."""
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def assert_same(ours: Tensor, theirs: Tensor, leaves: list[Tensor], mask: Tensor) -> None:
    """Outputs and gradients are the same to 1e-9, the second of `leaves` being the weight."""
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    slope = torch.randn_like(theirs)
    got, wanted = torch.autograd.grad(ours, leaves, slope), list(torch.autograd.grad(theirs, leaves, slope))
    wanted[1] = wanted[1] * mask
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert not got[1][~mask].any()


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_sparse_convolution_is_the_dense_one_of_its_masked_weights(name: str, density: float) -> None:
    batch, inputs, outputs, size, window, kwargs = CONVOLUTIONS[name]
    torch.manual_seed(1)
    x, bias = random(batch, inputs, *size), random(outputs)
    weight = random(outputs, inputs // kwargs.get("groups", 1), *window)
    mask = mask_of(tuple(weight.shape), density)
    theirs = nn.functional.conv2d(x, weight * mask, bias, **kwargs)
    assert_same(conv2d(x, weight, bias, Pattern.of(mask, **kwargs)), theirs, [x, weight, bias], mask)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("shape", [(1,), (7, 5), (300,), (2, 3, 4), ()])
def test_a_sparse_layer_is_the_dense_one_of_its_masked_weights(shape: tuple[int, ...], density: float) -> None:
    torch.manual_seed(1)
    x, weight, bias = random(*shape, 37), random(21, 37), random(21)
    mask = mask_of((21, 37), density)
    theirs = nn.functional.linear(x, weight * mask, bias)
    assert_same(linear(x, weight, bias, Pattern.of(mask)), theirs, [x, weight, bias], mask)


def test_a_mask_of_another_kind_of_layer_is_refused() -> None:
    with pytest.raises(BadInput, match="Leave this layer dense"):
        Pattern.of(torch.ones(2, 3, 4))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """The shapes of maps and of a weight, and the rest as Conv2d has it."""

    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    window, stride, padding, dilation = pair(1, 4), pair(1, 3), pair(0, 4), pair(1, 3)
    reach = [gap * (size - 1) + 1 - 2 * more for size, gap, more in zip(window, dilation, padding, strict=True)]
    rows, columns = (max(1, least) + draw(st.integers(0, 18)) for least in reach)
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs, batch = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 40))
    kwargs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return (batch, inputs * groups, rows, columns), (outputs * groups, inputs, *window), kwargs


@given(shapes=convolutions(), density=st.sampled_from([0.0, 0.1, 0.5, 1.0]), seed=st.integers(0, 2**20))
def test_any_convolution_is_the_dense_one(shapes: tuple[Any, Any, Any], density: float, seed: int) -> None:
    maps, windows, kwargs = shapes
    torch.manual_seed(seed)
    x, weight, bias = random(*maps), random(*windows), random(windows[0])
    mask = torch.rand(windows) < density
    theirs = nn.functional.conv2d(x, weight * mask, bias, **kwargs)
    assert_same(conv2d(x, weight, bias, Pattern.of(mask, **kwargs)), theirs, [x, weight, bias], mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["none", *kernels.sets()])
def test_every_instruction_set_computes_the_same(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "sets", lambda: () if name == "none" else (name,))
    torch.manual_seed(1)
    for batch, inputs, outputs, size, window, kwargs in CONVOLUTIONS.values():
        if kwargs.get("padding") == "same":
            continue
        mask = mask_of((outputs, inputs // kwargs.get("groups", 1), *window), 0.3)
        leaves = [random(batch, inputs, *size), random(*mask.shape), random(outputs)]
        theirs = nn.functional.conv2d(leaves[0], leaves[1] * mask, leaves[2], **kwargs)
        slope = torch.randn_like(theirs)
        wanted = torch.autograd.grad(theirs, leaves, slope)
        some = [leaf.detach().to(dtype).requires_grad_() for leaf in leaves]
        ours = conv2d(some[0], some[1], some[2], Pattern.of(mask, **kwargs))
        near = 1e-4 if dtype == torch.float32 else 1e-9
        torch.testing.assert_close(ours.double(), theirs, rtol=near, atol=near)
        for one, other in zip(torch.autograd.grad(ours, some, slope.to(dtype)), wanted, strict=True):
            other = other * mask if other.shape == mask.shape else other
            torch.testing.assert_close(one.double(), other, rtol=near, atol=10 * near)


def test_only_what_is_asked_for_is_computed() -> None:
    pattern, x, weight, bias = small()
    wanted = torch.autograd.grad(conv2d(x, weight, bias, pattern).sum(), [x, weight, bias])
    for number, leaf in enumerate((x, weight, bias)):
        given = [one.detach() for one in (x, weight, bias)]
        given[number] = leaf
        y = conv2d(given[0], given[1], given[2], pattern)
        torch.testing.assert_close(torch.autograd.grad(y.sum(), leaf)[0], wanted[number])
    assert conv2d(x.detach(), weight.detach(), None, pattern).grad_fn is None


def small() -> tuple[Pattern, Tensor, Tensor, Tensor]:
    """A pattern, x, weight and bias of a small convolution, in float32."""
    torch.manual_seed(1)
    weight, bias = torch.randn(6, 4, 3, 3, requires_grad=True), torch.randn(6, requires_grad=True)
    return Pattern.of(mask_of((6, 4, 3, 3), 0.3), padding=1), torch.randn(17, 4, 5, 6, requires_grad=True), weight, bias


def test_autocast_gives_what_the_dense_layer_gives() -> None:
    pattern, x, weight, bias = small()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = conv2d(x, weight, bias, pattern)
        theirs = nn.functional.conv2d(x, weight * pattern.mask, bias, padding=1)
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)
    ours.float().sum().backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32


def test_a_gradient_has_a_gradient() -> None:
    pattern, *leaves = small()
    x, weight, bias = (leaf.detach().double().requires_grad_() for leaf in leaves)
    assert torch.autograd.gradgradcheck(lambda x, w, b: conv2d(x, w, b, pattern), (x[:2], weight, bias))


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_memory_formats_of_maps_and_weights_change_nothing(form: torch.memory_format) -> None:
    pattern, x, weight, bias = small()
    wanted = conv2d(x, weight, bias, pattern)
    slope = torch.randn_like(wanted)
    theirs = torch.autograd.grad(wanted, [x, weight, bias], slope)
    other = [one.detach().contiguous(memory_format=form).requires_grad_() for one in (x, weight)]
    y = conv2d(other[0], other[1], bias, pattern)
    assert y.is_contiguous(memory_format=form)
    for mine, one in zip(torch.autograd.grad(y, [*other, bias], slope.mT.contiguous().mT), theirs, strict=True):
        torch.testing.assert_close(mine, one)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of torch's own, at the end of any graph
def test_checkpoints_and_compiled_graphs_go_through_it() -> None:
    pattern, x, weight, bias = small()
    plain = conv2d(x, weight, bias, pattern).relu()
    wanted = torch.autograd.grad(plain.sum(), weight)[0]
    compiled = torch.compile(lambda x: conv2d(x, weight, bias, pattern).relu(), backend="eager")
    for y in (checkpoint(lambda x: conv2d(x, weight, bias, pattern).relu(), x, use_reentrant=False), compiled(x)):
        assert torch.equal(torch.autograd.grad(y.sum(), weight)[0], wanted)


def test_what_is_transformed_or_exported_is_computed_densely() -> None:
    pattern, x, weight, bias = small()
    each = torch.func.vmap(lambda one: conv2d(one, weight, bias, pattern))(x)
    torch.testing.assert_close(each, conv2d(x, weight, bias, pattern))

    class Layer(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return conv2d(x, self.weight, self.bias, pattern)

    layer = Layer(4, 6, 3, padding=1)
    exported = torch.export.export(layer, (x.detach(),)).module()
    torch.testing.assert_close(exported(x.detach()), layer(x))


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_give_the_same_bytes_again(threads: int) -> None:
    pattern, x, weight, bias = small()
    x = x.detach().repeat(6, 1, 1, 1).requires_grad_()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = torch.autograd.grad(conv2d(x, weight, bias, pattern).square().sum(), [x, weight, bias])
        torch.set_num_threads(threads)
        first, again = (
            torch.autograd.grad(conv2d(x, weight, bias, pattern).square().sum(), [x, weight, bias]) for _ in range(2)
        )
    finally:
        torch.set_num_threads(before)
    for one, other, single in zip(first, again, alone, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, single, rtol=1e-4, atol=1e-4)


def test_a_pattern_is_copied_and_saved_without_what_was_made_of_it() -> None:
    pattern, x, weight, bias = small()
    wanted = conv2d(x, weight, bias, pattern)
    for copy in (deepcopy(pattern), pickle.loads(pickle.dumps(pattern))):
        assert not copy.layouts
        assert torch.equal(conv2d(x, weight, bias, copy), wanted)


# ---- what torch's own layers are given


def gradients(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: Pattern | None, **slope: Tensor) -> list[Tensor]:
    """Outputs of a linear layer and its gradients: torch's own without a pattern."""
    y = nn.functional.linear(x, weight, bias) if pattern is None else linear(x, weight, bias, pattern)
    leaves = [one for one in (x, weight, bias) if one is not None and one.requires_grad]
    found = torch.autograd.grad(y, leaves, slope.get("dy", y.detach()))
    masked = (
        one if pattern is not None or one.shape != weight.shape else one * (weight.detach() != 0) for one in found
    )
    return [y.detach(), *masked]


def matrix() -> tuple[Pattern, Tensor, Tensor, Tensor]:
    """A pattern, x, weight and bias of a linear layer in float64, pruned weights being 0."""
    torch.manual_seed(1)
    mask = torch.rand(8, 16) < 0.3
    weight = (torch.randn(8, 16).double() * mask).requires_grad_()
    return Pattern.of(mask), random(5, 16), weight, random(8)


def assert_as_dense(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: Pattern, **slope: Tensor) -> None:
    ours, theirs = (gradients(x, weight, bias, each, **slope) for each in (pattern, None))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def turned(tensor: Tensor) -> Tensor:
    return tensor.permute(*reversed(range(tensor.dim()))).contiguous()


def turned_back(tensor: Tensor) -> Tensor:
    return tensor.permute(*reversed(range(tensor.dim())))


def test_saved_tensors_may_come_back_laid_out_otherwise() -> None:
    pattern, x, weight, bias = matrix()
    with torch.autograd.graph.saved_tensors_hooks(turned, turned_back):
        assert_as_dense(x, weight, bias, pattern)
    windows, maps, kernel, shift = small()
    wanted = torch.autograd.grad(conv2d(maps, kernel, shift, windows).square().sum(), [maps, kernel, shift])
    for last in (False, True):
        given = kernel.detach().contiguous(memory_format=torch.channels_last) if last else kernel.detach()
        given.requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(turned, turned_back):
            y = conv2d(maps, given, shift, windows)
            found = torch.autograd.grad(y.square().sum(), [maps, given, shift])
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_bias_may_be_part_of_another_tensor_and_one_of_another_length_is_refused() -> None:
    pattern, x, weight, _ = matrix()
    assert_as_dense(x, weight, random(8, 2)[:, 0], pattern)
    with pytest.raises(RuntimeError):
        linear(x, weight, random(3), pattern)


def test_numbers_that_are_to_be_negated_are() -> None:
    pattern, x, weight, bias = matrix()
    negative = torch._neg_view(torch.randn(5, 16).double()).requires_grad_()
    assert_as_dense(negative, weight, bias, pattern)
    assert_as_dense(x, weight, torch._neg_view(torch.randn(8).double()).requires_grad_(), pattern)
    assert_as_dense(x, weight, bias, pattern, dy=torch._neg_view(torch.randn(5, 8).double()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_of_a_fork_do_not_compute_in_one_memory() -> None:
    torch.manual_seed(1)
    mask = torch.rand(256, 512) < 0.1
    weight, pattern = torch.randn(256, 512) * mask, Pattern.of(mask)
    linear(torch.randn(64, 512), weight, None, pattern)  # the memory is there before the fork

    def wrong(seed: int) -> int:
        torch.manual_seed(seed)
        some = (torch.randn(64, 512) for _ in range(100))
        return sum(not torch.allclose(linear(x, weight, None, pattern), x @ weight.T, atol=1e-3) for x in some)

    children = []
    for seed in range(2):
        child = os.fork()
        if not child:
            os._exit(min(wrong(seed), 100))
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]


def test_what_no_gradient_reads_may_change_before_it_is_asked_for() -> None:
    pattern, x, weight, bias = matrix()
    plain = x.detach()
    y, dense = linear(plain, weight, bias, pattern), nn.functional.linear(plain, weight, bias)
    with torch.no_grad():
        weight.mul_(0.9), bias.mul_(0.9)
    for one, other in zip(*(torch.autograd.grad(each.sum(), [weight, bias]) for each in (y, dense)), strict=True):
        torch.testing.assert_close(one, other * pattern.mask if other.dim() == 2 else other)
    y = linear(x, weight.detach(), bias, pattern)
    with torch.no_grad():
        x.mul_(2)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], weight.detach().sum(0).expand(5, 16))
    y = linear(x, weight, bias, pattern)
    with torch.no_grad():
        weight.mul_(0.9)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_gradients_of_what_is_not_saved_have_gradients() -> None:
    pattern, x, weight, bias = matrix()
    for some in ([x.detach(), weight, bias], [x, weight.detach(), bias], [x, weight, bias.detach()]):
        leaves = tuple(one for one in some if one.requires_grad)

        def layer(*_: Tensor, some: list[Tensor] = some) -> Tensor:
            return linear(some[0], some[1], some[2], pattern)

        assert torch.autograd.gradgradcheck(layer, leaves)


def test_many_gradients_at_once_are_those_of_torch() -> None:
    pattern, x, weight, bias = matrix()

    def layer(x: Tensor) -> Tensor:
        return linear(x, weight, bias, pattern)

    found, one_by_one = (torch.autograd.functional.jacobian(layer, x, vectorize=way) for way in (True, False))
    torch.testing.assert_close(found, one_by_one)


def test_a_counter_of_operations_sees_a_dense_layer() -> None:
    pattern, x, weight, bias = matrix()
    with FlopCounterMode(display=False) as counter:
        linear(x, weight, bias, pattern)
    assert counter.get_total_flops() == 2 * 5 * 8 * 16
    y = linear(x, weight, bias, pattern)
    wanted = torch.autograd.grad(y.sum(), [x, weight, bias], retain_graph=True)
    with FlopCounterMode(display=False):
        found = torch.autograd.grad(y.sum(), [x, weight, bias])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_a_pattern_keeps_what_it_made_for_the_last_sizes_of_maps_only() -> None:
    windows = torch.ones(2, 1, 3, 3)
    pattern = Pattern.of(windows, padding=1)
    for size in (*range(3, 20), 5):
        maps = torch.ones(2, 1, size, size)
        assert torch.allclose(conv2d(maps, windows, None, pattern), nn.functional.conv2d(maps, windows, padding=1))
        assert len(pattern.layouts) <= KEPT
    assert len({sizes[0] for sizes in pattern.layouts} & {5, 19, 18}) == (3 if kernels.sets() else 0)


def test_eight_sizes_of_maps_in_turn_are_laid_out_once_beside_what_the_guard_looks_with() -> None:
    pattern, made = Pattern.of(torch.ones(2, 1, 3, 3), padding=1), list[object]()
    for _ in range(3):
        for size in range(8):
            for key in (size, "alive"):
                pattern.kept(key, lambda key=key: made.append(key))  # type: ignore[misc]
    assert len(made) == 9


def test_threads_of_python_share_a_pattern() -> None:
    pattern, x, weight, bias = small()
    mine = [x.detach() + number for number in range(4)]
    wanted = [conv2d(one, weight, bias, pattern) for one in mine]

    def same(number: int) -> bool:
        return all(torch.equal(conv2d(mine[number], weight, bias, pattern), wanted[number]) for _ in range(50))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(same, range(4)))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("name", kernels.sets())
def test_whatever_is_alive_where_nothing_lives_is_seen(
    name: str, dtype: torch.dtype, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each place, whatever it is, as the weight lies."""
    known = kernels.sets()[: kernels.sets().index(name) + 1]
    monkeypatch.setattr(kernels, "sets", lambda: known)
    mask = mask_of((7, 5, 3, 3), 0.4)
    weight = torch.where(mask, torch.randn(mask.shape), -0.0).to(dtype)
    weight = weight.to(memory_format=torch.channels_last) if last else weight
    pattern = Pattern.of(mask)
    assert whole(weight, pattern) and whole(torch.zeros_like(weight), pattern)
    assert not whole(weight[:6], pattern)
    for number, place in enumerate((~mask).nonzero().tolist()):
        stray = (float("nan"), float("-inf"), 1.0, -6e-8)[number % 4]
        weight[tuple(place)] = stray
        assert not whole(weight, pattern), (place, stray)
        weight[tuple(place)] = 0.0
    turned = torch.zeros(3, 3, 5, 7, dtype=dtype).permute(3, 2, 0, 1)
    assert whole(turned, pattern) and not whole(turned + 1, pattern)
