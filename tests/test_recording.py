"""Models that torch.fx cannot follow are followed while they are called: what is compacted computes the same."""

import math
from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tombola import models, prunable, weights
from tombola.cash import compact, trace
from tombola.cash.masking import masked
from tombola.cash.recording import Dimension
from tombola.errors import BadInput
from tombola.mask import Mask


def halved(model: nn.Module, density: float = 0.3) -> Mask:
    """Of every other unit all weights die, of the others most."""
    generator = torch.Generator().manual_seed(3)
    alive = {
        name: torch.rand(flags.shape, generator=generator) < density for name, flags in prunable.full(model).items()
    }
    for name, flags in alive.items():
        if flags.dim() > 1 and len(flags) > 4 and "table" not in name:
            flags[::2] = False
    return Mask(alive)


def size(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


# ---------------------------------------------------------------- models as their users write them


class UNet(nn.Module):
    """Maps are cropped to each other's size; a convolution goes up."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.lower = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 16, 3)
        self.up, self.both, self.out = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(16, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, maps: Tensor) -> Tensor:
        left = F.relu(self.down(maps))
        right = self.up(F.relu(self.lower(F.max_pool2d(left, 2))))
        edge = (left.shape[2] - right.shape[2]) // 2
        left = left[:, :, edge : edge + right.shape[2], edge : edge + right.shape[3]]
        if left.shape[2:] != right.shape[2:]:
            right = F.interpolate(right, size=left.shape[2:])
        joined: Tensor = self.out(F.relu(self.both(torch.cat([left, right], 1))))
        return joined


class CarefulNorm(nn.BatchNorm2d):
    def forward(self, maps: Tensor) -> Tensor:
        assert maps.ndim == 4
        return super().forward(maps)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs)
        self.two, self.other = nn.Conv2d(outputs, outputs, 3, 1, 1), CarefulNorm(outputs)
        self.down = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.other(self.two(F.relu(self.norm(self.one(maps)))))
        if maps.shape != inner.shape:
            maps = self.down(maps)
        return F.relu(maps + inner)


class ResNet(nn.Module):
    """As tutorials write them: assertions, `len`, `view`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 8, 3, 1, 1), nn.Sequential(Block(8, 8, 1), Block(8, 16, 2))
        self.fc = nn.Linear(16, 5)

    def forward(self, maps: Tensor) -> Tensor:
        assert maps.shape[1] == 3, f"colours, not {maps.shape}"
        maps = F.adaptive_avg_pool2d(self.blocks(self.stem(maps)), 1)
        scores: Tensor = self.fc(maps.view(len(maps), -1))
        return scores


@lru_cache
def heads_of(shape: tuple[int, ...], heads: int) -> tuple[int, int, int, int]:
    """Libraries that read a notation keep what they have made of a shape."""
    batch, length, width = shape
    return batch, length, heads, width // heads


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.place = nn.Linear(12, 16), nn.Parameter(torch.randn(1, 16, 16))
        self.qkv, self.projection, self.norm = nn.Linear(16, 48), nn.Linear(16, 16), nn.LayerNorm(16)
        self.wide, self.narrow, self.head = nn.Linear(16, 40), nn.Linear(40, 16), nn.Linear(16, 5)

    def forward(self, maps: Tensor) -> Tensor:
        count, colours, height, width = maps.shape
        tokens = maps.view(count, colours, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5).flatten(3)
        tokens = self.patches(tokens.flatten(1, 2)) + self.place
        query, key, value = (
            each.view(heads_of(each.shape, 2)).transpose(1, 2) for each in self.qkv(tokens).chunk(3, -1)
        )
        shares = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)
        tokens = tokens + self.projection((shares @ value).transpose(1, 2).flatten(2))
        tokens = tokens + self.narrow(F.gelu(self.wide(self.norm(tokens))))
        scores: Tensor = self.head(tokens[:, 0])
        return scores


class Experts(nn.Module):
    """Tokens go where a router sends them; nothing is called for an expert that gets none."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.fc = nn.Linear(8, 4), nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 8)) for _ in range(4))

    def forward(self, values: Tensor) -> Tensor:
        shares, chosen = self.router(values).softmax(-1).topk(2, -1)
        out = torch.zeros_like(values)
        for number, expert in enumerate(self.experts):
            row, slot = torch.where(chosen == number)
            if row.numel() == 0:
                continue
            out.index_add_(0, row, expert(values[row]) * shares[row, slot, None])
        scores: Tensor = self.fc(values + out)
        return scores


class Temporal(nn.Module):
    """Convolutions of the past alone: what hangs over is cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(2, 12, 3, padding=2), nn.Conv1d(12, 12, 3, padding=4, dilation=2)
        self.beside, self.fc = nn.Conv1d(2, 12, 1), nn.Linear(12, 3)

    def forward(self, lines: Tensor) -> Tensor:
        inner = F.relu(self.two(F.relu(self.one(lines)[:, :, :-2]))[..., :-4])
        beside = lines if lines.shape[1] == inner.shape[1] else self.beside(lines)
        scores: Tensor = self.fc(F.relu(inner + beside)[:, :, -1])
        return scores


