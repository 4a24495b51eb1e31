"""2 of 4: what fits, what torch is asked to convert, and what is said where it cannot be. There is no GPU here."""

import warnings
from typing import TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tombola import mask, prune, score, weights
from tombola.cash.semi_structured import fits, semi_structured
from tombola.errors import BadInput
from tombola.mask import Mask

Model = TypeVar("Model", bound=nn.Module)


@given(n=st.integers(0, 4), groups=st.integers(1, 3), window=st.sampled_from([(), (3, 3)]), seed=st.integers(0, 99))
def test_what_n_of_m_leaves_fits_and_one_more_does_not(n: int, groups: int, window: tuple[int, ...], seed: int) -> None:
    values = torch.rand(3, 4 * groups, *window, generator=torch.Generator().manual_seed(seed)) + 0.1
    kept = prune.n_of_m({"w": values}, Mask({"w": values > 0}), n, 4)["w"]
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
    with pytest.raises(BadInput, match=expected + r"no CUDA device\. On a CPU `cash\.sparsified`"):
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
    living = prune.n_of_m(score.magnitude(start, mask.prunable(model), 0), mask.full(model), 2, 4)
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
    with pytest.raises(BadInput, match=expected + "0: more than 2 of 4 weights are not 0. `prune.n_of_m`"):
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
