"""Which weights are prunable, which are alive, and the masks made from masks."""

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tombola import layers, mask, mask_codec, prunable
from tombola.errors import BadInput
from tombola.mask import Mask


def flags(text: str) -> Tensor:
    """'1101' as a bool tensor."""
    return torch.tensor([flag == "1" for flag in text])


# ---------------------------------------------------------------- prunable


def test_biases_and_norms_are_never_prunable() -> None:  # P1 P2 P3
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.LayerNorm(8),
        nn.PReLU(),
        nn.Linear(8, 2),
    )
    assert prunable.prunable(model) == {"0.weight": "conv", "5.weight": "linear", "8.weight": "output"}
    assert prunable.full(model).total == 4 * 9 + 16 * 8 + 8 * 2


def test_layers_are_found_at_any_depth_and_without_a_bias() -> None:  # P5
    inner = nn.Sequential(OrderedDict(first=nn.Linear(3, 3, bias=False), deeper=nn.Sequential(nn.Linear(3, 3))))
    model = nn.ModuleDict({"stem": nn.Linear(2, 3, bias=False), "body": nn.ModuleList([inner])})
    assert list(prunable.prunable(model)) == ["stem.weight", "body.0.first.weight", "body.0.deeper.0.weight"]


def test_a_layer_that_stands_alone_or_last_is_found() -> None:  # P6
    assert prunable.prunable(nn.Sequential(nn.Linear(2, 1))) == {"0.weight": "output"}
    assert prunable.prunable(nn.Linear(2, 1)) == {"weight": "output"}
    assert prunable.prunable(nn.Sequential(nn.Linear(2, 2), nn.Conv1d(2, 2, 1))) == {
        "0.weight": "output",
        "1.weight": "conv",
    }


def test_tied_weights_count_once_under_their_first_name() -> None:  # P7
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 4)
            self.hidden = nn.Linear(4, 4)
            self.output = nn.Linear(4, 10, bias=False)
            self.output.weight = self.embedding.weight

    assert prunable.prunable(Tied()) == {"embedding.weight": "output", "hidden.weight": "linear"}
    assert prunable.full(Tied()).total == 10 * 4 + 4 * 4


def test_a_module_used_twice_counts_once() -> None:  # P7
    shared = nn.Linear(2, 2)
    assert list(prunable.prunable(nn.Sequential(shared, nn.ReLU(), shared))) == ["0.weight"]


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (nn.MultiheadAttention(4, 2), ["in_proj_weight", "out_proj.weight"]),
        (
            nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
            ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"],
        ),
    ],
)
def test_the_projections_of_attention_are_prunable(model: nn.Module, names: list[str]) -> None:
    assert list(prunable.prunable(model)) == names


