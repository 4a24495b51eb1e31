"""2 of 4: what fits, what torch is asked to convert, and what is said where it cannot be. There is no GPU here."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tombola import mask, models, prunable, score, weights
from tombola.cash import comparison, timing
from tombola.cash.semi_structured import fits, held_bytes, semi_structured, semi_structured_layers
from tombola.errors import BadInput
from tombola.mask import Mask
from tombola.n_of_m import n_of_m

Model = TypeVar("Model", bound=nn.Module)

SECOND = timing.Timing(1.0, (1.0, 1.0), (1.0,))


@given(n=st.integers(0, 4), groups=st.integers(1, 3), window=st.sampled_from([(), (3, 3)]), seed=st.integers(0, 99))
def test_what_n_of_m_leaves_fits_and_one_more_does_not(n: int, groups: int, window: tuple[int, ...], seed: int) -> None:
    values = torch.rand(3, 4 * groups, *window, generator=torch.Generator().manual_seed(seed)) + 0.1
    kept = n_of_m({"w": values}, Mask({"w": values > 0}), n, 4)["w"]
    assert fits(values * kept, n, 4) and (n == 0 or not fits(values * kept, n - 1, 4))
    if n < 4:
        flags = kept[2].view(4 * groups, -1)
        flags[(~flags[:, 0]).nonzero()[0], 0] = True
        assert not fits(values * kept, n, 4)


def test_groups_are_whole_and_along_the_inputs() -> None:
    assert not fits(torch.zeros(4, 6)) and not fits(torch.zeros(4))
    assert fits(torch.tensor([[0.0, 0, 1, 1, 1, 1, 0, 0]])), "four in a row, of two groups"
    assert not fits(torch.tensor([[1.0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    assert fits(torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]))


def test_without_a_gpu_of_that_kind_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    expected = r"semi_structured: expected a model on a CUDA device of capability 8\.0 or higher, found "
    with pytest.raises(BadInput, match=expected + r"no CUDA device\. On a CPU `cash\.sparsify`"):
        semi_structured(nn.Linear(4, 4))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(BadInput, match=expected + r"a model on cpu\. Move it: model\.cuda\(\)\."):
        semi_structured(nn.Linear(4, 4))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(nn.Module, "parameters", lambda self: iter([torch.zeros(1, device="meta")]))
    with pytest.raises(BadInput, match=expected + "a model on meta"):
        semi_structured(nn.Linear(4, 4))


def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """As if the CPU were one; the shapes of what torch is asked to convert, which refuses less than 32 x 64."""
    asked = []

    def converted(weight: Tensor) -> Tensor:
        assert weight.is_contiguous() and not weight.requires_grad
        if weight.shape[0] % 32 or weight.shape[1] % 64:
            raise RuntimeError(f"Error original_tensor.shape {weight.shape} is not supported!")
        asked.append(tuple(weight.shape))
        return weight.to_sparse()

    monkeypatch.setattr("tombola.cash.semi_structured._device", lambda model: None)
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", converted)
    return asked


def two_of_four(model: Model) -> Model:
    start = weights.of(model)
    full = prunable.full(model)
    living = n_of_m(score.magnitude(score.Scored.of(model, full)), full, 2, 4)
    weights.put(model, mask.apply(start, living))
    return model


def test_what_fits_is_converted_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = on_a_gpu(monkeypatch)
    model = two_of_four(nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32), nn.Linear(32, 10)))
    model.append(nn.Linear(64, 32))  # dense
    tied = nn.Linear(64, 32)
    tied.weight = two_of_four(nn.Linear(64, 32)).weight
    model.append(tied).append(nn.ModuleList([tied]))
    before = weights.of(model)
    small = semi_structured(model)
    assert asked == [(64, 128), (32, 64)]
    assert weights.equal(weights.of(model), before) and model.training and not small.training
    for name, layer in small.named_children():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor):
            assert weight.is_sparse == (name in ("0", "2")) and weight.requires_grad != weight.is_sparse
            assert torch.equal(weight.to_dense(), before[f"{name}.weight"])


def test_a_model_of_which_nothing_can_be_converted_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_gpu(monkeypatch)
    expected = "semi_structured: expected a linear layer of 2 in 4 weights, .*, found none; "
    with pytest.raises(BadInput, match=expected + "0: more than 2 of 4 weights are not 0. `n_of_m.n_of_m`"):
        semi_structured(nn.Sequential(nn.Linear(64, 32)))
    with pytest.raises(BadInput, match=expected + r"0: Error original_tensor\.shape .* is not supported"):
        semi_structured(two_of_four(nn.Sequential(nn.Linear(8, 4))))
    with pytest.raises(BadInput, match=expected + "ReLU: it has no linear layers"):
        semi_structured(nn.ReLU())


def test_torch_has_what_is_called_and_refuses_a_cpu() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the interface is a prototype
        with pytest.raises(RuntimeError, match=r"[Oo]nly CUDA tensors|not supported|CUDA"):
            torch.sparse.to_sparse_semi_structured(two_of_four(nn.Linear(128, 128)).half().weight.detach())


# ---------------------------------------------------------------- torch's own code, but for the product of two matrices


@pytest.fixture(params=["cuSPARSELt", "CUTLASS"])
def multiplying(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the CPU multiplied 2 in 4 weights: torch packs them, keeps places and pads batches as it does on GPUs.

    By either of the libraries that it has for this; it takes the first one.
    """
    from torch.sparse import SparseSemiStructuredTensor, _semi_structured_conversions

    packed, dense = (
        getattr(_semi_structured_conversions, f"sparse_semi_structured_{name}_dense_cutlass") for name in ("from", "to")
    )
    types: Any = getattr(torch.sparse, f"SparseSemiStructuredTensor{request.param.upper()}")
    sizes = types._DTYPE_SHAPE_CONSTRAINTS

    def taken(weight: Tensor) -> None:
        """What torch asks of a weight, but that it be on a GPU."""
        least = sizes.get(weight.dtype)
        if least is None or weight.dim() != 2 or not weight.is_contiguous():
            raise RuntimeError(f"Error original_tensor {weight.dtype} {weight.shape} is not supported!")
        if weight.shape[0] % least.sparse_min_rows or weight.shape[1] % least.sparse_min_cols:
            raise RuntimeError(f"Error original_tensor.shape {weight.shape} is not supported!")

    def product(values: Tensor, places: Tensor, given: Tensor, **_: object) -> Tensor:
        return plus(torch.zeros(1, dtype=given.dtype), values, places, given)

    def plus(bias: Tensor, values: Tensor, places: Tensor, given: Tensor, **_: object) -> Tensor:
        assert given.shape[1] % sizes[given.dtype].dense_min_cols == 0, "a GPU takes whole tiles alone"
        weight: Tensor = dense(values, places)
        return (weight.float() @ given.float() + bias.float()[:, None]).to(given.dtype)

    def in_one(weight: Tensor) -> Tensor:
        values, places = packed(weight)
        return torch.cat([values.flatten(), places.view(weight.dtype).flatten()])

    def of_one(
        held: Tensor,
        given: Tensor,
        bias: Tensor | None = None,
        alpha: Tensor | None = None,
        out_dtype: torch.dtype | None = None,
        transpose_result: bool = False,
        *_: object,
    ) -> Tensor:
        rows = held.numel() * 16 // (9 * len(given))  # half of the numbers, and 2 bits for the place of each
        values, places = held.split([rows * len(given) // 2, rows * len(given) // 16])
        bias = torch.zeros(1, dtype=given.dtype) if bias is None else bias
        found = plus(bias, values.view(rows, -1), places.view(torch.int16).view(rows, -1), given)
        return found.t().contiguous() if transpose_result else found

    monkeypatch.setattr(SparseSemiStructuredTensor, "_FORCE_CUTLASS", request.param == "CUTLASS")
    monkeypatch.setattr(types, "_validate_device_dim_dtype_shape", taken)
    monkeypatch.setattr("tombola.cash.semi_structured._device", lambda model: None)
    library = torch.library.Library("aten", "IMPL")
    library.impl("_sparse_semi_structured_mm", product, "CPU")
    library.impl("_sparse_semi_structured_addmm", plus, "CPU")
    library.impl("_cslt_compress", in_one, "CPU")
    library.impl("_cslt_sparse_mm", of_one, "CPU")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of SparseSemiStructuredTensor is in prototype stage")
        yield
    library._destroy()


@pytest.mark.usefixtures("multiplying")
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_what_is_converted_computes_the_same_on_half_of_the_numbers(kind: torch.dtype, batch: int) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 10)]
    model = two_of_four(nn.Sequential(*layers)).to(kind).eval()
    for parameter in model.parameters():
        parameter.data = (parameter.data * 8).round()  # small whole numbers: sums are exact in any order
    small, inputs = semi_structured(model), torch.randint(-1, 2, (batch, 5, 128)).to(kind)
    assert semi_structured_layers(small) == {"0", "2"} and not semi_structured_layers(model)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert torch.equal(small(inputs), model(inputs)) and torch.equal(small(inputs[0]), model(inputs[0]))
    for name in ("0", "2"):
        converted, weight = small.get_submodule(name).weight, model.get_submodule(name).weight
        assert isinstance(converted, Tensor) and isinstance(weight, Tensor)
        packed: Tensor = getattr(converted, "packed")  # noqa: B009
        living = packed.flatten()[: weight.numel() // 2]
        assert living.abs().sum() == weight.abs().sum()
        # 2 bits for each of half of the numbers, which have 16.
        assert held_bytes(converted) == weight.nbytes // 2 + weight.nbytes // 16
        assert held_bytes(weight) == weight.nbytes


class Turned(nn.Module):
    """A layer over positions, as in mixers: what it reads lies across memory."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(64, 32)

    def forward(self, values: Tensor) -> Tensor:
        return self.mix(values.transpose(1, 2))  # type: ignore[no-any-return]


@pytest.mark.usefixtures("multiplying")
def test_what_lies_across_memory_is_taken_too() -> None:
    model = two_of_four(Turned()).half().eval()
    small, values = semi_structured(model), torch.randn(3, 64, 5).half()
    with torch.inference_mode():
        torch.testing.assert_close(small(values), model(values), rtol=0, atol=0.01)


@pytest.mark.usefixtures("multiplying")
def test_a_gpt_of_two_in_four_says_the_same() -> None:
    model = two_of_four(models.build("gpt-2-64", (16, 65), 65, "normal-0.02", init_seed=0)).bfloat16().eval()
    small, tokens = semi_structured(model), torch.arange(3 * 16).view(3, 16) % 65
    assert len(semi_structured_layers(small)) > 8
    with torch.inference_mode():
        torch.testing.assert_close(small(tokens), model(tokens), rtol=0, atol=0.02)


@pytest.mark.usefixtures("multiplying")
def test_it_is_proved_beside_the_dense_model_of_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: neither kernels of the CPU nor ONNX Runtime, and what is owed to float16 is told apart."""
    awaited: list[object] = []

    def timed(calls: Mapping[str, Callable[[], object]]) -> dict[str, timing.Timing]:
        for call in calls.values():
            call()
        return dict.fromkeys(calls, SECOND)

    monkeypatch.setattr(timing, "timed", timed)
    monkeypatch.setattr(torch.accelerator, "synchronize", awaited.append)
    monkeypatch.setattr(comparison, "CPU", "not this one")
    torch.manual_seed(0)
    last = nn.Linear(64, 10)
    model = two_of_four(nn.Sequential(nn.Linear(128, 64), nn.ReLU(), last))
    with torch.no_grad():
        last.weight[:, 5] = 0  # a unit that nobody reads
    before, alive = weights.of(model), prunable.full(model)
    forms = {form.name: form for form in comparison.prove(model, alive, torch.randn(70, 128), torch.zeros(70).long())}
    assert list(forms) == ["dense", "dense, float16", "2:4, float16", "compact", "compact int8"]
    assert [form.baseline for form in forms.values()] == [True, True, False, False, False]
    assert awaited == [torch.device("cpu")] * (2 * len(forms)), "a call is over when its outputs are there"
    dense, half, small = forms["dense"], forms["dense, float16"], forms["2:4, float16"]
    assert dense.difference == 0 and 0 < half.difference < 0.02 and 0 < small.difference < 0.02
    assert dense.multiply_adds == 128 * 64 + 64 * 10 == half.multiply_adds
    assert small.multiply_adds == 128 * 64 // 2 + 64 * 10
    assert 2 * half.memory_bytes == dense.memory_bytes
    assert half.memory_bytes - small.memory_bytes == 128 * 64 * 2 // 2 - 128 * 64 * 2 // 16
    assert small.disk_bytes < small.plain_bytes == half.disk_bytes
    assert weights.equal(weights.of(model), before)
    assert copy.deepcopy(small.stored) is not None and small.model is not None


@pytest.mark.usefixtures("multiplying")
def test_it_is_left_out_where_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "timed", lambda calls: dict.fromkeys(calls, SECOND))
    monkeypatch.setattr(comparison, "CPU", "not this one")
    model = nn.Sequential(nn.Linear(128, 64))
    found = comparison.prove(model, prunable.full(model), torch.randn(64, 128))
    assert [form.name for form in found] == ["dense", "int8"]
    assert "none; 0: more than 2 of 4 weights are not 0" in found.left_out["2:4, float16"]
    assert found.left_out["sparse"] == "It is measured on CPUs, and the model is on cpu."
