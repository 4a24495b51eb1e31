"""Heads that say nothing go from any attention whose heads can be told apart, and the model computes the same."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dying import drawn, masked
from torch import Tensor, nn

from tombola import prunable, weights
from tombola.cash.compaction import compact, compacted
from tombola.cash.comparison import prove
from tombola.cash.export import from_safetensors, stored, to_onnx, to_safetensors, to_torch_export
from tombola.cash.size import sizes
from tombola.mask import Mask
from tombola.models.attention import SelfAttention

WIDTH, HEADS = 16, 4
EACH = WIDTH // HEADS
VALUES = torch.randn(3, 7, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class OfTorch(nn.Module):
    """torch's attention, called in the ways that it can be."""

    def __init__(self, how: str = "", **about: Any) -> None:
        super().__init__()
        self.how = how
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=how != "time first", **about)

    def forward(self, values: Tensor) -> Any:
        length = values.shape[1]
        padding = torch.arange(length).expand(len(values), -1) > length - 3
        causal = torch.ones(length, length, dtype=torch.bool).triu(1)
        if self.how == "one":
            return self.attention(values[0], values[0], values[0], key_padding_mask=padding[0])[0]
        if self.how == "masks":
            named = {"attn_mask": causal, "key_padding_mask": padding}
            return self.attention(values, values, values, need_weights=False, **named)[0]
        if self.how == "causal":
            return self.attention(values, values, values, attn_mask=causal, is_causal=True, need_weights=False)[0]
        if self.how == "across":
            return self.attention(values, values[:, :4, : self.attention.kdim], values[:, :4, : self.attention.vdim])[0]
        if self.how == "weights":
            return self.attention(values, values, values)
        return self.attention(values, values, values)[0]


