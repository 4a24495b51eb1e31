"""An ensemble as one model answers with the mean of its members' probabilities, in whatever form it is."""

from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tombola import cash, models, prunable, weights
from tombola import mask as masks
from tombola.cash import export, timing
from tombola.cash.ensemble import Ensemble
from tombola.cash.form import Form, pays, sentences
from tombola.cash.sparse_layers import SparseChain, SparseConv2d
from tombola.cash.stacked_layers import StackedLinear
from tombola.cash.stacking import stack
from tombola.cash.timing import Timing
from tombola.engine import kernels
from tombola.errors import BadInput
from tombola.mask import Mask

needs_kernels = pytest.mark.skipif(not kernels.sets(), reason="no compiled kernels here")
MODELS = {
    "lenet-30-20": (1, 8, 8),
    "conv-2-w4": (1, 8, 8),
    "lenet-5": (1, 28, 28),
    "resnet-8-w4": (3, 8, 8),
    "vgg-11-w4": (3, 32, 32),
}


def network(name: str, seed: int, density: float = 0.3) -> tuple[nn.Module, Mask]:
    """Random weights of a size at which answers differ, and a mask under which some units and inputs are dead."""
    model = models.build(name, MODELS[name], 10, "kaiming-normal", init_seed=seed).eval()
    random = torch.Generator().manual_seed(seed)
    alive = {}
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.dim() == 1:
                value.copy_(torch.rand(value.shape, generator=random) + 0.5)
        for place, flags in prunable.full(model).items():
            alive[place] = torch.rand(flags.shape, generator=random) < density
            if "output" not in place:
                alive[place][torch.randperm(len(flags), generator=random)[: seed + 1]] = False
            if flags.dim() == 2:
                alive[place][:, torch.randperm(flags.shape[1], generator=random)[: seed + 1]] = False
            model.state_dict()[place].mul_(2)
    return model, Mask(alive)


def members(name: str, count: int = 3) -> tuple[list[nn.Module], list[Mask]]:
    found = [network(name, seed) for seed in range(count)]
    return [model for model, _ in found], [alive for _, alive in found]


def examples(name: str, count: int = 9) -> Tensor:
    return torch.rand(count, *MODELS[name], generator=torch.Generator().manual_seed(7))


def mean(networks: Sequence[nn.Module], alive: Sequence[Mask], inputs: Tensor) -> np.ndarray:
    """The mean of the probabilities, by numpy, of networks that are called by themselves."""
    found = []
    for model, flags in zip(networks, alive, strict=True):
        values = masks.apply(weights.of(model), flags)
        with torch.no_grad():
            logits = torch.func.functional_call(model, dict(values), (inputs,)).double().numpy()
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        found.append(powers / powers.sum(axis=1, keepdims=True))
    average: np.ndarray = np.mean(found, axis=0)
    return average


def probabilities(model: nn.Module, inputs: Tensor) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = np.exp(model(inputs).double().numpy())
    return found


def compacted(ensemble: Ensemble, inputs: Tensor) -> Ensemble:
    small = cash.compact(ensemble, ensemble.mask, inputs)
    assert isinstance(small, Ensemble)
    return small


@pytest.mark.parametrize("name", MODELS)
def test_probabilities_are_the_mean_of_the_members_in_every_form(name: str) -> None:
    networks, alive = members(name)
    inputs = examples(name)
    wanted, ensemble = mean(networks, alive, inputs), Ensemble(networks, alive)
    assert np.ptp(wanted, axis=0).max() > 1e-3, "answers differ"
    small = compacted(ensemble, inputs)
    forms = {"one after another": ensemble, "side by side": stack(ensemble, inputs), "compact": stack(small, inputs)}
    if kernels.sets():
        forms["sparse"] = cash.sparsify(forms["compact"], inputs, everywhere=True)
    for form, model in forms.items():
        for batch in (1, 2, len(inputs)):
            np.testing.assert_allclose(
                probabilities(model, inputs[:batch]), wanted[:batch], rtol=1e-3, atol=1e-6, err_msg=form
            )


def test_compacted_members_differ_in_width_and_are_filled_up() -> None:
    ensemble = Ensemble(*members("lenet-30-20"))
    small = compacted(ensemble, examples("lenet-30-20"))
    widths = [len(value) for name, value in small.state_dict().items() if name.endswith("fc2.bias")]
    beside = stack(small, examples("lenet-30-20"))
    (layer,) = (module for name, module in beside.named_modules() if name.endswith("fc2"))
    assert isinstance(layer, StackedLinear) and len(set(widths)) > 1
    assert layer.weight.shape[:2] == (3, max(widths))


