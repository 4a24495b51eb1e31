"""`tombola.shrink` on models as people write them: the masked model's answers, or a sentence on what was left alone."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import tombola
from tombola import cash, mask, weights
from tombola.errors import BadInput
from tombola.score import Batch, cross_entropy


def normed(inputs: int, outputs: int, window: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, window, stride, window // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


def block(inputs: int, outputs: int, window: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*normed(inputs, outputs, window, stride), nn.ReLU())


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        first, second = normed(inputs, inner, 1), normed(inner, inner, 3, stride)
        self.body = nn.Sequential(*first, nn.ReLU(), *second, nn.ReLU(), *normed(inner, outputs, 1))
        same = stride == 1 and inputs == outputs
        self.short = nn.Identity() if same else nn.Sequential(*normed(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.short(x))


class Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 4 * inputs
        first, each = normed(inputs, wide, 1), normed(wide, wide, 3, stride, groups=wide)
        self.body = nn.Sequential(*first, nn.ReLU6(), *each, nn.ReLU6(), *normed(wide, outputs, 1))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.adds else y


class Dense(nn.Module):
    """A block of three layers that read all before them, and a transition."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 4 * at), nn.ReLU(), nn.Conv2d(8 + 4 * at, 4, 3, padding=1, bias=False))
            for at in range(3)
        )
        self.between = nn.Sequential(nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 10, 1), nn.AvgPool2d(2))
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.first(x)]
        for layer in self.layers:
            found.append(layer(torch.cat(found, 1)))
        y: Tensor = self.head(self.between(torch.cat(found, 1)).mean((2, 3)))
        return y


class Excited(nn.Module):
    """Squeeze and excitation, by convolutions, or by linear layers whose outputs are `spread` over the positions."""

    def __init__(self, spread: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.first, self.second, self.spread = block(3, 16), block(16, 16), spread
        self.down: nn.Module = nn.Linear(16, 4) if spread else nn.Conv2d(16, 4, 1)
        self.up: nn.Module = nn.Linear(4, 16) if spread else nn.Conv2d(4, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        before = self.first(x)
        y = self.second(before)
        if self.spread:
            share = self.spread(torch.sigmoid(self.up(F.relu(self.down(y.mean((2, 3)))))))
        else:
            share = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(y, 1)))))
        answers: Tensor = self.head((y * share + before).mean((2, 3)))
        return answers


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        deep = nn.Sequential(block(8, 4, 1), block(4, 4, 5))
        self.first, self.ways = block(3, 8), nn.ModuleList([block(8, 4, 1), block(8, 6), deep])
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        answers: Tensor = self.head(torch.cat([way(y) for way in self.ways], 1).amax((2, 3)))
        return answers