@pytest.mark.parametrize(
    "conv", [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
)
def test_every_convolution_is_prunable(conv: type[nn.Module]) -> None:
    assert prunable.prunable(conv(2, 2, 3)) == {"weight": "conv"}


class Graph(nn.Module):
    """Two graph layers as they are published, H' = A H W + b, a stack of experts, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.ParameterDict({"W": torch.ones(3, 4), "b": torch.ones(4)}) for _ in range(2))
        self.experts = nn.Parameter(torch.ones(2, 4, 5))
        self.output = nn.Linear(5, 2)


def test_parameters_that_are_named_are_prunable_too() -> None:
    assert prunable.prunable(Graph()) == {"output.weight": "output"}
    named = {"experts": "named", "one.W": "named", "two.W": "named", "output.weight": "output"}
    assert prunable.prunable(Graph(), ["*.W", "exp*"]) == named
    assert list(prunable.prunable(Graph(), ["*"])) == list(named), "a pattern means matrices alone"
    assert prunable.prunable(Graph(), ["two.b", "output.bias"]) == {
        "two.b": "named",
        "output.weight": "output",
        "output.bias": "named",
    }
    assert prunable.full(Graph(), ["one.*"]).counts == {"one.W": 12, "output.weight": 10}


def test_what_is_named_and_tied_counts_once_and_what_is_listed_keeps_its_kind() -> None:
    model = Graph()
    model.two["W"] = model.one["W"]
    assert list(prunable.prunable(model, ["two.W"])) == ["one.W", "output.weight"]
    assert prunable.prunable(nn.Linear(2, 2), ["weight"]) == {"weight": "output"}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("one.V", r"'one.V', which names nothing. Did you mean one.W"),
        ("*.b", r"'\*.b', which names only vectors. Name each vector by its whole name, as one.b"),
        ("zzzz", r"'zzzz', which names nothing. \* stands for anything"),
    ],
)
def test_an_entry_that_names_no_matrix_is_refused(entry: str, said: str) -> None:
    with pytest.raises(BadInput, match=f"^prune: expected names of parameters of Graph, .*, found {said}"):
        prunable.prunable(Graph(), ["*.W", entry])


def test_weights_that_are_computed_are_told_apart() -> None:
    norm = nn.utils.parametrizations.weight_norm
    model = nn.Sequential(*(norm(nn.Linear(2, 2)) for _ in range(6)))
    assert list(prunable.prunable(model)) == [f"{place}.weight" for place in range(6)]


def test_the_full_mask_keeps_all() -> None:
    full = prunable.full(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)))
    assert (full.alive, full.total, full.density, full.counts) == (8, 8, 1.0, {"0.weight": 6, "1.weight": 2})


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("norm", [
    nn.utils.weight_norm,
    nn.utils.spectral_norm,
    nn.utils.parametrizations.weight_norm,
    nn.utils.parametrizations.spectral_norm,
])  # fmt: skip
def test_a_weight_that_is_computed_from_others_has_no_mask(norm: Callable[[nn.Module], nn.Module]) -> None:
    with pytest.raises(
        BadInput, match=r"^1\.weight of Sequential: expected a parameter, found .* computed from others"
    ):
        prunable.full(nn.Sequential(nn.Linear(3, 4), norm(nn.Linear(4, 2))))


# ---------------------------------------------------------------- the value


def test_a_mask_counts_itself() -> None:  # C12 C13
    mixed = Mask({"a": flags("1101").view(2, 2), "b": flags("0100")})
    assert (mixed.alive, mixed.total, mixed.density) == (4, 8, 0.5)
    assert mixed.counts == {"a": 3, "b": 1}
    assert repr(mixed) == "Mask(8 weights, density 0.5)"


def test_a_mask_shares_no_memory_with_what_it_was_made_from() -> None:  # K5
    source = flags("11")
    made = Mask({"a": source})
    source[0] = False
    assert made["a"].tolist() == [True, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64])
def test_anything_but_bool_is_refused(dtype: torch.dtype) -> None:  # C14
    message = f"mask of fc.weight: expected a tensor of bool, found {dtype}. Compare or convert it first."
    with pytest.raises(BadInput, match=f"^{re.escape(message)}$"):
        Mask({"fc.weight": torch.ones(2, dtype=dtype)})


def test_what_is_no_mask_is_named_briefly_with_what_makes_one_of_it() -> None:
    wrong: Any = [1]
    with pytest.raises(BadInput, match=r"^Mask: expected a mapping from names of weights to tensors .*, found list\."):
        Mask(wrong)
    array: Any = {"w": np.ones((30, 30), dtype=bool)}
    with pytest.raises(BadInput, match=r"mask of w: .* found an array of NumPy, bool\. torch\.from_numpy\("):
        Mask(array)
    with pytest.raises(BadInput) as caught:
        Mask({"w": [[True] * 300]})  # type: ignore[dict-item]
    assert len(str(caught.value)) < 200
    plain: Any = {"weight": torch.ones(2, 2, dtype=torch.bool)}
    with pytest.raises(BadInput, match=r"mask: expected a Mask, found dict\. tombola\.Mask\(it\) makes one\."):
        Mask.check(plain)


def test_masks_are_equal_when_names_order_and_flags_are() -> None:
    one = Mask({"a": flags("10"), "b": flags("1")})
    assert one == Mask({"a": flags("10"), "b": flags("1")})
    assert one != Mask({"b": flags("1"), "a": flags("10")}), "the order of the layers is part of the tie rule"
    assert one != Mask({"a": flags("01"), "b": flags("1")})
    assert one != Mask({"a": flags("10")})
    assert one != {"a": flags("10"), "b": flags("1")}


# ---------------------------------------------------------------- masks from masks


def test_a_shuffled_mask_differs_and_keeps_every_layers_count() -> None:  # K1 K3
    first = Mask({"a": torch.arange(40).view(8, 5) < 10, "b": torch.arange(30) % 2 == 0})
    shuffled = mask.shuffle(first, mask_seed=0)
    assert shuffled.counts == first.counts == {"a": 10, "b": 15}
    assert {name: value.shape for name, value in shuffled.items()} == {
        name: value.shape for name, value in first.items()
    }
    assert not any(torch.equal(shuffled[name], first[name]) for name in first)
    assert first == Mask({"a": torch.arange(40).view(8, 5) < 10, "b": torch.arange(30) % 2 == 0}), (
        "the given mask stays"
    )


def test_layers_are_shuffled_each_in_its_own_way() -> None:  # K3
    same = torch.arange(60) < 20
    shuffled = mask.shuffle(Mask({"a": same, "b": same}), mask_seed=0)
    assert not torch.equal(shuffled["a"], shuffled["b"])


@pytest.mark.parametrize("make", [mask.shuffle, mask.random_like])
def test_a_control_repeats_with_its_seed_and_zero_is_a_seed(make: type) -> None:  # K9 K10
    first = Mask({"a": torch.arange(60) < 20})
    torch.manual_seed(5)
    state = torch.get_rng_state()
    zero, again, one = make(first, 0), make(first, 0), make(first, 1)
    assert zero == again != one
    assert torch.equal(torch.get_rng_state(), state)


def test_every_weight_is_as_likely_to_be_kept() -> None:  # K2
    first = Mask({"a": torch.arange(5) < 2})
    for make in (mask.shuffle, mask.random_like):
        kept = torch.stack([make(first, mask_seed=seed)["a"] for seed in range(2000)]).double().mean(dim=0)
        assert kept == pytest.approx(torch.full((5,), 0.4), abs=0.05)


# ---------------------------------------------------------------- weights through a mask


def test_apply_zeroes_what_is_pruned_and_copies_the_rest() -> None:  # M5 R10
    given = {"a": torch.tensor([-1.0, 1e30, math.inf, math.nan]), "bias": torch.tensor([5.0])}
    masked = mask.apply(given, Mask({"a": flags("1000")}))
    assert masked["a"].tolist() == [-1.0, 0.0, 0.0, 0.0]
    assert not masked["a"].signbit()[1:].any(), "0, never -0: the bytes of a ticket must not depend on what was pruned"
    masked["bias"][0] = masked["a"][0] = 7.0
    assert given["bias"][0] == 5.0 and given["a"][0] == -1.0


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_numbers_of_eight_bits_are_masked_as_others_are(name: str) -> None:
    given, alive = torch.tensor([[-1.5, 2.0], [math.nan, -0.5]]).to(getattr(torch, name)), flags("10").expand(2, 2)
    masked = mask.apply({"a": given}, Mask({"a": alive}))["a"]
    assert masked.dtype == given.dtype and masked.view(torch.uint8)[:, 1].tolist() == [0, 0]
    assert torch.equal(masked.view(torch.uint8)[:, 0], given.view(torch.uint8)[:, 0])
    again = mask_codec.expand(mask_codec.compress({"a": given}, Mask({"a": alive})), Mask({"a": alive}))["a"]
    assert again.dtype == given.dtype and torch.equal(again.view(torch.uint8), masked.view(torch.uint8))


@pytest.mark.skipif(not hasattr(torch, "float8_e8m0fnu"), reason="this torch has no such type")
def test_a_type_that_has_no_0_is_refused_by_name() -> None:
    powers = torch.ones(2).to(torch.float8_e8m0fnu)
    with pytest.raises(BadInput, match=r"mask of a: expected a weight of a type that has a number 0, .*e8m0fnu"):
        mask.apply({"a": powers}, Mask({"a": flags("10")}))


def test_an_alive_zero_stays_alive() -> None:  # C8
    living = Mask({"a": flags("110")})
    weights = {"a": torch.tensor([0.0, 2.0, 3.0])}
    packed = mask_codec.compress(weights, living)
    assert packed["a"].tolist() == [0.0, 2.0]
    assert mask_codec.expand(packed, living)["a"].tolist() == [0.0, 2.0, 0.0]


def test_compress_keeps_what_lives_in_flat_order() -> None:
    living = Mask({"a": flags("0110").view(2, 2)})
    small = mask_codec.compress({"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "bias": torch.tensor([9.0])}, living)
    assert {name: value.tolist() for name, value in small.items()} == {"a": [2.0, 3.0], "bias": [9.0]}
    assert {name: value.tolist() for name, value in mask_codec.expand(small, living).items()} == {
        "a": [[0.0, 2.0], [3.0, 0.0]],
        "bias": [9.0],
    }


def test_pack_puts_the_first_flag_into_the_highest_bit() -> None:  # C14
    assert mask_codec.pack(Mask({"a": flags("100000011")}))["a"].tolist() == [0b10000001, 0b10000000]
    assert mask_codec.unpack({"a": torch.tensor([0b10000001, 0b10000000], dtype=torch.uint8)}, {"a": (3, 3)})[
        "a"
    ].tolist() == [
        [True, False, False],
        [False, False, False],
        [False, True, True],
    ]


def test_an_output_over_the_memory_of_an_embedding_is_laid_out_as_an_output() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight.data = model[0].weight.data
    assert set(layers.layouts(model).values()) == {layers.Layout()}