def test_one_network_repeated_answers_as_that_network() -> None:
    model, alive = network("lenet-30-20", 0)
    inputs = examples("lenet-30-20")
    ensemble = Ensemble([model] * 4, [alive] * 4)
    for form in (ensemble, stack(ensemble, inputs)):
        np.testing.assert_allclose(probabilities(form, inputs), mean([model], [alive], inputs), rtol=1e-4)


def test_order_does_not_matter() -> None:
    networks, alive = members("conv-2-w4")
    inputs = examples("conv-2-w4")
    found = [
        probabilities(stack(Ensemble([networks[k] for k in order], [alive[k] for k in order]), inputs), inputs)
        for order in permutations(range(3))
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-4, atol=1e-7)


def test_answers_that_all_members_take_for_impossible_stay_finite() -> None:
    sure = nn.Linear(2, 2, bias=False)
    sure.weight = nn.Parameter(torch.tensor([[500.0, 0.0], [-500.0, 0.0]]))
    ensemble = Ensemble([sure, sure])
    for form in (ensemble, stack(ensemble, torch.ones(1, 2))):
        assert form(torch.ones(1, 2)).tolist() == [[0, -1000]]


def test_the_members_are_left_as_they_were() -> None:
    networks, alive = members("lenet-30-20", 2)
    before = [weights.of(model) for model in networks]
    networks[0].train()
    stack(Ensemble(networks, alive), examples("lenet-30-20"))
    assert networks[0].training
    for model, values in zip(networks, before, strict=True):
        assert all(torch.equal(value, values[name]) for name, value in weights.of(model).items())


@needs_kernels
def test_sparse_layers_of_all_members_are_one_call() -> None:
    ensemble, inputs = Ensemble(*members("lenet-30-20")), examples("lenet-30-20")
    found = cash.sparsify(stack(ensemble, inputs), inputs, everywhere=True)
    (chain,) = (module for module in found.modules() if isinstance(module, SparseChain))
    assert chain.sizes == (64, 90, 60, 30)
    living = sum(int((value != 0).sum()) for name, value in ensemble.state_dict().items() if value.dim() > 1)
    assert sum(len(value) for name, value in chain.named_buffers() if name.startswith("values")) == living
    conv = Ensemble(*members("conv-2-w4"))
    found = cash.sparsify(stack(conv, examples("conv-2-w4")), examples("conv-2-w4"), everywhere=True)
    groups = [module.window.groups for module in found.modules() if isinstance(module, SparseConv2d)]
    assert groups == [1, 3]


# ---- proved, written and read


def seconds(at_once: float) -> Callable[[Mapping[str, Callable[[], object]]], dict[str, Timing]]:
    def timed(calls: Mapping[str, Callable[[], object]]) -> dict[str, Timing]:
        taken = {name: at_once if name.startswith("stacked") else 1e-3 for name in calls}
        return {name: Timing(each, (each, each), (each,)) for name, each in taken.items()}

    return timed


def without(*given: object, **named: object) -> None:
    raise BadInput(where="export to ONNX", expected="onnx", found="no package onnx", todo="Install it.")


def test_a_proof_has_the_stacked_forms_and_says_how_fast_they_are_beside_one_after_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(timing, "timed", seconds(5e-4))
    monkeypatch.setattr(export, "to_onnx", without)
    ensemble, inputs = Ensemble(*members("lenet-30-20")), examples("lenet-30-20")
    forms = cash.prove(ensemble, ensemble.mask, inputs, torch.arange(9), batches=(1, 9))
    named = {form.name: form for form in forms}
    assert named["stacked"].exact and named["stacked"].disk_bytes == named["compact"].disk_bytes
    assert named["stacked"].multiply_adds >= named["compact"].multiply_adds
    said = next(line for line in sentences(forms) if line.startswith("stacked:"))
    assert "Members at once, not one after another: 2.0 times faster at batch 1" in said
    if kernels.sets():
        assert named["stacked sparse"].exact
    written = cash.write(forms, inputs[:2], tmp_path)
    assert {"stacked.safetensors", "stacked.pt2"} <= {path.name for path in written}
    read = cash.from_safetensors(Ensemble([network("lenet-30-20", 9)[0]] * 3), tmp_path / "stacked.safetensors")
    assert isinstance(read, Ensemble)
    again = torch.export.load(tmp_path / "stacked.pt2").module()
    for model in (stack(read, inputs), again):
        np.testing.assert_allclose(probabilities(model, inputs), probabilities(ensemble, inputs), rtol=1e-3)