class Tagger(nn.Module):
    """Recurrent layers, with a beginning as long as the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.gru = nn.Embedding(40, 12), nn.GRU(12, 10, 2, batch_first=True)
        self.fc = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 6))

    def forward(self, tokens: Tensor) -> Tensor:
        assert tokens.dim() == 2
        states, _ = self.gru(self.table(tokens), torch.zeros(2, len(tokens), 10))
        tags: Tensor = self.fc(states)
        return tags


MAPS, LINES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(40 * 8.0).view(40, 8)
FOLLOWED: dict[str, tuple[Callable[[], nn.Module], Tensor, float]] = {  # the model, inputs, at most so much is left
    "U-Net": (UNet, torch.randn(3, 1, 20, 20), 0.4),
    "ResNet": (ResNet, MAPS, 0.7),
    "attention": (Attention, MAPS, 0.85),
    "experts": (Experts, LINES.sin(), 0.5),
    "temporal": (Temporal, LINES.view(20, 2, 8).cos(), 0.6),
    "tagger": (Tagger, LINES.long() % 40, 0.95),
}


@pytest.mark.parametrize(("make", "inputs", "left"), FOLLOWED.values(), ids=FOLLOWED)
def test_what_torch_fx_cannot_follow_is_compacted_and_computes_the_same(
    make: Callable[[], nn.Module], inputs: Tensor, left: float
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    mask, before = halved(model), weights.of(model)
    with pytest.raises(BadInput):
        trace.calls(model, 1)
    small = compact(model, mask, inputs)
    assert type(small) is type(model) and size(small) <= left * size(model)
    with torch.no_grad():
        torch.testing.assert_close(small(inputs), masked(model, mask)(inputs), rtol=1e-4, atol=1e-5)
    assert weights.equal(weights.of(model), before), "and the model stays as it was"


# ---------------------------------------------------------------- the same as torch.fx sees


class Both(nn.Module):
    """What either of the two can follow, of most kinds of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.up = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3), nn.ConvTranspose2d(16, 6, 3, 2)
        self.norm, self.fc, self.scale = nn.BatchNorm2d(8), nn.Linear(6, 4), nn.Parameter(torch.randn(4))

    def forward(self, maps: Tensor) -> Tensor:
        inner = F.relu(self.norm(self.one(maps)))
        other = self.two(F.pad(inner, (1, 1, 1, 1)))
        other += inner * 2
        joined = torch.cat([1 - other, -inner / 3], dim=1)[:, :, 1:, :-1]
        turned = self.up(joined).permute(0, 2, 3, 1).transpose(1, 2)
        scores: Tensor = self.fc(turned.mean((1, 2)).abs()) * self.scale
        return scores.softmax(-1)


SEEN: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "all kinds": (Both, MAPS[:4]),
    "resnet": (lambda: models.build("resnet-8", (3, 8, 8), 5, "kaiming-normal", init_seed=1), MAPS[:4]),
    "lenet": (lambda: models.build("lenet-20-10", (3, 8, 8), 5, "glorot-normal", init_seed=1), MAPS[:4]),
}


@pytest.mark.parametrize(("make", "inputs"), SEEN.values(), ids=SEEN)
def test_a_call_that_is_written_down_is_the_one_that_torch_fx_sees(
    make: Callable[[], nn.Module], inputs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    mask = halved(model)
    seen = compact(model, mask, inputs)
    monkeypatch.setattr("tombola.cash.channels.trace", trace.recorded)
    written = compact(model, mask, inputs)
    assert size(seen) < size(model)
    assert {name: value.shape for name, value in written.state_dict().items()} == {
        name: value.shape for name, value in seen.state_dict().items()
    }
    assert weights.equal(weights.of(written), weights.of(seen))


# ---------------------------------------------------------------- what is not followed, and says why


class Asking(nn.Module):
    def __init__(self, ask: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.ask, self.last = nn.Linear(3, 5), ask, nn.Linear(5, 2)

    def forward(self, values: Tensor) -> Tensor:
        len(values)  # not for torch.fx
        scores: Tensor = self.last(self.ask(self.first(values)))
        return scores


def negative(values: Tensor) -> Tensor:
    return values if values.sum() > 0 else -values


def scaled(values: Tensor) -> Tensor:
    return values / float(values.max())


@pytest.mark.parametrize("ask", [negative, scaled])
def test_what_depends_on_values_is_refused_with_its_line(ask: Callable[[Tensor], Tensor]) -> None:
    model = Asking(ask)
    with pytest.raises(BadInput, match=r"Asking: .*a decision by a value of the input.*test_recording\.py, line \d+"):
        compact(model, prunable.full(model), torch.ones(4, 3))


@pytest.mark.parametrize(
    "ask",
    [
        lambda values: values * values.shape[1],
        lambda values: values / math.sqrt(values.size(1)),
        lambda values: values if values.shape[1] == 5 else 0 * values,
        lambda values: values * {5: 2.0}.get(values.size()[-1], 0.0),
    ],
)
def test_units_whose_number_the_code_makes_use_of_stay(ask: Callable[[Tensor], Tensor]) -> None:
    model = Asking(ask)
    alive = {name: flags.clone() for name, flags in prunable.full(model).items()}
    alive["first.weight"][1:3] = False
    small = compact(model, Mask(alive), torch.randn(4, 3))
    assert small.get_parameter("first.weight").shape == (5, 3)


def test_experts_that_the_example_does_not_reach_are_asked_for() -> None:
    model = Experts()
    with pytest.raises(BadInput, match=r"the example: expected examples that reach every layer of Experts.* not call"):
        compact(model, prunable.full(model), torch.zeros(2, 8))


def test_sizes_that_a_library_keeps_are_plain_numbers_afterwards() -> None:
    kept: list[int] = []
    model = Asking(lambda values: kept.append(values.shape[1]) or values)  # type: ignore[func-returns-value]
    compact(model, prunable.full(model), torch.zeros(2, 3))
    sizes = [each for each in kept if isinstance(each, Dimension)]
    assert sizes and all(each.node is None and type(each + 1) is int and each == 5 for each in sizes)
    assert nn.Module.__call__.__qualname__ == nn.Linear.__call__.__qualname__ != "instead"
