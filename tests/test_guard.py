"""Pruned means pruned; the laws that every optimiser obeys are in laws/."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tombola import mask, prunable, prune, weights
from tombola.errors import BadInput, Diverged, GuardLost, TombolaError
from tombola.guard import Guard
from tombola.mask import Mask

INPUTS = torch.linspace(-1, 1, 48).view(12, 4)
LABELS = torch.arange(12) % 3


def network() -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def half(model: nn.Module) -> Mask:
    """Every other weight of every layer."""
    return Mask(
        {name: (torch.arange(alive.numel()) % 2 == 0).view_as(alive) for name, alive in prunable.full(model).items()}
    )


def loss_of(model: nn.Module) -> Tensor:
    return functional.cross_entropy(model(INPUTS), LABELS)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.step()


def moved(model: nn.Module, kept: Mask) -> int:
    """How many pruned weights are not 0."""
    return sum(int(model.get_parameter(name)[~alive].count_nonzero()) for name, alive in kept.items())


def test_a_pruned_weight_is_0_before_the_first_step_and_right_after_each() -> None:  # M1 M3 M5
    model = network()
    kept, optimizer = half(model), torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    Guard(model, optimizer, kept)
    assert moved(model, kept) == 0
    for _ in range(5):
        step(model, optimizer)
        assert moved(model, kept) == 0


def test_without_the_guard_they_would_have_moved() -> None:  # M8
    model = network()
    kept, optimizer = half(model), torch.optim.SGD(model.parameters(), lr=0.5)
    weights.put(model, mask.apply(weights.of(model), kept))
    step(model, optimizer)
    assert moved(model, kept) > 0


def test_pruning_again_right_after_a_step_revives_nothing() -> None:  # M3 C4 C5
    model = network()
    living, optimizer = half(model), torch.optim.Adam(model.parameters(), lr=0.1)
    Guard(model, optimizer, living)
    step(model, optimizer)
    scores = {name: model.get_parameter(name).detach().abs() for name in living}
    pruned = prune.globally(scores, living, 0.2)
    assert Mask(mask.apply(pruned, living)) == pruned
    assert pruned.alive == living.alive - prune.count(0.2, living.alive)


def test_momentum_gathered_before_the_pruning_moves_nothing_after_it() -> None:  # M2 M12
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(3):
        step(model, optimizer)
    kept = half(model)
    assert optimizer.state[model.get_parameter("0.weight")]["momentum_buffer"][~kept["0.weight"]].count_nonzero()
    guard = Guard(model, optimizer, kept)
    guard.check()
    step(model, optimizer)
    guard.check()
    assert moved(model, kept) == 0


def test_gradients_are_0_when_the_optimiser_sees_them() -> None:  # M1 M9
    model = network()
    kept, optimizer = half(model), torch.optim.SGD(model.parameters(), lr=0.5)
    Guard(model, optimizer, kept)
    seen: list[int] = []

    def look(*_: object) -> None:
        for name, alive in kept.items():
            gradient = model.get_parameter(name).grad
            assert gradient is not None
            seen.append(int(gradient[~alive].count_nonzero()))

    optimizer.register_step_pre_hook(look)
    step(model, optimizer)
    assert seen == [0, 0]


def test_living_weights_move_negative_ones_too() -> None:  # M6
    model = network()
    kept, optimizer = half(model), torch.optim.SGD(model.parameters(), lr=0.5)
    before = weights.of(model)
    Guard(model, optimizer, kept)
    step(model, optimizer)
    last, alive = model.get_parameter("2.weight").detach(), kept["2.weight"]
    assert (before["2.weight"][alive] < 0).any() and (last[alive] != before["2.weight"][alive]).all()
    assert not torch.equal(model.get_parameter("2.bias"), before["2.bias"])


@pytest.mark.parametrize("unscale_first", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_mixed_precision_with_a_gradient_scaler_keeps_zeros(fused: bool, unscale_first: bool) -> None:  # M11
    model = network()
    kept, optimizer = half(model), torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1, fused=fused)
    guard, scaler = Guard(model, optimizer, kept), torch.amp.GradScaler("cpu")
    before = weights.of(model)
    for _ in range(5):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model)
        scaler.scale(loss).backward()
        if unscale_first:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        guard.check()
        assert moved(model, kept) == 0
    assert not torch.equal(model.get_parameter("0.weight"), before["0.weight"])


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_keeps_zeros(fused: bool) -> None:  # M11
    model = network()
    kept, optimizer = half(model), torch.optim.Adam(model.parameters(), lr=0.1, fused=fused)
    guard, scaler = Guard(model, optimizer, kept), torch.amp.GradScaler("cpu")
    before = weights.of(model)
    scaler.scale(loss_of(model) * torch.inf).backward()
    scaler.step(optimizer)
    scaler.update()
    guard.check()
    assert weights.equal(weights.of(model), before)


class Restless(torch.optim.SGD):
    """Adds noise to every parameter after each step, as Langevin dynamics does: 0 does not stay 0 by itself."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.add_(0.1)


