"""Rows of an embedding that are 0 go, those of layers that share it too, and every token is answered as before."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dying import drawn, masked
from torch import Tensor, nn

from tombola import mask as masks
from tombola import models, prunable, weights
from tombola.cash.compaction import compact, compacted
from tombola.cash.embedding_rows import FewerRows, FewerScores
from tombola.cash.export import from_safetensors, stored, to_onnx, to_safetensors, to_torch_export
from tombola.errors import BadInput
from tombola.mask import Mask

TOKENS, WIDTH, PADDING = 40, 12, 3
TEXTS = torch.randint(TOKENS, (6, 9), generator=torch.Generator().manual_seed(0))
ALL = torch.arange(TOKENS).view(1, -1)


class Tied(nn.Module):
    """Tokens are looked up and scored by one matrix."""

    def __init__(self, bias: bool = False, output: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.tokens, self.inner = nn.Embedding(TOKENS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.output = output(WIDTH, TOKENS, bias=bias)
        self.output.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.output(torch.tanh(self.inner(self.tokens(tokens))))
        return scores


class Looked(nn.Module):
    """The matrix of an embedding is read by code."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tokens(tokens) @ self.tokens.weight.T  # type: ignore[no-any-return]


class Bag(nn.Module):
    """Texts as what their tokens are together, weighted by where they stand."""

    def __init__(self, mode: str, padding: int | None = None, weighted: bool = False) -> None:
        super().__init__()
        self.bag, self.weighted = nn.EmbeddingBag(TOKENS, WIDTH, mode=mode, padding_idx=padding), weighted
        self.output = nn.Linear(WIDTH, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        shares = torch.ones_like(tokens, dtype=self.output.weight.dtype).cumsum(1) if self.weighted else None
        out: Tensor = self.output(self.bag(tokens, per_sample_weights=shares))
        return out


class Sub(nn.Embedding):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) * 2


def plain(**about: Any) -> nn.Module:
    return nn.Sequential(nn.Embedding(TOKENS, WIDTH, **about), nn.Linear(WIDTH, 3))


def shared() -> nn.Module:
    """Two embeddings over one matrix."""
    model = nn.ModuleDict({"one": nn.Embedding(TOKENS, WIDTH), "two": nn.Embedding(TOKENS, WIDTH)})
    model["two"].weight = model["one"].weight
    return nn.Sequential(Both(model), nn.Linear(WIDTH, 2))


class Both(nn.Module):
    def __init__(self, tables: nn.ModuleDict) -> None:
        super().__init__()
        self.tables = tables

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tables["one"](tokens) - self.tables["two"](tokens.flip(1))  # type: ignore[no-any-return]


Make = Callable[[], nn.Module]
EMBEDDINGS: dict[str, Make] = {
    "plain": plain,
    "padded": lambda: plain(padding_idx=PADDING),
    "of bounded norm": lambda: plain(max_norm=1.5),
    "sum": lambda: Bag("sum"),
    "mean": lambda: Bag("mean", PADDING),
    "max": lambda: Bag("max"),
    "weighted": lambda: Bag("sum", PADDING, weighted=True),
    "tied": Tied,
    "tied, with a bias": lambda: Tied(bias=True),
    "shared": shared,
    "gpt": lambda: models.build("gpt-1-32", (9, TOKENS), TOKENS, "normal-0.02", init_seed=0),
    "bert": lambda: models.build("bert-1-32", (9, TOKENS), 2, "normal-0.02", init_seed=0),
}
every_embedding = pytest.mark.parametrize("name", EMBEDDINGS)


def matrix(model: nn.Module) -> str:
    """The name of the embedding's weight."""
    kinds = nn.Embedding | nn.EmbeddingBag
    return next(f"{name}.weight" for name, module in model.named_modules() if isinstance(module, kinds))


def rows_die(model: nn.Module, *tokens: int) -> Mask:
    full = prunable.full(model, [matrix(model)])
    alive = {name: flags.clone() for name, flags in full.items()}
    alive[matrix(model)][list(tokens)] = False
    return Mask(alive)


DEAD = tuple(token for token in range(TOKENS) if token % 4)  # the padding's too


