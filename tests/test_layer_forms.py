"""Which layers have which forms: the table of docs/cashing-in.md is what the code makes of one of each.

python tests/test_layer_forms.py    writes it anew
"""

import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor, nn

from tombola import prunable
from tombola.cash.compaction import compact
from tombola.cash.export import to_onnx
from tombola.cash.quantization import QuantisedLayer, quantize
from tombola.cash.sparse_layers import has_kernels
from tombola.cash.sparsification import sparsify
from tombola.engine import kernels
from tombola.errors import BadInput

PAGE = Path(__file__).parents[1] / "docs" / "cashing-in.md"
PLACE = re.compile(r"(?<=<!-- layers -->\n).*?(?=<!-- /layers -->)", re.DOTALL)
MAPS, LINES, VOLUMES = torch.randn(2, 4, 6, 6), torch.randn(2, 4, 9), torch.randn(2, 4, 5, 5, 5)
STEPS, TOKENS = torch.randn(2, 5, 8), torch.arange(40).view(4, 10)

Make = Callable[[], nn.Module]
LAYERS: dict[str, tuple[Make, Tensor]] = {
    "`Linear`": (lambda: nn.Linear(8, 12), torch.randn(2, 8)),
    "`Conv1d`": (lambda: nn.Conv1d(4, 12, 3), LINES),
    "`Conv2d`": (lambda: nn.Conv2d(4, 12, 3), MAPS),
    "`Conv2d`, in groups": (lambda: nn.Conv2d(4, 12, 3, groups=2), MAPS),
    "`Conv2d`, depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), MAPS),
    "`Conv3d`": (lambda: nn.Conv3d(4, 12, 3), VOLUMES),
    "`ConvTranspose1d`": (lambda: nn.ConvTranspose1d(4, 12, 3), LINES),
    "`ConvTranspose2d`": (lambda: nn.ConvTranspose2d(4, 12, 3), MAPS),
    "`ConvTranspose3d`": (lambda: nn.ConvTranspose3d(4, 12, 3), VOLUMES),
    "`LSTM`": (lambda: nn.LSTM(8, 12, batch_first=True), STEPS),
    "`LSTM`, with projections": (lambda: nn.LSTM(8, 12, batch_first=True, proj_size=4), STEPS),
    "`GRU`": (lambda: nn.GRU(8, 12, batch_first=True), STEPS),
    "`RNN`": (lambda: nn.RNN(8, 12, batch_first=True), STEPS),
    "`MultiheadAttention`": (lambda: nn.MultiheadAttention(8, 4, batch_first=True), STEPS),
    "`TransformerEncoderLayer`": (lambda: nn.TransformerEncoderLayer(8, 4, 16, batch_first=True), STEPS),
    "`Embedding`": (lambda: nn.Embedding(40, 8), TOKENS),
    "`EmbeddingBag`": (lambda: nn.EmbeddingBag(40, 8), TOKENS),
}


class Before(nn.Module):
    """A layer, behind one of channels where there are such, and one that reads what it gives."""

    def __init__(self, layer: nn.Module, inputs: Tensor) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 1) if isinstance(layer, nn.Conv2d) else nn.Identity()
        self.layer = layer
        self.attends, self.recurs = (isinstance(layer, kind) for kind in (nn.MultiheadAttention, nn.RNNBase))
        with torch.no_grad():
            outputs = self.given(inputs)
        self.maps = outputs.dim() > 3 or isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)
        self.axes = tuple(range(2, outputs.dim()))
        self.last = nn.Linear(outputs.shape[1 if self.maps else -1], 3)

    def given(self, values: Tensor) -> Tensor:
        values = self.first(values)
        if self.attends:
            values = self.layer(values, values, values)[0]
        elif self.recurs:
            values = self.layer(values)[0]
        else:
            values = self.layer(values)
        return values

    def forward(self, values: Tensor) -> Tensor:
        values = self.given(values)
        scores: Tensor = self.last(values.mean(self.axes) if self.maps else values)
        return scores


def half_dead(model: Before) -> None:
    """Half of the units, heads or rows of the layer say nothing."""
    layer = model.layer
    with torch.no_grad():
        if isinstance(layer, nn.RNNBase):
            for value in layer.parameters():
                if len(value) % layer.hidden_size == 0:
                    value.unflatten(0, (-1, layer.hidden_size))[:, ::2] = 0
        elif isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            layer.weight[::2] = 0
        elif isinstance(layer, nn.MultiheadAttention | nn.TransformerEncoderLayer):
            attention = layer if isinstance(layer, nn.MultiheadAttention) else layer.self_attn
            attention.out_proj.weight[:, :4] = 0
        else:
            model.last.weight[:, ::2] = 0


def size(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def forms(make: Make, inputs: Tensor) -> list[bool]:
    """Compact, sparse, int8: whether the layer has this form."""
    torch.manual_seed(0)
    model = Before(make(), inputs).eval()
    half_dead(model)
    small, whole = compact(model, prunable.full(model), inputs).get_submodule("layer"), size(model.layer)
    alone = by_itself(make, inputs)
    rounded = any(isinstance(module, QuantisedLayer) for module in quantize(alone).modules())
    return [size(small) < whole, has_kernels(sparsify(alone, inputs, everywhere=True)), rounded]


def by_itself(make: Make, inputs: Tensor) -> nn.Module:
    model = Before(make(), inputs).eval()
    model.first, model.last = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    return model


def runs_in_onnx(make: Make, inputs: Tensor) -> bool:
    try:
        with TemporaryDirectory() as folder:
            return to_onnx(by_itself(make, inputs), inputs, Path(folder) / "layer.onnx") < 1e-4
    except BadInput:
        return False


def rows(also: Callable[[Make, Tensor], bool] | None = None) -> list[list[str]]:
    """Of each layer its name and its forms."""
    return [
        [name, *("yes" if has else "-" for has in (*forms(*about), *([also(*about)] if also else ())))]
        for name, about in LAYERS.items()
    ]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.skipif(not kernels.sets(), reason="no kernels were compiled")
def test_the_table_of_forms_is_what_the_code_makes() -> None:
    """But for its last column, which takes a minute."""
    found = PLACE.search(PAGE.read_text(encoding="utf-8"))
    assert found
    assert [line.strip("| ").split(" | ")[:4] for line in found[0].splitlines()[2:]] == rows()


if __name__ == "__main__":
    lines = ["| layer | compact | sparse | int8 | ONNX |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(runs_in_onnx)]
    PAGE.write_text(PLACE.sub("\n".join(lines) + "\n", PAGE.read_text(encoding="utf-8")), encoding="utf-8")
