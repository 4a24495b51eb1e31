"""A U-Net and a ResNet at half of their channels: `tombola.shrink` beside Torch-Pruning, at equal parameters.

Both are plain modules, as users write them: residual sums with projections, concatenations, transposed convolutions.
Their weights are random, with normalisations as after some training; what is measured is how fast what is left of them
is. Torch-Pruning (Fang et al., 2023) is no dependency of Tombola: `pip install torch-pruning` for this script alone;
without it the section has no rows of it.

- shrink: `tombola.shrink(model, 0.5, example)`; its difference is from the model with the pruned channels' weights at
  0, in float64.
- Torch-Pruning: `MetaPruner(model, example, GroupMagnitudeImportance(p=2), pruning_ratio=0.5)` on a copy.

    python benchmarks/structured.py [--rounds N] [--write]
"""

import copy
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import pairwise

import torch
import torch.nn.functional as F
from section import ROOT, load, load_line, machine, options, publish, table
from torch import Tensor, nn

import tombola
from tombola import cash, mask, weights
from tombola.cash.timing import timed

PAGE = ROOT / "results" / "cash.md"
SIZE, BATCHES = 64, (1, 16)


class Block(nn.Module):
    """Two convolutions and a shortcut, which is projected where the width changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.first, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.second, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.short = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """relu(f(x) + shortcut(x))."""
        inner = self.norm2(self.second(F.relu(self.norm1(self.first(x)))))
        return F.relu(inner + self.short(x))


class ResNet(nn.Module):
    """Three stages of two blocks, 64 to 256 wide."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        widths = (64, 64, 64, 128, 128, 256, 256)
        self.blocks = nn.ModuleList([Block(*ends) for ends in pairwise(widths)])
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of ten classes."""
        x = F.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def _twice(inputs: int, outputs: int) -> nn.Sequential:
    first = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*first, nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    """Two levels down and up again, 32 to 128 wide, each way up joined to the way down."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = _twice(3, 32), _twice(32, 64), _twice(64, 128)
        self.up2, self.back2 = nn.ConvTranspose2d(128, 64, 2, 2), _twice(128, 64)
        self.up1, self.back1 = nn.ConvTranspose2d(64, 32, 2, 2), _twice(64, 32)
        self.out = nn.Conv2d(32, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of two classes at every place."""
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        deep = self.middle(F.max_pool2d(second, 2))
        up = self.back2(torch.cat([second, self.up2(deep)], 1))
        return self.out(self.back1(torch.cat([first, self.up1(up)], 1)))


def trained(build: Callable[[], nn.Module]) -> nn.Module:
    """A network whose normalisations are not those of its beginning."""
    torch.manual_seed(0)
    model = build().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, SIZE, SIZE))
    return model.eval()


def by_torch_pruning(model: nn.Module, example: Tensor) -> nn.Module:
    """Half of the channels of every layer but the answers', by Torch-Pruning."""
    import torch_pruning

    small = copy.deepcopy(model)
    answers = small.out if isinstance(small, UNet) else small.head
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    pruner = torch_pruning.pruner.MetaPruner(
        small, example, importance=importance, pruning_ratio=0.5, ignored_layers=[answers]
    )
    pruner.step()
    return small.eval()


def parameters(model: nn.Module) -> int:
    """How many it has."""
    return sum(each.numel() for each in model.parameters())


def apart(model: nn.Module, small: nn.Module, kept: mask.Mask) -> float:
    """The largest difference of an output from the masked model's, in float64, of outputs of about 1."""
    masked = copy.deepcopy(model)
    weights.put(masked, mask.apply(weights.of(masked), kept))
    inputs = torch.randn(4, 3, SIZE, SIZE, dtype=torch.float64)
    with torch.no_grad():
        return float((masked.double()(inputs) - copy.deepcopy(small).double()(inputs)).abs().max())


def rows(name: str, build: Callable[[], nn.Module], rounds: int) -> list[list[str]]:
    """The rows of one network."""
    model, example = trained(build), torch.randn(1, 3, SIZE, SIZE)
    kept = cash.shrunk_mask(model, 0.5, example)
    began = time.perf_counter()
    forms = {"as it is": model, "shrink": tombola.shrink(model, 0.5, example)}
    seconds = {"shrink": time.perf_counter() - began}
    if find_spec("torch_pruning"):
        began = time.perf_counter()
        forms["Torch-Pruning"] = by_torch_pruning(model, example)
        seconds["Torch-Pruning"] = time.perf_counter() - began
    exact = {"as it is": "", "shrink": f"{apart(model, forms['shrink'], kept):.0e}", "Torch-Pruning": "not offered"}
    found = []
    for batch in BATCHES:
        inputs = torch.randn(batch, 3, SIZE, SIZE)
        with torch.inference_mode():
            times = timed({form: partial(each, inputs) for form, each in forms.items()}, rounds)
        for form, each in forms.items():
            gain = times["as it is"].median_s / times[form].median_s
            made = f"{seconds[form]:.1f}" if form in seconds else ""
            about = [name, str(batch), form, f"{parameters(each):,}", exact[form]]
            found.append([*about, times[form].text, f"{gain:.2f}x", made])
    return found


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    before = load()
    found = [row for name, build in (("ResNet", ResNet), ("U-Net", UNet)) for row in rows(name, build, asked.rounds)]
    head = ["network", "batch", "form", "parameters", "difference", "milliseconds", "gain", "seconds to make"]
    about = (
        f"`python {' '.join(['benchmarks/structured.py', *sys.argv[1:]])}`: {machine()} {load_line(before)} "
        f"Images of {SIZE} x {SIZE}, one thread, calls in turn, medians with quartiles."
    )
    publish("structured", "Half of the channels, beside Torch-Pruning", [about, table(head, found)], asked.write, PAGE)


if __name__ == "__main__":
    main()