def rows(model: nn.Module) -> list[int]:
    """How many there are in each matrix that looks tokens up or scores them."""
    found = [module.weight for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    return [len(value) for value in found]


def answers(model: nn.Module) -> Tensor:
    """What it makes of texts of all tokens, whose matrix a bounded norm may change."""
    texts = ALL.view(-1, 8)
    with torch.no_grad():
        return torch.cat([copy.deepcopy(model)(each).flatten() for each in (TEXTS, texts)])


@every_embedding
def test_rows_of_zeros_go_and_every_token_is_answered_as_before(name: str, tmp_path: Path) -> None:
    model = drawn(EMBEDDINGS[name])
    mask = rows_die(model, *DEAD)
    small = compact(model, mask, TEXTS)
    torch.testing.assert_close(answers(small), answers(masked(model, mask)), rtol=0, atol=1e-12)
    own = TOKENS // 4 + 1 + (name in ("mean", "weighted"))  # whose padding is not counted
    assert rows(small)[0] == own
    whole, now = (len(stored(each, zeros=True)) for each in (model, small))
    assert whole - now > 0.7 * (TOKENS - own) * model.get_parameter(matrix(model))[0].nbytes
    to_safetensors(small, tmp_path / "small.safetensors")
    again = from_safetensors(model, tmp_path / "small.safetensors")
    assert torch.equal(answers(again), answers(small)) and rows(again) == rows(small)
    assert weights.equal(weights.of(compact(small, prunable.full(small), TEXTS)), weights.of(small)), "idempotent"


@every_embedding
def test_a_row_of_which_one_number_lives_stays(name: str) -> None:
    model = drawn(EMBEDDINGS[name])
    mask = rows_die(model, *DEAD)
    alive = {each: flags.clone() for each, flags in mask.items()}
    alive[matrix(model)][5, 7] = alive[matrix(model)][39, 0] = True
    mask = Mask(alive)
    small = compact(model, mask, TEXTS)
    torch.testing.assert_close(answers(small), answers(masked(model, mask)), rtol=0, atol=1e-12)
    assert rows(small)[0] == TOKENS // 4 + 3 + (name in ("mean", "weighted"))


@pytest.mark.parametrize("bias", [False, True])
def test_what_is_tied_stays_tied(bias: bool) -> None:
    model = drawn(lambda: Tied(bias))
    small: Any = compact(model, rows_die(model, *DEAD), TEXTS)
    assert isinstance(small.tokens, FewerRows) and isinstance(small.output, FewerScores)
    assert small.output.linear.weight is small.tokens.embedding.weight
    dead = small(TEXTS)[..., list(DEAD)]
    assert torch.equal(
        dead, torch.zeros_like(dead) if not bias else model.get_parameter("output.bias")[[*DEAD]].expand_as(dead)
    )


@pytest.mark.parametrize("name", ["plain", "padded", "tied", "tied, with a bias", "gpt"])
def test_no_step_brings_a_row_back(name: str) -> None:
    model = drawn(EMBEDDINGS[name])
    small: Any = compact(model, rows_die(model, *DEAD), TEXTS)
    shared = small.get_parameter(matrix(small))
    before = shared.detach().clone()
    small(TEXTS).logsumexp(-1).sum().backward()
    torch.optim.SGD(small.parameters(), lr=0.1).step()
    assert not shared[0].any() and not torch.equal(shared, before)


@pytest.mark.parametrize("bias", [False, True])
def test_a_step_with_a_tied_matrix_is_that_of_the_masked_model(bias: bool) -> None:
    model = drawn(lambda: Tied(bias), by=4)
    mask = rows_die(model, *DEAD)
    pair: Any = masked(model, mask), compact(model, mask, TEXTS)
    for each in pair:
        each(TEXTS).logsumexp(-1).sum().backward()
        torch.optim.SGD(each.parameters(), lr=1e-3).step()
    weights.put(pair[0], masks.apply(weights.of(pair[0]), mask))
    torch.testing.assert_close(answers(pair[1]), answers(pair[0]), rtol=0, atol=1e-12)


class Written(nn.Module):
    """As text networks of convolutions are written, with a width in the code; its scores are those of `tied`."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.tokens, self.windows = nn.Embedding(TOKENS, WIDTH), nn.Conv1d(WIDTH, 6, 3, padding=1)
        self.output = nn.Linear(6 * 9, WIDTH)
        self.scores = nn.Linear(WIDTH, TOKENS)
        if tied:
            self.scores.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        maps = torch.relu(self.windows(self.tokens(tokens).transpose(1, 2)))
        scores: Tensor = self.scores(self.output(maps.view(-1, 54)))
        return scores


@pytest.mark.parametrize("tied", [False, True])
def test_fewer_rows_and_a_written_width_are_read_back(tied: bool, tmp_path: Path) -> None:
    model = drawn(lambda: Written(tied))
    alive = {name: each.clone() for name, each in rows_die(model, *DEAD).items()}
    alive["windows.weight"] = torch.arange(6).view(-1, 1, 1).expand(6, WIDTH, 3) != 2
    model.get_parameter("windows.bias").data[2] = 0
    small: Any = compact(model, Mask(alive), TEXTS)
    to_safetensors(small, tmp_path / "small.safetensors")
    again: Any = from_safetensors(model, tmp_path / "small.safetensors")
    assert again.windows.out_channels == small.windows.out_channels == 5
    assert rows(again) == rows(small) == [1 + TOKENS // 4]
    with torch.no_grad():
        assert torch.equal(again(TEXTS), small(TEXTS))
        torch.testing.assert_close(small(TEXTS), masked(model, Mask(alive))(TEXTS), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_model_that_is_an_embedding_itself_stays_and_it_is_said(kind: type[nn.Module]) -> None:
    model = drawn(lambda: kind(TOKENS, WIDTH))
    model.get_parameter("weight").data[list(DEAD)] = 0
    found = compacted(model, prunable.full(model), TEXTS)
    assert rows(found.model) == [TOKENS]
    assert found.left == {"": "30 of its 40 rows are dead, but it is the model itself, whose class stays"}


def test_tokens_that_there_are_not_are_refused_as_before() -> None:
    model = drawn(plain)
    small = compact(model, rows_die(model, *DEAD), TEXTS)
    for token in (-1, TOKENS):
        for each in (model, small):
            with pytest.raises(IndexError):
                each(torch.tensor([[token]]))


def hooked() -> nn.Module:
    model = plain()
    model.get_submodule("0").register_forward_hook(lambda module, args, output: None)
    return model


class Own(nn.Linear):
    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values) * 2


LEFT: dict[str, tuple[Make, str]] = {
    "read": (Looked, "without what is dead in it the model's code gives something else: AttributeError"),
    "hooked": (hooked, "30 of its 40 rows are dead, but it has hooks"),
    "of a class": (lambda: nn.Sequential(Sub(TOKENS, WIDTH)), "Sub computes something of its own"),
    "tied to another": (lambda: Tied(output=Own), "its weight is that of a Own too"),
    "narrow": (lambda: nn.Sequential(nn.Embedding(TOKENS, 1)).float(), "where the others are takes as much"),
}


@pytest.mark.parametrize("name", LEFT)
def test_rows_that_cannot_go_stay_and_it_is_said_why(name: str) -> None:
    make, why = LEFT[name]
    model = drawn(make) if name != "narrow" else make().eval()
    found = compacted(model, rows_die(model, *DEAD), TEXTS)
    assert rows(found.model)[0] == TOKENS
    assert len(found.left) == 1 and why in next(iter(found.left.values()))


def test_the_row_of_the_padding_alone_is_not_spoken_of() -> None:
    model = drawn(lambda: plain(padding_idx=PADDING))
    found = compacted(model, rows_die(model, PADDING), TEXTS)
    assert rows(found.model) == [TOKENS] and not found.left


@pytest.mark.parametrize("name", ["plain", "tied, with a bias", "gpt"])
def test_what_has_fewer_rows_is_exported(name: str, tmp_path: Path) -> None:
    model = drawn(EMBEDDINGS[name]).float()
    small = compact(model, rows_die(model, *DEAD), TEXTS)
    assert to_torch_export(small, TEXTS, tmp_path / "small.pt2") < 1e-4
    pytest.importorskip("onnxruntime")
    assert to_onnx(small, TEXTS, tmp_path / "small.onnx") < 1e-4


def test_a_file_of_more_tokens_is_refused(tmp_path: Path) -> None:
    model = drawn(plain)
    to_safetensors(compact(model, rows_die(model, *DEAD), TEXTS), tmp_path / "small.safetensors")
    with pytest.raises(BadInput):
        from_safetensors(nn.Sequential(nn.Linear(TOKENS, WIDTH), nn.Linear(WIDTH, 3)), tmp_path / "small.safetensors")
