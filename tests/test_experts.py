"""Of a dead expert of a mixture the constant stays that it gives, and tokens go where they went."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dying import drawn, masked
from torch import Tensor, nn

from tombola import prunable, weights
from tombola.cash.compaction import compact, compacted
from tombola.cash.ensemble import Ensemble
from tombola.cash.experts import Constant
from tombola.cash.export import from_safetensors, stored, to_safetensors
from tombola.cash.stacking import stack
from tombola.mask import Mask

WIDTH, EXPERTS = 8, 4
LINES = torch.randn(60, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Gated(nn.Module):
    """As Mixtral's experts: down(silu(gate(x)) * up(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(WIDTH, 20, bias=False), nn.Linear(WIDTH, 20, bias=False)
        self.down = nn.Linear(20, WIDTH, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.down(nn.functional.silu(self.gate(values)) * self.up(values))
        return out


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 24), nn.ReLU(), nn.Linear(24, WIDTH))


class Routed(nn.Module):
    """Tokens go to the two experts of their largest shares."""

    def __init__(self, expert: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.router, self.output = nn.Linear(WIDTH, EXPERTS), nn.Linear(WIDTH, 3)
        self.experts = nn.ModuleList(expert() for _ in range(EXPERTS))

    def forward(self, values: Tensor) -> Tensor:
        shares, chosen = self.router(values).softmax(-1).topk(2, -1)
        out = torch.zeros_like(values)
        for number, expert in enumerate(self.experts):
            row, slot = torch.where(chosen == number)
            if row.numel():
                out.index_add_(0, row, expert(values[row]) * shares[row, slot, None])
        scores: Tensor = self.output(values + out)
        return scores


class Mixed(Routed):
    """All experts answer, and their answers are added by their shares."""

    def forward(self, values: Tensor) -> Tensor:
        shares = self.router(values).softmax(-1)
        answers = torch.stack([expert(values) for expert in self.experts], dim=-1)
        scores: Tensor = self.output((answers * shares[:, None, :]).sum(-1))
        return scores


Make = Callable[[], nn.Module]
MIXTURES: dict[str, Make] = {
    "routed": lambda: Routed(plain),
    "gated": lambda: Routed(Gated),
    "single layers": lambda: Routed(lambda: nn.Linear(WIDTH, WIDTH)),
    "mixed": lambda: Mixed(plain),
}
every_mixture = pytest.mark.parametrize("name", MIXTURES)


def experts_die(model: nn.Module, *numbers: int) -> Mask:
    alive = {name: flags.clone() for name, flags in prunable.full(model).items()}
    for name, flags in alive.items():
        if name.startswith(tuple(f"experts.{number}." for number in numbers)):
            flags.zero_()
    return Mask(alive)


def gone(model: nn.Module) -> list[int]:
    experts = model.get_submodule("experts").children()
    return [number for number, expert in enumerate(experts) if isinstance(expert, Constant)]


def answer(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(LINES)  # type: ignore[no-any-return]


@every_mixture
def test_dead_experts_go_and_tokens_are_answered_as_before(name: str, tmp_path: Path) -> None:
    model = drawn(MIXTURES[name], seed=2)
    mask = experts_die(model, 1, 3)
    small = compact(model, mask, LINES)
    torch.testing.assert_close(answer(small), answer(masked(model, mask)), rtol=0, atol=1e-12)
    assert gone(small) == [1, 3] and not list(small.get_submodule("experts.1").parameters())
    assert small.get_parameter("router.weight").shape == (EXPERTS, WIDTH), "and go where they went"
    whole, now = (sum(value.numel() for value in each.parameters()) for each in (model, small))
    assert now <= whole - 2 * WIDTH * WIDTH
    assert len(stored(small)) < len(stored(masked(model, mask)))
    to_safetensors(small, tmp_path / "small.safetensors")
    again = from_safetensors(model, tmp_path / "small.safetensors")
    assert torch.equal(answer(again), answer(small)) and gone(again) == [1, 3]
    assert weights.equal(weights.of(compact(small, prunable.full(small), LINES)), weights.of(small)), "idempotent"


@every_mixture
def test_an_expert_through_which_one_path_lives_stays(name: str) -> None:
    model = drawn(MIXTURES[name], seed=2)
    mask = experts_die(model, 1, 3)
    alive = {each: flags.clone() for each, flags in mask.items()}
    for each, flags in alive.items():
        if each.startswith("experts.1."):
            flags[0, 0] = True
    small = compact(model, Mask(alive), LINES)
    torch.testing.assert_close(answer(small), answer(masked(model, Mask(alive))), rtol=0, atol=1e-12)
    assert gone(small) == [3]


def test_a_dead_member_of_an_ensemble_stays_a_network() -> None:
    ensemble = drawn(lambda: Ensemble([plain() for _ in range(3)]), seed=2)
    alive = {name: flags.clone() for name, flags in prunable.full(ensemble).items()}
    for name, flags in alive.items():
        if name.startswith("members.1."):
            flags.zero_()
    small = compact(ensemble, Mask(alive), LINES)
    assert not any(isinstance(module, Constant) for module in small.modules())
    assert isinstance(small, Ensemble)
    stack(small, LINES)


class Stacked(nn.Module):
    """All experts in two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = (nn.Parameter(torch.zeros(EXPERTS, WIDTH, WIDTH)) for _ in range(2))

    def forward(self, values: Tensor) -> Tensor:
        return torch.einsum("ni,eih,eho->no", values, self.up, self.down)


def test_experts_that_are_slices_of_one_tensor_stay_and_it_is_said() -> None:
    model = drawn(Stacked, seed=2)
    alive = {name: flags.clone() for name, flags in prunable.full(model, ["up", "down"]).items()}
    alive["down"][2] = False
    found = compacted(model, Mask(alive), LINES)
    assert found.left == {"": "1 of the 4 matrices in its tensors are 0, but its code reads these tensors"}


def test_a_dead_layer_of_several_in_a_row_is_no_expert() -> None:
    class Row(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.output = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3)), nn.Linear(WIDTH, 2)

        def forward(self, values: Tensor) -> Tensor:
            for layer in self.layers:
                values = torch.relu(layer(values))
            scores: Tensor = self.output(values)
            return scores

    model = drawn(Row, seed=2)
    alive = {name: flags.clone() for name, flags in prunable.full(model).items()}
    alive["layers.1.weight"].zero_()
    small = compact(model, Mask(alive), LINES)
    torch.testing.assert_close(answer(small), answer(masked(model, Mask(alive))), rtol=0, atol=1e-12)
    assert not any(isinstance(module, Constant) for module in small.modules())