def test_where_members_at_once_are_no_faster_that_form_is_left_out_and_it_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "timed", seconds(1e-3))
    monkeypatch.setattr(export, "to_onnx", without)
    ensemble, inputs = Ensemble(*members("lenet-30-20")), examples("lenet-30-20")
    forms = cash.prove(ensemble, ensemble.mask, inputs, batches=(1, 9))
    assert not [form.name for form in forms if form.name.startswith("stacked")]
    assert forms.left_out["stacked"].startswith("Members at once, not one after another: no faster here at batch 1")


def test_a_form_that_is_no_ensemble_is_not_asked_to_be_faster() -> None:
    def form(name: str, *rounds: float) -> Form:
        return Form(
            name, None, None, 0.0, 1.0, None, 1, 1, 1, 1, {1: Timing(rounds[0], (rounds[0], rounds[0]), rounds)}
        )

    others = [form("dense", 1.0, 1.0, 1.0), form("compact", 2.0, 2.0, 2.0)]
    assert pays(others[1], others)
    assert not pays(form("stacked", 1.0, 1.0, 1.0), others)
    assert pays(form("stacked", 0.5, 0.5, 0.5), others)
    assert not pays(form("stacked", 0.5, 1.0, 1.0), others), "in most rounds it is no faster"


# ---- what is refused


def test_what_is_no_ensemble_is_refused_in_words() -> None:
    small, large = nn.Linear(3, 2), nn.Linear(4, 2)
    with pytest.raises(BadInput, match="members: expected two networks or more, found 1"):
        Ensemble([small])
    with pytest.raises(BadInput, match="members: expected two networks or more, found none"):
        Ensemble([])
    with pytest.raises(BadInput, match="member 1, weight: expected 2 x 3, as member 0 has it, found 2 x 4"):
        Ensemble([small, large])
    with pytest.raises(BadInput, match="member 1, weight: expected 2 x 3, as member 0 has it, found 5 x 3"):
        Ensemble([small, nn.Linear(3, 5)])
    with pytest.raises(BadInput, match="member 1, bias: expected 2, as member 0 has it, found no such tensor"):
        Ensemble([small, nn.Linear(3, 2, bias=False)])
    with pytest.raises(BadInput, match="masks: expected 2, one for each member, found 1"):
        Ensemble([small, small], [prunable.full(small)])
    with pytest.raises(BadInput, match=r"cash\.stack: expected an ensemble, found Linear"):
        stack(small, torch.zeros(1, 3))  # type: ignore[arg-type]
    lone = Ensemble([nn.Linear(3, 1), nn.Linear(3, 1)])
    for asked in (lambda: stack(lone, torch.ones(2, 3)), lambda: cash.prove(lone, lone.mask, torch.rand(2, 3))):
        with pytest.raises(BadInput, match="the ensemble: expected members with a logit for each class"):
            asked()


class Mixing(nn.Module):
    """Its code mixes channels, which side by side would be those of others too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.last(self.first(x).softmax(dim=1))
        return made


class Twice(Mixing):
    """It calls one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.last = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.last(self.first(self.first(x)))
        return made


class Reading(Mixing):
    """It reads a layer's weight."""

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.last(x @ self.first.weight.T)
        return made


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 2))
    model[0].register_forward_hook(lambda module, given, made: made * 2)
    return model


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Mixing, "found other outputs"),
        (Twice, "found first, Linear: called twice"),
        (Reading, "found one that reads first.weight"),
        (hooked, "found 0, Linear: one that is not known, or has hooks"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), "found 1, LayerNorm: one that is"),
    ],
)
def test_what_cannot_stand_side_by_side_is_refused_and_stays_an_ensemble(
    make: Callable[[], nn.Module], why: str
) -> None:
    ensemble = Ensemble([make(), make()])
    with pytest.raises(BadInput, match=why):
        stack(ensemble, torch.rand(4, 3))