class Separate(nn.Module):
    """As Llama's and its kin: heads of one width, keys and values for `shared` of them, and a projection."""

    def __init__(self, names: str, shared: int = 1, counts: bool = False) -> None:
        super().__init__()
        self.names, self.shared, self.counts, self.num_heads, self.head_dim = names.split(), shared, counts, HEADS, EACH
        sizes = ((WIDTH, WIDTH), (WIDTH, WIDTH // shared), (WIDTH, WIDTH // shared), (WIDTH, WIDTH))
        for name, size in zip(self.names, sizes, strict=True):
            self.add_module(name, nn.Linear(*size))

    def forward(self, values: Tensor) -> Tensor:
        query, key, value, projection = map(self.get_submodule, self.names)
        heads = HEADS if self.counts else -1
        q = query(values).view(*values.shape[:2], heads, EACH).transpose(1, 2)
        k, v = (each(values).unflatten(-1, (-1, EACH)).transpose(1, 2) for each in (key, value))
        k, v = (each.repeat_interleave(self.shared, 1) for each in (k, v))
        mixed = (q @ k.mT / EACH**0.5).softmax(-1) @ v
        out: Tensor = projection(mixed.transpose(1, 2).flatten(2))
        return out


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 24, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(WIDTH, 3))


Make = Callable[[], nn.Module]
ATTENTIONS: dict[str, Make] = {
    "tombola": lambda: SelfAttention(WIDTH, HEADS, causal=True),
    "llama": lambda: Separate("q_proj k_proj v_proj o_proj", shared=2),
    "bart": lambda: Separate("q_proj k_proj v_proj out_proj"),
    "distilbert": lambda: Separate("q_lin k_lin v_lin out_lin"),
    "torch": OfTorch,
    "torch, without biases": lambda: OfTorch(bias=False),
    "torch, time first": lambda: OfTorch("time first"),
    "torch, one": lambda: OfTorch("one"),
    "torch, masks": lambda: OfTorch("masks"),
    "torch, causal": lambda: OfTorch("causal"),
    "torch, across": lambda: OfTorch("across", kdim=6, vdim=10),
    "encoder": encoder,
}
every_attention = pytest.mark.parametrize("name", ATTENTIONS)


def heads_die(model: nn.Module, value: list[int], projection: list[int]) -> Mask:
    """Those of the values of keys' heads, and those of the projection's columns."""
    alive = {name: each.clone() for name, each in prunable.full(model).items()}
    for name, flags in alive.items():
        last = name.split(".")[-2 if name.endswith(".weight") else -1]
        rows = flags[-WIDTH:] if last == "in_proj_weight" else flags
        for head in value if last in ("in_proj_weight", "v_proj_weight", "value", "v_proj", "v_lin") else ():
            rows[head * EACH : (head + 1) * EACH] = False
        for head in projection if last in ("out_proj", "projection", "o_proj", "out_lin") else ():
            flags[:, head * EACH : (head + 1) * EACH] = False
    return Mask(alive)


def parameters(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


def heads(model: nn.Module) -> list[int]:
    """How many there are in each attention, by the width of what the projection reads."""
    names = ("out_proj", "projection", "o_proj", "out_lin")
    found = [module for name, module in model.named_modules() if name.split(".")[-1] in names]
    return [module.in_features // EACH for module in found if isinstance(module, nn.Linear)]


@every_attention
def test_heads_that_say_nothing_go_and_the_outputs_stay(name: str, tmp_path: Path) -> None:
    model = drawn(ATTENTIONS[name], by=4)
    mask = heads_die(model, value=[0], projection=[0, 1])  # Llama's first value is that of heads 0 and 1
    small = compact(model, mask, VALUES)
    with torch.no_grad():
        torch.testing.assert_close(small(VALUES), masked(model, mask)(VALUES), rtol=0, atol=1e-12)
    assert set(heads(small)) == {2}
    assert parameters(small) <= 0.6 * parameters(model) + 1500 * (name == "encoder")
    assert len(stored(small)) < len(stored(masked(model, mask)))
    to_safetensors(small, tmp_path / "small.safetensors")
    again = from_safetensors(model, tmp_path / "small.safetensors")
    with torch.no_grad():
        assert torch.equal(again(VALUES), small(VALUES)) and heads(again) == heads(small)
    assert weights.equal(weights.of(compact(small, prunable.full(small), VALUES)), weights.of(small)), "idempotent"


@every_attention
def test_a_head_of_which_one_weight_lives_stays(name: str) -> None:
    model = drawn(ATTENTIONS[name], by=4)
    dead = heads_die(model, value=[0], projection=[0, 1, 2])
    alive = {each: flags.clone() for each, flags in dead.items()}
    of_projection = [each for each in alive if each.split(".")[-2] in ("out_proj", "projection", "o_proj", "out_lin")]
    for each in of_projection:
        alive[each][5, 2 * EACH + 1] = True
    small = compact(model, Mask(alive), VALUES)
    assert set(heads(small)) == {2}
    with torch.no_grad():
        torch.testing.assert_close(small(VALUES), masked(model, Mask(alive))(VALUES), rtol=0, atol=1e-12)


@every_attention
def test_what_no_head_says_leaves_one_head_and_the_constants(name: str) -> None:
    model = drawn(ATTENTIONS[name], by=4)
    mask = heads_die(model, value=[0, 1, 2, 3], projection=[])
    small = compact(model, mask, VALUES)
    assert set(heads(small)) == {2 if name == "llama" else 1}
    with torch.no_grad():
        torch.testing.assert_close(small(VALUES), masked(model, mask)(VALUES), rtol=0, atol=1e-12)


def hooked(model: nn.Module) -> None:
    model.get_submodule("out_proj" if hasattr(model, "out_proj") else "attention").register_forward_hook(
        lambda module, args, output: None
    )


LEFT: dict[str, tuple[Make, str]] = {
    "weights": (lambda: OfTorch("weights"), "the model's code gives something else"),
    "counts": (lambda: Separate("q_proj k_proj v_proj out_proj", counts=True), "the model's code gives something else"),
    "of its own": (lambda: OfTorch(add_zero_attn=True), "it adds keys and values of its own"),
}


@pytest.mark.parametrize("name", LEFT)
def test_heads_that_cannot_go_stay_and_it_is_said_why(name: str) -> None:
    make, why = LEFT[name]
    model = drawn(make, by=4)
    mask = heads_die(model, value=[1], projection=[2])
    found = compacted(model, mask, VALUES)
    assert heads(found.model) == [HEADS]
    assert len(found.left) == 1 and why in next(iter(found.left.values()))


def test_hooks_keep_the_heads() -> None:
    model = drawn(OfTorch, by=4)
    hooked(model)
    found = compacted(model, heads_die(model, value=[1], projection=[]), VALUES)
    assert heads(found.model) == [HEADS] and found.left == {"attention": "heads are dead, but it has hooks"}


def test_one_attention_that_cannot_does_not_keep_the_others() -> None:
    counting, free = (Separate("q_proj k_proj v_proj out_proj", counts=counts) for counts in (True, False))
    model = drawn(lambda: nn.Sequential(counting, free), by=4)
    found = compacted(model, heads_die(model, value=[1], projection=[]), VALUES)
    assert heads(found.model) == [HEADS, HEADS - 1] and list(found.left) == ["0"]


def test_what_is_left_of_attention_multiplies_less_and_is_exported(tmp_path: Path) -> None:
    model = drawn(encoder, by=4).float()
    small, inputs = compact(model, heads_die(model, [0], [1]), VALUES.float()), VALUES.float()
    before, after = (sizes(each, inputs) for each in (model, small))
    products = [sum(size.products for size in each.values()) for each in (before, after)]
    assert products[1] == products[0] / 2 > 0
    assert to_torch_export(small, inputs, tmp_path / "small.pt2") < 1e-4
    pytest.importorskip("onnxruntime")
    assert to_onnx(small, inputs, tmp_path / "small.onnx") < 1e-4


def test_the_form_says_which_dead_heads_it_leaves() -> None:
    counting, free = (Separate("q_proj k_proj v_proj out_proj", counts=counts) for counts in (True, False))
    model = drawn(lambda: nn.Sequential(counting, free), by=4).float()
    proof = prove(model, heads_die(model, value=[1], projection=[]), VALUES.float(), batches=(1, 3))
    form = next(form for form in proof if form.name == "compact")
    assert list(form.unchanged) == ["0"] and "compact: leaves as they were 0 (without what is dead" in str(proof)


MASKS = torch.randn(3 * HEADS, 7, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
PADDING = torch.arange(7).expand(3, -1) > torch.tensor([[6], [4], [5]])
CAUSAL = torch.ones(7, 7, dtype=torch.bool).triu(1)
HANDED_IN: dict[str, dict[str, Any]] = {
    "none": {},
    "added, and padding": {
        "attn_mask": MASKS[0],
        "key_padding_mask": torch.zeros(3, 7).double().masked_fill(PADDING, -torch.inf),
    },
    "of each head": {"attn_mask": (MASKS > 0) & CAUSAL, "key_padding_mask": PADDING & (MASKS[:3, 0] > 0)},
    "added for each head": {"attn_mask": MASKS, "need_weights": False},
    "causal": {"attn_mask": CAUSAL, "need_weights": False},
}


@pytest.mark.parametrize("name", HANDED_IN)
def test_fewer_heads_take_masks_that_the_example_did_not_have(name: str, tmp_path: Path) -> None:
    model = drawn(OfTorch, by=2)
    mask = heads_die(model, value=[0], projection=[2])
    to_safetensors(compact(model, mask, VALUES), tmp_path / "small.safetensors")
    small, inputs = from_safetensors(model, tmp_path / "small.safetensors"), [VALUES] * 3
    with torch.no_grad():
        found, _ = small.get_submodule("attention")(*inputs, **HANDED_IN[name])
        expected, _ = masked(model, mask).get_submodule("attention")(*inputs, **HANDED_IN[name])
    assert heads(small) == [2] and expected.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("average", [True, False])
def test_what_heads_looked_at_is_not_told_once_some_went(average: bool) -> None:
    model = drawn(OfTorch)
    small = compact(model, heads_die(model, value=[0], projection=[2]), VALUES).get_submodule("attention")
    assert small(VALUES, VALUES, VALUES, average_attn_weights=average)[1] is None


def test_a_mask_of_fewer_heads_is_theirs_and_one_of_another_number_is_refused() -> None:
    model = drawn(OfTorch)
    small = compact(model, heads_die(model, value=[0], projection=[2]), VALUES).get_submodule("attention")
    of_all = MASKS.unflatten(0, (3, HEADS))
    own, theirs = (small(*[VALUES] * 3, attn_mask=each)[0] for each in (of_all[:, [1, 3]].flatten(0, 1), MASKS))
    assert torch.equal(own, theirs)
    with pytest.raises(RuntimeError):
        small(*[VALUES] * 3, attn_mask=of_all[:, :3].flatten(0, 1))


def test_heads_that_die_later_go_too_and_masks_are_still_those_of_all() -> None:
    model = drawn(OfTorch, by=2)
    once = compact(model, heads_die(model, value=[1], projection=[]), VALUES)
    attention: Any = once.get_submodule("attention")
    later = prunable.full(once)["attention.out_proj.weight"].clone()
    later[:, EACH : 2 * EACH] = False  # the third of the four
    mask = Mask({**prunable.full(once), "attention.out_proj.weight": later})
    twice: Any = compact(once, mask, VALUES).get_submodule("attention")
    assert (attention.num_heads, twice.num_heads) == (3, 2)
    whole: Any = masked(model, heads_die(model, value=[1], projection=[2])).get_submodule("attention")
    with torch.no_grad():
        for named in ({}, {"attn_mask": MASKS}):
            found, expected = (each(*[VALUES] * 3, **named)[0] for each in (twice, whole))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_attention_with_fewer_heads_still_drops_out_in_training() -> None:
    model = drawn(lambda: OfTorch(dropout=0.5))
    small = compact(model, heads_die(model, value=[0], projection=[2]), VALUES).train()
    torch.manual_seed(0)
    assert heads(small) == [2] and not torch.equal(small(VALUES), small(VALUES))
    assert torch.equal(small.eval()(VALUES), small(VALUES))


def test_what_is_left_of_attention_can_be_scripted() -> None:
    model = drawn(encoder)
    small = compact(model, heads_die(model, value=[0], projection=[1]), VALUES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(small)
    with torch.no_grad():
        torch.testing.assert_close(scripted(VALUES), small(VALUES), rtol=0, atol=1e-12)


class Sub(nn.MultiheadAttention):
    """Adds nothing, as far as can be told."""


def test_a_subclass_of_torchs_attention_keeps_its_heads_and_it_is_said() -> None:
    model = drawn(OfTorch)
    model.attention = drawn(lambda: Sub(WIDTH, HEADS, batch_first=True))
    found = compacted(model, heads_die(model, value=[1], projection=[]), VALUES)
    assert found.left == {"attention": "heads are dead, but Sub computes something of its own"}
    assert heads(found.model) == [HEADS]


def test_a_model_that_is_torchs_attention_itself_stays_and_it_is_said() -> None:
    model = drawn(lambda: nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))
    model.get_parameter("in_proj_weight").data[-EACH:] = 0
    found = compacted(model, prunable.full(model), (VALUES, VALUES, VALUES))
    assert found.left == {"": "heads are dead, but it is the model itself, whose class stays"}
    assert heads(found.model) == [HEADS]


class Itself(nn.Module):
    """torch's attention, of values to themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.attention(values, values, values)[0]
        return out


class Written(nn.Module):
    """An attention, and a width that is written into the code."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention, self.windows = attention, nn.Conv1d(WIDTH, 6, 3, padding=1)
        self.output = nn.Linear(6 * 7, 3)

    def forward(self, values: Tensor) -> Tensor:
        maps = torch.relu(self.windows(self.attention(values).transpose(1, 2)))
        out: Tensor = self.output(maps.view(-1, 42))
        return out


class Views(Separate):
    """Its code asks how many heads there are, and torch.fx follows it."""

    def __init__(self, wide: bool) -> None:
        super().__init__("q_proj k_proj v_proj out_proj")
        self.wide = wide

    def forward(self, values: Tensor) -> Tensor:
        sizes = (self.num_heads, self.head_dim if self.wide else -1)
        q, k, v = (
            self.get_submodule(name)(values).view(values.shape[0], values.shape[1], *sizes).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        mixed = (q @ k.transpose(-1, -2) / EACH**0.5).softmax(-1) @ v
        out: Tensor = self.get_submodule("out_proj")(mixed.transpose(1, 2).flatten(2))
        return out


@pytest.mark.parametrize("kind", ["views", "wide views", "torch's"])
def test_fewer_heads_and_a_written_width_are_read_back(kind: str, tmp_path: Path) -> None:
    inner = Itself() if kind == "torch's" else Views(kind == "wide views")
    model = drawn(lambda: Written(inner), by=2)
    alive = {name: each.clone() for name, each in heads_die(model, value=[0], projection=[2]).items()}
    alive["windows.weight"][2] = False
    model.get_parameter("windows.bias").data[2] = 0
    small = compact(model, Mask(alive), VALUES)
    to_safetensors(small, tmp_path / "small.safetensors")
    again = from_safetensors(model, tmp_path / "small.safetensors")
    assert heads(again) == heads(small) == [2] and again.get_submodule("windows").out_channels == 5
    with torch.no_grad():
        torch.testing.assert_close(small(VALUES), masked(model, Mask(alive))(VALUES), rtol=0, atol=1e-12)
        assert torch.equal(again(VALUES), small(VALUES))


TOKENS = torch.randint(5, 50, (3, 7), generator=torch.Generator().manual_seed(0))
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40, "vocab_size": 60}


class Hidden(nn.Module):
    """The tensor of what a model of transformers gives."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.model(tokens).last_hidden_state
        return out


@pytest.mark.parametrize("name", ["Bert", "Llama"])
def test_models_of_transformers_lose_heads(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    about = SMALL | ({"num_key_value_heads": 2} if name == "Llama" else {})
    config = getattr(transformers, f"{name}Config")(**about)
    model = drawn(lambda: Hidden(getattr(transformers, f"{name}Model")(config)), by=4)
    alive = {each: flags.clone() for each, flags in prunable.full(model).items()}
    for each, flags in alive.items():
        if each.endswith(("self.value.weight", "v_proj.weight")):
            flags[:8] = False
    found = compacted(model, Mask(alive), TOKENS)
    gone = 2 if name == "Llama" else 1  # heads of 8 features, two for each of the keys'
    each = "self_attn.q_proj" if name == "Llama" else "attention.self.query"
    left = [value for place, value in found.model.named_modules() if place.endswith(each)]
    assert [layer.out_features for layer in left if isinstance(layer, nn.Linear)] == [8 * (4 - gone)] * 2
    assert not found.left
    with torch.no_grad():
        torch.testing.assert_close(found.model(TOKENS), masked(model, Mask(alive))(TOKENS), rtol=0, atol=1e-12)