class Pyramid(nn.Module):
    """Two levels that are added after a projection, one head for both."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = block(3, 8, stride=2), block(8, 16, stride=2)
        self.of_fine, self.of_coarse, self.head = nn.Conv2d(8, 12, 1), nn.Conv2d(16, 12, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        top = self.of_coarse(self.coarse(fine))
        low = self.of_fine(fine) + F.interpolate(top, scale_factor=2.0)
        return torch.cat([self.head(low).flatten(1), self.head(top).flatten(1)], 1)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.back, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Tensor) -> Tensor:
        rows, tokens, width = x.shape
        parts = self.qkv(x).reshape(rows, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*parts)
        answers: Tensor = self.back(y.transpose(1, 2).reshape(rows, tokens, width))
        return answers


class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.place = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, 17, 16))
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(3))
        self.attention, self.wide, self.narrow = Attention(16, 4), nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(len(y), -1, -1), y], 1) + self.place
        y = y + self.attention(self.norms[0](y))
        y = y + self.narrow(F.gelu(self.wide(self.norms[1](y))))
        answers: Tensor = self.head(self.norms[2](y)[:, 0])
        return answers


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
        self.tokens, self.body = nn.Embedding(20, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.wide, self.head = nn.Linear(16, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.head(F.relu(self.wide(self.body(self.tokens(x)).mean(1))))
        return answers


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.before = nn.Embedding(20, 12), nn.Linear(12, 16)
        self.lstm = nn.LSTM(16, 10, 2, batch_first=True, bidirectional=True)
        self.wide, self.head = nn.Linear(20, 14), nn.Linear(14, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(F.relu(self.before(self.tokens(x))))
        answers: Tensor = self.head(F.relu(self.wide(y)))
        return answers


class Temporal(nn.Module):
    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.ahead = 2 * dilation
        self.first = nn.Conv1d(inputs, outputs, 3, padding=self.ahead, dilation=dilation)
        self.second = nn.Conv1d(outputs, outputs, 3, padding=self.ahead, dilation=dilation)
        self.short = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x)[:, :, : -self.ahead])
        return F.relu(F.relu(self.second(y)[:, :, : -self.ahead]) + self.short(x))


def residual() -> nn.Module:
    blocks = (Bottleneck(8, 8, 32, 1), Bottleneck(32, 8, 32, 1), Bottleneck(32, 16, 64, 2))
    return nn.Sequential(block(3, 8), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))


def mobile() -> nn.Module:
    blocks = (Inverted(8, 8, 1), Inverted(8, 16, 2), Inverted(16, 16, 1), nn.Conv2d(16, 32, 3, padding=1, groups=4))
    return nn.Sequential(block(3, 8), *blocks, nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))


def temporal() -> nn.Module:
    blocks = (Temporal(3, 8, 1), Temporal(8, 8, 2), Temporal(8, 12, 4))
    return nn.Sequential(nn.Flatten(2), *blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(12, 3))


def autoencoder() -> nn.Module:
    down = (nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
    up = (nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1))
    return nn.Sequential(*down, *up, nn.Sigmoid())


IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TOKENS = torch.arange(14).view(2, 7)
# Of each the share of its parameters that half of its channels leave at the most, and of some layers why theirs stay.
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor, float, dict[str, str]]] = {
    "residual, bottlenecks": (residual, IMAGES, 0.3, {}),
    "inverted residuals": (mobile, IMAGES, 0.35, {}),
    "dense block": (Dense, IMAGES, 0.32, {}),
    "squeeze and excitation": (Excited, IMAGES, 0.32, {}),
    "with a view": (lambda: Excited(lambda y: y.view(len(y), 16, 1, 1)), IMAGES, 0.98, {"up.weight": "view"}),
    "with None": (lambda: Excited(lambda y: y[..., None, None]), IMAGES, 0.32, {}),
    "with None before them": (lambda: Excited(lambda y: y[:, None].transpose(1, 2)[..., None]), IMAGES, 0.32, {}),
    "with unsqueeze": (lambda: Excited(lambda y: y.unsqueeze(-1).unsqueeze(dim=2)), IMAGES, 0.32, {}),
    "inception": (Inception, IMAGES, 0.33, {}),
    "pyramid": (Pyramid, IMAGES, 0.95, {"head.weight": "called twice"}),
    "vision transformer": (VisionTransformer, IMAGES, 0.9, {"attention.qkv.weight": "reshape", "patches.weight": ""}),
    "transformer encoder": (Encoder, TOKENS, 0.98, {}),
    "tagger": (Tagger, TOKENS, 0.98, {"before.weight": "LSTM"}),
    "temporal": (temporal, IMAGES, 0.32, {}),
    "autoencoder": (autoencoder, IMAGES, 0.3, {}),
}


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name][0]().double()
    for each in model.modules():
        if isinstance(each, nn.BatchNorm2d):
            for values in (each.weight.data, each.bias.data, each.running_mean):
                nn.init.normal_(values)  # type: ignore[arg-type]
    return model.eval()


def size(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_a_shrunk_model_answers_as_the_masked_one_and_what_stays_has_a_reason(name: str) -> None:
    model, (_, example, most, reasons) = built(name), MODELS[name]
    before = copy.deepcopy(model.state_dict())
    living, small = cash.shrunk_mask(model, 0.5, example), tombola.shrink(model, 0.5, example)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    whole = copy.deepcopy(model)
    weights.put(whole, mask.apply(weights.of(whole), living))
    torch.testing.assert_close(small(example), whole(example), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(whole(example), model(example), atol=1e-6)
    assert size(small) <= most * size(model)
    alone = cash.coupling(model, example).alone
    assert all(why in alone[layer] for layer, why in reasons.items())


class Twins(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.head = nn.Linear(6, 12), nn.Linear(12, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        one, other = (self.narrow(F.relu(self.wide(each))) for each in (x, -x))
        answers: Tensor = self.head((one - other).abs())
        return answers


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "twins": (Twins, "wide.weight .it is called twice, or shares its weights"),
    "weight norm": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 12)), nn.ReLU(), nn.Linear(12, 3)),
        "a weight that is computed from others .by weight_norm.* Remove what computes it first",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_has_no_channel_to_spare_is_refused_with_the_reason(name: str) -> None:
    build, message = REFUSED[name]
    with pytest.raises(BadInput, match=message):
        tombola.shrink(build(), 0.5, torch.ones(2, 6))


@pytest.mark.parametrize("keep", [0, 1.5, 50, -0.5, float("nan"), "0.5", True])
def test_what_is_to_stay_is_explained_as_what_stays(keep: Any) -> None:
    with pytest.raises(BadInput, match=r"keep: expected .*, found .*\. 0\.5 keeps half of the channels") as caught:
        tombola.shrink(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), keep, torch.zeros(1, 4))
    assert "remove" not in str(caught.value)


def test_a_multiple_that_layers_are_too_narrow_for_is_told() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 5))
    with pytest.warns(UserWarning, match=r"multiple: 0\.weight \(8 channels\) stays as wide as it is.*16"):
        small = tombola.shrink(model, 0.5, torch.zeros(1, 4), multiple=16)
    assert [each.out_features for each in small.modules() if isinstance(each, nn.Linear)] == [8, 16, 5]


@pytest.mark.parametrize("shape", [(6, 6), (5, 7), (3, 3), (9,)])
def test_taylor_of_maps_of_classes_is_that_of_their_cross_entropy(shape: tuple[int, ...]) -> None:
    kind = {1: nn.Conv1d, 2: nn.Conv2d}[len(shape)]
    model = nn.Sequential(kind(2, 6, 3, padding=1), nn.ReLU(), kind(6, 3, 1))
    images, labels = torch.randn(4, 2, *shape), torch.randint(3, (4, *shape))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    by = [cash.Importance("taylor", [(images, labels)]), cash.Importance("taylor", [(images, labels)], loss)]
    first, second = (cash.shrunk_mask(model, 0.5, images, by=each) for each in by)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(cross_entropy(model, (images, labels)), loss(model, (images, labels)))
