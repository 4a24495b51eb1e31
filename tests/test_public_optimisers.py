"""The optimisers of a public library under the guard train what masking by hand around each step trains."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tombola import prunable, weights
from tombola.errors import BadInput
from tombola.guard import Guard
from tombola.mask import Mask

public = pytest.importorskip("pytorch_optimizer", reason="needs the package pytorch-optimizer")

INPUTS = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
OF_THE_MODEL = ("adalomo", "adammini", "lomo")
IN_GROUPS = ("adago", "adamuon", "distributedmuon", "muon", "muonclip", "normuon", "spectralsphere")
OPTIONS: dict[str, dict[str, Any]] = {"bsam": {"num_data": 12}, "ranger21": {"num_iterations": 100}}
NAMES = sorted(set(public.get_supported_optimizers()) - {"demo"})  # which needs einops

WRAPPERS = ("magma",)
UNUSABLE = {
    "adalomo": "steps in the backward pass",
    "lomo": "steps in the backward pass",
    "bsam": "fails on any model",
    "distributedmuon": "needs several processes",
}
# One number per weight, and a norm or a product over a whole layer: what a pruned one has gathered moves the living.
MIXING = {
    "lamb": ("exp_avg", "exp_avg_sq"),
    "muon": ("momentum_buffer",),
    "muonclip": ("momentum_buffer",),
    "prodigy": ("s", "p0", "exp_avg", "exp_avg_sq"),
    "stableadamw": ("exp_avg", "exp_avg_sq"),
}


def network() -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))


def half(model: nn.Module) -> Mask:
    return Mask(
        {name: torch.arange(each.numel()).view_as(each) % 3 != 1 for name, each in prunable.full(model).items()}
    )


def made(name: str, model: nn.Module) -> Any:
    kind = public.load_optimizer(name)
    if name in OF_THE_MODEL:
        return kind(model, **OPTIONS.get(name, {}))
    if name in IN_GROUPS:
        matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
        others = [parameter for parameter in model.parameters() if parameter.dim() == 1]
        muon = "use_muon" in inspect.getsource(kind)
        groups = [{"params": matrices, "use_muon": True}, {"params": others, "use_muon": False}]
        return kind(groups if muon else matrices, **OPTIONS.get(name, {}))
    return kind(model.parameters(), **OPTIONS.get(name, {}))


def step(name: str, model: nn.Module, optimizer: Any, before: Callable[[], None], after: Callable[[], None]) -> None:
    """One step in the way that the optimiser asks for; `before` sees the gradients, `after` the weights."""

    def closure() -> Tensor:
        with torch.enable_grad():
            optimizer.zero_grad()
            loss: Tensor = model(INPUTS).square().mean()
            loss.backward(create_graph=name in ("adahessian", "sophiah"))
        before()
        return loss

    if name in ("alig", "lbfgs"):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()
    after()


def trained(name: str, dense: int, guarded: bool) -> tuple[dict[str, Tensor], Mask]:
    """The weights after `dense` steps and four more under a mask, held by the guard or by hand."""
    model = network()
    kept, optimizer = half(model), made(name, model)
    torch.manual_seed(1)
    for _ in range(dense):
        step(name, model, optimizer, lambda: None, lambda: None)

    def gradients() -> None:
        for layer, alive in kept.items():
            if (gradient := model.get_parameter(layer).grad) is not None:
                gradient.mul_(alive)  # in the graph of second derivatives too, which are the ticket's own then

    @torch.no_grad()
    def values() -> None:
        for layer, alive in kept.items():
            model.get_parameter(layer).masked_fill_(~alive, 0)

    if guarded:
        Guard(model, optimizer, kept)
        gradients = values = lambda: None
    else:
        values()
        for layer, alive in kept.items():
            for each in MIXING.get(name, ()) if dense else ():
                optimizer.state[model.get_parameter(layer)][each].masked_fill_(~alive, 0)
    for _ in range(4):
        step(name, model, optimizer, gradients, values)
        assert all(not model.get_parameter(layer).detach()[~alive].any() for layer, alive in kept.items())
    return weights.of(model), kept


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dense", [0, 3])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*UNUSABLE, *WRAPPERS)])
def test_a_guarded_optimiser_trains_as_under_a_mask_put_on_by_hand(name: str, dense: int) -> None:
    guarded, kept = trained(name, dense, guarded=True)
    by_hand, _ = trained(name, dense, guarded=False)
    for layer, value in guarded.items():
        torch.testing.assert_close(value, by_hand[layer], rtol=0, atol=0, equal_nan=True)
    assert kept.density < 1 and not weights.equal(guarded, weights.of(network()))


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_that_cannot_be_watched_is_refused_by_name(name: str) -> None:
    model = network()
    with pytest.raises(BadInput, match=rf"(?i)optimizer: .*found a {name} without"):
        Guard(model, made(name, model), half(model))