def test_an_optimiser_that_would_move_everything_is_held() -> None:  # M1 M8
    model = network()
    kept, optimizer = half(model), Restless(model.parameters(), lr=0.5, momentum=0.9)
    guard = Guard(model, optimizer, kept)
    for _ in range(3):
        step(model, optimizer)
        guard.check()
        assert moved(model, kept) == 0


def test_the_model_stays_a_plain_module() -> None:  # P4 S10
    """Depthwise and dilated convolutions keep their groups, names, hooks and outputs; copies of the model work."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, dilation=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    images = torch.randn(3, 4, 6, 6)
    outputs, names = model(images), list(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Guard(model, optimizer, prunable.full(model))
    assert torch.equal(model(images), outputs) and list(model.state_dict()) == names
    kept = half(model)
    Guard(model, optimizer, kept)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    twin = copy.deepcopy(model)
    assert torch.equal(twin(images), model(images)) and moved(twin, kept) == 0


def test_a_guarded_model_computes_what_its_masked_weights_compute() -> None:  # M5
    model, other = network(), network()
    kept = half(model)
    Guard(model, torch.optim.SGD(model.parameters(), lr=0.1), kept)
    huge = {
        name: value.masked_fill(~kept[name], 1e6) if name in kept else value
        for name, value in weights.of(model).items()
    }
    weights.put(other, mask.apply(huge, kept))
    assert torch.equal(other(INPUTS), model(INPUTS))
    weights.put(other, huge)
    assert not torch.equal(other(INPUTS), model(INPUTS))


def test_a_parallel_wrapper_trains_to_the_same_weights() -> None:  # M7
    alone, wrapped = network(), network()
    kept = half(alone)
    parallel = nn.DataParallel(wrapped)
    for model, forward in ((alone, alone), (wrapped, parallel)):
        optimizer = torch.optim.Adam(forward.parameters(), lr=0.1)
        Guard(model, optimizer, kept)
        for _ in range(3):
            step(forward, optimizer)
    assert weights.equal(weights.of(alone), weights.of(wrapped)) and moved(wrapped, kept) == 0


def lose_a_weight(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    with torch.no_grad():
        model.get_parameter("0.weight").add_(1.0)


def lose_the_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.state[model.get_parameter("0.weight")]["exp_avg"].add_(1.0)


@pytest.mark.parametrize(("lose", "what"), [(lose_a_weight, "weight"), (lose_the_state, "optimiser state")])
def test_a_lost_guard_is_found_and_named(
    lose: Callable[[nn.Module, torch.optim.Optimizer], None], what: str
) -> None:  # M8
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    guard = Guard(model, optimizer, half(model))
    step(model, optimizer)
    guard.check()
    lose(model, optimizer)
    message = (
        f"0.weight: expected every pruned {what} to be 0, found 12 that are not. "
        "Something changed them outside of the optimiser's step, as loading weights from before the "
        "rewind point does, a best checkpoint's for one."
    )
    with pytest.raises(GuardLost, match=f"^{re.escape(message)}$") as caught:
        guard.check()
    assert isinstance(caught.value, TombolaError)


def test_a_released_guard_holds_no_longer() -> None:  # M8
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    guard = Guard(model, optimizer, half(model))
    guard.release()
    step(model, optimizer)
    with pytest.raises(GuardLost, match=r"0\.weight: expected every pruned weight to be 0, found \d+ that are not"):
        guard.check()


def test_another_guard_on_the_same_optimiser_prunes_further() -> None:  # M4
    model = network()
    first, optimizer = half(model), torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    guard = Guard(model, optimizer, first)
    step(model, optimizer)
    guard.release()
    second = Mask(
        {name: alive & (torch.arange(alive.numel()) % 4 == 0).view_as(alive) for name, alive in first.items()}
    )
    Guard(model, optimizer, second)
    step(model, optimizer)
    assert moved(model, second) == 0


def test_a_layer_that_the_mask_leaves_out_is_dense() -> None:
    model = network()
    kept = Mask({"0.weight": torch.zeros(6, 4, dtype=torch.bool)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = weights.of(model)
    Guard(model, optimizer, kept)
    assert (
        torch.equal(model.get_parameter("2.weight"), before["2.weight"]) and not model.get_parameter("0.weight").any()
    )


def test_parameters_without_a_gradient_are_no_trouble() -> None:
    model = network()
    model.get_parameter("0.weight").requires_grad_(False)
    kept, optimizer = half(model), torch.optim.SGD(model.parameters(), lr=0.5)
    guard = Guard(model, optimizer, kept)
    step(model, optimizer)
    guard.check()
    assert moved(model, kept) == 0


class Tied(nn.Module):
    """An embedding whose table is also the output layer; `table` may be registered before both."""

    def __init__(self, own_table: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 4)
        if own_table:
            table, self.embedding = self.embedding.weight, nn.Identity()  # type: ignore[assignment]
            self.table = table
        self.output = nn.Linear(4, 3)
        self.output.weight = self.table if own_table else self.embedding.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.output(inputs)  # type: ignore[no-any-return]


def check_tied(model: nn.Module) -> None:
    kept, optimizer = half(model), torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    guard = Guard(model, optimizer, kept)
    step(model, optimizer)
    guard.check()
    assert moved(model, kept) == 0


def test_tied_weights_are_guarded_once() -> None:  # P7
    check_tied(Tied(own_table=False))


def test_a_weight_that_has_another_name_first_is_guarded() -> None:  # P7
    check_tied(Tied(own_table=True))


def test_an_infinite_gradient_is_called_a_divergence_not_a_lost_guard() -> None:  # M1
    model = network()
    kept, optimizer = half(model), torch.optim.SGD(model.parameters(), lr=0.1)
    guard = Guard(model, optimizer, kept)
    (loss_of(model) * torch.inf).backward()
    optimizer.step()
    with pytest.raises(Diverged, match="The training diverged"):
        guard.check()


def test_optimiser_state_that_is_loaded_later_is_masked_too() -> None:  # M2
    model = network()
    kept, optimizer = half(model), torch.optim.Adam(model.parameters(), lr=0.1)
    step(model, optimizer)
    dense_state = optimizer.state_dict()
    guard = Guard(model, optimizer, kept)
    optimizer.load_state_dict(dense_state)
    step(model, optimizer)
    guard.check()
    assert moved(model, kept) == 0


def test_an_optimiser_that_calls_a_closure_keeps_its_state_at_0() -> None:  # M1 M2
    model = network()
    kept, optimizer = half(model), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    guard = Guard(model, optimizer, kept)

    def closure() -> float:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    guard.check()


def test_a_mask_of_another_shape_is_refused() -> None:
    model = nn.Linear(2, 3)
    with pytest.raises(BadInput, match="weight"):
        Guard(model, torch.optim.SGD(model.parameters(), lr=0.1), Mask({"weight": torch.tensor([[True, False]])}))
